"""GPU elementwise kernels against the CPU's where the reference's samples do not go: views of many axes, special
values, integers of every width, numbers that need all of float64's digits, sums split in parts."""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.kernels import elementwise

interpreter.install()
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def both(operation, *inputs, **attributes):
    """The results of the CPU and of the GPU."""
    return [operation.forward(*inputs, implementation=i, **attributes)[0] for i in ("cpu", "gpu")]


def gradients(operation, inputs, grad, needs):
    found = []
    for implementation in ("cpu", "gpu"):
        _, saved = operation.forward(*inputs, implementation=implementation)
        found.append(operation.backward(saved, grad, needs, implementation))
    return found


@st.composite
def operands(draw):
    """Two views with any order of axes and any steps whose shapes broadcast."""
    rank = draw(st.integers(0, 7))
    shape = draw(st.lists(st.sampled_from([1, 2, 2, 3]), min_size=rank, max_size=rank))
    views = []
    for own in range(2):
        sizes = [1 if draw(st.booleans()) else size for size in shape]
        order = draw(st.permutations(range(rank)))
        base = np.arange(1, 1 + 2 ** min(rank, 1) * int(np.prod(sizes)), dtype=np.float32) / 7
        base = base.reshape([sizes[axis] * (2 if place == rank - 1 else 1) for place, axis in enumerate(order)])
        if rank:
            base = base[..., :: draw(st.sampled_from([2, -2]))]
        view = base.transpose(np.argsort(order)) if rank else base
        views.append(np.asarray(view[0]) if own and rank and sizes[0] == 1 and draw(st.booleans()) else view)
    return views


@given(pair=operands(), name=st.sampled_from(["add", "divide", "less", "maximum"]))
@settings(max_examples=60, deadline=None)
def test_views_of_any_strides_broadcast(pair, name):
    x, y = pair
    operation = getattr(elementwise, name)
    np.testing.assert_allclose(*both(operation, x, y)[::-1], rtol=1e-6)
    if operation.differentiable:
        grad = np.random.default_rng(0).standard_normal(np.broadcast_shapes(x.shape, y.shape)).astype(np.float32)
        for on_cpu, on_gpu in zip(*gradients(operation, (x, y), grad, (True, True))):
            assert on_gpu.shape == on_cpu.shape
            np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "other"),
    [((3000, 5), (5,)), ((2, 3, 4000), (3, 1)), ((7000,), ()), ((40, 6, 50), (6, 50)), ((9, 2, 600), (9, 1, 1))],
)
def test_long_sums_in_parts_are_right_and_the_same_again(shape, other):
    rng = np.random.default_rng(0)
    x, y, grad = (rng.standard_normal(s).astype(np.float32) for s in (shape, other, shape))
    exact = elementwise.multiply.backward(
        elementwise.multiply.forward(x.astype(float), y.astype(float))[1], grad.astype(float), (False, True)
    )[1]
    first, second = (gradients(elementwise.multiply, (x, y), grad, (False, True))[1][1] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, exact, rtol=1e-4, atol=1e-3)


def test_more_axes_than_a_kernel_has():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1) * 4).astype(np.float32), rng.standard_normal((1, 3) * 4).astype(np.float32)
    np.testing.assert_array_equal(*both(elementwise.multiply, x, y))
    grad = rng.standard_normal(np.broadcast_shapes(x.shape, y.shape)).astype(np.float32)
    for on_cpu, on_gpu in zip(*gradients(elementwise.multiply, (x, y), grad, (True, True))):
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-4, atol=1e-4)


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1, -1, 0.5, -0.5, 2, -2, 3, -3, 1.5, 2.5, -2.5, 1e-7, 30, -30])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("operation", [o for o in vars(elementwise).values() if hasattr(o, "inputs")], ids=str)
def test_special_values_come_out_as_on_the_cpu(operation, dtype):
    x = SPECIAL.astype(dtype)
    if operation.name in ("clip", "where"):
        pytest.skip("have tests of their own")
    if operation.name in ("remainder", "floor_divide"):
        # The interpreter's fused product is not fused, and 1e-7 needs one.
        x = x[np.isfinite(x) & (x != dtype(1e-7))]
    inputs = (x,) if len(operation.inputs) == 1 else (np.repeat(x, x.size), np.tile(x, x.size))
    on_cpu, on_gpu = both(operation, *inputs)
    units = 400 if operation.name == "power" else 100  # of float64, y log(x) may err by its size in units
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=units * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8])
@pytest.mark.parametrize(
    "name",
    ["add", "subtract", "multiply", "remainder", "floor_divide", "maximum", "minimum", "less", "equal", "logical_xor"],
)
def test_integers_are_the_cpus(name, dtype):
    low = np.iinfo(dtype).min
    values = np.array([0, 1, 2, 3, 7, 100, *((-1, -2, -3, -7, -100) if low < 0 else (200, 255, 128))], dtype)
    x, y = np.repeat(values, values.size), np.tile(values, values.size)
    np.testing.assert_array_equal(*both(getattr(elementwise, name), x, y))
    np.testing.assert_array_equal(*both(getattr(elementwise, name), x, 5))


