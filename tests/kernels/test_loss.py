"""What the losses promise beyond agreement with their reference."""

import itertools
import math

import numba
import numpy as np
import pytest

from ranvier.kernels import loss

PAIRS = ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "kl_div", "soft_margin_loss"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("implementation", ["reference", "cpu"])
@pytest.mark.parametrize("name", [*PAIRS, "binary_cross_entropy", "binary_cross_entropy_with_logits"])
def test_the_mean_of_nothing_is_nan_and_its_gradient_empty(name, implementation):
    operation, nothing = getattr(loss, name), np.zeros((0, 3))
    output, saved = operation.forward(nothing, nothing, implementation=implementation)
    assert np.isnan(output)
    assert operation.backward(saved, np.ones(()), (True, *[False] * 3), implementation)[0].shape == (0, 3)


@pytest.mark.parametrize("strange", [-0.25, 1.25, np.nan])
@pytest.mark.parametrize("place", [0, 32767, 32768, 70000])
def test_the_one_probability_that_is_none_is_named_wherever_it_lies(place, strange):
    x, t = np.zeros((3, 23334), np.float32), np.ones((23334, 3), np.float32).T
    x[1], x.reshape(-1)[place] = 1, strange
    with pytest.raises(ValueError, match=rf"binary_cross_entropy: expected input in \[0, 1\], got {strange}"):
        loss.binary_cross_entropy.check(x, t)
    with pytest.raises(ValueError, match=rf"binary_cross_entropy: expected target in \[0, 1\], got {strange}"):
        loss.binary_cross_entropy.check(t, x)


def test_nan_is_a_variance_and_no_sign():
    x, wrong = np.ones((2, 3), np.float32), np.full((2, 3), np.nan, np.float32)
    loss.gaussian_nll_loss.check(x, x, wrong)
    with pytest.raises(ValueError, match=r"nowhere negative, got -2\.0"):
        loss.gaussian_nll_loss.check(x, x, np.where(np.eye(2, 3) > 0, -2, wrong))
    with pytest.raises(ValueError, match="of 1 and -1 alone, got nan"):
        loss.cosine_embedding_loss.check(x, x, wrong[:, 0])
    with pytest.raises(ValueError, match=r"of 1 and -1 alone, got 0\.5"):
        loss.cosine_embedding_loss.check(x, x, np.array([-1, 0.5], np.float32))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_the_mean_of_ignored_labels_is_nan_and_its_gradient_zero(name):
    operation = getattr(loss, name)
    output, saved = operation.forward(np.ones((3, 4)), np.full(3, -100))
    assert np.isnan(output)
    np.testing.assert_array_equal(operation.backward(saved, np.ones(()), (True, False, False))[0], np.zeros((3, 4)))


def test_a_mean_of_many_float32_is_right_to_the_last_digits(rng):
    x, t = (rng.random(3_000_000, dtype=np.float32) for _ in range(2))
    exact = np.mean((x.astype(np.float64) - t) ** 2)
    assert abs(loss.mse_loss.forward(x, t)[0] / exact - 1) < 1e-6
    ones = np.ones(1 << 25, np.float32)  # a single float32 sum stops at 2^24
    assert loss.l1_loss.forward(ones, np.zeros_like(ones), reduction="sum")[0] == 1 << 25


