"""What it means that an implementation of an operation is right: outputs and gradients agree with the reference."""

from __future__ import annotations

import numpy as np
from parity import DTYPES, as_tuple, assert_close, float_inputs, placed

from ranvier.kernels.device import to_device
from ranvier.kernels.operation import Operation


def length_of(operation: Operation, inputs, attributes) -> int:
    return operation.reduction_length(*inputs, **attributes) if operation.reduction_length else 1


def run(operation, inputs, attributes, grad_outputs=None, implementation=None, needs=None):
    """Forward, and backward if output gradients are given -> (outputs, grads)."""
    output, saved = operation.forward(*inputs, implementation=implementation, **attributes)
    if grad_outputs is None:
        return as_tuple(output), ()
    needs = float_inputs(inputs) if needs is None else needs
    grad = grad_outputs if isinstance(output, tuple) else grad_outputs[0]
    return as_tuple(output), operation.backward(saved, grad, needs, implementation=implementation)


def fetched(x):
    """A GPU's array on the host; anything else as it is."""
    return to_device(x, "cpu") if type(x).__module__.partition(".")[0] == "cupy" else x


def in_float64(arrays):
    return [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype in DTYPES.values() else a for a in arrays]


def output_gradients(outputs, rng, dtype):
    """A random gradient per output; None for integer outputs, which have none."""
    return tuple(
        None if o.dtype.kind in "iub" else np.asarray(rng.standard_normal(o.shape)).astype(dtype) for o in outputs
    )


def agree(operation, inputs, attributes, rng, dtype, implementation="cpu", arrange=placed):
    """The implementation's outputs and gradients against the reference's in float64; inputs stay as they were.

    Args:
        arrange: what is done to each input and output gradient first: strides, a copy to a GPU.
    """
    name, names = f"{operation.name}[{implementation}]", operation.input_names(len(inputs))
    untouched = [x.copy() if isinstance(x, np.ndarray) else x for x in inputs]
    exact_outputs, _ = run(operation, in_float64(inputs), attributes, implementation="reference")
    grad_outputs = output_gradients(exact_outputs, rng, DTYPES[dtype]) if operation.differentiable else None
    _, exact_grads = run(
        operation, in_float64(inputs), attributes, grad_outputs and tuple(in_float64(grad_outputs)), "reference"
    )
    arranged = [arrange(x) for x in inputs]
    arranged_grads = grad_outputs and tuple(map(arrange, grad_outputs))
    outputs, grads = run(operation, arranged, attributes, arranged_grads, implementation, float_inputs(inputs))
    outputs, grads = [fetched(x) for x in outputs], [fetched(x) for x in grads]
    length = length_of(operation, inputs, attributes)
    for index, (actual, exact) in enumerate(zip(outputs, exact_outputs, strict=True)):
        assert type(actual) is np.ndarray, f"{name}: output {index} is a {type(actual)}"
        assert_close(actual, exact, dtype, length, f"{name} output {index}")
    for argument, actual, exact in zip(names, grads, exact_grads):
        assert (actual is None) == (exact is None), f"{name}: gradient of {argument} is {actual}, expected {exact}"
        if exact is not None:
            assert_close(actual, exact, dtype, length, f"{name} gradient of {argument}")
    for argument, array, before in zip(names, arranged, untouched):
        if isinstance(before, np.ndarray):
            np.testing.assert_array_equal(fetched(array), before, err_msg=f"{name} changed its input {argument}")
