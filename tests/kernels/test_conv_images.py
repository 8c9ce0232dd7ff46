"""Convolutions of many small images on the CPU, computed a vector of images at a time."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_close

from ranvier.kernels import conv
from ranvier.kernels.conv import cpu_images
from ranvier.kernels.conv.shape import conv_shape


def both_ways(operation, arrays, attributes, implementation, grad=None):
    """The output and all gradients, for a gradient of the output that is drawn if it is not given."""
    y, saved = operation.forward(*arrays, implementation=implementation, **attributes)
    grad = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype) if grad is None else grad.astype(y.dtype)
    needs = tuple(array is not None for array in arrays)
    return grad, [y, *operation.backward(saved, grad, needs, implementation=implementation)]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_all_sizes_agree_with_the_reference(data):
    pick = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    rank, transposed = pick(1, 3), data.draw(st.booleans())
    operation = getattr(conv, f"conv_transpose{rank}d" if transposed else f"conv{rank}d")
    kernel = [pick(2, 4) for _ in range(rank)]
    stride = tuple(1 if transposed else pick(1, 3) for _ in range(rank))
    dilation = tuple(pick(1, 2) for _ in range(rank))
    reach = [d * (k - 1) for k, d in zip(kernel, dilation)]
    padding = tuple((pick(0, most), pick(0, most)) for most in reach)
    sizes = [r + pick(1, {1: 20, 2: 5, 3: 2}[rank]) for r in reach]
    channels, results, batch = pick(1, 9), pick(1, 9), pick(cpu_images._IMAGES, cpu_images._IMAGES + 9)
    rng = np.random.default_rng(pick(0, 2**32 - 1))
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    x = rng.standard_normal((batch, channels, *sizes)).astype(dtype)
    weight = rng.standard_normal(((channels, results) if transposed else (results, channels)) + tuple(kernel))
    bias = rng.standard_normal(results).astype(dtype) if pick(0, 1) else None
    arrays = [x, weight.astype(dtype), bias]
    attributes = {"stride": stride, "padding": padding, "dilation": dilation}
    grad, actual = both_ways(operation, arrays, attributes, "cpu")
    exact = [None if array is None else array.astype(np.float64) for array in arrays]
    for value, expected in zip(actual, both_ways(operation, exact, attributes, "reference", grad)[1]):
        if expected is not None:
            assert_close(value, expected, dtype, x.size)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_lenet(activation):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in ((37, 6, 14, 14), (16, 6, 5, 5), (16,))]
    shape = conv_shape(*arrays[:2], None, None, None, 1)
    assert cpu_images.suits(shape)
    assert cpu_images.suits(shape, gradient=True)
    grad, actual = both_ways(conv.conv2d, arrays, {"activation": activation}, "cpu")
    for value, expected in zip(
        actual, both_ways(conv.conv2d, arrays, {"activation": activation}, "reference", grad)[1]
    ):
        assert_close(value, expected, "float64", 4000)


def test_bits_depend_neither_on_threads_nor_on_the_images_beside():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((200, 6, 14, 14), (16, 6, 5, 5), (16,))]
    results = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        try:
            results.append(both_ways(conv.conv2d, arrays, {}, "cpu")[1])
        finally:
            numba.set_num_threads(before)
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)
    some = conv.conv2d.forward(arrays[0][5:45], *arrays[1:])[0]
    np.testing.assert_array_equal(some, results[0][0][5:45])
