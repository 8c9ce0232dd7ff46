"""Convolutions compiled for three architectures as layers launch them: they fit, do not spill, use tensor cores."""

import os

import numpy as np
import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES, Array, assert_fits, compile_kernel

from ranvier.kernels import tuning
from ranvier.kernels.conv import conv2d, gpu, gpu_depthwise, gpu_layout, gpu_products
from ranvier.kernels.conv.gpu_layout import Image as Walked
from ranvier.kernels.conv.shape import ConvShape
from ranvier.profiling.launches import launches_of, launches_of_sample


class Image(Array):
    """Stands in for a CuPy array of which a convolution asks more than type and address."""

    def __init__(self, dtype, shape, channels_last=False):
        super().__init__(dtype)
        self.shape, self.size, self.ndim = shape, int(np.prod(shape)), len(shape)
        self.flags = type("Flags", (), {"c_contiguous": True})
        self.steps = np.empty(shape, np.int8).strides
        if channels_last:
            _, c, h, w = shape
            self.steps = (c * h * w, 1, w * c, c)

    def walked(self, groups=1):
        return Walked(self, (*self.steps[:2], 0, *self.steps[2:]), self.shape[1] // groups)

    def transpose(self, *order):
        return Image(self.dtype.name, tuple(self.shape[axis] for axis in order))

    def reshape(self, *shape):
        return Image(self.dtype.name, shape)


def launches(method, name, dtype, channels_last, channels, features, kernel, stride, groups=1, size=56):
    """What a pass of a layer with a residual on 32 images launches: (kernel, arguments, constants) each."""
    out = (size - kernel) // stride + 1
    shape = ConvShape(
        32, groups, channels, features, (1, size, size), (1, kernel, kernel), (1, out, out),
        (1, stride, stride), (0, 0, 0), (1, 1, 1),
    )  # fmt: skip
    x = Image(dtype, (32, channels, size, size), channels_last)
    y = Image(dtype, (32, features, out, out), channels_last)
    weight = Image(dtype, (features, channels // groups, kernel, kernel))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for module in (method, gpu, gpu_layout):
            patch.setattr(module, "launch", lambda function, _, *a, **c: found.append((function, a, c)))
            patch.setattr(
                module, "empty", lambda like, shape, dtype=None: Image(np.dtype(dtype or like.dtype).name, shape)
            )
        patch.setattr(method, "sum_parts", lambda *_: None)
        patch.setattr(gpu, "sum_parts", lambda *_: None)
        if name == "correlate":
            bias, residual = Image(dtype, (features,)), Image(dtype, y.shape, channels_last)
            method.correlate(x.walked(groups), weight, bias, shape, y.walked(groups), True, residual)
        elif name == "spread":
            method.spread(y.walked(groups), weight, None, shape, x.walked(groups), False)
        elif name == "grad_weight":
            method.grad_weight(x.walked(groups), y.walked(groups), shape, weight)
        else:
            gpu._grad_bias(y.walked(groups), shape.batch, features, shape.output)
    return found


# channels_last, channels, features, kernel, stride
PRODUCTS = {"strided": (True, 128, 256, 3, 2), "first": (False, 3, 64, 7, 2)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("layer", PRODUCTS)
@pytest.mark.parametrize("name", ["correlate", "spread", "grad_weight"])
def test_products_fit_and_do_not_spill(name, layer, dtype, architecture):
    for kernel, arguments, constants in launches(gpu_products, name, dtype, *PRODUCTS[layer]):
        assert_fits(kernel, arguments, architecture, **constants)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "channels_last"), [("bfloat16", True), ("float32", False)])
def test_split_sums_fit_and_do_not_spill(dtype, channels_last, architecture):
    split, added = launches(gpu_products, "correlate", dtype, channels_last, 512, 512, 3, 1, size=5)
    assert (split[0], split[2]["SPLIT"]) == (gpu_products.conv_correlate_kernel, True)
    assert added[0] is gpu_products.conv_sum_of_parts_kernel
    for kernel, arguments, constants in (split, added):
        assert_fits(kernel, arguments, architecture, **constants)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "channels_last"), [("bfloat16", True), ("float32", False)])
@pytest.mark.parametrize("name", ["correlate", "spread", "grad_weight", "grad_bias"])
def test_direct_kernels_fit_and_do_not_spill(name, dtype, channels_last, architecture):
    ((kernel, arguments, constants),) = launches(gpu_depthwise, name, dtype, channels_last, 64, 64, 3, 2, 64)
    assert_fits(kernel, arguments, architecture, **constants)


