"""The tape: what it records, how gradients add up, what it frees, and what it refuses."""

import gc
import importlib
import sys
import threading
import weakref

import numpy as np
import pytest

import ranvier as rv
from ranvier.kernels import accumulate
from ranvier.kernels.dense import matmul
from ranvier.layers import functional as F
from ranvier.layers.tensor import record


def leaf(values, dtype=np.float64):
    return rv.Tensor(np.array(values, dtype), requires_grad=True)


def test_chain_of_operations_gives_the_derivative():
    x = leaf([1.0, 2.0, 3.0])
    (x.exp() * x).sum().backward()
    np.testing.assert_allclose(x.grad.array, np.exp(x.array) * (x.array + 1), rtol=1e-12)


def test_a_tensor_used_twice_gets_both_gradients():
    x = leaf([2.0, 3.0])
    y = x * x + x
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.array, 2 * x.array + 1)


def test_diamond_waits_for_both_branches():
    x = leaf([1.5])
    middle = x * 2
    left, right = middle * 3, middle * middle
    (left * right).backward()  # 3 m * m^2 with m = 2 x: 24 x^3
    np.testing.assert_allclose(x.grad.array, 72 * x.array**2)


def test_gradients_accumulate_over_backwards():
    x = leaf([1.0, 2.0])
    (x * 3).sum().backward()
    first = x.grad
    (x * 4).sum().backward()
    np.testing.assert_array_equal(x.grad.array, [7, 7])
    np.testing.assert_array_equal(first.array, [3, 3])


def test_gradient_goes_to_the_buffer_that_an_optimizer_gave():
    x = leaf([1.0, 2.0])
    x.grad_buffer = buffer = np.full(2, np.nan)
    for factor in (3, 4):
        (x * factor).sum().backward()
    assert x.grad.array is buffer
    np.testing.assert_array_equal(buffer, [7, 7])


@pytest.mark.parametrize(("case", "copies"), [("once", 0), ("twice", 0), ("as both factors", 1), ("buffer is read", 1)])
def test_a_large_gradient_is_computed_where_an_optimizer_wants_it(case, copies, monkeypatch):
    values = np.random.default_rng(0).standard_normal((2, 128, 128))
    x, other, ones = leaf(values[0]), rv.Tensor(values[1].copy()), np.ones((128, 128))
    x.grad_buffer = buffer = np.full_like(ones, np.nan)
    expected = ones @ values[1].T
    if case == "twice":
        loss, expected = (x @ other).sum() + (x @ other).sum(), 2 * expected
    elif case == "as both factors":
        loss, expected = (x @ x).sum(), ones @ values[0].T + values[0].T @ ones
    else:
        if case == "buffer is read":
            other.array = buffer
            buffer[...] = values[1]
        loss = (x @ other).sum()
    copied, copy_into = [], accumulate.copy_into
    monkeypatch.setattr(accumulate, "copy_into", lambda *arrays: (copied.append(arrays), copy_into(*arrays)))
    loss.backward()
    assert x.grad.array is buffer
    np.testing.assert_allclose(buffer, expected, rtol=1e-12)
    assert len(copied) == copies


