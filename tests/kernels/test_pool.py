"""What pooling and resizing promise beyond agreeing with their definitions."""

import numba
import numpy as np
import pytest

from ranvier.kernels import pool, resize
from ranvier.kernels.pool import cpu_sliding
from ranvier.kernels.resize import cpu_doubled, cpu_nearest

IMAGES = np.random.default_rng(0).standard_normal((3, 5, 13, 11)).astype(np.float32)
SLIDING = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 1)}

CALLS = [
    (pool.max_pool, SLIDING | {"dilation": (1, 2)}),
    (pool.avg_pool, SLIDING),
    (pool.adaptive_max_pool, {"output_size": (4, 3)}),
    (pool.adaptive_avg_pool, {"output_size": (4, 3)}),
    (pool.adaptive_avg_pool, {"output_size": (1, 1)}),
    (pool.lp_pool, {"norm_type": 2, "kernel_size": (3, 2), "stride": (2, 1)}),
    (resize.interpolate, {"size": (20, 7), "mode": "linear"}),
    (resize.interpolate, {"size": (20, 22), "mode": "cubic"}),
]
IDS = [f"{operation.name}-{index}" for index, (operation, _) in enumerate(CALLS)]


@pytest.mark.parametrize(("operation", "attributes"), CALLS, ids=IDS)
def test_results_do_not_depend_on_the_number_of_threads(operation, attributes):
    """Overlapping windows add up within one thread's plane: not a bit differs."""
    images = np.random.default_rng(1).standard_normal((40, 5, 13, 11)).astype(np.float32)  # worth all threads

    def run():
        y, saved = operation.forward(images, **attributes)
        return y, operation.backward(saved, np.cos(y), (True,))[0]

    many = run()
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        one = run()
    finally:
        numba.set_num_threads(before)
    for a, b in zip(many, one):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize(("operation", "attributes"), CALLS, ids=IDS)
def test_results_are_written_to_out(operation, attributes, contiguous):
    y, _ = operation.forward(IMAGES, **attributes)
    out = np.full(y.shape, np.nan, y.dtype, order="C" if contiguous else "F")
    returned, _ = operation.forward(IMAGES, **attributes, out=out)
    assert returned is out
    np.testing.assert_array_equal(out, y)


def test_indices_are_written_to_out():
    attributes = SLIDING | {"dilation": (1, 1), "return_indices": True}
    (y, indices), _ = pool.max_pool.forward(IMAGES, **attributes)
    out = np.empty_like(y), np.empty_like(indices)
    pool.max_pool.forward(IMAGES, **attributes, out=out)
    np.testing.assert_array_equal(out[0], y)
    np.testing.assert_array_equal(out[1], indices)


def max_pool_of_a_row(values, **attributes):
    sizes = {"kernel_size": (3,), "stride": (3,), "padding": (0,), "dilation": (1,)} | attributes
    (y, indices), saved = pool.max_pool.forward(np.array([[values]]), **sizes, return_indices=True)
    return y[0, 0].tolist(), indices[0, 0].tolist(), saved


def test_first_of_equal_values_is_the_largest():
    assert max_pool_of_a_row([2.0, 2.0, 1.0, -1.0, 0.0, 0.0])[:2] == ([2.0, 0.0], [0, 4])
    # Across rows the order is the plane's, not the column's.
    plane = np.array([[[1.0, 5.0], [5.0, 2.0]]])
    sizes = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)}
    (_, indices), _ = pool.max_pool.forward(plane, **sizes, return_indices=True)
    assert indices.item() == 1


def test_nan_beats_all_numbers_and_the_last_one_wins():
    y, indices, _ = max_pool_of_a_row([np.nan, 9.0, np.nan, 1.0, np.nan, np.inf])
    assert np.isnan(y).all()
    assert indices == [2, 4]


def test_a_window_of_minus_infinity_has_a_position_inside_the_plane():
    y, indices, _ = max_pool_of_a_row([-np.inf] * 6)
    assert y == [-np.inf, -np.inf]
    assert indices == [0, 3]


def test_overlapping_windows_add_their_gradients_at_a_shared_maximum():
    _, _, saved = max_pool_of_a_row([0.0, 0.0, 7.0, 0.0, 0.0], stride=(1,))
    (grad,) = pool.max_pool.backward(saved, (np.array([[[1.0, 10.0, 100.0]]]), None), (True,))
    np.testing.assert_array_equal(grad, [[[0, 0, 111.0, 0, 0]]])


def test_an_average_of_equal_values_is_that_value():
    ones = np.ones((1, 1, 9, 9), np.float32)
    y, _ = pool.avg_pool.forward(ones, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), count_include_pad=False)
    assert (y == 1).all()
    y, _ = pool.adaptive_avg_pool.forward(ones, output_size=(4, 5))
    assert (y == 1).all()


def test_lp_pool_of_zeros_has_a_gradient_of_zero():
    y, saved = pool.lp_pool.forward(np.zeros((1, 1, 4)), norm_type=2, kernel_size=(2,), stride=(2,))
    (grad,) = pool.lp_pool.backward(saved, np.ones(y.shape), (True,))
    np.testing.assert_array_equal(grad, 0)


