"""Depthwise convolutions on the CPU: every edge of its tiles, and what it shares among threads."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_close

from ranvier.kernels import conv
from ranvier.kernels.conv import cpu, cpu_planes


def both_ways(operation, arrays, attributes, implementation, grad=None):
    """The output and all gradients, for a gradient of the output that is drawn if it is not given."""
    y, saved = operation.forward(*arrays, implementation=implementation, **attributes)
    grad = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype) if grad is None else grad.astype(y.dtype)
    needs = tuple(array is not None for array in arrays)
    return grad, [y, *operation.backward(saved, grad, needs, implementation=implementation)]


def assert_agrees(operation, arrays, attributes, dtype, length):
    grad, actual = both_ways(operation, arrays, attributes, "cpu")
    exact = [None if array is None else array.astype(np.float64) for array in arrays]
    for value, expected in zip(actual, both_ways(operation, exact, attributes, "reference", grad)[1]):
        if expected is not None:
            assert_close(value, expected, dtype, length)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_planes_of_many_tiles_agree_with_the_reference(data):
    pick = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    rank = pick(1, 3)
    transposed = data.draw(st.booleans())
    operation = getattr(conv, f"conv_transpose{rank}d" if transposed else f"conv{rank}d")
    kernel = [pick(1, 2 if rank == 3 and axis == 0 else 5) for axis in range(rank)]
    stride, dilation = ([pick(1, 3) for _ in range(rank)] for _ in range(2))
    longest = {1: [200], 2: [20, 70], 3: [3, 10, 40]}[rank]
    sizes = [max(pick(1, most), 1 if transposed else d * (k - 1) + 1) for most, k, d in zip(longest, kernel, dilation)]
    padding = [(pick(0, 3), pick(0, 3)) for _ in range(rank)]
    if transposed:  # which padding may not make vanish
        padding = [
            (min(a, d * (k - 1) // 2), min(b, d * (k - 1) // 2)) for (a, b), k, d in zip(padding, kernel, dilation)
        ]
    channels, multiplier = pick(2, 4), pick(1, 3)
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    rng = np.random.default_rng(pick(0, 2**32 - 1))
    x = rng.standard_normal((pick(1, 3), channels, *sizes)).astype(dtype)
    weight = rng.standard_normal(
        (channels if transposed else channels * multiplier, multiplier if transposed else 1, *kernel)
    )
    bias = rng.standard_normal(channels * multiplier).astype(dtype) if pick(0, 1) else None
    attributes = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": channels}
    assert_agrees(operation, [x, weight.astype(dtype), bias], attributes, dtype, max(weight[0].size, x.size * 9))


@pytest.fixture(autouse=True)
def _methods_are_chosen_anew():
    """The choice for a shape is kept, and tests here change what it depends on."""
    cpu._method.cache_clear()
    yield
    cpu._method.cache_clear()


PLANES_AND_TILES = pytest.mark.parametrize("least_channels", [1, 1000])  # cpu_planes, cpu_depthwise


@PLANES_AND_TILES
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "x", [(2, 3, 8, 16), (1, 2, 9, 17), (2, 2, 7, 34), (0, 3, 14, 14), (1, 2, 1, 100), (3, 2, 2, 1)]
)
def test_whole_vectors_and_their_rests(x, dtype, stride, least_channels, monkeypatch):
    monkeypatch.setattr(cpu_planes, "_CHANNELS", least_channels)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in (x, (x[1], 1, 3, 3), (x[1],))]
    for operation in (conv.conv2d, conv.conv_transpose2d):
        attributes = {"stride": (stride, stride), "padding": ((1, 1), (1, 1)), "groups": x[1]}
        if operation is conv.conv_transpose2d:
            attributes["output_padding"] = (stride - 1, 0)
        assert_agrees(operation, arrays, attributes, dtype, max(9, x[0] * x[2] * x[3]))
        y = operation.forward(*arrays, activation="relu", **attributes)[0]
        exact = [array.astype(np.float64) for array in arrays]
        expected = operation.forward(*exact, implementation="reference", activation="relu", **attributes)[0]
        assert_close(y, expected, dtype, 9)


@pytest.mark.parametrize("after", [0, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("rank", [2, 3])
def test_padding_may_end_otherwise_than_it_begins(rank, stride, after):
    """Planes of other sizes than cpu_planes reckons with, and of another number."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in ((2, 8, *(1, 9, 18)[-rank:]), (8, 1, *(1, 3, 3)[-rank:]), (8,))]
    attributes = {
        "stride": (1, stride, stride)[-rank:],
        "padding": ((0, after), (1, after if rank == 2 else 1), (1, 1))[-rank:],
        "groups": 8,
    }
    assert_agrees(conv.conv2d if rank == 2 else conv.conv3d, arrays, attributes, "float64", 400)


