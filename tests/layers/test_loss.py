"""Losses as functions on the tape and as layers."""

import numpy as np
import pytest

import ranvier as rv
from ranvier import functional


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_targets_may_be_arrays_or_tensors(rng):
    x, labels = rng.standard_normal((4, 3)), np.array([0, 2, 1, 1])
    as_array = functional.cross_entropy(rv.Tensor(x), labels)
    as_tensor = functional.cross_entropy(rv.Tensor(x), rv.Tensor(labels))
    assert as_array.item() == as_tensor.item()


@pytest.mark.parametrize(
    "name",
    ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "poisson_nll_loss", "binary_cross_entropy"],
)
def test_targets_get_their_gradient_too(name, rng):
    x, t = (rv.Tensor(rng.uniform(0.1, 0.9, (4, 3)), requires_grad=True) for _ in range(2))
    getattr(functional, name)(x, t).backward()
    assert x.grad.shape == t.grad.shape == (4, 3)
    assert t.grad.numpy().any()


def test_probabilities_as_targets_get_their_gradient(rng):
    x, t = (rv.Tensor(rng.uniform(0.1, 0.9, (4, 3)), requires_grad=True) for _ in range(2))
    functional.cross_entropy(x, t).backward()
    assert t.grad.numpy().all()


def test_nothing_is_broadcast_silently():
    x = rv.Tensor(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"mse_loss: expected target of shape \(4, 3\) \(input's\), got \(3,\)"):
        functional.mse_loss(x, np.zeros(3))


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"cross_entropy: expected target in \[0, 3\) or -100, got 3"):
        rv.CrossEntropyLoss()(rv.Tensor(np.zeros((2, 3))), np.array([0, 3]))


def test_probabilities_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"binary_cross_entropy: expected input in \[0, 1\], got 1.5"):
        rv.BCELoss()(rv.Tensor(np.full(3, 1.5)), np.ones(3))


def test_weights_are_buffers_that_move_and_are_saved():
    layer = rv.CrossEntropyLoss(weight=np.array([1.0, 2.0, 3.0], np.float32))
    assert list(layer.state_dict()) == ["weight"]
    assert list(layer.parameters()) == []
    layer.to(dtype=np.float64)
    assert layer.weight.dtype == np.float64
    assert np.isfinite(layer(rv.Tensor(np.zeros((2, 3))), np.array([0, 2])).item())
    assert rv.CrossEntropyLoss().state_dict() == {}


def test_a_layer_shows_its_settings():
    assert repr(rv.HuberLoss(delta=0.5)) == "HuberLoss(reduction='mean', delta=0.5)"
    assert repr(rv.CTCLoss(blank=3)) == "CTCLoss(blank=3, reduction='mean', zero_infinity=False)"


def test_a_distance_of_ones_own(rng):
    """The city-block distance, given as a function of tensors, is p = 1."""
    anchor, positive, negative = (rv.Tensor(rng.standard_normal((6, 1)), requires_grad=True) for _ in range(3))

    def city_block(a, b):
        return functional.l1_loss(a, b, reduction="none")

    for swap in (False, True):
        layer = rv.TripletMarginWithDistanceLoss(distance_function=city_block, swap=swap, margin=0.5)
        same = rv.TripletMarginLoss(p=1, eps=0.0, swap=swap, margin=0.5)
        for tensor in (anchor, positive, negative):
            tensor.grad = None
        result = layer(anchor, positive, negative)
        result.backward()
        gradients = [tensor.grad.numpy() for tensor in (anchor, positive, negative)]
        for tensor in (anchor, positive, negative):
            tensor.grad = None
        expected = same(anchor, positive, negative)
        expected.backward()
        np.testing.assert_allclose(result.item(), expected.item())
        for tensor, gradient in zip((anchor, positive, negative), gradients):
            np.testing.assert_allclose(gradient, tensor.grad.numpy(), atol=1e-12)


def test_ctc_lengths_may_be_integers_and_tuples(rng):
    log_probs = rv.Tensor(rng.standard_normal((5, 1, 3)))
    a = functional.ctc_loss(log_probs, np.array([[1, 2]]), (5,), [2])
    b = functional.ctc_loss(rv.Tensor(log_probs.numpy()[:, 0]), np.array([1, 2]), 5, 2)
    assert a.item() == b.item()
    assert a.shape == b.shape == ()


def test_training_on_a_loss_lowers_it(rng):
    model, labels = rv.Dense(8, 3, dtype=np.float64), rng.integers(0, 3, 20)
    x, criterion, losses = rv.Tensor(rng.standard_normal((20, 8))), rv.CrossEntropyLoss(label_smoothing=0.05), []
    for _ in range(30):
        model.zero_grad()
        loss = criterion(model(x), labels)
        loss.backward()
        losses.append(loss.item())
        for parameter in model.parameters():
            parameter.array -= 0.3 * parameter.grad.array
    assert losses[-1] < 0.8 * losses[0]
    assert losses == sorted(losses, reverse=True)