def test_of_values_with_the_same_index_the_last_is_unpooled():
    y, _ = pool.max_unpool.forward(np.array([[[1.0, 2.0, 3.0]]]), np.array([[[4, 0, 4]]]), output_size=(5,))
    np.testing.assert_array_equal(y, [[[2.0, 0, 0, 0, 3.0]]])


@pytest.mark.parametrize("mode", resize.MODES)
def test_every_mode_keeps_a_constant_plane(mode):
    plane = np.full((1, 1, 7, 9), 3.0)
    for size in ((3, 4), (7, 9), (15, 31)):
        y, _ = resize.interpolate.forward(plane, size=size, mode=mode, antialias=mode == "lanczos")
        np.testing.assert_allclose(y, np.full((1, 1, *size), 3.0), rtol=1e-12)


def test_aligned_corners_stay_where_they_are():
    y, _ = resize.interpolate.forward(IMAGES, size=(25, 4), mode="linear", align_corners=True)
    np.testing.assert_array_equal(y[..., ::24, ::3], IMAGES[..., ::12, ::10])


def test_fold_counts_how_often_unfold_took_each_position():
    window = {"kernel_size": (3, 3), "dilation": (1, 1), "padding": (1, 1), "stride": (1, 1)}
    columns, _ = resize.unfold.forward(np.ones((1, 1, 4, 4)), **window)
    counts, _ = resize.fold.forward(columns, output_size=(4, 4), **window)
    np.testing.assert_array_equal(counts[0, 0], np.outer([2, 3, 3, 2], [2, 3, 3, 2]))


def test_pixel_unshuffle_undoes_pixel_shuffle():
    x = np.random.default_rng(0).standard_normal((2, 18, 3, 4))
    shuffled, _ = resize.pixel_shuffle.forward(x, upscale_factor=3)
    np.testing.assert_array_equal(resize.pixel_unshuffle.forward(shuffled, downscale_factor=3)[0], x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("rank", "kernel_size", "stride", "padding"), [(1, 2, 2, 0), (2, 2, 2, 0), (1, 3, 2, 1), (1, 3, 1, 1), (1, 5, 3, 2)]
)
def test_rows_of_every_length_around_the_vectors(rank, kernel_size, stride, padding, dtype):
    """Whole vectors, their halves and quarters, single elements at the end of a row; ties and NaNs in all of them."""
    sizes = {"kernel_size": (kernel_size,) * rank, "stride": (stride,) * rank, "padding": (padding,) * rank}
    for length in range(kernel_size, 75):
        x = np.random.default_rng(length).integers(-3, 3, (3, 2, length)).astype(dtype)
        for operation, attributes in (pool.avg_pool, sizes), (pool.max_pool, sizes | {"dilation": (1,) * rank}):
            for values in (x, np.where(x == 2, np.nan, x), np.full_like(x, -np.inf)):
                results = []
                for implementation in ("reference", "cpu"):
                    y, saved = operation.forward(values, **attributes, implementation=implementation)
                    grad_y = np.cos(np.arange(y.size)).astype(dtype).reshape(y.shape)
                    results.append((y, operation.backward(saved, grad_y, (True,), implementation=implementation)[0]))
                for expected, actual in zip(*results):
                    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_rows_of_every_length_double(mode, dtype):
    """In whole vectors, halves of them or single elements; most rows of a height that shrinks are read by none."""
    for length in (1, 2, 3, 5, 8, 9, 15, 16, 17, 33, 40):
        x = np.random.default_rng(length).standard_normal((2, 1, 9, length)).astype(dtype)
        for height in (3, 9, 18, 20):
            results = []
            for implementation in ("reference", "cpu"):
                y, saved = resize.interpolate.forward(
                    x, size=(height, 2 * length), mode=mode, implementation=implementation
                )
                grads = resize.interpolate.backward(saved, np.cos(y), (True,), implementation=implementation)
                results.append((y, *grads))
            for expected, actual in zip(*results):
                np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_written_around_the_caches_have_the_same_bits(dtype, monkeypatch):
    """Rows and planes that begin and end anywhere in a cache line, and fewer elements than one holds."""
    sizes = {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)}
    for shape in (3, 4, 7, 9), (2, 3, 20, 37), (1, 1, 2, 3):
        x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
        for operation, attributes in (pool.avg_pool, sizes), (pool.max_pool, sizes | {"dilation": (1, 1)}):
            results = []
            for streamed in (False, True):
                monkeypatch.setattr(cpu_sliding, "is_past_caches", lambda nbytes, streamed=streamed: streamed)
                y, saved = operation.forward(x, **attributes)
                results.append([y, *operation.backward(saved, y, (True,))])
            for plain, around in zip(*results):
                np.testing.assert_array_equal(plain, around)
                assert np.abs(plain).max() > 0
        for mode in ("linear", "nearest"):
            results = []
            for streamed in (False, True):
                for module in (cpu_doubled, cpu_nearest):
                    monkeypatch.setattr(module, "is_past_caches", lambda nbytes, streamed=streamed: streamed)
                doubled = tuple(2 * size for size in shape[2:])
                results.append(resize.interpolate.forward(x, size=doubled, mode=mode)[0])
            np.testing.assert_array_equal(*results)
