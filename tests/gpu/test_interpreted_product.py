"""Matrix products in Triton's interpreter: broadcasting of any kind, strides of any sign, split sums."""

import itertools
import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree, run
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import DTYPES, assert_close

from ranvier.kernels import launch, memory, tuning
from ranvier.kernels.dense import dense, gpu, gpu_persistent, gpu_product, matmul

interpreter.install()


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that are launched, one after the other."""
    names = []

    def spy(kernel, *arguments):
        names.append(kernel.__name__)
        interpreter.interpret(kernel, *arguments)

    monkeypatch.setattr(launch, "interpreter", spy)
    return names


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_leading_axes_broadcast_in_every_way(data):
    leading = data.draw(st.lists(st.integers(0, 3), max_size=5))
    shapes = [
        [1 if data.draw(st.booleans()) else size for size in leading[data.draw(st.integers(0, len(leading))) :]]
        for _ in range(2)
    ]
    m, k, n = (data.draw(st.integers(0, 5)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    a, b = (rng.standard_normal(shape) for shape in ((*shapes[0], m, k), (*shapes[1], k, n)))
    swap, flip = data.draw(st.booleans()), data.draw(st.booleans())
    agree(
        matmul, [a, b], {}, rng, "float64", "gpu",
        arrange=lambda x: _arranged(x, swap, flip),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shapes", [((3, 1000), (1000, 5)), ((4, 300, 3), (4, 3, 5)), ((300, 2, 3), (3, 4))])
def test_long_sums_are_split(shapes, dtype, monkeypatch):
    monkeypatch.setattr(memory, "poison", True)
    monkeypatch.setattr(gpu_product, "_LEAST_STEPS", 2)
    rng = np.random.default_rng(0)
    agree(matmul, [rng.standard_normal(shape).astype(dtype) for shape in shapes], {}, rng, np.dtype(dtype).name, "gpu")


@pytest.mark.parametrize("activation", [None, "gelu", "relu"])
@pytest.mark.parametrize("shapes", [((5, 100), (7, 100), (7,)), ((100, 70), (7, 70), (7,))], ids=["wide", "long"])
def test_the_epilogue_follows_the_last_part(shapes, activation, launched, monkeypatch):
    """Of the output, whose sums are long where inputs are wide; of the weight's and the bias's gradients, whose are
    where they are many. The activation is differentiated, and the bias gradient summed, by the products."""
    monkeypatch.setattr(gpu_product, "_LEAST_STEPS", 1)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    agree(dense, inputs, {"activation": activation}, rng, "float32", "gpu")
    assert set(launched) == {"product_forward_kernel", "sum_of_parts_kernel"}


@pytest.mark.parametrize("needs", list(itertools.product((False, True), repeat=3))[1:])
@pytest.mark.parametrize("fused", [0, 1])
def test_gradients_that_are_not_needed_are_not_made(fused, needs, launched, monkeypatch):
    monkeypatch.setattr(memory, "poison", True)
    monkeypatch.setattr(gpu.GRADIENTS, "_default", lambda *question: (fused,))
    tuning.forget()
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape) for shape in ((9, 5), (7, 5), (7,), (9, 7))]
    *inputs, grad = inputs
    expected = run(dense, inputs, {"activation": "tanh"}, (grad,), "reference", needs)[1]
    launched.clear()
    grads = run(dense, inputs, {"activation": "tanh"}, (grad,), "gpu", needs)[1]
    tuning.forget()
    assert [x is None for x in grads] == [not needed for needed in needs]
    for actual, exact in zip(grads, expected):
        if exact is not None:
            assert_close(actual, exact, "float64", 9)
    passes = {"dense_grad_sum_kernel", "column_sum_kernel"}
    assert bool(passes & set(launched)) == (not fused or needs[1:] == (False, True))


@pytest.fixture
def scheduled(launched, monkeypatch):
    """A function that has every product made in small tiles by a schedule, by three persistent programs; it returns the
    list of the kernels that are launched."""

    def choose(schedule: int) -> list[str]:
        monkeypatch.setattr(gpu.GRADIENTS, "_default", lambda *question: (0,))
        monkeypatch.setattr(gpu_product.PRODUCT, "_default", lambda *question: (64, 32, 32, 2, 4, 3, schedule))
        monkeypatch.setattr(gpu_product, "_LEAST_MAPPED", 1)
        monkeypatch.setattr(gpu_product, "_PROGRAMS", 1)  # no sum is split
        monkeypatch.setattr(gpu_persistent, "multiprocessors_of", lambda array: 3)
        tuning.forget()
        return launched

    monkeypatch.setattr(memory, "poison", True)
    yield choose
    tuning.forget()


@pytest.mark.parametrize(("schedule", "kernel"), [(1, "product_persistent_kernel"), (2, "product_mapped_kernel")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("swaps", [(False, False), (False, True), (True, False), (True, True)])
def test_persistent_programs_make_every_tile(swaps, dtype, schedule, kernel, scheduled):
    """With edges on all axes; matrices of their own on both sides, on one, and a single one."""
    launched = scheduled(schedule)
    rng = np.random.default_rng(0)
    for shapes in (((72, 40), (40, 88)), ((2, 40, 72), (2, 72, 40)), ((2, 72, 40), (40, 40)), ((72, 40), (3, 40, 40))):
        exact = [rng.standard_normal(shape).astype(DTYPES[dtype]) for shape in shapes]
        a, b = (_arranged(x, swap, False) for x, swap in zip(exact, swaps))
        c, _ = matmul.forward(a, b, implementation="gpu")
        assert_close(c, np.matmul(*(x.astype(np.float64) for x in exact)), dtype, shapes[0][-1])
    assert launched == [kernel] * 4


@pytest.mark.parametrize("schedule", [1, 2])
@pytest.mark.parametrize("activation", [None, "relu", "sigmoid", "tanh", "gelu"])
def test_persistent_programs_end_with_bias_and_activation(activation, schedule, scheduled):
    launched = scheduled(schedule)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in ((2, 40, 36), (68, 36), (68,))]
    agree(dense, inputs, {"activation": activation}, rng, "float32", "gpu")
    assert len([name for name in launched if "persistent" in name or "mapped" in name]) == 3


def test_results_do_not_depend_on_how_many_programs_there_are(scheduled, monkeypatch):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((200, 40), (40, 104)))
    results = []
    for schedule, programs in ((0, 1), (1, 1), (1, 7), (2, 1), (2, 7)):
        scheduled(schedule)
        monkeypatch.setattr(gpu_persistent, "multiprocessors_of", lambda array, programs=programs: programs)
        results.append(matmul.forward(a, b, implementation="gpu")[0])
    assert all((result == results[0]).all() for result in results)


@pytest.mark.parametrize(
    ("schedule", "kernel", "a", "b"),
    [
        (1, "product_persistent_kernel", (9, 7), (7, 5)),
        (2, "product_forward_kernel", (9, 7), (7, 5)),
        (1, "product_persistent_kernel", (2, 1, 9, 8), (1, 3, 8, 16)),
        (2, "product_forward_kernel", (2, 1, 9, 8), (1, 3, 8, 16)),
        (1, "product_forward_kernel", (5, 0), (0, 7)),
        (2, "product_forward_kernel", (5, 0), (0, 7)),
    ],
)
def test_products_that_a_schedule_does_not_fit_are_made_without_it(schedule, kernel, a, b, scheduled):
    """Lines of odd length, leading axes that do not merge, nothing to sum."""
    launched = scheduled(schedule)
    rng = np.random.default_rng(0)
    agree(matmul, [rng.standard_normal(shape).astype(np.float32) for shape in (a, b)], {}, rng, "float32", "gpu")
    assert launched[0] == kernel


def test_results_go_where_they_are_wanted():
    a, b, c = np.ones((2, 3, 4), np.float32), np.ones((4, 5), np.float32), np.empty((2, 3, 5), np.float32)
    assert matmul.forward(a, b, out=c, implementation="gpu")[0] is c
    assert (c == 4).all()
    with pytest.raises(ValueError, match="matmul: expected out as a contiguous array of shape"):
        matmul.forward(a, b, out=c.transpose(0, 2, 1), implementation="gpu")


def _arranged(x, swap: bool, flip: bool):
    """The same values in memory with the last axes swapped, or backwards."""
    if swap:
        x = np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    return np.ascontiguousarray(x[..., ::-1])[..., ::-1] if flip else x