def assert_fed_16_bytes_at_a_time(kernel, arguments, constants):
    text = compile_kernel(kernel, arguments, 80, **constants).ptx
    assert "mma.sync" in text
    assert "cp.async.cg.shared.global" in text  # the form that copies 16 bytes
    assert "cp.async.ca.shared.global" not in text
    return text


@pytest.mark.parametrize("name", ["correlate", "spread", "grad_weight"])
def test_channels_last_images_are_copied_16_bytes_at_a_time_to_tensor_cores(name):
    assert_fed_16_bytes_at_a_time(*launches(gpu_products, name, "bfloat16", True, 64, 64, 3, 1)[-1])


def launches_of_layer(channels, features, kernel, dtype=np.float16, size=56, **attributes):
    """What a convolution of NCHW images without bias launches, forward and backward."""
    x, weight = np.zeros((8, channels, size, size), dtype), np.zeros((features, channels, kernel, kernel), dtype)

    def call():
        y, saved = conv2d.forward(x, weight, implementation="gpu", **attributes)
        conv2d.backward(saved, y, (True, True, False), implementation="gpu")

    return launches_of(call)


@pytest.mark.parametrize("channels", [64, 72])  # 72 are filled up to 80
def test_half_images_with_channels_first_are_laid_out_once_and_then_read_16_bytes_at_a_time(channels):
    made = launches_of_layer(channels, 64, 3, activation="relu", padding=((1, 1), (1, 1)))
    kernels = [one.kernel for one in made]
    laid_out, product = gpu_layout.conv_channels_last_kernel, gpu_products.conv_correlate_kernel
    # x and W; grad_y, the derivative with it, and W; x again.
    assert kernels[:6] == [laid_out, laid_out, product, laid_out, laid_out, product]
    assert kernels[6:8] == [laid_out, gpu_products.conv_grad_weight_kernel]
    assert [one.kernel is laid_out and one.arguments[1] is not None for one in made[:4]] == [False, False, False, True]
    for one in (made[2], made[5], made[7]):
        assert "ld.global.b16" not in assert_fed_16_bytes_at_a_time(*one[:3])
    for one in (made[0], made[3]):
        text = compile_kernel(one.kernel, one.arguments, 80, **one.constants).ptx
        assert "ld.global.v4.b32" in text
        assert "ld.global.b16" not in text
        assert "st.global.v4.b32" in text
        assert "st.global.b16" not in text


def test_images_that_are_read_seldom_are_not_laid_out():
    for layer, laid_out in (((64, 64, 1), 0), ((64, 64, 2, np.float32), 2)):  # these two are weights
        kernels = [one.kernel for one in launches_of_layer(*layer)]
        assert kernels.count(gpu_layout.conv_channels_last_kernel) == laid_out


def test_pointwise_products_read_positions_16_bytes_at_a_time():
    for one in launches_of_layer(64, 1024, 1):
        if one.kernel in (gpu_products.conv_correlate_kernel, gpu_products.conv_grad_weight_kernel):
            assert one.constants["POINTWISE"]
            assert "ld.global.b16" not in assert_fed_16_bytes_at_a_time(*one[:3])


def grids(name):
    """Of the launches for a declared convolution and its gradient of x, in float16."""
    sample = next(sample for sample in conv2d.samples if sample.name == name)
    made = launches_of_sample(conv2d, sample, np.dtype(np.float16))
    return [launch.grid for launch in made if launch.kernel is gpu_products.conv_correlate_kernel]


def test_sums_are_split_where_tiles_are_few():
    # 4 x 4 tiles of 128 x 128, 72 steps of 64: nine parts make 144 programs, forward and for the gradient of x.
    tuning.forget()
    assert grids("resnet_7_residual") == [(16, 9)] * 2
    (question,) = [question for question in tuning.asked() if question.kernel == "conv.correlate"]
    whole = (64, 128, 32, 4, 3, 0)
    assert whole in gpu_products.CORRELATE.configurations(90, np.dtype(np.float16), question.bucket)
    with tuning.trying(question, whole):
        assert grids("resnet_7_residual") == [(32, 1)] * 2
    assert grids("resnet_56") == [(196, 1)] * 2
