"""Pooling and resizing functions and layers without an oracle: the ways to spell arguments, and what is refused."""

import math

import numpy as np
import pytest

import ranvier as rv
from ranvier import functional

IMAGES = rv.Tensor(np.random.default_rng(0).standard_normal((2, 4, 8, 6)).astype(np.float32))


def equal(a, b):
    np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_one_size_stands_for_all_axes():
    equal(functional.max_pool2d(IMAGES, 2), functional.max_pool2d(IMAGES, (2, 2), [2, 2], (0,), dilation=(1, 1)))
    equal(functional.avg_pool2d(IMAGES, 3, 2, 1), functional.avg_pool2d(IMAGES, [3, 3], (2, 2), (1, 1)))
    equal(functional.unfold(IMAGES, 2), functional.unfold(IMAGES, (2, 2)))


def test_adaptive_size_none_keeps_the_inputs_size():
    assert functional.adaptive_avg_pool2d(IMAGES, (None, 3)).shape == (2, 4, 8, 3)
    assert functional.adaptive_max_pool2d(IMAGES, (2, None)).shape == (2, 4, 2, 6)
    equal(functional.adaptive_avg_pool2d(IMAGES, None), IMAGES)


def test_one_sample_needs_no_batch_axis():
    one = rv.Tensor(IMAGES.numpy()[0])
    for function in (
        lambda x: functional.max_pool2d(x, 3, 2, 1),
        lambda x: functional.avg_pool2d(x, 3, 2, 1),
        lambda x: functional.adaptive_avg_pool2d(x, 3),
        lambda x: functional.lp_pool2d(x, 2, 2),
        lambda x: functional.unfold(x, 2),
    ):
        np.testing.assert_array_equal(function(one).numpy(), function(IMAGES).numpy()[0])


def test_gradients_reach_the_input_through_pool_and_unpool():
    x = rv.Tensor(IMAGES.numpy(), requires_grad=True)
    y, indices = rv.MaxPool2d(2, return_indices=True)(x)
    assert not indices.requires_grad
    restored = rv.MaxUnpool2d(2)(y, indices)
    restored.backward(np.ones(restored.shape, np.float32))
    # Every maximum is put back once; nothing else has a gradient.
    np.testing.assert_array_equal(x.grad.numpy(), (restored.numpy() != 0).astype(np.float32))


def test_pools_hold_no_parameters():
    for layer in (rv.MaxPool2d(2), rv.AdaptiveAvgPool2d(1), rv.Upsample(scale_factor=2), rv.Fold((4, 4), 2)):
        assert layer.state_dict() == {}


REFUSED = [
    ("max_pool2d", (3, (1, 2, 3)), ValueError, r"^max_pool2d: expected stride as one value or 2, got \(1, 2, 3\)"),
    ("max_pool1d", (2,), ValueError, r"x as \[N, C, L\] or \[C, L\], got shape \(2, 4, 8, 6\)"),
    ("max_pool2d", (9,), ValueError, r"kernel_size to fit into the input \(8, 6\)"),
    ("max_pool2d", (2, 0), ValueError, "stride as 2 integers of at least 1"),
    ("max_pool2d", (3, 2, 2), ValueError, "padding of at most half of kernel_size"),
    ("max_pool2d", (2.5,), TypeError, "kernel_size as 2 integers"),
    ("avg_pool2d", (2, 2, 0, False, True, 0), ValueError, "divisor_override other than zero"),
    ("adaptive_avg_pool2d", (0,), ValueError, "output_size as 2 integers of at least 1"),
    ("adaptive_max_pool1d", (2,), ValueError, r"^adaptive_max_pool1d: expected input as \[N, C, L\]"),
    ("lp_pool2d", (0, 2), ValueError, "norm_type other than zero"),
    ("interpolate", (), ValueError, "either size or scale_factor"),
    ("interpolate", (4, 2.0), ValueError, "either size or scale_factor"),
    ("interpolate", ((1, 2, 3),), ValueError, "size as one value or 2"),
    ("interpolate", ((4,),), ValueError, "size as one value or 2"),
    ("interpolate", (None, 0.01), ValueError, "size as 2 integers of at least 1"),
    ("interpolate", (None, math.nan), ValueError, r"scale_factor in \(0, inf\)"),
    ("interpolate", (None, "2"), TypeError, "scale_factor as numbers"),
    ("interpolate", (4, None, "cubic"), ValueError, "mode as one of 'nearest'"),
    ("interpolate", (4, None, "trilinear"), ValueError, "input of 5 axes for mode 'trilinear'"),
    ("interpolate", (4, None, "nearest", False), ValueError, "align_corners as None"),
    ("interpolate", (4, None, "nearest", None, None, True), ValueError, "antialias as False"),
    ("interpolate", (4, None, "lanczos"), ValueError, "antialias as True"),
    ("interpolate", (4, None, "nearest", None, True), ValueError, "recompute_scale_factor .* without size"),
    ("pixel_shuffle", (3,), ValueError, r"a multiple of upscale_factor\^2 = 9 channels"),
    ("pixel_unshuffle", (4,), ValueError, "height and width that downscale_factor 4 divides"),
    ("channel_shuffle", (3,), ValueError, "a multiple of groups = 3"),
    ("fold", ((8, 6), 2), ValueError, "fold: expected x"),
]


@pytest.mark.parametrize(("name", "arguments", "error", "message"), REFUSED)
def test_bad_arguments_are_refused_with_a_reason(name, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(functional, name)(IMAGES, *arguments)


def test_unpooling_refuses_indices_and_sizes_that_do_not_fit():
    y, indices = functional.max_pool2d(IMAGES, 2, return_indices=True)
    with pytest.raises(ValueError, match=r"^max_unpool: expected indices in \[0, 48\), got 48"):
        functional.max_unpool2d(y, rv.Tensor(np.full_like(indices.numpy(), 48)), 2)
    with pytest.raises(ValueError, match=r"^max_unpool2d: expected output_size as 2 sizes less than stride"):
        functional.max_unpool2d(y, indices, 2, output_size=(10, 6))
    with pytest.raises(ValueError, match=r"^max_unpool2d: expected input as \[N, C, H, W\]"):
        functional.max_unpool2d(rv.Tensor(np.ones((2, 2))), indices, 2)