def _gradients(model, x, seed, buffers=None):
    """The bytes of all parameters' gradients after one pass, in these buffers if there are any."""
    for index, parameter in enumerate(model.parameters()):
        parameter.grad, parameter.grad_buffer = None, buffers and buffers[index]
    output = model(x)
    while isinstance(output, tuple):
        output = output[0]
    (output * seed[: output.array.size].reshape(output.shape)).sum().backward()
    return [parameter.grad.array.tobytes() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: rv.Conv2d(8, 16, 1), (2, 8, 6, 6)),
        (lambda: rv.Conv2d(8, 8, 3, padding=1, groups=8), (2, 8, 6, 6)),
        (lambda: rv.Conv2d(8, 8, 5, groups=8), (2, 8, 6, 6)),
        (lambda: rv.Conv2d(16, 16, 3, padding=1), (2, 16, 8, 8)),
        (lambda: rv.Conv2d(4, 8, 5, dilation=2), (2, 4, 12, 12)),
        (lambda: rv.ConvTranspose2d(8, 4, 4, stride=2), (2, 8, 5, 5)),
        (lambda: rv.RNN(5, 6), (3, 8, 5)),
        (lambda: rv.LSTM(5, 6, proj_size=4, bidirectional=True), (3, 8, 5)),
        (lambda: rv.GRU(5, 6, num_layers=2), (3, 8, 5)),
        (lambda: rv.GRU(5, 6), (3, 2, 5)),
        (lambda: rv.LSTMCell(5, 6), (8, 5)),
        (lambda: rv.GRUCell(5, 6), (8, 5)),
        (lambda: rv.Embedding(7, 5), (4, 6)),
        (lambda: rv.EmbeddingBag(7, 5), (4, 6)),
    ],
)
def test_weights_gradients_are_computed_where_an_optimizer_wants_them(layer, shape, monkeypatch):
    monkeypatch.setattr(importlib.import_module("ranvier.layers.tensor"), "_WORTH_A_PLACE", 0)
    rv.seed(0)
    model, rng = layer(), np.random.default_rng(0)
    x, seed = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(4096).astype(np.float32)
    if type(model) in (rv.Embedding, rv.EmbeddingBag):
        x = rng.integers(0, 7, shape)
    expected = _gradients(model, rv.Tensor(x), seed)
    buffers = [np.full_like(parameter.array, np.nan) for parameter in model.parameters()]
    copied, copy_into = [], accumulate.copy_into
    monkeypatch.setattr(accumulate, "copy_into", lambda *arrays: (copied.append(arrays[0]), copy_into(*arrays)))
    assert _gradients(model, rv.Tensor(x), seed, buffers) == expected
    for name, parameter, buffer in zip(dict(model.named_parameters()), model.parameters(), buffers):
        assert parameter.grad.array is buffer
        assert "weight" not in name or not any(target is buffer for target in copied)


def test_a_pass_put_together_from_others_is_offered_no_place():
    """Both products would write the gradient of their second factor where that of the second input is wanted."""
    x, a, b = np.random.default_rng(0).standard_normal((3, 128, 128))
    first, first_saved = matmul.forward(x, a)
    second, second_saved = matmul.forward(first, b)

    def backward(saved, grad, needs):
        grad_first, grad_b = matmul.backward(second_saved, grad, (True, True))
        return grad_b, matmul.backward(first_saved, grad_first, (False, True))[1]

    b, a = leaf(b), leaf(a)
    for factor in (a, b):
        factor.grad_buffer = np.empty_like(factor.array)
    record("two products", backward, None, (b, a), second).sum().backward()
    ones = np.ones_like(x)
    np.testing.assert_allclose(b.grad.array, first.T @ ones, rtol=1e-10)
    np.testing.assert_allclose(a.grad.array, x.T @ (ones @ b.array.T), rtol=1e-10)


def test_a_leaf_owns_its_gradient():
    """add hands one array to both inputs; the leaves' gradients are copies."""
    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    seed = np.array([1.0, 1.0])
    (x + y).backward(seed)
    assert not np.shares_memory(x.grad.array, y.grad.array)
    assert not np.shares_memory(x.grad.array, seed)
    x.grad.array[...] = 9
    np.testing.assert_array_equal(y.grad.array, [1, 1])


def test_second_backward_needs_retain_graph():
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="has run backward before"):
        y.backward()
    z = (x * x).sum()
    z.backward(retain_graph=True)
    z.backward()
    np.testing.assert_array_equal(x.grad.array, 3 * 2 * x.array)


def test_backward_frees_what_was_saved():
    x = leaf(np.ones(4))
    middle = x.exp()
    memory = middle.array if middle.array.base is None else middle.array.base
    saved = weakref.ref(memory)
    y = middle.sum()
    del middle, memory
    assert saved() is not None
    y.backward()
    gc.collect()
    assert saved() is None


def test_dropping_the_result_drops_the_tape():
    x = leaf(np.ones(4))
    middle = x.exp()
    saved = weakref.ref(middle.array)
    y = middle * 2
    del middle, y
    gc.collect()
    assert saved() is None


def test_no_grad_and_enable_grad():
    x = leaf([1.0])
    with rv.no_grad():
        assert not rv.is_grad_enabled()
        assert not (x * 2).requires_grad
        with rv.enable_grad():
            assert (x * 2).requires_grad
    assert rv.is_grad_enabled()
    with pytest.raises(KeyError), rv.no_grad():
        raise KeyError
    assert rv.is_grad_enabled()

    @rv.no_grad()
    def decorated(x):
        return x * 2

    assert not decorated(x).requires_grad
    assert not decorated(x).requires_grad


