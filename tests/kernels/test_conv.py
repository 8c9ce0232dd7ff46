"""What the general tests of operations do not see in convolutions: tiles, output buffers, defaults."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_close

from ranvier.kernels import conv
from ranvier.kernels.conv import cpu_tiles, cpu_winograd, plan
from ranvier.kernels.conv.shape import conv_shape

CASES = [
    (conv.conv2d, (5, 4, 9, 8), (6, 2, 3, 3), {"padding": ((1, 1), (1, 0)), "groups": 2}),
    (conv.conv2d, (3, 4, 11, 9), (5, 4, 3, 3), {"stride": (2, 3), "dilation": (2, 1)}),
    (conv.conv3d, (2, 3, 5, 4, 6), (4, 3, 3, 2, 2), {"padding": ((1, 1), (0, 1), (2, 0))}),
    (conv.conv2d, (5, 4, 5, 5), (6, 4, 1, 1), {}),
    (conv.conv_transpose2d, (3, 4, 5, 4), (4, 3, 3, 3), {"stride": (2, 2), "output_padding": (1, 0)}),
]


@pytest.mark.parametrize("cache_bytes", [1, 3000, 20000])
@pytest.mark.parametrize(("operation", "x", "weight", "attributes"), CASES)
def test_small_tiles_add_up(operation, x, weight, attributes, cache_bytes, monkeypatch):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(x), rng.standard_normal(weight)
    exact, saved = operation.forward(x, weight, implementation="reference", **attributes)
    grad = rng.standard_normal(exact.shape)
    exact_grads = operation.backward(saved, grad, (True, True, True), implementation="reference")
    for name in ("_FRAME_BYTES", "_GATHERED_BYTES", "_SUM_BYTES"):
        monkeypatch.setattr(plan, name, cache_bytes)
    forget_plans()
    actual, saved = operation.forward(x, weight, **attributes)
    grads = operation.backward(saved, grad, (True, True, True))
    for value, expected in zip((actual, *grads), (exact, *exact_grads)):
        assert_close(value, expected, "float64", 500)
    forget_plans()


def forget_plans():
    plan.forward_sum.cache_clear()
    plan.gradient_sums.cache_clear()


@pytest.mark.parametrize(("operation", "x", "weight", "attributes"), CASES)
def test_out_is_written_and_returned(operation, x, weight, attributes):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(x), rng.standard_normal(weight)
    expected, _ = operation.forward(x, weight, **attributes)
    out = np.full(expected.shape, np.nan)
    actual, _ = operation.forward(x, weight, out=out, **attributes)
    assert actual is out
    np.testing.assert_array_equal(out, expected)
    for wrong in (out[..., ::-1], out.astype(np.float32), out[:1]):
        with pytest.raises(ValueError, match=f"^{operation.name}: expected out as a contiguous array of shape"):
            operation.forward(x, weight, out=wrong, **attributes)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_combined_multiplications_agree_with_the_reference(data):
    """cpu_winograd, also where it would not pay, both directions, with what it fuses."""
    pick = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    groups, batch, height, width = pick(1, 2), pick(1, 9), pick(1, 40), pick(1, 40)
    channels, results, padding = groups * pick(2, 20), groups * pick(1, 40), pick(0, 3)
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    height, width = max(height, 3 - 2 * padding), max(width, 3 - 2 * padding)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x, weight = (
        rng.standard_normal(s).astype(dtype)
        for s in ((batch, channels, height, width), (results, channels // groups, 3, 3))
    )
    bias = rng.standard_normal(results).astype(dtype) if pick(0, 1) else None
    attributes = {
        "padding": ((padding, padding),) * 2,
        "groups": groups,
        "activation": data.draw(st.sampled_from([None, "relu"])),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_winograd, "_CHANNELS", 1)
        patch.setattr(cpu_winograd, "_PATCHES", 1)
        actual, saved = conv.conv2d.forward(x, weight, bias, **attributes)
        grad = rng.standard_normal(actual.shape).astype(dtype)
        grad_x = conv.conv2d.backward(saved, grad, (True, False, False))[0]
    exact = [None if a is None else a.astype(np.float64) for a in (x, weight, bias)]
    expected, saved = conv.conv2d.forward(*exact, implementation="reference", **attributes)
    assert_close(actual, expected, dtype, 9 * channels // groups)
    saved = conv.conv2d.forward(*exact[:2], implementation="reference", **(attributes | {"activation": None}))[1]
    grad_z = grad * (actual > 0) if attributes["activation"] else grad
    expected = conv.conv2d.backward(saved, grad_z.astype(np.float64), (True, False, False), implementation="reference")[
        0
    ]
    assert_close(grad_x, expected, dtype, 9 * results // groups)


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_combined_multiplications_are_about_as_exact_as_the_plain_sum(channels):
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in ((4, channels, 16, 16), (16, channels, 3, 3)))
    shape = conv_shape(x, weight, None, ((1, 1), (1, 1)), None, 1)
    assert cpu_winograd.suits(shape)
    arrays = x.reshape(4, channels, -1), weight.reshape(16, channels, -1)
    exact, plain, combined = (np.empty((4, 16, 256), dtype) for dtype in (np.float64, np.float32, np.float32))
    cpu_tiles.correlate(*(a.astype(np.float64) for a in arrays), shape, exact)
    cpu_tiles.correlate(*arrays, shape, plain)
    cpu_winograd.correlate(*arrays, shape, combined)
    plain_error, combined_error = (np.sqrt(((z - exact) ** 2).mean()) for z in (plain, combined))
    assert combined_error < 2 * plain_error
    assert np.abs(combined - exact).max() < 4 * np.abs(plain - exact).max()


def test_a_transposed_convolution_is_the_gradient_of_a_convolution():
    rng = np.random.default_rng(0)
    x, weight, grad = (rng.standard_normal(s) for s in ((2, 3, 7, 7), (4, 3, 3, 3), (2, 4, 4, 4)))
    attributes = {"stride": (2, 2), "padding": ((1, 1), (1, 1))}
    _, saved = conv.conv2d.forward(x, weight, **attributes)
    grad_x = conv.conv2d.backward(saved, grad, (True, False, False))[0]
    y, _ = conv.conv_transpose2d.forward(grad, weight, **attributes)
    np.testing.assert_array_equal(grad_x, y)


def test_nan_and_infinity_pass():
    x, weight = np.ones((1, 2, 4, 4), np.float32), np.ones((2, 2, 3, 3), np.float32)
    x[0, 0, 0, 0], x[0, 1, 3, 3] = np.nan, np.inf
    y, _ = conv.conv2d.forward(x, weight, activation="relu")
    assert np.isnan(y[0, :, 0, 0]).all()
    assert np.isinf(y[0, :, 1, 1]).all()
