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
