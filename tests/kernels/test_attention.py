"""Attention over every block's edge, in every layout, on any number of threads; rows that see nothing give nothing."""

import numpy as np
import pytest
from parity import assert_close

from ranvier.kernels import attention
from ranvier.kernels.attention import cpu
from ranvier.kernels.attention.cpu_lines import LINE_STEP, differentiate, exponentiate
from ranvier.kernels.cpu_jit import serial_kernel
from ranvier.kernels.cpu_lines import memory

OPERATION = attention.scaled_dot_product_attention


@pytest.fixture
def arrays():
    rng = np.random.default_rng(11)
    shapes = (2, 4, 13, 8), (2, 2, 17, 8), (2, 2, 17, 5), (4, 13, 17)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def drawn(rng, shape, dtype, layout):
    """[batch, heads, rows, features], each head for itself, or the heads side by side in a position's features."""
    batch, heads, rows, features = shape
    if layout == "heads":
        return rng.standard_normal(shape).astype(dtype)
    if layout == "features":
        return rng.standard_normal((batch, rows, heads, features)).astype(dtype).transpose(0, 2, 1, 3)
    return rng.standard_normal((batch, rows, heads, features + 3)).astype(dtype)[..., 1:-2].transpose(0, 2, 1, 3)


def passes(arrays, attributes, implementation=None):
    """The output and all gradients; the gradient of the output is drawn."""
    output, saved = OPERATION.forward(*arrays, **attributes, implementation=implementation)
    grad = np.random.default_rng(1).standard_normal(output.shape).astype(output.dtype)
    grads = OPERATION.backward(saved, grad, (True,) * len(arrays), implementation=implementation)
    return [output, *grads]


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("rows", [1, 4, 5, 12])
def test_small_blocks(arrays, is_causal, rows, monkeypatch):
    attributes = {"is_causal": is_causal, "enable_gqa": True, "dropout_p": 0.2, "seed": 3}
    expected = passes(arrays, attributes)
    monkeypatch.setattr(cpu, "_ROWS", rows)
    for actual, exact in zip(passes(arrays, attributes), expected):
        np.testing.assert_allclose(actual, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("layout", ["heads", "features", "wider"])
@pytest.mark.parametrize(
    ("length", "keys", "features", "value_features"),
    [(97, 257, 16, 33), (200, 31, 7, 64), (33, 300, 32, 1), (96, 256, 64, 16), (1, 520, 5, 8), (193, 2, 3, 4)],
)
def test_sizes_around_the_blocks(length, keys, features, value_features, is_causal, layout):
    rng = np.random.default_rng(0)
    query = drawn(rng, (2, 2, length, features), np.float32, layout)
    key = drawn(rng, (2, 1, keys, features), np.float32, layout)
    value = drawn(rng, (2, 1, keys, value_features), np.float32, layout)
    mask = rng.standard_normal((2, 1, length, keys)).astype(np.float32)
    mask[rng.random(mask.shape) < 0.2] = -np.inf
    # A row that sees one key has gradients of exactly 0, which rounding misses by more than is asked of others.
    attributes = {"is_causal": is_causal and length > 1, "enable_gqa": True, "dropout_p": 0.1, "seed": 5}
    exact = passes([x.astype(np.float64) for x in (query, key, value, mask)], attributes, "reference")
    for actual, expected in zip(passes((query, key, value, mask), attributes), exact):
        assert_close(actual, expected, "float32", length + keys)


@pytest.mark.parametrize("heads", [1, 3, 9])
def test_bits_do_not_depend_on_the_number_of_threads(heads, monkeypatch):
    rng = np.random.default_rng(0)
    shapes = (1, heads, 205, 8), (1, heads, 300, 8), (1, heads, 300, 8), (205, 300)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(cpu, "threads_for", lambda multiply_adds, threads=threads: threads)
        results.append(passes(arrays, {"is_causal": True, "dropout_p": 0.1}))
    for other in results[1:]:
        for actual, expected in zip(other, results[0]):
            np.testing.assert_array_equal(actual, expected)


def test_output_and_gradients_lie_as_the_inputs_do():
    rng = np.random.default_rng(0)
    arrays = [drawn(rng, (3, 2, 10, 4), np.float32, "features") for _ in range(3)]
    for array in passes(arrays, {}):
        assert array.transpose(0, 2, 1, 3).flags.c_contiguous


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_the_gradients_that_are_needed(arrays, needs):
    query, key, value = arrays[0][:, :2], *arrays[1:3]
    output, saved = OPERATION.forward(query, key, value)
    everything = OPERATION.backward(saved, np.ones_like(output), (True,) * 3)
    for actual, expected, need in zip(OPERATION.backward(saved, np.ones_like(output), needs), everything, needs):
        assert actual is None if not need else (actual == expected).all()


def test_nan_and_infinity_come_through():
    query, key, value = (np.ones((1, 40, 4), np.float32) for _ in range(3))
    query[0, 3, 0] = np.nan
    query[0, 5, 0] = np.inf
    value[0, 7, 2] = np.inf
    output = OPERATION.forward(query, key, value)[0]
    assert np.isnan(output[0, [3, 5]]).all()
    assert (output[0, :3, 2] == np.inf).all()
    assert (output[0, :3, [0, 1, 3]] == 1).all()


@pytest.mark.parametrize("as_numbers", [False, True])
@pytest.mark.parametrize("implementation", ["cpu", "reference"])
def test_a_row_that_sees_nothing_gives_zeros_and_gets_no_gradient(arrays, as_numbers, implementation):
    query, key, value = arrays[0][:, :2], *arrays[1:3]
    mask = np.ones((13, 17), bool)
    mask[[0, 5]] = False
    if as_numbers:
        mask = np.where(mask, 0, -np.inf).astype(np.float32)
    output, saved = OPERATION.forward(query, key, value, mask, implementation=implementation)
    grads = OPERATION.backward(saved, np.ones_like(output), (True, True, True, False), implementation=implementation)
    assert (output[:, :, [0, 5]] == 0).all()
    assert (output[:, :, 1] != 0).any()
    assert (grads[0][:, :, [0, 5]] == 0).all()
    assert all(np.isfinite(g).all() for g in grads[:3])


def test_dropout_drops_what_the_seed_says_and_keeps_the_mean(arrays):
    query, key, value = arrays[0][:, :2], arrays[1], np.ones((2, 2, 17, 5), np.float32)
    outputs = [OPERATION.forward(query, key, value, dropout_p=0.5, seed=seed)[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert (outputs[0] != outputs[2]).any()
    many = [OPERATION.forward(query, key, value, dropout_p=0.5, seed=seed)[0] for seed in range(200)]
    np.testing.assert_allclose(np.mean(many), 1, atol=0.02)
    assert (OPERATION.forward(query, key, value, dropout_p=1.0)[0] == 0).all()


@serial_kernel
def exponentials(forward, backward, grads):
    """Both lines become e to themselves, the one as in the forward pass, the other as in the backward pass."""
    zero = forward.dtype.type(0)
    exponentiate(memory(forward), 0, forward.size, zero)
    differentiate(memory(backward), memory(grads), 0, backward.size, zero, zero)


def test_float32_exponentials_are_right_to_two_units_in_the_last_place():
    least = -87.0  # the library's own: e to less counts as 0
    x = np.concatenate([np.linspace(least, 0, 200_000), -np.geomspace(1e-38, 1, 20_000)]).astype(np.float32)
    x = np.append(x, np.array([0, -0.0, np.nextafter(np.float32(least), -np.inf), -1e4, -3e38, -np.inf, np.nan], "f"))
    x = np.append(x, np.zeros(-len(x) % LINE_STEP, np.float32))
    exact = np.where(x < least, 0, np.exp(x.astype(np.float64)))
    lines = x.copy(), x.copy()
    exponentials(*lines, np.zeros_like(x))
    for y in lines:
        units = np.abs(y - exact) / np.spacing(exact.astype(np.float32))
        assert np.nanmax(units) < 2, f"{np.nanmax(units):.2f} units at {x[np.nanargmax(units)]!r}"
        np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
        assert (y[x == 0] == 1).all()
