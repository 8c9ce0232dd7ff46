"""What normalisation promises beyond its formulas: accuracy, memory layouts, the same sums on any number of threads."""

import numba
import numpy as np
import pytest
from parity import assert_close

from ranvier.kernels import norm
from ranvier.kernels.operation import Operation


def _inputs(shape, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    channels = shape[1]
    return [rng.standard_normal(s).astype(dtype) for s in (shape, (channels,), (channels,), shape)]


@pytest.mark.parametrize("shape", [(8, 4, 30, 30), (40, 4, 7, 7), (2000, 4), (3, 4, 20_000)])
def test_variance_does_not_cancel_far_from_zero(shape):
    x = (1e4 + np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    axes = (0, *range(2, x.ndim))
    (_, mean, variance), _ = norm.batch_norm.forward(x, eps=0.0)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(axis=axes), rtol=2e-7)
    np.testing.assert_allclose(variance, x.astype(np.float64).var(axis=axes), rtol=1e-4)


@pytest.mark.parametrize("shape", [(32, 3, 30, 30), (32, 3, 7, 7), (32, 3, 1, 1), (1, 3, 40_000)])
def test_variance_where_the_first_values_lie_far_from_the_others(shape):
    # Deviations are taken from a mean of the first values.
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    first = x[:2] if shape[0] > 1 else x[..., :2500]
    first += 1e4
    axes = (0, *range(2, x.ndim))
    exact = x.astype(np.float64)
    (_, mean, variance), _ = norm.batch_norm.forward(x, eps=0.0)
    np.testing.assert_allclose(mean, exact.mean(axis=axes), rtol=1e-6)
    np.testing.assert_allclose(variance, exact.var(axis=axes), rtol=1e-5)


def test_layer_norm_does_not_cancel_far_from_zero():
    x = (1e4 + np.random.default_rng(0).standard_normal((5, 10_000))).astype(np.float32)
    y, _ = norm.layer_norm.forward(x, normalized_shape=(10_000,), eps=0.0)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(axis=1, keepdims=True)) / exact.std(axis=1, keepdims=True)
    np.testing.assert_allclose(y, exact, atol=1e-3)  # one unit of x in the last place


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (2, 3, 3, 4, 5), (4, 5, 7)])
@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_inference"])
def test_channels_last_memory_flows_through(name, shape):
    operation = Operation.registry[name]
    x, weight, bias, grad = _inputs(shape)
    inputs = [x, weight, bias]
    if name == "batch_norm_inference":
        inputs[1:1] = [bias * 2, np.abs(weight) + 1]
    needs = (True,) * len(inputs)

    def run(arrange):
        output, saved = operation.forward(arrange(x), *inputs[1:], eps=1e-5)
        many = isinstance(output, tuple)
        grads = operation.backward(saved, (arrange(grad), None, None) if many else arrange(grad), needs)
        return [output[0] if many else output, *grads]

    def channels_last(array):
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)

    plain, moved = run(np.ascontiguousarray), run(channels_last)
    for a, b in zip(plain, moved, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for image in moved[:2]:
        assert np.moveaxis(image, 1, -1).flags.c_contiguous


@pytest.mark.parametrize("shape", [(9, 5, 6, 7), (3, 6, 12, 13), (70, 99), (40, 3)])
@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_inference"])
@pytest.mark.parametrize("last", [False, True])
def test_a_fused_rectifier_gives_the_bits_of_one_behind(name, shape, last):
    operation = Operation.registry[name]
    x, weight, bias, grad = _inputs(shape)
    if last:
        x, grad = (np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1) for array in (x, grad))
    statistics = [bias * 2, np.abs(weight) + 1] if name == "batch_norm_inference" else []
    results = []
    for activation in (None, "relu"):
        output, saved = operation.forward(x, *statistics, weight, bias, eps=1e-5, activation=activation)
        y, moments = (output, []) if statistics else (output[0], output[1:])
        y, grad_y = (np.maximum(y, 0), np.where(y > 0, grad, 0)) if activation is None else (y, grad)
        grads = operation.backward(saved, grad_y if statistics else (grad_y, *moments), (True,) * (3 + len(statistics)))
        results.append([y, *grads])
    for behind, fused in zip(*results, strict=True):
        np.testing.assert_array_equal(behind, fused)
    assert 0.1 < np.mean(results[1][0] > 0) < 0.9


