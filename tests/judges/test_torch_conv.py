"""Convolutions against PyTorch: every argument of the functions, outputs and all gradients; layers and their state."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import ranvier as rv
from ranvier import functional as F

torch = pytest.importorskip("torch", reason="the extra `judges` brings PyTorch")
pytestmark = pytest.mark.judge

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
REACH = {1: 6, 2: 4, 3: 2}


def sizes(rank, low, high):
    """One number for all axes, or a tuple of one per axis."""
    return st.one_of(st.integers(low, high), st.tuples(*[st.integers(low, high)] * rank))


def axes(value, rank):
    return (value,) * rank if isinstance(value, int) else value


def compare(function, torch_function, arrays, arguments, seed):
    """Outputs and the gradients of every array, in float64."""
    ours = [None if a is None else rv.Tensor(a, requires_grad=True) for a in arrays]
    theirs = [None if a is None else torch.tensor(a, requires_grad=True) for a in arrays]
    expected = torch_function(*theirs, **arguments)
    actual = function(*ours, **arguments)
    np.testing.assert_allclose(actual.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    grad = np.random.default_rng(seed).standard_normal(actual.shape)
    actual.backward(grad)
    expected.backward(torch.tensor(grad))
    for mine, its in zip(ours, theirs):
        if mine is not None:
            np.testing.assert_allclose(mine.grad.numpy(), its.grad.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 2, 3])
@SETTINGS
@given(data=st.data())
def test_conv(rank, data):
    draw = data.draw
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = draw(st.tuples(*[st.integers(1, REACH[rank])] * rank))
    dilation = draw(sizes(rank, 1, 3))
    padding = draw(st.one_of(sizes(rank, 0, 4), st.sampled_from(["same", "valid"])))
    stride = 1 if padding == "same" else draw(sizes(rank, 1, 4))
    spatial = draw(st.tuples(*[st.integers(1, 9)] * rank))
    if padding != "same":
        around = axes(0 if padding == "valid" else padding, rank)
        reach = [d * (k - 1) + 1 for d, k in zip(axes(dilation, rank), kernel)]
        assume(all(size + 2 * p >= r for size, p, r in zip(spatial, around, reach)))
    batch = draw(st.sampled_from([(), (0,), (1,), (3,)]))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*batch, groups * per_group, *spatial))
    weight = rng.standard_normal((groups * draw(st.integers(1, 3)), per_group, *kernel))
    bias = rng.standard_normal(weight.shape[0]) if draw(st.booleans()) else None
    arguments = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    name = f"conv{rank}d"
    compare(getattr(F, name), getattr(torch.nn.functional, name), [x, weight, bias], arguments, seed)


@pytest.mark.parametrize("rank", [1, 2, 3])
@SETTINGS
@given(data=st.data())
def test_conv_transpose(rank, data):
    draw = data.draw
    groups = draw(st.integers(1, 3))
    kernel = draw(st.tuples(*[st.integers(1, REACH[rank])] * rank))
    dilation, stride, padding = draw(sizes(rank, 1, 3)), draw(sizes(rank, 1, 4)), draw(sizes(rank, 0, 3))
    limits = [max(s, d) - 1 for s, d in zip(axes(stride, rank), axes(dilation, rank))]
    output_padding = draw(st.tuples(*[st.integers(0, limit) for limit in limits]))
    spatial = draw(st.tuples(*[st.integers(1, 6)] * rank))
    result = [
        (size - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for size, s, p, d, k, extra in zip(
            spatial, axes(stride, rank), axes(padding, rank), axes(dilation, rank), kernel, output_padding
        )
    ]
    assume(min(result) >= 1)
    batch = draw(st.sampled_from([(), (0,), (1,), (3,)]))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    channels = groups * draw(st.integers(1, 3))
    x = rng.standard_normal((*batch, channels, *spatial))
    weight = rng.standard_normal((channels, draw(st.integers(1, 3)), *kernel))
    bias = rng.standard_normal(weight.shape[1] * groups) if draw(st.booleans()) else None
    arguments = {
        "stride": stride,
        "padding": padding,
        "output_padding": output_padding,
        "groups": groups,
        "dilation": dilation,
    }
    name = f"conv_transpose{rank}d"
    compare(getattr(F, name), getattr(torch.nn.functional, name), [x, weight, bias], arguments, seed)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_relu_is_fused(rank):
    rng = np.random.default_rng(rank)
    x, weight, bias = (rng.standard_normal(s) for s in ((2, 3, *[5] * rank), (4, 3, *[3] * rank), (4,)))
    name = f"conv{rank}d"
    compare(
        lambda *a: getattr(F, name)(*a, activation="relu"),
        lambda *a: torch.relu(getattr(torch.nn.functional, name)(*a)),
        [x, weight, bias],
        {},
        0,
    )


LAYERS = [
    ("Conv1d", (4, 6, 3), {}, (2, 4, 9)),
    ("Conv1d", (4, 6, 4), {"padding": "same", "dilation": 2, "bias": False}, (2, 4, 9)),
    ("Conv2d", (3, 5, (3, 2)), {"stride": 2, "padding": (1, 0)}, (2, 3, 8, 9)),
    ("Conv2d", (4, 8, 3), {"groups": 4, "padding": 1}, (4, 7, 6)),
    ("Conv2d", (4, 8, 3), {"padding": "valid"}, (0, 4, 7, 6)),
    ("Conv2d", (4, 2, 3), {"padding": (2, 1), "padding_mode": "reflect"}, (2, 4, 7, 6)),
    ("Conv2d", (4, 2, 3), {"padding": 2, "padding_mode": "replicate", "stride": 2}, (2, 4, 7, 6)),
    ("Conv2d", (4, 2, (4, 3)), {"padding": "same", "padding_mode": "circular"}, (2, 4, 7, 6)),
    ("Conv2d", (4, 2, 3), {"padding": "valid", "padding_mode": "reflect"}, (2, 4, 7, 6)),
    ("Conv1d", (4, 2, 3), {"padding": 1, "padding_mode": "circular"}, (2, 4, 7)),
    ("Conv3d", (2, 4, 3), {"padding": 1, "padding_mode": "replicate"}, (2, 2, 4, 5, 6)),
    ("Conv3d", (2, 4, (1, 3, 2)), {"dilation": (2, 1, 2), "groups": 2}, (2, 2, 4, 5, 6)),
    ("ConvTranspose1d", (4, 6, 4), {"stride": 2, "padding": 1}, (2, 4, 7)),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "output_padding": 1, "groups": 2, "dilation": 2}, (2, 4, 5, 4)),
    ("ConvTranspose3d", (4, 2, 2), {"stride": (1, 2, 3), "bias": False}, (2, 4, 3, 2, 4)),
]


@pytest.mark.parametrize(("name", "positional", "arguments", "shape"), LAYERS)
def test_layer(name, positional, arguments, shape):
    theirs = getattr(torch.nn, name)(*positional, **arguments)
    ours = getattr(rv, name)(*positional, **arguments)
    assert repr(ours) == repr(theirs)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    mine, its = rv.Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    actual, expected = ours(mine), theirs(its)
    np.testing.assert_allclose(actual.numpy(), expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    grad = np.random.default_rng(1).standard_normal(actual.shape).astype(np.float32)
    actual.backward(grad)
    expected.backward(torch.tensor(grad))
    np.testing.assert_allclose(mine.grad.numpy(), its.grad.numpy(), rtol=1e-4, atol=1e-5)
    gradients = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), gradients[key].grad.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [9, 10])
@pytest.mark.parametrize("whole_shape", [False, True])
def test_output_size(size, whole_shape):
    theirs = torch.nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1)
    ours = rv.ConvTranspose2d(3, 4, 3, stride=2, padding=1)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 5)).astype(np.float32)
    wanted = (2, 4, size, 10) if whole_shape else (size, 10)
    actual, expected = ours(rv.Tensor(x), output_size=wanted), theirs(torch.tensor(x), output_size=wanted)
    np.testing.assert_allclose(actual.numpy(), expected.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "arguments"), [("Conv2d", (16, 32, 3)), ("ConvTranspose2d", (16, 32, 3))])
def test_initial_weights_have_the_same_bounds(name, arguments):
    rv.seed(0)
    torch.manual_seed(0)
    theirs, ours = getattr(torch.nn, name)(*arguments), getattr(rv, name)(*arguments)
    for key, parameter in ours.named_parameters():
        values, expected = parameter.numpy(), theirs.state_dict()[key].numpy()
        np.testing.assert_allclose(np.abs(values).max(), np.abs(expected).max(), rtol=0.15)
        np.testing.assert_allclose(values.std(), expected.std(), rtol=0.3)


@pytest.mark.parametrize("transposed", [False, True])
def test_flops_are_what_pytorch_counts(transposed):
    from torch.utils.flop_counter import FlopCounterMode

    from ranvier.kernels import conv

    x, weight = np.ones((2, 4, 7, 8), np.float32), np.ones((4, 3, 3, 2) if transposed else (6, 2, 3, 2), np.float32)
    arguments = {"stride": (2, 1), "groups": 2}
    name = "conv_transpose2d" if transposed else "conv2d"
    with FlopCounterMode(display=False) as counter:
        getattr(torch.nn.functional, name)(torch.tensor(x), torch.tensor(weight), **arguments)
    assert getattr(conv, name).cost(x, weight, **arguments).flops == counter.get_total_flops()