def test_powers_of_integers():
    x, y = np.repeat(np.arange(-5, 6), 8), np.tile(np.arange(8), 11)
    np.testing.assert_array_equal(*both(elementwise.power, x, y))
    found = elementwise.power.forward(np.array([1, -1, -1, 2, 0]), np.array([-3, -3, -2, -1, -1]), implementation="gpu")
    np.testing.assert_array_equal(found[0], [1, -1, 1, 0, 0])


@pytest.mark.parametrize(
    "name", ["add", "multiply", "maximum", "minimum", "equal", "less", "greater_equal", "logical_or"]
)
def test_bools_are_the_cpus(name):
    x, y = np.array([True, True, False, False]), np.array([True, False, True, False])
    on_cpu, on_gpu = both(getattr(elementwise, name), x, y)
    assert on_gpu.dtype == bool
    np.testing.assert_array_equal(on_gpu, on_cpu)
    np.testing.assert_array_equal(*both(getattr(elementwise, name), x, True))


def test_numbers_keep_the_digits_of_float64():
    x = np.array([0.1, -3.7, 1e3])
    for operation in (elementwise.add, elementwise.multiply, elementwise.divide, elementwise.maximum):
        np.testing.assert_allclose(*both(operation, x, 0.1), rtol=1e-15)
    np.testing.assert_array_equal(*both(elementwise.clip, x, min=-0.1, max=0.1))
    np.testing.assert_array_equal(*both(elementwise.where, x > 0, x, 0.1))
    np.testing.assert_array_equal(*both(elementwise.multiply, x, 2**70))
    wide = np.array([2**60 + 1, -5])
    np.testing.assert_array_equal(*both(elementwise.add, wide, 2**59 + 3))
    np.testing.assert_array_equal(*both(elementwise.clip, wide, max=2**60))


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 0.5, -1, -2, 1.7])
def test_powers_with_a_number(exponent):
    x = np.random.default_rng(0).uniform(0.2, 3, (5, 7)).astype(np.float32)
    np.testing.assert_allclose(*both(elementwise.power, x, exponent), rtol=1e-6)
    on_cpu, on_gpu = gradients(elementwise.power, (x, exponent), np.ones_like(x), (True, False))
    np.testing.assert_allclose(on_gpu[0], on_cpu[0], rtol=1e-5)
    assert on_gpu[1] is None


@pytest.mark.parametrize("bounds", [{"min": 0.5}, {"max": 0.5}, {"min": -1, "max": 1}, {"min": 2.0, "max": 1.0}])
def test_clip_and_its_gradient(bounds):
    x = SPECIAL.astype(np.float32)
    np.testing.assert_array_equal(*both(elementwise.clip, x, **bounds))
    results = []
    for implementation in ("cpu", "gpu"):
        _, saved = elementwise.clip.forward(x, implementation=implementation, **bounds)
        results.append(elementwise.clip.backward(saved, np.full_like(x, np.inf), (True,), implementation)[0])
    np.testing.assert_array_equal(*results)


def test_a_masked_gradient_is_0_where_it_was_infinite():
    condition, grad = np.array([True, False, True]), np.array([1, np.inf, np.nan], np.float32)
    inputs = condition, grad, np.zeros(3, np.float32)
    on_cpu, on_gpu = gradients(elementwise.where, inputs, grad, (False, True, True))
    for a, b in zip(on_cpu[1:], on_gpu[1:]):
        np.testing.assert_array_equal(a, b)


def test_results_go_where_they_are_wanted():
    x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    for out in (np.empty((6, 8), np.float32), np.empty((8, 6), np.float32).T):
        assert elementwise.add.forward(x, x[1], implementation="gpu", out=out)[0] is out
        np.testing.assert_array_equal(out, x + x[1])
        assert elementwise.clip.forward(x, min=0, implementation="gpu", out=out)[0] is out
        np.testing.assert_array_equal(out, np.maximum(x, 0))