@pytest.mark.parametrize("missing", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "shape"), [("batch_norm", (3, 5, 4, 6)), ("batch_norm", (70, 5)), ("instance_norm", (3, 5, 4, 6))]
)
def test_outputs_without_gradient_count_as_zero(name, shape, missing):
    operation = Operation.registry[name]
    x, weight, bias, _ = _inputs(shape, dtype=np.float64)
    outputs, _ = operation.forward(x, weight, bias, eps=1e-5)
    grads = [np.random.default_rng(1).standard_normal(o.shape) for o in outputs]
    zeroed = [np.zeros_like(g) if i == missing else g for i, g in enumerate(grads)]
    absent = [None if i == missing else g for i, g in enumerate(grads)]
    results = []
    for implementation, output_grads in [("cpu", absent), ("cpu", zeroed), ("reference", absent)]:
        _, saved = operation.forward(x, weight, bias, eps=1e-5, implementation=implementation)
        results.append(operation.backward(saved, tuple(output_grads), (True,) * 3, implementation=implementation))
    for a, b, exact in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
        assert_close(a, exact, "float64", x.size)


@pytest.mark.parametrize(
    ("name", "shape", "attributes"),
    [
        ("batch_norm", (90, 5, 6, 7), {}),
        ("batch_norm", (27, 5, 12, 13), {}),
        ("batch_norm", (2000, 9), {}),
        ("batch_norm", (90, 5, 6, 7), {"activation": "relu"}),
        ("batch_norm", (2000, 9), {"activation": "relu"}),
        ("group_norm", (5, 8, 600), {"groups": 4}),
        ("layer_norm", (300, 65), {"normalized_shape": (65,)}),
    ],
)
def test_number_of_threads_does_not_change_a_bit(name, shape, attributes):
    operation = Operation.registry[name]
    x, weight, bias, grad = _inputs(shape)
    before = numba.get_num_threads()
    results = []
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            output, saved = operation.forward(x, weight, bias, eps=1e-5, **attributes)
            many = isinstance(output, tuple)
            grads = operation.backward(saved, (grad, None, None) if many else grad, (True,) * 3)
            results.append([*(output if many else (output,)), *grads])
    finally:
        numba.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_running_average_writes_in_place():
    running, value = np.array([1.0, 2.0]), np.array([[3.0, 0.0], [5.0, 2.0]])
    result, _ = norm.running_average.forward(running, value, factor=0.5, scale=2.0, out=running)
    assert result is running
    np.testing.assert_allclose(running, [4.5, 2.0])


def test_constant_input_has_variance_zero():
    x = np.full((4, 3, 5), 0.1, np.float32)
    (y, _, variance), _ = norm.batch_norm.forward(x, eps=1e-5)
    assert (variance >= 0).all()
    np.testing.assert_allclose(variance, 0, atol=1e-12)
    np.testing.assert_allclose(y, 0, atol=1e-4)


@pytest.mark.parametrize("rows", [20, 40, 5000])
@pytest.mark.parametrize("channels", [3, 17, 100])
def test_moments_of_columns_stand_outliers_that_come_first(channels, rows):
    """The rows that the deviations are first taken from are the worst there are."""
    x = np.random.default_rng(0).standard_normal((rows, channels)).astype(np.float32)
    x[:2] = 1e4
    (_, mean, variance), _ = norm.batch_norm.forward(x, eps=1e-5)
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(variance, x.var(axis=0, dtype=np.float64), rtol=1e-5)
