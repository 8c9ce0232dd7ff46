"""Every operation's GPU passes on CuPy arrays reach the driver, with no kernel that CuPy would have to compile.

Runs on the stand-in GPU: `python tests/standin pytest` with this file; `test_standin.py` starts it. No kernel runs, so
shapes and types are compared, not values.
"""

import contextlib

import pytest
import standin

if not standin.installed():
    pytest.skip("runs on the stand-in GPU only, which test_standin.py starts", allow_module_level=True)

import cupy
import numpy as np

import ranvier as rv
from ranvier.kernels.device import reshaped, to_device
from ranvier.kernels.operation import all_operations

OPERATIONS = list(all_operations())


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Not the user's."""
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


def contiguous(x):
    return to_device(x, "cuda") if isinstance(x, np.ndarray) else x


def strided(x):
    """Every second element of an array; its values do not matter where it is of floating point."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or x.ndim == 0:
        return contiguous(x)
    return cupy.empty((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)[..., ::2]


def described(x, reference: bool = False):
    """Shapes and types. The reference may widen floating-point types; inputs here are float32, and so must results."""
    if isinstance(x, tuple):
        return tuple(described(y, reference) for y in x)
    return None if x is None else (x.shape, np.dtype(np.float32) if reference and x.dtype.kind == "f" else x.dtype)


@pytest.mark.parametrize("layout", [contiguous, strided])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_check_and_passes_launch_kernels_of_ours_only(operation, layout):
    sample = next(sample for sample in operation.samples if not sample.large)
    inputs = sample.build(np.random.default_rng(0), np.dtype(np.float32))
    output, saved = operation.forward(*inputs, **sample.attributes, implementation="reference")
    there = [layout(x) for x in inputs]
    forward, backward = operation.passes("gpu")
    with standin.only_our_kernels():
        # What a check finds in an array, a kernel finds, and none runs here: it may refuse what memory happens to hold.
        with contextlib.suppress(ValueError, IndexError):
            operation.check(*there, **sample.attributes)
        output_there, saved_there = forward(*there, **sample.attributes)
    assert described(output_there) == described(output, reference=True)
    if not operation.differentiable:
        return
    outputs = output if isinstance(output, tuple) else (output,)
    grads = tuple(np.ones(y.shape, np.float32) if y.dtype.kind == "f" else None for y in outputs)
    grads_there = tuple(map(layout, grads))
    if output is outputs[0]:
        grads, grads_there = grads[0], grads_there[0]
    needs = tuple(isinstance(x, np.ndarray) and x.dtype.kind == "f" for x in inputs)
    expected = operation.backward(saved, grads, needs, implementation="reference")
    with standin.only_our_kernels():
        results = backward(saved_there, grads_there, needs)
    assert described(results) == described(expected, reference=True)


@pytest.mark.parametrize(("shape", "copied"), [((12, 2), True), ((-1,), True), ((3, 2, 2, -1), False)])
def test_what_cannot_be_seen_in_another_shape_is_copied_by_a_kernel_of_ours(shape, copied):
    x = cupy.empty((2, 3, 4), np.float32).transpose(1, 0, 2)
    with standin.only_our_kernels(), standin.recorded() as launches:
        y = reshaped(x, shape)
    assert y.shape == np.empty(x.shape).reshape(shape).shape
    assert [launch.name for launch in launches] == ["copy_kernel"] * copied
    assert (y.data.ptr != x.data.ptr) is copied
    with pytest.raises(ValueError, match="reshape"):
        reshaped(x, (5, 5))


def test_a_deep_convolution_adds_its_parts_with_bias_residual_and_activation():
    layer = rv.Conv2d(256, 256, 3, padding=1, activation="relu").to("cuda")
    x, residual = (rv.Tensor(cupy.empty((1, 256, 4, 4), np.float32), requires_grad=True) for _ in range(2))
    with standin.only_our_kernels(), standin.recorded() as launches:
        y = layer(x, residual=residual)
        y.backward(cupy.empty(y.shape, np.float32))
    names = [launch.name for launch in launches]
    assert [name for name in names if name in ("conv_correlate_kernel", "conv_sum_of_parts_kernel")] == [
        "conv_correlate_kernel", "conv_sum_of_parts_kernel"
    ] * 2  # fmt: skip
    split = launches[names.index("conv_correlate_kernel")]
    assert split.grid == (4, 9, 1)  # tiles of 64 features and 16 positions; 72 steps
    assert residual.grad.shape == y.shape
    with pytest.raises(TypeError, match="conv2d: expected arrays of one device"):
        layer(x, residual=np.empty(y.shape, np.float32))
