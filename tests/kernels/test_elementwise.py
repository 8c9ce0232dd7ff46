"""Arithmetic by the kernels that large arrays get: every way in which operands broadcast, odd sizes, any layout."""

import itertools

import numba
import numpy as np
import pytest
from agreement import agree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from ranvier.kernels import memory
from ranvier.kernels.elementwise import cpu_arithmetic
from ranvier.kernels.operation import Operation, all_operations

list(all_operations())
NAMES = ["add", "subtract", "multiply", "divide", "maximum", "minimum"]
SHAPES = {
    "same": ((3, 5, 7), (3, 5, 7)),
    "longer_than_a_block": ((9001,), (9001,)),
    "number": ((41, 5), 0.75),
    "number_and_a_block": ((8200,), 0.75),
    "channels": ((3, 5, 67), (5, 1)),
    "columns": ((70, 9), (70, 1)),
    "long_columns": ((3, 4100), (3, 1)),
    "rows": ((300, 7), (7,)),
    "long_rows": ((131, 2050), (2050,)),
    "steps": ((3, 130, 7), (3, 1, 7)),
    "one_row": ((1, 9), (1, 1)),
    "outer": ((5, 1, 3), (4, 1)),
    "four_axes": ((2, 3, 4, 5), (3, 1, 5)),
    "every_other": ((2, 3, 4, 5, 6), (1, 3, 1, 5, 1)),
    "nothing": ((0, 3), (3,)),
    "nothing_across": ((3, 1), (0,)),
    "scalars": ((), ()),
}


@pytest.fixture(autouse=True)
def _everything_is_worth_threads(monkeypatch):
    monkeypatch.setattr(cpu_arithmetic, "_WORTH_THREADS", 2)
    monkeypatch.setattr(memory, "poison", True)


def operand(shape, rng, dtype=np.float32):
    return shape if isinstance(shape, float) else np.asarray(0.5 + rng.random(shape)).astype(dtype)


