"""Replays that call kernels without Python: every operation's declared cases, with values that came later."""

import contextlib
import re
import zlib

import numpy as np
import pytest
from agreement import output_gradients
from parity import as_tuple, float_inputs

import ranvier as rv
from ranvier.kernels.operation import Operation, all_operations

SAMPLES = [
    pytest.param(
        operation,
        sample,
        id=f"{operation.name}-{sample.name}",
        marks=() if sample is operation.samples[0] else pytest.mark.slow,
    )
    for operation in all_operations()
    for sample in operation.samples
    if not sample.large
]


def values_of(arrays):
    return [np.array(x) if isinstance(x, np.ndarray) else x for x in arrays]


def write(arrays, values):
    for array, value in zip(arrays, values):
        if isinstance(array, np.ndarray):
            array[...] = value


def other_values(operation, sample, first, later):
    """What a sample draws again is other; the values that it names are turned back to front, where that is allowed."""
    for turned in (lambda x: x[::-1].copy(), lambda x: x[::-1].copy() if x.dtype.kind == "f" else x):
        arrays = [turned(x) if np.ndim(x) and x.tobytes() == y.tobytes() else x for x, y in zip(later, first)]
        with contextlib.suppress(ValueError):
            operation.check(*arrays, **sample.attributes)
            return arrays
    return later


def poison(captured):
    """Leaves nothing in a captured step's memory of what it has computed."""
    (step,) = captured._steps.values()
    for piece in [*step.recording.supply.pieces, *step.recording.scratch.values()]:
        piece.fill(255)


@pytest.mark.parametrize(("operation", "sample"), SAMPLES)
def test_later_values_give_the_bits_of_uncaptured_passes(operation, sample):
    rng = np.random.default_rng(zlib.crc32(sample.name.encode()))
    first, later = (sample.build(rng, np.float32) for _ in range(2))
    later = other_values(operation, sample, first, later)
    inputs, needs = values_of(first), float_inputs(first)
    output, _ = operation.forward(*inputs, **sample.attributes)
    gradients = [output_gradients(as_tuple(output), rng, np.float32) for _ in range(2)]
    of_outputs = values_of(gradients[0])

    def step():
        output, saved = operation.forward(*inputs, **sample.attributes)
        results = as_tuple(output)
        if operation.differentiable and any(x is not None for x in of_outputs):
            grad = tuple(of_outputs) if type(output) is tuple else of_outputs[0]
            results += tuple(operation.backward(saved, grad, needs))
        return [rv.Tensor(x) for x in results if x is not None]

    captured = rv.capture(step)
    for _ in range(3):
        captured()
    write(inputs, later)
    write(of_outputs, gradients[1])
    poison(captured)
    for replayed, computed in zip(captured(), step(), strict=True):
        assert replayed.array.tobytes() == computed.array.tobytes()


WITH_TABLES = {
    case.values[0].name: case.values
    for case in reversed(SAMPLES)
    if any(np.ndim(x) and x.size and x.dtype.kind in "iu" for x in case.values[1].build(np.random.default_rng(0), "f"))
}


@pytest.mark.parametrize(("operation", "sample"), WITH_TABLES.values(), ids=WITH_TABLES)
def test_indices_that_are_refused_are_refused_in_replays(operation, sample):
    inputs = sample.build(np.random.default_rng(0), np.float32)
    captured = rv.capture(lambda: rv.Tensor(as_tuple(operation.forward(*inputs, **sample.attributes)[0])[0]))
    for _ in range(4):
        before = captured()
    (step,) = captured._steps.values()
    for table in (x for x in inputs if isinstance(x, np.ndarray) and x.dtype.kind in "iu"):
        good = table.copy()
        table.reshape(-1)[-1] = -(2**40)
        try:
            operation.check(*inputs, **sample.attributes)
        except ValueError as refusal:
            with pytest.raises(ValueError, match=re.escape(str(refusal))):
                captured()
            np.testing.assert_array_equal(step.result.array, before.array)  # nothing has been written
        table[...] = good
    np.testing.assert_array_equal(captured().array, before.array)


def test_scratch_that_begins_as_zeros_needs_no_python():
    operation, x = Operation.registry["interpolate"], np.ones((2, 3, 8, 8), np.float32)
    attributes = {"size": (16, 16), "mode": "linear"}
    grad_y, _ = operation.forward(x, **attributes)

    def step():
        y, saved = operation.forward(x, **attributes)
        return rv.Tensor(y), rv.Tensor(operation.backward(saved, grad_y, (True,))[0])

    captured = rv.capture(step)
    for _ in range(3):
        captured()
    assert captured.calls == 1


@pytest.mark.parametrize("norm_type", [2.0, 2.5, np.inf])
def test_clipping_needs_no_python(norm_type):
    parameters = [rv.Parameter(np.zeros(shape, np.float32)) for shape in ((3, 5), 7, 40_000, 5, 9, (2, 40))]
    _buffers = [rv.optim.SGD(some, lr=0.1) for some in (parameters[:3], parameters[3:5])]  # the last is in none
    for p in parameters:
        p.grad = rv.Tensor(np.ones_like(p.array) if p.grad_buffer is None else p.grad_buffer)

    def step():
        norm = rv.clip_grad_norm_(iter(parameters), 2.0, norm_type)
        rv.clip_grad_value_(parameters, 0.5)
        return norm

    captured = rv.capture(step)
    for _ in range(3):
        captured()
    assert captured.calls == 1
    rng = np.random.default_rng(0)
    for scale in (1e-4, 30.0, np.inf, np.nan):
        values = [rng.standard_normal(p.shape) * 1e-4 for p in parameters]
        values[0][1, 2] = values[4][3] = scale
        norms, results = [], []
        for clip in (captured, step):
            write([p.grad.array for p in parameters], values)
            norms.append(clip().array.tobytes())
            results.append([p.grad.array.tobytes() for p in parameters])
        assert norms[0] == norms[1]
        assert results[0] == results[1]


def test_rows_that_were_short_enough_are_shortened_later():
    table, words = rv.Embedding(9, 4, max_norm=1.0), rv.tensor(np.arange(5))
    captured = rv.capture(rv.no_grad()(table))
    for scale in (0.1, 10.0):
        table.weight.array[...] = scale
        for _ in range(4):
            rows = captured(words).numpy()
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), min(2 * scale, 1), rtol=1e-5)
