"""What the general tests of operations do not see in convolutions: tiles, output buffers, defaults."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from parity import assert_close

from ranvier.kernels import conv, memory
from ranvier.kernels.conv import (
    cpu_frames,
    cpu_frames_plan,
    cpu_rows,
    cpu_tiles,
    cpu_winograd,
    cpu_winograd_gradient,
    cpu_winograd_strided,
    cpu_winograd_strided_gradient,
    plan,
)
from ranvier.kernels.conv.shape import conv_shape

CASES = [
    (conv.conv2d, (5, 4, 9, 8), (6, 2, 3, 3), {"padding": ((1, 1), (1, 0)), "groups": 2}),
    (conv.conv2d, (3, 4, 11, 9), (5, 4, 3, 3), {"stride": (2, 3), "dilation": (2, 1)}),
    (conv.conv3d, (2, 3, 5, 4, 6), (4, 3, 3, 2, 2), {"padding": ((1, 1), (0, 1), (2, 0))}),
    (conv.conv2d, (5, 4, 5, 5), (6, 4, 1, 1), {}),
    (conv.conv_transpose2d, (3, 4, 5, 4), (4, 3, 3, 3), {"stride": (2, 2), "output_padding": (1, 0)}),
    (
        conv.conv3d,  # of two planes, one that only padding reaches
        (8, 32, 1, 12, 12),
        (32, 32, 1, 4, 4),
        {"stride": (1, 2, 2), "padding": ((0, 1), (1, 1), (1, 1))},
    ),
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
    residual = rng.standard_normal(expected.shape)
    for added, sums in ((None, expected), (residual, expected + residual)):
        out = np.full(expected.shape, np.nan)
        actual, _ = operation.forward(x, weight, None, added, out=out, **attributes)
        assert actual is out
        np.testing.assert_array_equal(out, sums)
    for wrong in (out[..., ::-1], out.astype(np.float32), out[:1]):
        with pytest.raises(ValueError, match=f"^{operation.name}: expected out as a contiguous array of shape"):
            operation.forward(x, weight, out=wrong, **attributes)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_combined_multiplications_agree_with_the_reference(data):
    """cpu_winograd, with what it fuses: edges of tiles and of tasks, dilations, a third axis, groups."""
    pick = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    groups, batch, rank = pick(1, 2), pick(2, 9), pick(2, 3)
    channels, results = groups * pick(16, 37), groups * pick(16, 37)
    dilation = (1, pick(1, 2), pick(1, 3))[-rank:]
    taps = (pick(1, 3), 3, 3)[-rank:]
    spatial = (pick(1, 3), pick(3, 20 // (rank - 1)), pick(3, 20))[-rank:]
    padding = tuple(pick(0, d * (k - 1)) for d, k in zip(dilation, taps))
    spatial = tuple(max(n, d * (k - 1) + 1 - 2 * p) for n, d, k, p in zip(spatial, dilation, taps, padding))
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x, weight = (
        rng.standard_normal(s).astype(dtype)
        for s in ((batch, channels, *spatial), (results, channels // groups, *taps))
    )
    bias = rng.standard_normal(results).astype(dtype) if pick(0, 1) else None
    operation = getattr(conv, f"conv{rank}d")
    attributes = {
        "padding": tuple((p, p) for p in padding),
        "dilation": dilation,
        "groups": groups,
        "activation": data.draw(st.sampled_from([None, "relu"])),
    }
    shape = conv_shape(x, weight, None, attributes["padding"], dilation, groups)
    assume(cpu_winograd.suits(shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_winograd, "_WEIGHT_BYTES", data.draw(st.sampled_from([0, 1 << 30])))
        patch.setattr(cpu_winograd_gradient, "_PARTIAL_BYTES", data.draw(st.sampled_from([0, 1 << 30])))
        work_bytes = data.draw(st.sampled_from([1 << 16, 1 << 20]))
        for module in (cpu_winograd, cpu_winograd_gradient):
            patch.setattr(module, "_WORK_BYTES", work_bytes)
            module._tasks.cache_clear()
        before, _ = operation.forward(x, weight, bias, **(attributes | {"activation": None}))
        actual, saved = operation.forward(x, weight, bias, **attributes)
        grad = rng.standard_normal(actual.shape).astype(dtype)
        grads = operation.backward(saved, grad, (True, True, False))
    for module in (cpu_winograd, cpu_winograd_gradient):
        module._tasks.cache_clear()
    np.testing.assert_array_equal(actual, np.maximum(before, 0) if attributes["activation"] else before)
    # Sums err by their own size, not by what a rectifier leaves of it.
    exact = [None if a is None else a.astype(np.float64) for a in (x, weight, bias)]
    expected, saved = operation.forward(*exact, implementation="reference", **(attributes | {"activation": None}))
    assert_close(before, expected, dtype, weight[0].size)
    grad_z = (grad * (actual > 0) if attributes["activation"] else grad).astype(np.float64)
    expected = operation.backward(saved, grad_z, (True, True, False), implementation="reference")
    assert_close(grads[0], expected[0], dtype, weight[:, 0].size // groups)
    assert_close(grads[1], expected[1], dtype, grad[:, 0].size)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (0, 2)])
def test_combined_multiplications_leave_what_only_padding_reaches(before, after, monkeypatch):
    monkeypatch.setattr(memory, "poison", True)
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(s).astype("f") for s in ((2, 16, 1, 12, 12), (16, 16, 1, 3, 3), (16,)))
    y, saved = conv.conv3d.forward(x, weight, bias, padding=((before, after), (1, 1), (1, 1)))
    assert cpu_winograd.suits(saved[3])
    alone, _ = conv.conv3d.forward(x, weight, bias, padding=((0, 0), (1, 1), (1, 1)))
    np.testing.assert_array_equal(y[:, :, before : before + 1], alone)
    y[:, :, before : before + 1] = bias[:, None, None, None]
    np.testing.assert_array_equal(y, np.broadcast_to(bias[:, None, None, None], y.shape))


@pytest.mark.parametrize(
    ("channels", "taps", "stride", "rms", "largest"),
    [(16, 3, 1, 3, 4), (64, 3, 1, 2.5, 3), (256, 3, 1, 2.5, 3), (32, 4, 2, 3, 4), (128, 4, 2, 2.5, 3)],
)
def test_combined_multiplications_are_about_as_exact_as_the_plain_sum(channels, taps, stride, rms, largest):
    """Errors of all maps, in errors of the plain sum: 2.5 to 1.5 in the mean square were measured, 2 at most in the
    largest."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, channels, 256)).astype(np.float32)
    weight = rng.standard_normal((channels, channels, taps**2)).astype(np.float32)
    grad = rng.standard_normal((4, channels, 256 // stride**2)).astype(np.float32)
    shape = conv_shape(
        x.reshape(4, channels, 16, 16),
        weight.reshape(channels, channels, taps, taps),
        (stride, stride),
        ((1, 1), (1, 1)),
        None,
        1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_winograd_strided, "_PATCHES", 1)
        combining = (cpu_winograd, cpu_winograd_strided)[stride - 1]
        assert combining.suits(shape)
    gradient = (cpu_winograd_gradient, cpu_winograd_strided_gradient)[stride - 1]
    maps = [
        (cpu_tiles.correlate, combining.correlate, (x, weight), grad),
        (cpu_tiles.spread, combining.spread, (grad, weight), x),
        (cpu_tiles.grad_weight, gradient.grad_weight, (x, grad), weight),
    ]
    for plain, combined, arrays, like in maps:
        exact, by_sum, by_combination = (np.empty(like.shape, dtype) for dtype in (np.float64, np.float32, np.float32))
        for convolve, inputs, result in (
            (plain, [a.astype(np.float64) for a in arrays], exact),
            (plain, arrays, by_sum),
            (combined, arrays, by_combination),
        ):
            convolve(*inputs, shape, result)
        errors, plain_errors = np.abs(by_combination - exact), np.abs(by_sum - exact)
        assert np.sqrt((errors**2).mean()) < rms * np.sqrt((plain_errors**2).mean())
        assert errors.max() < largest * plain_errors.max()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_combined_multiplications_of_stride_two_agree_with_plain_sums(data):
    """cpu_winograd_strided, its gradient: edges of patches and of tasks, phases of unequal length."""
    pick = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    lanes, batch, taps, size = cpu_winograd_strided._LANES, pick(1, 5), 4, (pick(4, 21), pick(4, 21))
    channels, results = lanes * pick(1, 3), lanes * pick(1, 5)
    padding = tuple((pick(0, taps - 1), pick(0, taps - 1)) for _ in range(2))
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    rng = np.random.default_rng(pick(0, 2**32 - 1))
    x = rng.standard_normal((batch, channels, *size)).astype(dtype)
    weight = rng.standard_normal((results, channels, taps, taps)).astype(dtype)
    shape = conv_shape(x, weight, (2, 2), padding, None, 1)
    assume(batch * math.prod(cpu_winograd_strided.plan_of(shape, False).tiles) >= 4)  # `suits` asks for 32
    weight = weight.reshape(results, channels, -1)
    z = rng.standard_normal((batch, results, shape.out_size)).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_winograd_strided, "_PATCHES", data.draw(st.sampled_from([1, 12, 100])))
        patch.setattr(cpu_winograd_strided, "threads_of", lambda shape: 1)
        for of, name, like in ((x.reshape(*x.shape[:2], -1), "correlate", z), (z, "spread", x)):
            bias = rng.standard_normal(like.shape[1]).astype(dtype) if pick(0, 1) else None
            actual = np.empty((*like.shape[:2], like[0, 0].size), dtype)
            expected = np.empty(actual.shape)
            exact = (of.astype("f8"), weight.astype("f8"), shape, expected, None if bias is None else bias.astype("f8"))
            relu = bool(pick(0, 1))
            getattr(cpu_winograd_strided, name)(of, weight, shape, actual, bias, relu)
            getattr(cpu_tiles, name)(*exact, relu)
            assert_close(actual, expected, dtype, of.shape[1] * weight.shape[2])
    actual, expected = np.empty(weight.shape, dtype), np.empty(weight.shape)
    cpu_winograd_strided_gradient.grad_weight(x.reshape(*x.shape[:2], -1), z, shape, actual)
    cpu_tiles.grad_weight(x.reshape(*x.shape[:2], -1).astype("f8"), z.astype("f8"), shape, expected)
    assert_close(actual, expected, dtype, z[:, 0].size)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_combinations_of_rows_agree_with_plain_sums(data):
    """cpu_rows: edges of patches, tasks and vectors, phases of one tap and of several; and its errors."""
    pick = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    batch, channels, results, kernel = pick(1, 3), pick(1, 5), pick(32, 45), (pick(3, 8), pick(1, 8))
    stride, dilation, padding = (2, pick(1, 3)), (1, pick(1, 2)), tuple((pick(0, 8), pick(0, 8)) for _ in range(2))
    size = (pick(12, 40), pick(15, 70))
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    rng = np.random.default_rng(pick(0, 2**32 - 1))
    x = rng.standard_normal((batch, channels, *size)).astype(dtype)
    weight = rng.standard_normal((results, channels, *kernel)).astype(dtype)
    bias, relu = rng.standard_normal(results).astype(dtype) if pick(0, 1) else None, bool(pick(0, 1))
    shape = conv_shape(x, weight, stride, padding, dilation, 1)
    x, weight = x.reshape(*x.shape[:2], -1), weight.reshape(*weight.shape[:2], -1)
    actual, plain = (np.empty((batch, results, shape.out_size), dtype) for _ in range(2))
    exact = np.empty(actual.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_rows, "_LINES_BYTES", data.draw(st.sampled_from([1, 1 << 15, 1 << 18])))
        cpu_rows.plan_of.cache_clear()
        cpu_rows.correlate(x, weight, shape, actual, bias, relu)
    cpu_rows.plan_of.cache_clear()
    cpu_tiles.correlate(x, weight, shape, plain, bias, relu)
    cpu_tiles.correlate(
        *(a.astype("f8") for a in (x, weight)), shape, exact, bias if bias is None else bias.astype("f8"), relu
    )
    assert_close(actual, exact, dtype, weight[0].size)
    if dtype == "float32":
        errors, plain_errors = (np.sqrt(np.mean((result - exact) ** 2)) for result in (actual, plain))
        assert errors <= 3.5 * plain_errors


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_products_over_frames_agree_with_the_reference(data):
    """cpu_frames in all three maps: edges of tasks and panels, phases of strides, positions that no tap reaches."""
    pick = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    rank, groups, batch, transposed = pick(1, 3), pick(1, 2), pick(0, 4), pick(0, 1)
    kernel, stride, dilation = ([pick(1, high) for _ in range(rank)] for high in (4, 3, 2))
    channels, results = (groups * data.draw(st.sampled_from([22, 31, 32, 45])) for _ in range(2))
    padding = [pick(0, d * (k - 1)) for d, k in zip(dilation, kernel)]
    spatial = [d * (k - 1) + pick(1, 20 if rank < 3 else 3) for d, k in zip(dilation, kernel)]
    weight_shape = (channels, results // groups) if transposed else (results, channels // groups)
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x, weight = (rng.standard_normal(s).astype(dtype) for s in ((batch, channels, *spatial), (*weight_shape, *kernel)))
    bias = rng.standard_normal(results).astype(dtype) if pick(0, 1) else None
    attributes = {
        "stride": tuple(stride),
        "padding": tuple((p, p) for p in padding),
        "dilation": tuple(dilation),
        "groups": groups,
        "activation": data.draw(st.sampled_from([None, "relu"])),
    }
    operation = getattr(conv, f"conv{'_transpose' if transposed else ''}{rank}d")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_winograd, "_CHANNELS", 1000)
        patch.setattr(cpu_frames, "_TERMS", 1)
        patch.setattr(cpu_frames, "_SUM_BYTES", data.draw(st.sampled_from((1, 1 << 19))))
        for name, values in (("_FRAME_BYTES", (1, 1 << 19)), ("_POSITIONS", (1, 99))):
            patch.setattr(cpu_frames_plan, name, data.draw(st.sampled_from(values)))
        cpu_frames.plan_of.cache_clear()
        actual, saved = operation.forward(x, weight, bias, **attributes)
        assert cpu_frames.suits(saved[3])
        assert cpu_frames.suits(saved[3], gradient=True)
        grad = rng.standard_normal(actual.shape).astype(dtype)
        grads = operation.backward(saved, grad, (True, True, False))
    cpu_frames.plan_of.cache_clear()
    exact = [None if a is None else a.astype(np.float64) for a in (x, weight, bias)]
    expected, _ = operation.forward(*exact, implementation="reference", **attributes)
    assert_close(actual, expected, dtype, weight.size // max(weight_shape))
    saved = operation.forward(*exact[:2], implementation="reference", **(attributes | {"activation": None}))[1]
    grad_z = (grad * (actual > 0) if attributes["activation"] else grad).astype(np.float64)
    expected = operation.backward(saved, grad_z, (True, True, False), implementation="reference")
    assert_close(grads[0], expected[0], dtype, weight.size // max(weight_shape))
    assert_close(grads[1], expected[1], dtype, max(grad[:, 0].size, x[:, 0].size))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("depth", "dilation", "result"), [(1, 1, 6), (2, 2, 8)])
def test_planes_that_no_tap_reaches_have_only_the_bias(depth, dilation, result, relu):
    """cpu_frames where one sum has all that taps reach, and leaves every other plane out."""
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(s) for s in ((2, 32, 3, 6, 18), (32, 32, depth, 3, 3), (32,)))
    attributes = {"stride": (2, 1, 1), "dilation": (dilation, 1, 1), "output_padding": (1, 0, 0)}
    attributes["activation"] = "relu" if relu else None
    y, saved = conv.conv_transpose3d.forward(x, weight, bias, **attributes)
    assert cpu_frames.suits(saved[3], gradient=True)
    assert y.shape[2] == result
    alone = np.broadcast_to(np.maximum(bias, 0 if relu else bias)[:, None, None, None], y[:, :, 1::2].shape)
    np.testing.assert_array_equal(y[:, :, 1::2], alone)
    expected, _ = conv.conv_transpose3d.forward(x, weight, bias, implementation="reference", **attributes)
    assert_close(y, expected, "float64", weight[:, 0].size)


def test_scratch_has_room_for_rows_of_which_a_frame_holds_little(monkeypatch):
    """cpu_frames where rows and frames are as long as a vector, but not what they have in common."""
    scratch = []

    def guarded(name, shape, dtype):
        scratch.append(np.full(int(np.prod(shape)) + 4096, 7, dtype))
        return scratch[-1][2048:-2048].reshape(shape)

    monkeypatch.setattr(cpu_frames, "workspace", guarded)
    x, weight = np.ones((1, 32, 2, 16), np.float32), np.ones((32, 32, 1, 14), np.float32)
    attributes = {"padding": ((0, 0), (14, 0))}
    y, saved = conv.conv_transpose2d.forward(x, weight, **attributes)
    assert cpu_frames.suits(saved[3], gradient=True)
    expected, _ = conv.conv_transpose2d.forward(x, weight, implementation="reference", **attributes)
    assert_close(y, expected, "float32", weight[:, 0].size)
    assert scratch
    assert all((a[:2048] == 7).all() and (a[-2048:] == 7).all() for a in scratch)


@pytest.mark.parametrize(
    ("operation", "x", "weight", "attributes"),
    [
        (conv.conv2d, (3, 32, 20, 20), (64, 32, 3, 3), {"padding": ((1, 1), (1, 1))}),
        (conv.conv2d, (4, 136, 9, 9), (120, 136, 3, 3), {"padding": ((1, 1), (1, 1))}),
        (conv.conv3d, (5, 20, 4, 9, 9), (33, 20, 3, 3, 3), {"padding": ((1, 1),) * 3}),
        (conv.conv2d, (3, 32, 20, 20), (64, 32, 3, 3), {"stride": (2, 2)}),
        (conv.conv2d, (2, 3, 50, 45), (70, 3, 7, 7), {"stride": (2, 2), "padding": ((3, 3), (3, 3))}),
        (conv.conv_transpose2d, (9, 64, 7, 7), (64, 32, 4, 4), {"stride": (2, 2), "padding": ((1, 1), (1, 1))}),
        (conv.conv2d, (9, 64, 15, 15), (160, 64, 4, 4), {"stride": (2, 2), "padding": ((1, 1), (1, 1))}),
    ],
)
def test_bits_do_not_depend_on_the_number_of_threads(operation, x, weight, attributes, monkeypatch):
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype("f") for shape in (x, weight))
    results = []
    for threads in (1, 2, 5):
        for module in (
            cpu_frames,
            cpu_rows,
            cpu_tiles,
            cpu_winograd,
            cpu_winograd_gradient,
            cpu_winograd_strided,
            cpu_winograd_strided_gradient,
        ):
            monkeypatch.setattr(module, "threads_of", lambda shape, threads=threads: threads)
        y, saved = operation.forward(x, weight, **attributes)
        results.append((y, *operation.backward(saved, np.cos(y), (True, True, False))[:2]))
    for one, other in zip(results[0] * 2, (*results[1], *results[2])):
        np.testing.assert_array_equal(one, other)


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
    residual = np.zeros((1, 2, 2, 2), np.float32)
    residual[0, :, 1, 0], residual[0, :, 0, 1] = np.nan, -np.inf
    y, _ = conv.conv2d.forward(x, weight, None, residual, activation="relu")
    np.testing.assert_array_equal(y, np.broadcast_to([[np.nan, 0], [np.nan, np.inf]], y.shape))