def test_same_bits_on_any_number_of_threads(rng):
    x, t = (rng.standard_normal((301, 97)).astype(np.float32) for _ in range(2))
    labels = rng.integers(0, 97, 301)
    results, threads = [], numba.get_num_threads()
    try:
        for count in range(1, threads + 1):
            numba.set_num_threads(count)
            entropy, saved = loss.cross_entropy.forward(x, labels, label_smoothing=0.1)
            gradient = loss.cross_entropy.backward(saved, np.ones((), np.float32), (True, False, False))[0]
            results.append((loss.mse_loss.forward(x, t)[0], entropy, gradient))
    finally:
        numba.set_num_threads(threads)
    for result in results[1:]:
        for actual, expected in zip(result, results[0]):
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("shape", [(5, 7), (2, 7, 3, 5)])
def test_an_ignored_label_is_never_used_as_an_index(shape, rng):
    x = rng.standard_normal(shape)
    labels = np.full((shape[0], *shape[2:]), 10**12)
    labels[0] = 3
    for operation in (loss.cross_entropy, loss.nll_loss):
        losses, saved = operation.forward(x, labels, ignore_index=10**12, reduction="none")
        gradient = operation.backward(saved, np.ones_like(losses), (True, False, False))[0]
        assert not losses[1:].any()
        assert not gradient[1:].any()
        assert losses[0].all()


def test_an_ignored_label_of_an_infinite_logit_counts_nothing():
    x = np.array([[-np.inf, -1.0], [-1.0, -2.0]])
    for operation in (loss.cross_entropy, loss.nll_loss):
        output, saved = operation.forward(x, np.array([0, 1]), ignore_index=0)
        assert np.isfinite(output)
        assert np.isfinite(operation.backward(saved, np.ones(()), (True, False, False))[0]).all()


def test_cross_entropy_saves_one_number_a_position(rng):
    x = rng.standard_normal((64, 1000)).astype(np.float32)
    _, saved = loss.cross_entropy.forward(x, np.zeros(64, np.int64))
    arrays = [a for a in saved[0] if isinstance(a, np.ndarray)]
    assert any(np.shares_memory(a, x) for a in arrays)
    assert sum(a.size for a in arrays if not np.shares_memory(a, x)) <= 1000 + 2 * 64


def test_a_loss_beyond_the_type_is_infinite_without_a_warning():
    x = np.full(4, 1e30, np.float32)
    assert loss.mse_loss.forward(x, -x)[0] == np.inf
    assert loss.l1_loss.forward(np.full(4000, 3e38, np.float32), np.zeros(4000, np.float32))[0] == np.inf


def test_soft_margin_of_far_scores_stays_finite():
    x = np.array([-1e4, -90.0, -20.0, 0.0, 20.0, 90.0, 1e4], np.float32)  # PyTorch's is infinite from 89 on
    losses, saved = loss.soft_margin_loss.forward(x, -np.ones_like(x), reduction="none")
    gradient = loss.soft_margin_loss.backward(saved, np.ones_like(x), (True, False))[0]
    exact = x.astype(np.float64)
    np.testing.assert_allclose(losses, np.logaddexp(0, exact), rtol=1e-6, atol=1e-38)
    np.testing.assert_allclose(gradient, np.exp(-np.logaddexp(0, -exact)), rtol=1e-6, atol=1e-38)


@pytest.mark.parametrize("name", PAIRS)
def test_nan_stays_nan(name):
    x = np.array([0.5, np.nan, 0.5], np.float32)
    losses, _ = getattr(loss, name).forward(x, np.full_like(x, 0.5), reduction="none")
    np.testing.assert_array_equal(np.isnan(losses), [False, True, False])


def test_cross_entropy_of_a_nan_logit_is_nan():
    for x in (np.array([[0.0, np.nan, 1.0]] * 2), np.array([[np.nan, 0.0, 1.0]] * 2)):
        assert np.isnan(loss.cross_entropy.forward(x, np.array([0, 2]), reduction="none")[0]).all()
        planes = np.stack([x, x], axis=2)
        assert np.isnan(loss.cross_entropy.forward(planes, np.full((2, 2), 2), reduction="none")[0]).all()


def test_triplet_of_equal_points_has_a_finite_gradient():
    x = np.ones((2, 3))
    for p in (1.0, 2.0, 3.0, math.inf):
        _, saved = loss.triplet_margin_loss.forward(x, x, x, eps=0.0, p=p)
        for gradient in loss.triplet_margin_loss.backward(saved, np.ones(()), (True, True, True)):
            np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