def test_recording_is_a_matter_of_the_thread():
    seen = []
    with rv.no_grad():
        thread = threading.Thread(target=lambda: seen.append(rv.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_detach_shares_the_array_off_the_tape():
    x = leaf([1.0])
    y = (x * 2).detach()
    assert y.is_leaf
    assert not y.requires_grad
    assert x.detach().array is x.array


def test_only_float_results_require_a_gradient():
    x = leaf([[1.0, 5.0], [7.0, 2.0]])
    values, indices = x.max(1)
    assert values.requires_grad
    assert not indices.requires_grad
    assert not (x > 2).requires_grad


def test_outputs_of_one_node_may_be_used_in_part():
    x = leaf([1.0, 2.0, 3.0, 4.0])
    first, second = x.chunk(2)
    second.sum().backward()
    np.testing.assert_array_equal(x.grad.array, [0, 0, 1, 1])
    x.grad = None
    first, second = x.chunk(2)
    (first * second).sum().backward()
    np.testing.assert_array_equal(x.grad.array, [3, 4, 1, 2])


def test_inputs_without_requires_grad_get_none_and_cost_nothing():
    x, y = leaf([1.0, 2.0]), rv.Tensor(np.array([3.0, 4.0]))
    seen = []

    def backward(saved, grad, needs):
        seen.append(needs)
        return grad, grad

    record("probe", backward, None, (x, y), x.array + y.array).sum().backward()
    assert seen == [(True, False)]
    assert y.grad is None


def test_backward_on_a_leaf():
    x = leaf([1.0, 2.0])
    x.backward(np.array([5.0, 6.0]))
    np.testing.assert_array_equal(x.grad.array, [5, 6])


def test_backward_refuses_what_it_cannot_do():
    x = leaf([1.0, 2.0])
    with pytest.raises(ValueError, match="expected grad for a tensor of shape"):
        (x * 2).backward()
    with pytest.raises(ValueError, match="expected grad of shape"):
        (x * 2).backward(np.ones(3))
    with pytest.raises(ValueError, match="type float64"):
        (x * 2).backward(np.ones(2, np.float32))
    with pytest.raises(RuntimeError, match="that requires a gradient"):
        rv.tensor([1.0]).backward()


def test_requires_grad_of_leaves_only_and_of_floats_only():
    x = leaf([1.0])
    with pytest.raises(RuntimeError, match="expected a leaf"):
        (x * 2).requires_grad_(False)
    with pytest.raises(TypeError, match="floating-point"):
        rv.tensor([1]).requires_grad_()
    with pytest.raises(TypeError, match="floating-point"):
        rv.Tensor(np.array([1]), requires_grad=True)
    with pytest.raises(TypeError, match="converts"):
        rv.Tensor([1.0])


def test_a_long_chain_needs_no_recursion():
    x = y = leaf([1.0])
    for _ in range(5000):
        y = y + 1.0
    y.backward()
    np.testing.assert_array_equal(x.grad.array, [1])


# ---- operators and methods


def test_arithmetic_with_numbers_and_arrays_on_either_side():
    x = rv.tensor([1.0, 2.0, 4.0])
    array = np.array([2.0, 4.0, 8.0], np.float32)
    for actual, expected in [
        (2 + x, [3, 4, 6]),
        (2 - x, [1, 0, -2]),
        (8 / x, [8, 4, 2]),
        (2**x, [2, 4, 16]),
        (x**2, [1, 4, 16]),
        (-x, [-1, -2, -4]),
        (array * x, [2, 8, 32]),
        (array - x, [1, 2, 4]),
        (x // 2, [0, 1, 2]),
        (x % 2, [1, 0, 0]),
        (5 % x, [0, 1, 1]),
        (abs(-x), [1, 2, 4]),
        (np.float32(2) * x, [2, 4, 8]),
        (x * np.float64(2), [2, 4, 8]),
    ]:
        assert isinstance(actual, rv.Tensor)
        assert actual.dtype == np.float32
        np.testing.assert_array_equal(actual.array, expected)
    assert (x @ x).item() == 21
    assert (array @ x).item() == 42


def test_comparison_and_masks():
    x = rv.tensor([1.0, 2.0, 3.0])
    np.testing.assert_array_equal((x > 1).array, [False, True, True])
    np.testing.assert_array_equal((2 > x).array, [True, False, False])  # noqa: SIM300
    np.testing.assert_array_equal(((x > 1) & (x < 3) | (x == 1)).array, [True, True, False])
    np.testing.assert_array_equal((~(x > 1) ^ True).array, [False, True, True])
    with pytest.raises(TypeError, match="expected a bool tensor"):
        ~x  # noqa: B018
    with pytest.raises(TypeError, match="expected bool tensors"):
        x & x
    assert (x == None) is False  # noqa: E711
    assert x != "text"
    with pytest.raises(TypeError):
        x + "text"
    with pytest.raises(TypeError):
        x < None  # noqa: B015
    assert len({x, x}) == 1


def test_iteration_and_python_numbers():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    first, second = x
    (first * 2 + second).sum().backward()
    np.testing.assert_array_equal(x.grad.array, [[2, 2], [1, 1]])
    assert [10, 20, 30][rv.tensor(2)] == 30
    with pytest.raises(TypeError, match="scalar"):
        iter(rv.tensor(1.0))
    with pytest.raises(TypeError, match="expected one integer"):
        [1][rv.tensor(0.0)]
    assert list(rv.zeros(0, 3)) == []


def test_types_and_to():
    x = leaf([1.5, 2.5], np.float32)
    assert x.to(np.float32) is x
    assert x.to("cpu") is x
    assert x.long().dtype == np.int64
    assert x.bfloat16().dtype == "bfloat16"
    y = x.double()
    assert y.dtype == np.float64
    (y * y).sum().backward()
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad.array, [3, 5])
    assert x.to(rv.tensor([1], dtype=np.float16)).dtype == np.float16
    with pytest.raises(ValueError, match="device"):
        x.to("cuda:x", np.float32)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("float32", "float64", "float64"),
        ("float16", "bfloat16", "float32"),
        ("bfloat16", "float32", "float32"),
        ("int64", "float32", "float32"),
        ("int32", "int64", "int64"),
        ("bool", "uint8", "uint8"),
        ("bool", "float16", "float16"),
    ],
)
def test_mixed_types_meet(left, right, expected):
    x, y = rv.ones(2, dtype=left), rv.ones(2, dtype=right)
    assert (x + y).dtype == expected
    assert (y * x).dtype == expected