@pytest.mark.parametrize("stride", [1, 2])
def test_infinities_stay_where_they_are_read(stride, monkeypatch):
    monkeypatch.setattr(cpu_planes, "_CHANNELS", 1)
    x, weight = np.ones((1, 2, 6, 20), np.float32), np.ones((2, 1, 3, 3), np.float32)
    x[0, 0, 5, 19] = x[0, 1, 0, 0] = np.inf
    y, saved = conv.conv2d.forward(x, weight, stride=(stride, stride), padding=((1, 1), (1, 1)), groups=2)
    grad_weight = conv.conv2d.backward(saved, np.ones_like(y), (False, True, False))[1]
    assert not np.isnan(grad_weight).any()
    assert np.isinf(y).sum() == (8 if stride == 1 else 2)


@PLANES_AND_TILES
@pytest.mark.parametrize("stride", [1, 2])
def test_infinities_in_the_last_row_make_gradients_infinite(stride, least_channels, monkeypatch):
    monkeypatch.setattr(cpu_planes, "_CHANNELS", least_channels)
    x, weight = np.ones((1, 2, 11, 21), np.float32), np.ones((2, 1, 3, 3), np.float32)
    x[0, 0, 10, 20] = np.inf
    _, saved = conv.conv2d.forward(x, weight, stride=(stride,) * 2, padding=((1, 1), (1, 1)), groups=2)
    grad = np.ones((1, 2, *saved[3].output[1:]), np.float32)
    grad_weight = conv.conv2d.backward(saved, grad, (False, True, False))[1]
    assert not np.isnan(grad_weight).any()
    assert np.isinf(grad_weight[0]).sum() == (4 if stride == 1 else 1)


def test_views_with_other_strides_are_read_as_they_are():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 20, 19, 6)).transpose(0, 3, 1, 2)[:, ::-1]
    weight = rng.standard_normal((3, 3, 1, 6)).T[:, :, ::-1]
    assert_agrees(conv.conv2d, [x, weight, None], {"padding": ((1, 1), (1, 1)), "groups": 6}, "float64", 800)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("operation", [conv.conv2d, conv.conv_transpose2d])
def test_bits_do_not_depend_on_the_number_of_threads(operation, stride):
    rng = np.random.default_rng(0)
    few, many = ((1, 3, 200, 300), (3, 3)), ((3, 64, 40, 50), (3, 3))
    for x, kernel in (few, many):
        arrays = [rng.standard_normal(s).astype(np.float32) for s in (x, (x[1], 1, *kernel), (x[1],))]
        attributes = {"stride": (stride,) * 2, "padding": ((1, 1),) * 2, "groups": x[1], "activation": "relu"}
        results = []
        for threads in (1, numba.config.NUMBA_NUM_THREADS):
            before = numba.get_num_threads()
            numba.set_num_threads(threads)
            try:
                results.append(both_ways(operation, arrays, attributes, "cpu")[1])
            finally:
                numba.set_num_threads(before)
        for one, other in zip(*results):
            np.testing.assert_array_equal(one, other)


@PLANES_AND_TILES
def test_what_lies_outside_is_not_read_and_nothing_else_is_written(least_channels, monkeypatch):
    monkeypatch.setattr(cpu_planes, "_CHANNELS", least_channels)
    x, weight = np.ones((1, 2, 9, 21), np.float32), np.ones((2, 1, 3, 3), np.float32)
    around = np.full(x.size + 200, np.nan, np.float32)
    x_inside = around[100:-100].reshape(x.shape)
    x_inside[...] = x
    out_around = np.full(x.size + 200, -7, np.float32)
    out = out_around[100:-100].reshape(x.shape)
    y, _ = conv.conv2d.forward(x_inside, weight, padding=((1, 1), (1, 1)), groups=2, out=out)
    assert y is out
    assert y[0, 0, 0, 0] == 4
    assert (y[0, 0, 1:-1, 1:-1] == 9).all()
    assert (out_around[:100] == -7).all()
    assert (out_around[-100:] == -7).all()


@pytest.mark.parametrize("stride", [2, 3])
def test_rows_and_columns_that_a_stride_leaves_out_are_not_read(stride):
    x, weight = np.full((1, 2, 2 * stride + 1, 2 * stride + 1), np.nan), np.ones((2, 1, 2, 2))
    seen = [0, 1, stride, stride + 1]
    x[:, :, np.array(seen)[:, None], seen] = 1
    attributes = {"stride": (stride,) * 2, "groups": 2}
    y, saved = conv.conv2d.forward(x, weight, **attributes)
    np.testing.assert_array_equal(y, np.full((1, 2, 2, 2), 4))
    grad_weight = conv.conv2d.backward(saved, np.ones_like(y), (False, True, False))[1]
    np.testing.assert_array_equal(grad_weight, np.full((2, 1, 2, 2), 4))
