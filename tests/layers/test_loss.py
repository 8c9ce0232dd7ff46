"""Losses as functions on the tape and as layers."""

import numpy as np
import pytest

import ranvier as rv
from ranvier import functional
from ranvier.kernels import memory


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


CALLS = {
    "rows": ((24, 33), {}),
    "planes": ((3, 5, 70), {"reduction": "sum"}),
    "smoothed": ((9, 40), {"label_smoothing": 0.1, "ignore_index": 2}),
    "weighted": ((4, 6, 3, 5), {"label_smoothing": 0.1, "reduction": "none", "weighted": True}),
    "probabilities": ((9, 40), {"probabilities": True, "label_smoothing": 0.2}),
    "planes_of_probabilities": ((2, 7, 40), {"probabilities": True, "weighted": True}),
}


def _classified(rng, shape, weighted=False, probabilities=False, **attributes):
    """x, w and a loss of x w, whose class scores are in `shape`."""
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((shape[0], 8), (8, int(np.prod(shape[1:])))))
    if probabilities:
        target = rng.dirichlet(np.ones(shape[1]), (shape[0], *shape[2:])).astype(np.float32)
        target = np.ascontiguousarray(np.moveaxis(target, -1, 1))
    else:
        target = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    weight = rng.uniform(0.5, 2, shape[1]).astype(np.float32) if weighted else None

    def run(inplace):
        tensors = [rv.Tensor(a.copy(), requires_grad=True) for a in (x, w)]
        targets = rv.Tensor(target.copy(), requires_grad=probabilities)
        logits = (tensors[0] @ tensors[1]).reshape(shape)
        loss = functional.cross_entropy(logits, targets, weight, inplace=inplace, **attributes)
        return loss, logits, [*tensors, targets][: 3 if probabilities else 2]

    return run


@pytest.mark.parametrize("call", CALLS)
def test_cross_entropy_in_place_leaves_the_gradient_in_the_logits(call, rng):
    shape, attributes = CALLS[call]
    run, taken = _classified(rng, shape, **attributes), []

    def take(shape, dtype, gpu=None):
        array = np.empty(shape, dtype)
        taken[-1] += array.nbytes
        return array

    results = []
    for inplace in (False, True):
        loss, logits, leaves = run(inplace)
        before, value = logits.numpy().copy(), loss.numpy().copy()
        grad = np.random.default_rng(1).standard_normal(loss.shape).astype(np.float32)
        taken.append(0)
        with memory.supplied_by(take):
            loss.backward(grad)
        assert np.array_equal(logits.numpy(), before) is not inplace
        results.append([value, *(leaf.grad.numpy() for leaf in leaves)])
    for usual, in_place in zip(*results, strict=True):
        np.testing.assert_array_equal(usual, in_place)
    assert taken[0] - taken[1] == logits.numpy().nbytes
    x, w = (leaf.numpy() for leaf in leaves[:2])
    np.testing.assert_allclose(x.T @ logits.numpy().reshape(len(x), -1), leaves[1].grad.numpy(), rtol=1e-4, atol=1e-5)
    assert w.shape[1] == logits.size // len(x)


def test_cross_entropy_in_place_refuses_logits_that_are_needed(rng):
    x, labels = rng.standard_normal((4, 3)), np.array([0, 2, 1, 1])
    leaf = rv.Tensor(x, requires_grad=True)
    cases = {
        "as the result of an operation, got a leaf": leaf,
        "does not read, got a result of reshape": leaf.reshape(4, 3),
        "does not read, got a result of relu": functional.relu(leaf * 2).reshape(4, 3),
        "C-contiguous": (leaf.reshape(3, 4) * 2).transpose(0, 1),
        "of float32 or float64 on the CPU, got float16": rv.Tensor(x.astype("f2"), requires_grad=True) * 2,
    }
    for message, logits in cases.items():
        before = logits.numpy().copy()
        with pytest.raises(ValueError, match=message):
            functional.cross_entropy(logits, labels, inplace=True).backward()
        np.testing.assert_array_equal(logits.numpy(), before)
    logits = leaf * 2
    with pytest.raises(ValueError, match="memory of its own, got memory of another input"):
        functional.cross_entropy(logits, logits.detach(), inplace=True)
    with rv.no_grad():
        functional.cross_entropy(leaf, labels, inplace=True)
    functional.cross_entropy(rv.Tensor(x), labels, inplace=True)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "other", [lambda z: z * z, lambda z: z[:2] * z[:2], lambda z: rv.Tensor(np.ones((4, 3)), True) * z.detach()]
)
def test_what_has_saved_overwritten_logits_refuses_to_go_backward(first, other, rng):
    leaf, labels = rv.Tensor(rng.standard_normal((4, 3)), requires_grad=True), np.array([0, 2, 1, 1])
    logits = leaf * 2
    saved = other(logits).sum() if first else None
    loss = functional.cross_entropy(logits, labels, inplace=True)
    saved = other(logits).sum() if saved is None else saved
    loss.backward()
    with pytest.raises(RuntimeError, match="inplace=True has written its gradient over since"):
        saved.backward()
    other(rv.Tensor(logits.numpy(), requires_grad=True)).sum().backward()  # saved since: the values it saw


def test_a_second_backward_of_cross_entropy_in_place_is_refused(rng):
    leaf = rv.Tensor(rng.standard_normal((4, 3)), requires_grad=True)
    loss = functional.cross_entropy(leaf * 2, np.array([0, 2, 1, 1]), inplace=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="cross_entropy has saved values"):
        loss.backward()


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