def test_numbers_and_scalars_do_not_widen():
    assert (rv.ones(2, dtype="float16") * 2.5).dtype == np.float16
    assert (rv.ones(2, dtype="int32") * 2).dtype == np.int32
    assert (rv.ones(2, dtype="int64") * 2.5).dtype == np.float32
    assert (rv.tensor([True]) + 1).dtype == np.int64
    assert (rv.ones(2) * rv.tensor(2.0, dtype=np.float64)).dtype == np.float32
    assert (rv.ones(2, dtype=np.int64) / 2).dtype == np.float32
    assert F.exp(rv.tensor([1])).dtype == np.float32


def test_gradients_keep_their_own_types():
    x, y = leaf([1.0, 2.0], np.float32), leaf([3.0, 4.0], np.float64)
    (x * y).sum().backward()
    assert x.grad.dtype == np.float32
    assert y.grad.dtype == np.float64
    np.testing.assert_array_equal(x.grad.array, [3, 4])


# ---- creation


def test_tensor_copies_and_keeps_array_types():
    array = np.arange(4.0)
    x = rv.tensor(array)
    assert x.dtype == np.float64
    assert not np.shares_memory(x.array, array)
    assert rv.tensor([1, 2]).dtype == np.int64
    assert rv.tensor([1.0, 2]).dtype == np.float32
    assert rv.tensor([[True]]).dtype == np.bool_
    assert rv.tensor([]).dtype == np.float32
    assert rv.tensor(2.5).shape == ()
    assert rv.tensor([np.float64(1)]).dtype == np.float64
    assert rv.tensor([rv.tensor(1.0), rv.tensor(2.0)]).dtype == np.float32
    assert rv.tensor(np.ones((2, 3), order="F")).array.flags.c_contiguous
    assert rv.tensor([1.0], requires_grad=True).requires_grad
    assert np.shares_memory(rv.from_numpy(array).array, array)


