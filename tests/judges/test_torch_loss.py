"""Every loss against PyTorch's: values, and gradients of all inputs that have one there."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ranvier as rv
from ranvier import functional as ours

torch = pytest.importorskip("torch", reason="the extra `judges` brings PyTorch")
theirs = torch.nn.functional
pytestmark = pytest.mark.judge

REDUCTIONS = st.sampled_from(["none", "mean", "sum"])
SHAPES = st.lists(st.integers(1, 6), max_size=3).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from([np.float32, np.float64])


def property_test(*, examples=40, **strategies):
    def decorate(function):
        quiet = list(HealthCheck)
        return settings(max_examples=examples, deadline=None, suppress_health_check=quiet, derandomize=True)(
            given(**strategies)(function)
        )

    return decorate


def compare(name, arrays, differentiable=(0,), tolerance=None, inplace=False, **arguments):
    """Runs the function of this name here and there, and backward from a random gradient of the output.

    arrays: its leading arguments; those in `differentiable` require a gradient.
    inplace: here, that of the first goes over its memory, which is the result of an operation.
    """
    own = [
        rv.Tensor(x, requires_grad=i in differentiable) if isinstance(x, np.ndarray) else x for i, x in numbered(arrays)
    ]
    other = [
        torch.tensor(x, requires_grad=i in differentiable) if isinstance(x, np.ndarray) else x
        for i, x in numbered(arrays)
    ]
    own_arguments = {k: rv.Tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    other_arguments = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    given = own
    if inplace:
        given, own_arguments["inplace"] = [own[0] * 1.0, *own[1:]], True
    result = getattr(ours, name)(*given, **own_arguments)
    expected = getattr(theirs, name)(*other, **other_arguments)
    double = arrays[0].dtype == np.float64
    rtol, atol = tolerance or ((1e-9, 1e-11) if double else (3e-5, 3e-6))
    assert result.dtype == arrays[0].dtype
    np.testing.assert_allclose(result.numpy(), expected.detach().numpy(), rtol=rtol, atol=atol)
    grad = np.asarray(np.random.default_rng(0).standard_normal(result.shape)).astype(result.dtype)
    result.backward(grad)
    expected.backward(torch.tensor(grad))
    for i in differentiable:
        np.testing.assert_allclose(
            own[i].grad.numpy(), other[i].grad.numpy(), rtol=rtol, atol=atol, err_msg=f"gradient {i} of {name}"
        )


def numbered(arrays):
    return list(enumerate(arrays))


def normal(seed, shape, dtype, count=1):
    rng = np.random.default_rng(seed)
    values = [np.asarray(rng.standard_normal(shape)).astype(dtype) for _ in range(count)]
    return values if count > 1 else values[0]


def uniform(seed, shape, dtype, low=0.05, high=0.95):
    return np.asarray(np.random.default_rng(seed + 1).uniform(low, high, shape)).astype(dtype)


def signs(seed, shape, dtype):
    return np.asarray(np.random.default_rng(seed + 2).choice([-1.0, 1.0], shape)).astype(dtype)


@property_test(
    name=st.sampled_from(["mse_loss", "l1_loss"]), shape=SHAPES, reduction=REDUCTIONS, dtype=DTYPES, seed=SEEDS
)
def test_squared_and_absolute_error(name, shape, reduction, dtype, seed):
    compare(name, normal(seed, shape, dtype, 2), (0, 1), reduction=reduction)


@property_test(shape=SHAPES, reduction=REDUCTIONS, dtype=DTYPES, seed=SEEDS, bend=st.sampled_from([0.25, 1.0, 2.0]))
def test_smooth_l1_and_huber(shape, reduction, dtype, seed, bend):
    compare("smooth_l1_loss", normal(seed, shape, dtype, 2), (0, 1), beta=bend, reduction=reduction)
    compare("huber_loss", normal(seed, shape, dtype, 2), (0, 1), delta=bend, reduction=reduction)


def test_smooth_l1_of_beta_0_is_l1():
    compare("smooth_l1_loss", normal(0, (4, 5), np.float64, 2), (0, 1), beta=0.0)


@property_test(
    shape=SHAPES, reduction=REDUCTIONS, dtype=DTYPES, seed=SEEDS, log_input=st.booleans(), full=st.booleans()
)
def test_poisson(shape, reduction, dtype, seed, log_input, full):
    rate, counts = uniform(seed, shape, dtype, 0.2, 4), uniform(seed + 9, shape, dtype, 0.1, 6)
    compare("poisson_nll_loss", [rate, counts], (0, 1), log_input=log_input, full=full, eps=1e-4, reduction=reduction)


@property_test(
    shape=SHAPES.filter(len), reduction=REDUCTIONS, dtype=DTYPES, seed=SEEDS, full=st.booleans(), data=st.data()
)
def test_gaussian(shape, reduction, dtype, seed, full, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    var_shape = data.draw(st.sampled_from([shape, shape[:-1], (*shape[:axis], 1, *shape[axis + 1 :])]))
    var = uniform(seed, var_shape, dtype, 0.01, 2)
    arrays = [*normal(seed, shape, dtype, 2), var]
    compare("gaussian_nll_loss", arrays, (0, 1, 2), full=full, eps=0.2, reduction=reduction)


def test_gaussian_of_one_variance():
    compare("gaussian_nll_loss", [*normal(0, (4, 5), np.float64, 2), 0.6], (0, 1), full=True)


@property_test(shape=SHAPES, reduction=REDUCTIONS, dtype=DTYPES, seed=SEEDS, data=st.data())
def test_binary_cross_entropy(shape, reduction, dtype, seed, data):
    parts = [None, shape, shape[1:], tuple(1 for _ in shape)]
    weight, pos_weight = (data.draw(st.sampled_from(parts)) for _ in range(2))
    weight = None if weight is None else uniform(seed, weight, dtype, 0.5, 2)
    pos_weight = None if pos_weight is None else uniform(seed + 5, pos_weight, dtype, 0.5, 3)
    x, p, t = normal(seed, shape, dtype), uniform(seed, shape, dtype), uniform(seed + 3, shape, dtype)
    compare("binary_cross_entropy", [p, t], (0, 1), weight=weight, reduction=reduction)
    compare(
        "binary_cross_entropy_with_logits",
        [x, t],
        (0, 1),
        weight=weight,
        pos_weight=pos_weight,
        reduction=reduction,
    )


def test_binary_cross_entropy_at_the_ends():
    p = np.array([0.0, 1.0, 0.0, 1.0, 1e-30, 0.5], np.float32)
    t = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.5], np.float32)
    compare("binary_cross_entropy", [p, t], reduction="none")


def test_logits_of_any_size_stay_finite():
    x = np.array([-1e4, -90.0, -20.0, 0.0, 20.0, 90.0, 1e4], np.float32)
    for target in (0.0, 1.0, 0.3):
        t = np.full_like(x, target)
        compare("binary_cross_entropy_with_logits", [x, t], (0, 1), reduction="none")
        compare("multilabel_soft_margin_loss", [x, t], reduction="none")


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@property_test(
    shape=SHAPES,
    reduction=st.sampled_from(["none", "mean", "sum", "batchmean"]),
    dtype=DTYPES,
    seed=SEEDS,
    log_target=st.booleans(),
)
def test_kl_div(shape, reduction, dtype, seed, log_target):
    t = normal(seed + 1, shape, dtype) if log_target else uniform(seed, shape, dtype)
    compare("kl_div", [normal(seed, shape, dtype), t], (0, 1), log_target=log_target, reduction=reduction)


def test_kl_div_counts_no_target_of_0():
    t = np.array([0.0, 0.4, 0.6, 0.0])
    compare("kl_div", [normal(0, (4,), np.float64), t], reduction="none")


@property_test(shape=SHAPES, reduction=REDUCTIONS, dtype=DTYPES, seed=SEEDS)
def test_soft_margin(shape, reduction, dtype, seed):
    compare("soft_margin_loss", [normal(seed, shape, dtype), signs(seed, shape, dtype)], reduction=reduction)


@property_test(shape=SHAPES.filter(len), reduction=REDUCTIONS, dtype=DTYPES, seed=SEEDS, weighted=st.booleans())
def test_multilabel_soft_margin(shape, reduction, dtype, seed, weighted):
    weight = uniform(seed, shape[-1:], dtype) if weighted else None
    t = (uniform(seed, shape, dtype) > 0.5).astype(dtype)
    arrays = [normal(seed, shape, dtype), t]
    compare("multilabel_soft_margin_loss", arrays, (0, 1), weight=weight, reduction=reduction)


SCORES = st.one_of(
    st.tuples(st.integers(1, 12)),
    st.tuples(st.integers(1, 6), st.integers(1, 40)),
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 300)),
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5)),
)


def labels_for(seed, shape):
    classes = shape[0 if len(shape) == 1 else 1]
    return np.asarray(
        np.random.default_rng(seed).integers(0, classes, (shape[0], *shape[2:]) if shape[1:] else ())
    ), classes


@property_test(
    examples=80,
    shape=SCORES,
    reduction=REDUCTIONS,
    dtype=DTYPES,
    seed=SEEDS,
    weighted=st.booleans(),
    ignored=st.sampled_from([-100, 0, 1]),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    inplace=st.booleans(),
)
def test_cross_entropy_of_labels(shape, reduction, dtype, seed, weighted, ignored, smoothing, inplace):
    labels, classes = labels_for(seed, shape)
    if ignored == -100 and labels.ndim:
        labels[np.random.default_rng(seed + 1).random(labels.shape) < 0.2] = -100
    weight = uniform(seed, (classes,), dtype, 0.5, 2) if weighted else None
    attributes = {"weight": weight, "ignore_index": ignored, "reduction": reduction}
    if (labels == ignored).all():  # a mean of nothing: NaN here and there
        reduction = attributes["reduction"] = "sum"
    options = {"label_smoothing": smoothing, "inplace": inplace, **attributes}
    compare("cross_entropy", [normal(seed, shape, dtype), labels], **options)
    compare("nll_loss", [normal(seed, shape, dtype), labels], **attributes)


@property_test(
    examples=80,
    shape=SCORES,
    reduction=REDUCTIONS,
    dtype=DTYPES,
    seed=SEEDS,
    weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    inplace=st.booleans(),
)
def test_cross_entropy_of_probabilities(shape, reduction, dtype, seed, weighted, smoothing, inplace):
    weight = uniform(seed, (labels_for(seed, shape)[1],), dtype, 0.5, 2) if weighted else None
    arrays = [normal(seed, shape, dtype), uniform(seed, shape, dtype)]
    options = {"label_smoothing": smoothing, "inplace": inplace, "reduction": reduction}
    compare("cross_entropy", arrays, (0, 1), weight=weight, **options)


def test_cross_entropy_of_far_apart_and_masked_logits():
    x = np.array([[1e4, 0, -1e4], [-np.inf, 3.0, 1.0], [88.0, 89.0, 90.0], [-1e30, 0, 1e-30]], np.float32)
    for reduction in ("none", "mean"):
        compare("cross_entropy", [x, np.array([0, 1, 2, 1])], reduction=reduction)
        compare(
            "cross_entropy", [np.stack([x, x], axis=2), np.array([[0, 0], [1, 2], [2, 1], [1, 2]])], reduction=reduction
        )


def test_all_labels_ignored():
    x = normal(0, (3, 4), np.float32)
    for reduction in ("mean", "sum", "none"):
        compare("cross_entropy", [x, np.full(3, -100)], reduction=reduction)
        compare("nll_loss", [x, np.full(3, -100)], reduction=reduction)


@property_test(shape=SHAPES, reduction=REDUCTIONS, dtype=DTYPES, seed=SEEDS, margin=st.sampled_from([0.0, 0.5, 2.0]))
def test_hinge_embedding_and_margin_ranking(shape, reduction, dtype, seed, margin):
    x, y = normal(seed, shape, dtype, 2)
    target = signs(seed, shape, dtype)
    compare("hinge_embedding_loss", [x, target], margin=margin, reduction=reduction)
    compare("margin_ranking_loss", [x, y, target], (0, 1, 2), margin=margin, reduction=reduction)


@property_test(
    rows=st.one_of(st.none(), st.integers(1, 6)),
    size=st.integers(1, 40),
    reduction=REDUCTIONS,
    dtype=DTYPES,
    seed=SEEDS,
    margin=st.sampled_from([-0.5, 0.0, 0.3]),
)
def test_cosine_embedding(rows, size, reduction, dtype, seed, margin):
    shape = (size,) if rows is None else (rows, size)
    target = signs(seed, shape[:-1], dtype)
    arrays = [*normal(seed, shape, dtype, 2), target]
    compare("cosine_embedding_loss", arrays, (0, 1), margin=margin, reduction=reduction)


@property_test(
    examples=80,
    shape=SHAPES.filter(len),
    reduction=REDUCTIONS,
    dtype=DTYPES,
    seed=SEEDS,
    p=st.sampled_from([1.0, 2.0, 3.0, math.inf]),
    swap=st.booleans(),
    margin=st.sampled_from([0.3, 1.0]),
)
def test_triplet_margin(shape, reduction, dtype, seed, p, swap, margin):
    attributes = {"margin": margin, "p": p, "swap": swap, "reduction": reduction}
    compare("triplet_margin_loss", normal(seed, shape, dtype, 3), (0, 1, 2), **attributes)


@pytest.mark.parametrize("swap", [False, True])
def test_triplet_margin_with_distance(swap):
    arrays = normal(1, (6, 5), np.float64, 3)
    compare("triplet_margin_with_distance_loss", arrays, (0, 1, 2), swap=swap, margin=0.5)


@property_test(
    rows=st.one_of(st.none(), st.integers(1, 6)),
    classes=st.integers(1, 12),
    reduction=REDUCTIONS,
    dtype=DTYPES,
    seed=SEEDS,
    p=st.sampled_from([1, 2]),
    weighted=st.booleans(),
)
def test_multi_margin(rows, classes, reduction, dtype, seed, p, weighted):
    shape = (classes,) if rows is None else (rows, classes)
    labels = np.asarray(np.random.default_rng(seed).integers(0, classes, shape[:-1]))
    weight = uniform(seed, (classes,), dtype) if weighted else None
    compare(
        "multi_margin_loss", [normal(seed, shape, dtype), labels], p=p, margin=0.7, weight=weight, reduction=reduction
    )


@property_test(
    rows=st.one_of(st.none(), st.integers(1, 6)),
    classes=st.integers(1, 12),
    reduction=REDUCTIONS,
    dtype=DTYPES,
    seed=SEEDS,
)
def test_multilabel_margin(rows, classes, reduction, dtype, seed):
    shape, rng = (classes,) if rows is None else (rows, classes), np.random.default_rng(seed)
    labels = rng.permuted(np.broadcast_to(np.arange(classes), shape), axis=-1)
    labels[rng.random(shape) < 0.3] = -1
    compare("multilabel_margin_loss", [normal(seed, shape, dtype), labels], reduction=reduction)


@property_test(
    examples=80,
    times=st.integers(1, 12),
    batch=st.integers(1, 4),
    classes=st.integers(2, 5),
    longest=st.integers(1, 6),
    seed=SEEDS,
    reduction=REDUCTIONS,
    zero_infinity=st.booleans(),
    joined=st.booleans(),
    dtype=DTYPES,
)
def test_ctc(times, batch, classes, longest, seed, reduction, zero_infinity, joined, dtype):
    """Random lengths, repeats, empty targets and sequences too short for their labels; through a log-softmax."""
    rng = np.random.default_rng(seed)
    blank = int(rng.integers(0, classes))
    lengths, target_lengths = rng.integers(1, times + 1, batch), rng.integers(0, longest + 1, batch)
    targets = rng.integers(0, classes - 1, (batch, longest))
    targets += targets >= blank
    if joined:
        targets = np.concatenate([row[:n] for row, n in zip(targets, target_lengths)])
    logits = rng.standard_normal((times, batch, classes)).astype(dtype)
    other = torch.tensor(logits, requires_grad=True)
    log_probs = other.log_softmax(-1)
    own = rv.Tensor(log_probs.detach().numpy(), requires_grad=True)
    arguments = {"blank": blank, "reduction": reduction, "zero_infinity": zero_infinity}
    result = ours.ctc_loss(own, targets, tuple(lengths.tolist()), target_lengths, **arguments)
    rest = (torch.tensor(targets), torch.tensor(lengths), torch.tensor(target_lengths))
    expected = theirs.ctc_loss(log_probs, *rest, **arguments)
    rtol, atol = (1e-9, 1e-10) if dtype == np.float64 else (3e-5, 3e-5)
    np.testing.assert_allclose(result.numpy(), expected.detach().numpy(), rtol=rtol, atol=atol)
    if np.isinf(result.numpy()).any():
        return
    result.backward(np.ones(result.shape, dtype))
    log_probs.backward(torch.tensor(own.grad.numpy()), retain_graph=True)
    grad, other.grad = other.grad.numpy().copy(), None
    expected.backward(torch.ones_like(expected))
    np.testing.assert_allclose(grad, other.grad.numpy(), rtol=rtol, atol=atol)


def test_ctc_of_one_sequence_without_batch():
    log_probs = torch.randn(7, 4, dtype=torch.float64).log_softmax(-1)
    expected = theirs.ctc_loss(log_probs, torch.tensor([1, 1, 3]), torch.tensor(7), torch.tensor(3))
    result = ours.ctc_loss(rv.Tensor(log_probs.numpy()), np.array([1, 1, 3]), 7, 3)
    np.testing.assert_allclose(result.numpy(), expected.numpy(), rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    x = normal(0, (16, 9), np.float32)
    half = np.dtype({"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype])
    other = torch.tensor(x.astype(half).astype(np.float32)).requires_grad_()
    own = rv.Tensor(x.astype(half), requires_grad=True)
    labels = np.arange(16) % 9
    result, expected = ours.cross_entropy(own, labels), theirs.cross_entropy(other, torch.tensor(labels))
    result.backward()
    expected.backward()
    assert result.dtype == own.grad.dtype == half
    np.testing.assert_allclose(own.grad.numpy().astype(np.float32), other.grad.numpy(), atol=1e-2)
    np.testing.assert_allclose(float(result), expected.item(), rtol=1e-2)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing(reduction):
    x = np.zeros((0, 4), np.float32)
    for name in ("mse_loss", "l1_loss", "soft_margin_loss", "binary_cross_entropy", "kl_div"):
        compare(name, [x, x], reduction=reduction)
    compare("cross_entropy", [x, np.zeros(0, np.int64)], reduction=reduction)
    compare("nll_loss", [x, np.zeros(0, np.int64)], reduction=reduction)


LAYERS = [
    ("MSELoss", {}, "pair"),
    ("L1Loss", {"reduction": "sum"}, "pair"),
    ("SmoothL1Loss", {"beta": 0.3}, "pair"),
    ("HuberLoss", {"delta": 0.3}, "pair"),
    ("PoissonNLLLoss", {"full": True}, "pair"),
    ("GaussianNLLLoss", {"full": True}, "gaussian"),
    ("BCELoss", {"weight": "classes"}, "unit"),
    ("BCEWithLogitsLoss", {"pos_weight": "classes", "weight": "classes"}, "unit"),
    ("KLDivLoss", {"reduction": "batchmean"}, "unit"),
    ("SoftMarginLoss", {}, "signs"),
    ("MultiLabelSoftMarginLoss", {"weight": "classes"}, "unit"),
    ("CrossEntropyLoss", {"weight": "classes", "label_smoothing": 0.1, "ignore_index": 2}, "labels"),
    ("NLLLoss", {"weight": "classes", "ignore_index": 1}, "labels"),
    ("MultiMarginLoss", {"p": 2, "margin": 0.5, "weight": "classes"}, "labels"),
    ("MultiLabelMarginLoss", {}, "sets"),
    ("HingeEmbeddingLoss", {"margin": 0.5}, "signs"),
    ("MarginRankingLoss", {"margin": 0.5}, "ranking"),
    ("CosineEmbeddingLoss", {"margin": 0.1}, "cosine"),
    ("TripletMarginLoss", {"p": 3, "swap": True}, "triplet"),
    ("TripletMarginWithDistanceLoss", {"swap": True}, "triplet"),
    ("CTCLoss", {"blank": 1, "zero_infinity": True}, "ctc"),
]


@pytest.mark.parametrize(("name", "arguments", "kind"), LAYERS, ids=[name for name, _, _ in LAYERS])
def test_layers(name, arguments, kind):
    x, y, z = normal(3, (6, 5), np.float32, 3)
    p = uniform(3, (6, 5), np.float32)
    inputs = {
        "pair": [x, y],
        "gaussian": [x, y, p],
        "unit": [p, uniform(4, (6, 5), np.float32)],
        "signs": [x, signs(0, (6, 5), np.float32)],
        "labels": [x, np.array([0, 1, 2, 3, 4, 0])],
        "sets": [x, np.array([[0, 3, -1, 1, 2]] * 6)],
        "ranking": [x, y, signs(0, (6, 5), np.float32)],
        "cosine": [x, y, signs(0, (6,), np.float32)],
        "triplet": [x, y, z],
        "ctc": [
            normal(5, (8, 2, 4), np.float32),
            np.array([[0, 2, 2], [3, 0, 0]]),
            np.array([8, 6]),
            np.array([3, 1]),
        ],
    }[kind]
    weights = uniform(9, (5,), np.float32)
    own = getattr(rv, name)(**{k: weights if v == "classes" else v for k, v in arguments.items()})
    other = getattr(torch.nn, name)(**{k: torch.tensor(weights) if v == "classes" else v for k, v in arguments.items()})
    result = own(*[rv.Tensor(a) for a in inputs])
    expected = other(*[torch.tensor(a) for a in inputs])
    np.testing.assert_allclose(result.numpy(), expected.numpy(), rtol=1e-5)
    assert sorted(own.state_dict()) == sorted(other.state_dict())