def call(name, x, y, grad=None):
    operation = Operation.registry[name]
    z, saved = operation.forward(x, y)
    grad = np.ones_like(z) if grad is None else grad
    return z, *operation.backward(saved, grad, tuple(type(operand) is np.ndarray for operand in (x, y)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_broadcast_agrees_with_the_reference(name, shapes, turned, dtype):
    rng = np.random.default_rng(0)
    operands = [operand(shape, rng, dtype) for shape in shapes]
    agree(Operation.registry[name], operands[::-1] if turned else operands, {}, rng, dtype)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=5, max_side=4), seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("name", ["divide", "maximum"])
def test_any_broadcast_in_any_layout_agrees_with_the_reference(name, shapes, seed):
    rng = np.random.default_rng(seed)

    def arrange(x):
        # The same values with the axes in another order in memory, now and then with gaps or repeated.
        axes = rng.permutation(x.ndim)
        turned = x.transpose(axes).copy(order="C").transpose(np.argsort(axes))
        return np.repeat(turned, 2, 0)[::2] if x.ndim and rng.random() < 0.3 else turned

    operands = [operand(shape, rng) for shape in shapes.input_shapes]
    agree(Operation.registry[name], operands, {}, rng, "float32", arrange=arrange)


@pytest.mark.parametrize("name", NAMES)
def test_results_lie_in_memory_as_operands_do(name):
    rng = np.random.default_rng(0)
    x, y = (np.moveaxis(operand((4, 5, 6, 3), rng), -1, 1) for _ in range(2))
    channel = operand((3, 1, 1), rng)
    for result in (*call(name, x, y), *call(name, x, channel)[:2], *call(name, channel, x)[:1]):
        assert np.moveaxis(result, 1, -1).flags.c_contiguous
    np.testing.assert_array_equal(call(name, x, y)[0], call(name, x.copy(order="C"), y)[0])


@pytest.mark.parametrize("name", NAMES)
def test_out_is_written_in_any_layout_also_in_place(name):
    rng = np.random.default_rng(0)
    x, y, column = operand((6, 10), rng), operand((6, 10), rng), operand((6, 1), rng)
    operation = Operation.registry[name]
    for other in (y, column, 2.0):
        expected, _ = operation.forward(x, other)
        for out in (np.empty((6, 10), "f4"), np.empty((10, 6), "f4").T, np.empty((6, 20), "f4")[:, ::2], x.copy()):
            z, _ = operation.forward(out if out.shape == x.shape and (out == x).all() else x, other, out=out)
            assert z is out
            np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", NAMES)
def test_memory_that_is_repeated_is_taken_as_it_comes(name):
    rng = np.random.default_rng(0)
    vectors = [operand(shape, rng) for shape in [(), (40, 1), (30,)]]
    repeated = [np.broadcast_to(vector, (40, 30)) for vector in vectors] + [operand((40, 30), rng)]
    for x, y, grad in itertools.product(repeated, [*repeated, np.broadcast_to(vectors[0], (30,))], repeated):
        expected = call(name, x.copy(), y.copy(), grad.copy())
        for ours, theirs in zip(call(name, x, y, grad), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)  # sums may go another way


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", ["vectors", "number_right", "number_left"])
@pytest.mark.parametrize("name", NAMES)
def test_infinities_nans_and_the_smallest_numbers_are_those_of_ieee(name, form, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    ends = np.array([0.0, -0.0, 1.0, -3.0, tiny, -7 * tiny, np.inf, -np.inf, np.nan, np.finfo(dtype).max], dtype)
    with np.errstate(all="ignore"):
        for value in ends:
            other = np.full_like(ends, value) if form == "vectors" else float(value)
            x, y = (other, ends) if form == "number_left" else (ends, other)
            expected = getattr(np, name)(x, y)
            np.testing.assert_array_equal(Operation.registry[name].forward(x, y)[0], expected)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_ties_share_the_gradient_evenly(name):
    x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 3.0])
    _, grad_x, grad_y = call(name, x, y, np.full(3, 4.0))
    np.testing.assert_array_equal(grad_x + grad_y, 4.0)
    np.testing.assert_array_equal(grad_x[[0, 2]], 2.0)


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_number_of_threads_does_not_change_a_bit(shapes):
    before, results = numba.get_num_threads(), []
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            rng = np.random.default_rng(0)
            results.append(call("multiply", *(operand(shape, rng) for shape in shapes)))
    finally:
        numba.set_num_threads(before)
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_has_the_same_bits_alone_as_with_the_other(name, shapes):
    rng = np.random.default_rng(0)
    x, y = (operand(shape, rng) for shape in shapes)
    z, *both = call(name, x, y)
    _, saved = Operation.registry[name].forward(x, y)
    for index in range(2):
        alone = Operation.registry[name].backward(saved, np.ones_like(z), (index == 0, index == 1))[index]
        if both[index] is not None:
            np.testing.assert_array_equal(alone, both[index])


@pytest.mark.parametrize("name", ["square", "abs", "negative", "exp"])
def test_functions_keep_the_layout_and_write_to_any_out(name):
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    expected, _ = Operation.registry[name].forward(x)
    y, saved = Operation.registry[name].forward(x.transpose(2, 0, 1))
    assert y.transpose(1, 2, 0).flags.c_contiguous
    np.testing.assert_array_equal(y.transpose(1, 2, 0), expected)
    (grad,) = Operation.registry[name].backward(saved, np.ones((5, 4, 3), np.float32), (True,))
    assert grad.transpose(1, 2, 0).flags.c_contiguous
    strided = np.empty((4, 3, 10), np.float32)[:, :, ::2]
    assert Operation.registry[name].forward(x, out=strided)[0] is strided
    np.testing.assert_array_equal(strided, expected)


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "maximum", "minimum", "power"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_number_beside_an_array_without_axes(name, dtype):
    operation, x = Operation.registry[name], np.array(3.0, dtype)
    for operands in ((2, x), (x, 2), (2.5, x)):
        y, saved = operation.forward(*operands)
        expected, _ = operation.forward(*operands, implementation="reference")
        assert (y.shape, y.dtype) == ((), x.dtype)
        np.testing.assert_allclose(y, expected, rtol=1e-6)
        needs = tuple(isinstance(operand, np.ndarray) for operand in operands)
        gradients = operation.backward(saved, np.array(1.0, dtype), needs)
        assert [g is not None and g.shape for g in gradients] == [() if need else False for need in needs]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, 1e-40, np.inf, -np.inf, np.nan])
def test_log_of_what_is_not_normal_among_numbers_that_are(value, dtype):
    x = np.linspace(0.1, 9, 6000).astype(dtype)
    x[5000] = value
    y, _ = Operation.registry["log"].forward(x)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(y, np.log(x), rtol=1e-6, atol=1e-7)
