"""Convolutions with kernels of one position on the CPU: panels across images, strides, and what threads share."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_close

from ranvier.kernels import conv
from ranvier.kernels.conv import cpu_pointwise
from ranvier.kernels.conv.shape import conv_shape


def both_ways(operation, arrays, attributes, implementation, grad=None):
    """The output and all gradients, for a gradient of the output that is drawn if it is not given."""
    y, saved = operation.forward(*arrays, implementation=implementation, **attributes)
    grad = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype) if grad is None else grad.astype(y.dtype)
    needs = tuple(array is not None for array in arrays)
    return grad, [y, *operation.backward(saved, grad, needs, implementation=implementation)]


def assert_agrees(operation, arrays, attributes, length):
    dtype = arrays[0].dtype.name
    grad, actual = both_ways(operation, arrays, attributes, "cpu")
    exact = [None if array is None else array.astype(np.float64) for array in arrays]
    for value, expected in zip(actual, both_ways(operation, exact, attributes, "reference", grad)[1]):
        if expected is not None:
            assert_close(value, expected, dtype, length)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_all_sizes_agree_with_the_reference(data):
    pick = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    rank, transposed = pick(1, 3), data.draw(st.booleans())
    operation = getattr(conv, f"conv_transpose{rank}d" if transposed else f"conv{rank}d")
    sizes = [pick(1, {1: 150, 2: 15, 3: 6}[rank]) for _ in range(rank)]
    channels, results, batch = pick(1, 30), pick(1, 70), pick(0, 5)
    stride = tuple(pick(1, 3) for _ in range(rank))
    rng = np.random.default_rng(pick(0, 2**32 - 1))
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    x = rng.standard_normal((batch, channels, *sizes)).astype(dtype)
    weight = rng.standard_normal((channels, results) if transposed else (results, channels)).astype(dtype)
    bias = rng.standard_normal(results).astype(dtype) if pick(0, 1) else None
    attributes = {"stride": stride}
    if transposed:
        attributes["output_padding"] = tuple(pick(0, s - 1) for s in stride)
    arrays = [x, weight.reshape(*weight.shape, *(1,) * rank), bias]
    assert_agrees(operation, arrays, attributes, max(channels, results, x.size))


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("shape", [(5, 700, 7, 7), (3, 40, 20, 21)])
def test_long_sums_panels_across_images_and_chunks_of_a_batch(shape, activation):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(size) for size in (shape, (40, shape[1], 1, 1), (40,))]
    attributes = {"activation": activation}
    assert cpu_pointwise.suits(conv_shape(*arrays[:2], None, None, None, 1))
    assert_agrees(conv.conv2d, arrays, attributes, max(1000, shape[0] * shape[2] * shape[3]))


def test_what_a_stride_leaves_out_is_bias():
    x, weight, bias = np.ones((1, 2, 2, 3)), np.ones((2, 3, 1, 1)), np.array([-1.0, 0.0, 2.0])
    attributes = {"stride": (2, 2), "output_padding": (1, 1)}
    y, _ = conv.conv_transpose2d.forward(x, weight, bias, activation="relu", **attributes)
    expected = np.broadcast_to(np.maximum(bias, 0)[:, None, None], (3, 4, 6)).copy()
    expected[:, ::2, ::2] = (2 + bias)[:, None, None]
    np.testing.assert_array_equal(y[0], expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_views_with_other_strides(stride):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 9, 7, 11)).transpose(0, 3, 1, 2)[:, ::-1], rng.standard_normal((1, 1, 11, 5)).T
    assert_agrees(conv.conv2d, [x, weight, rng.standard_normal(10)[::2]], {"stride": (stride,) * 2}, 126)


@pytest.mark.parametrize("shape", [(1, 70, 40, 41), (3, 300, 14, 14), (16, 40, 30, 30)])
def test_bits_do_not_depend_on_the_number_of_threads(shape):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in (shape, (65, shape[1], 1, 1), (65,))]
    results = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        try:
            results.append(both_ways(conv.conv2d, arrays, {"activation": "relu"}, "cpu")[1])
        finally:
            numba.set_num_threads(before)
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)