def _by_enumeration(probabilities, labels, blank):
    """-log of the probability of all alignments that collapse to the labels: the definition, in exponential time."""
    times, classes = probabilities.shape
    total = 0.0
    for path in itertools.product(range(classes), repeat=times):
        if [name for name, _ in itertools.groupby(path) if name != blank] == list(labels):
            total += np.prod(probabilities[np.arange(times), path])
    return -np.log(total) if total else np.inf


@pytest.mark.parametrize("implementation", ["reference", "cpu"])
@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("labels", [(), (1,), (1, 1), (3, 1), (1, 1, 1), (1, 3, 3), (3, 3, 1, 1)])
def test_ctc_is_the_sum_over_all_alignments(labels, blank, implementation, rng):
    for times in range(1, 7):
        logits = rng.standard_normal((times, 1, 4))
        probabilities = np.exp(logits)  # need not be normalised
        lengths = (np.array([times]), np.array([len(labels)]))
        targets = np.array([labels], np.int64).reshape(1, -1)
        output, _ = loss.ctc_loss.forward(
            logits, targets, *lengths, blank=blank, reduction="sum", implementation=implementation
        )
        np.testing.assert_allclose(output, _by_enumeration(probabilities[:, 0], labels, blank), rtol=1e-10)


def test_ctc_of_a_sequence_too_short_for_its_labels():
    log_probs = np.log(np.full((2, 2, 3), 1 / 3))
    arguments = (np.array([[1, 1], [1, 2]]), np.array([2, 2]), np.array([2, 2]))  # 1 1 needs a blank between
    losses, saved = loss.ctc_loss.forward(log_probs, *arguments, reduction="none")
    assert losses[0] == np.inf
    np.testing.assert_allclose(losses[1], 2 * np.log(3))
    gradient = loss.ctc_loss.backward(saved, np.ones(2), (True, False, False, False))[0]
    assert np.isnan(gradient[:, 0]).all()
    assert np.isfinite(gradient[:, 1]).all()
    losses, saved = loss.ctc_loss.forward(log_probs, *arguments, reduction="none", zero_infinity=True)
    assert losses[0] == 0
    gradient = loss.ctc_loss.backward(saved, np.ones(2), (True, False, False, False))[0]
    assert not gradient[:, 0].any()
    assert gradient[:, 1].any()


def test_ctc_does_not_read_what_pads_labels_and_times(rng):
    log_probs = rng.standard_normal((6, 2, 4))
    targets, lengths = np.array([[1, 2, -77], [3, 99, 99]]), (np.array([6, 3]), np.array([2, 1]))
    losses, saved = loss.ctc_loss.forward(log_probs, targets, *lengths)
    gradient = loss.ctc_loss.backward(saved, np.ones(()), (True, False, False, False))[0]
    log_probs[3:, 1] = np.nan
    padded, saved = loss.ctc_loss.forward(log_probs, np.array([[1, 2, 0], [3, 0, 0]]), *lengths)
    assert padded == losses
    again = loss.ctc_loss.backward(saved, np.ones(()), (True, False, False, False))[0]
    np.testing.assert_array_equal(again, gradient)
    assert not gradient[3:, 1].any()


def test_ctc_keeps_its_digits_over_long_sequences(rng):
    """Posteriors of float32 log-probabilities over 400 times, where alpha reaches about -1000."""
    logits = rng.standard_normal((400, 1, 20))
    log_probs = (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)
    arguments = (rng.integers(1, 20, (1, 30)), np.array([400]), np.array([30]))
    gradients = []
    for x in (log_probs, log_probs.astype(np.float64)):
        _, saved = loss.ctc_loss.forward(x, *arguments, reduction="sum")
        gradients.append(loss.ctc_loss.backward(saved, np.ones((), x.dtype), (True, False, False, False))[0])
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(gradients[1].sum(axis=-1), -1, rtol=1e-9)  # at each time one state
