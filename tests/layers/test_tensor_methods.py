"""Operators and methods of tensors: arithmetic, types, layouts in memory, and what of PyTorch's is there or refused."""

import numpy as np
import pytest

import ranvier as rv
from ranvier.layers import functional as F


def leaf(values, dtype=np.float64):
    return rv.Tensor(np.array(values, dtype), requires_grad=True)


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
        (lambda x: x.view(-2, 3), ValueError, r"reshape: expected sizes of 0 or more, or one -1, got \(-2, 3\)"),
        (lambda x: x.movedim((0, 1), (0, 0)), ValueError, r"movedim: expected as many places as axes, each once"),
        (lambda x: x.repeat_interleave(-1), ValueError, "repeat_interleave: expected repeats of 0 or more, got -1"),
        (lambda x: x["a"], TypeError, r"index: expected integers, slices, .* got str"),
        (lambda x: x.to("tpu"), ValueError, r"to: expected device as 'cpu', .* or a type, got 'tpu'"),
        (lambda x: rv.randperm(-1), ValueError, "randperm: expected sizes of 0 or more"),
        (lambda x: rv.eye(-1), ValueError, "eye: expected sizes of 0 or more"),
        (lambda x: F.cosine_similarity(x, x.T), ValueError, r"expected shapes that broadcast, got \(2, 3\) and \(3, 2"),
        (lambda x: F.softmax([1.0], 0), TypeError, "softmax: expected x as a NumPy or CuPy array, got list"),
        (lambda x: rv.Dense(2.5, 1), TypeError, "Dense: expected in_features as an integer, got float"),
        (lambda x: rv.Dense(2, 1, activation="a"), ValueError, "Dense: expected activation as one of None, 'relu'"),
        (lambda x: rv.Embedding(-1, 2), ValueError, "Embedding: expected num_embeddings of 0 or more, got -1"),
        (lambda x: rv.BatchNorm1d(-1), ValueError, "BatchNorm1d: expected num_features of 0 or more, got -1"),
        (lambda x: rv.GroupNorm(0, 2), ValueError, "GroupNorm: expected num_groups of 1 or more, got 0"),
        (lambda x: rv.optim.Adam(rv.ReLU()), TypeError, r"Adam: expected params as .* got ReLU; .parameters"),
        (lambda x: rv.ReLU(inplace=True), TypeError, "ReLU: expected no such arguments, got inplace=True; no"),
    ],
)  # fmt: skip
def test_what_newcomers_type_is_refused_with_what_to_do(call, error, message):
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