@pytest.mark.parametrize("junk", ["text", ["a"], object(), None, [None], 1j, np.array(["x"]), {"a": 1}, 2**70])
def test_tensor_refuses_what_is_no_number(junk):
    with pytest.raises(TypeError, match=r"^tensor: expected"):
        rv.tensor(junk)


def test_tensor_refuses_ragged_lists_and_unknown_types():
    with pytest.raises(ValueError, match=r"^tensor: expected nested lists of equal lengths"):
        rv.tensor([[1], [1, 2]])
    with pytest.raises(TypeError, match="dtype='int64' converts"):
        rv.tensor(np.zeros(2, np.uint32))
    assert rv.tensor(np.zeros(2, np.uint32), dtype="int64").dtype == np.int64
    with pytest.raises(TypeError, match="expected dtype as"):
        rv.zeros(2, dtype="complex64")
    with pytest.raises(ValueError, match="sizes of 0 or more"):
        rv.zeros(-1)


def test_factories():
    assert rv.zeros(2, 3).shape == rv.ones((2, 3)).shape == rv.empty(2, 3).shape == (2, 3)
    np.testing.assert_array_equal(rv.arange(1, 7, 2).array, [1, 3, 5])
    assert rv.arange(3).dtype == np.int64
    assert rv.arange(0.5, 2).dtype == np.float32
    np.testing.assert_allclose(rv.linspace(0, 1, 3).array, [0, 0.5, 1])
    np.testing.assert_array_equal(rv.eye(2, 3).array, np.eye(2, 3))
    assert rv.full((2,), 7).dtype == np.int64
    x = rv.zeros(2, dtype=np.float64)
    assert rv.ones_like(x).dtype == np.float64
    rv.seed(5)
    first = [rv.rand(2).array, rv.randn(2).array, rv.randint(0, 9, (2,)).array, rv.randperm(5).array]
    rv.seed(5)
    again = [rv.rand(2).array, rv.randn(2).array, rv.randint(0, 9, (2,)).array, rv.randperm(5).array]
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)


def test_numpy_copies_a_tensor_where_it_is_asked_to():
    x = rv.zeros(3)
    copied, shared = np.array(x), np.asarray(x)
    x.array[0] = 1
    assert copied[0] == 0
    assert shared is x.array
    assert np.asarray(x, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="copy"):
        np.array(x, np.float64, copy=False)


@pytest.mark.parametrize(("memory_format", "rank"), [("channels_last", 2), ("channels_last_3d", 3)])
def test_memory_formats(memory_format, rank):
    x = leaf(np.arange(2 * 3 * 4 * 5 * 6).reshape((2, 3, 4, 5, 6) if rank == 3 else (8, 3, 5, 6)))
    for moved in (x.contiguous(memory_format=memory_format), x.to("cpu", np.float32, memory_format)):
        assert np.moveaxis(moved.array, 1, -1).flags.c_contiguous
        np.testing.assert_array_equal(moved.array, x.array)
        assert moved.to(memory_format=memory_format) is moved
        assert moved.contiguous().array.flags.c_contiguous
    (moved * moved.array).sum().backward()
    np.testing.assert_array_equal(x.grad.array, x.array)


def test_memory_formats_are_refused():
    x = leaf(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="contiguous: expected memory_format as one of 'contiguous_format', 'channels"):
        x.contiguous(memory_format="NHWC")
    with pytest.raises(
        ValueError, match=r"to: expected a tensor of 4 axes for memory_format='channels_last', got \(2, 3"
    ):
        x.to(memory_format="channels_last")


def python_calls(function) -> list[str]:
    """The names of the Python functions that a call goes through."""
    names = []

    def note(frame, event, argument):
        if event == "call":
            names.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return names


@pytest.mark.parametrize(
    ("call", "most"),
    [
        (lambda x, line: F.relu(x), 17),
        (lambda x, line: F.exp(x), 19),
        (lambda x, line: x + x, 21),
        (lambda x, line: x * 0.5, 20),
        (lambda x, line: x.sum(), 25),
        (lambda x, line: F.softmax(x, -1), 27),
        (lambda x, line: F.linear(x, x, line), 27),
        (lambda x, line: F.layer_norm(x, 8, line, line), 27),
        (lambda x, line: F.cross_entropy(x, np.arange(8)), 40),
    ],
    ids=["relu", "exp", "add", "multiply", "sum", "softmax", "linear", "layer_norm", "cross_entropy"],
)
def test_an_operation_on_the_tape_goes_through_few_functions(call, most):
    """What stands for its fixed cost, of which each of them is a part, on any machine and however busy."""
    x = rv.Tensor(np.ones((8, 8), np.float32), requires_grad=True) * 2
    line = x[0]
    call(x, line)  # compiles its kernel
    names = python_calls(lambda: call(x, line))
    assert len(names) <= most, names


def test_parameters_are_changed_by_augmented_assignment():
    """`p -= rate * p.grad` in a loop over parameters, as PyTorch has it, would else change nothing."""
    layer = rv.Dense(3, 2)
    weight, before = layer.weight, layer.weight.numpy().copy()
    layer(np.ones((1, 3), np.float32)).sum().backward()
    with rv.no_grad():
        for p in layer.parameters():
            p -= 0.5 * p.grad
        layer.weight *= 2
        leaf = alias = rv.ones(2, requires_grad=True)
        leaf += np.ones(2)
        with pytest.raises(ValueError, match=r"\+=: expected an operand that broadcasts to \(2,\), got shape \(3, 2\)"):
            leaf += np.ones((3, 2), np.float32)
    assert alias.dtype == np.float32
    assert alias.tolist() == [2, 2]
    assert layer.weight is weight
    np.testing.assert_allclose(weight.numpy(), 2 * (before - 0.5))
    with pytest.raises(RuntimeError, match=r"-=: expected a parameter to be changed under no_grad\(\)"):
        weight -= 1
    x = y = rv.ones(2)
    x += 1  # what is no parameter is not changed: others may hold it
    assert y.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: x.add_(1), AttributeError, "no attribute 'add_'; no operation changes its input"),
        (lambda x: x.data, AttributeError, "no attribute 'data'; .detach"),
        (lambda x: x.nothing, AttributeError, "Tensor has no attribute 'nothing'$"),
        (lambda x: x.__setitem__(0, 1), TypeError, r"item assignment: .* where\(\), masked_fill"),
        (lambda x: x.item(), ValueError, r"item: expected a tensor of one element, got shape \(2, 3\)"),
        (lambda x: bool(x), ValueError, r"bool: expected a tensor of one element, got shape \(2, 3\)"),
        (lambda x: rv.stack, AttributeError, r"no attribute 'stack'; rv.functional.stack is there"),
        (lambda x: rv.one[None].t(), AttributeError, "module 'ranvier' has no attribute 'one'$"),
        (lambda x: x[None].t(), ValueError, "t: expected a tensor of up to 2 axes"),
        (lambda x: x.var(0, False, correction=0), ValueError, "var: expected correction or unbiased, got both"),
        (lambda x: rv.ReLU(inplace=True), TypeError, "ReLU: expected no such arguments, got inplace=True; no"),
    ],
)  # fmt: skip
def test_what_is_pytorchs_and_not_ours_is_refused_with_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call(rv.ones(2, 3))


def test_pytorchs_shorter_ways():
    x = rv.randn(3, 4)
    assert f"{x[0, 0]:.2f}" == f"{x[0, 0].item():.2f}"
    assert x.max(1).values.tolist() == x.max(1)[0].tolist()
    assert x.min(0).indices.tolist() == x.argmin(0).tolist()
    assert x.t().tolist() == x.T.tolist()
    assert x.where(x > 0, 0.0).tolist() == x.relu().tolist()
    assert x.flip(0, 1).tolist() == x.flip((0, 1)).tolist()
    assert x.std(1, False).tolist() == x.std(1, correction=0).tolist() == x.std(1, unbiased=False).tolist()
    assert x.var(False).item() == x.var(correction=0).item()
    assert x.softmax(-1).tolist() == F.softmax(x, -1).tolist()
    assert x.double().type_as(x).cpu().dtype == rv.randn_like(x).dtype == np.float32
    assert rv.rand_like(x).shape == (3, 4)
    assert set(rv.randint(2, (100,)).tolist()) == {0, 1}
    with pytest.raises(ValueError, match="randint: expected high above low, got 1 and 1"):
        rv.randint(1, 1, (2,))
