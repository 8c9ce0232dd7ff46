"""Every declared operation, every implementation, every sample: one body of tests for the whole library.

A new operation is tested by being declared. Run one with `pytest tests/kernels/test_operations.py -k conv2d`, and its
GPU kernels, where there is a GPU, with `--device cuda` added.
"""

import ast
import functools
import importlib
import zlib
from pathlib import Path

import numpy as np
import pytest
from agreement import agree, fetched, output_gradients, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parity import DTYPES, float_inputs, non_contiguous, placed

from ranvier.kernels import memory
from ranvier.kernels.operation import all_operations

OPERATIONS = list(all_operations())
SAMPLES = [
    pytest.param(operation, sample, id=f"{operation.name}-{sample.name}")
    for operation in OPERATIONS
    for sample in operation.samples
    if not sample.large
]
FIRST_SAMPLES = [p for p in SAMPLES if p.values[1] is p.values[0].samples[0]]
REFUSED = [pytest.param(op, case, id=f"{op.name}-{case.name}") for op in OPERATIONS for case in op.refused]
VARIED = [pytest.param(op, id=op.name) for op in OPERATIONS if op.vary]


@functools.cache
def _names_in(file):
    """What a module's own lines define or import."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign):
            names |= {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        else:
            names.add(getattr(node, "name", None))
    return names


@pytest.mark.parametrize("kind", ["reference", "cpu", "gpu"])
def test_every_operation_has_kernels_of_each_kind(kind):
    """Read from the files, as GPU kernels can be imported only where Triton is."""
    missing = []
    for operation in OPERATIONS:
        family = Path(importlib.import_module(operation.family).__file__).parent
        passes = ("forward", "backward") if operation.differentiable else ("forward",)
        wanted = {f"{operation.name}_{way}" for way in passes}
        missing += sorted(wanted - _names_in(family / f"{kind}.py"))
    assert missing == []


def pytest_generate_tests(metafunc):
    """On the CPU halves are cast for all operations alike, so one sample of each says all; GPU kernels read them."""
    if "half_sample" in metafunc.fixturenames:
        samples = FIRST_SAMPLES if metafunc.config.getoption("device") == "cpu" else SAMPLES
        metafunc.parametrize(("operation", "half_sample"), samples)


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch):
    monkeypatch.setattr(memory, "poison", True)


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def implementation(device):
    return "cpu" if device == "cpu" else "gpu"


@pytest.fixture
def there(device):
    """Puts an array on the device."""
    return functools.partial(placed, device=device)


@pytest.mark.parametrize(("operation", "sample"), [p for p in SAMPLES if p.values[0].differentiable])
def test_reference_gradient_is_the_derivative(operation, sample, rng):
    """<grad, v> against a central difference along a random direction v, in float64."""
    inputs = sample.build(rng, np.float64)
    outputs, _ = run(operation, inputs, sample.attributes, implementation="reference")
    grad_outputs = output_gradients(outputs, rng, np.float64)
    _, grads = run(operation, inputs, sample.attributes, grad_outputs, "reference")
    h = 1e-6
    for index, needed in enumerate(float_inputs(inputs)):
        if not needed or grads[index] is None:
            continue
        direction = np.asarray(rng.standard_normal(inputs[index].shape))

        def moved(step, index=index, direction=direction):
            there = [np.asarray(x + step * direction) if i == index else x for i, x in enumerate(inputs)]
            outputs, _ = run(operation, there, sample.attributes, implementation="reference")
            return sum((o * g).sum() for o, g in zip(outputs, grad_outputs) if g is not None)

        difference = (moved(h) - moved(-h)) / (2 * h)
        magnitude = sum(np.abs(o * g).sum() for o, g in zip(outputs, grad_outputs) if g is not None)
        np.testing.assert_allclose(
            (grads[index] * direction).sum(),
            difference,
            rtol=1e-5,
            atol=1e-7 + 1e-8 * magnitude,
            err_msg=f"gradient of {operation.input_names(len(inputs))[index]}",
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("operation", "sample"), SAMPLES)
def test_device_agrees_with_reference(operation, sample, dtype, implementation, there, rng):
    if dtype not in operation.dtypes:
        pytest.skip(f"{operation.name} takes {', '.join(operation.dtypes)}")
    agree(operation, sample.build(rng, DTYPES[dtype]), sample.attributes, rng, dtype, implementation, there)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_float32_rounded(operation, half_sample, dtype, implementation, there, rng):
    if dtype not in operation.dtypes:
        pytest.skip(f"{operation.name} takes {', '.join(operation.dtypes)}")
    inputs = half_sample.build(rng, DTYPES[dtype])
    agree(operation, inputs, half_sample.attributes, rng, dtype, implementation, there)


@pytest.mark.parametrize(("operation", "sample"), SAMPLES)
def test_non_contiguous_arrays_are_taken(operation, sample, device, implementation, rng):
    arrange = functools.partial(non_contiguous, device=device)
    agree(operation, sample.build(rng, np.float32), sample.attributes, rng, "float32", implementation, arrange)


@pytest.mark.parametrize("operation", VARIED)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_each_device_agrees_with_reference_on_varied_calls(operation, implementation, there, data):
    def pick(low, high):
        return data.draw(st.integers(low, high))

    pick.of = lambda choices: data.draw(st.sampled_from(list(choices)))
    sample = operation.vary(pick)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    agree(operation, sample.build(rng, np.float32), sample.attributes, rng, "float32", implementation, there)


@pytest.mark.parametrize(("operation", "sample"), [p for p in FIRST_SAMPLES if p.values[0].differentiable])
def test_only_needed_gradients_are_computed(operation, sample, implementation, there, rng):
    inputs = sample.build(rng, np.float32)
    outputs, _ = run(operation, inputs, sample.attributes)
    grad_outputs, needed = output_gradients(outputs, rng, np.float32), float_inputs(inputs)
    arranged, arranged_grads = list(map(there, inputs)), tuple(map(there, grad_outputs))
    _, everything = run(operation, arranged, sample.attributes, arranged_grads, implementation, needed)
    for index in [index for index, needs in enumerate(needed) if needs]:
        needs = tuple(i == index for i in range(len(inputs)))
        _, exact = run(operation, inputs, sample.attributes, grad_outputs, "reference", needs)
        _, grads = run(operation, arranged, sample.attributes, arranged_grads, implementation, needs[: index + 1])
        for name, found, length in (("reference", exact, len(inputs)), (implementation, grads, index + 1)):
            assert len(found) == length
            assert all(g is None for i, g in enumerate(found) if i != index), f"{name}: more than was needed"
        if everything[index] is not None:
            np.testing.assert_array_equal(fetched(grads[index]), fetched(everything[index]))


@pytest.mark.parametrize(("operation", "sample"), FIRST_SAMPLES)
def test_same_call_same_bits(operation, sample, implementation, there, rng):
    inputs = list(map(there, sample.build(rng, np.float32)))
    outputs, _ = run(operation, inputs, sample.attributes, implementation=implementation)
    grad_outputs = needs = None
    if operation.differentiable:
        outputs = list(map(fetched, outputs))
        grad_outputs = tuple(map(there, output_gradients(outputs, rng, np.float32)))
        needs = float_inputs(list(map(fetched, inputs)))
    first, second = (run(operation, inputs, sample.attributes, grad_outputs, implementation, needs) for _ in range(2))
    for a, b in zip((*first[0], *first[1]), (*second[0], *second[1])):
        np.testing.assert_array_equal(fetched(a), fetched(b))


@pytest.mark.parametrize(("operation", "case"), REFUSED)
def test_bad_arguments_are_refused_with_a_reason(operation, case, there):
    made = [x.build(np.random.default_rng(0), np.float32) if hasattr(x, "build") else x for x in case.inputs.values()]
    inputs = list(map(there, made))
    with pytest.raises(case.error, match=f"^{operation.name}: .*{case.message}"):
        operation.forward(*inputs, **case.attributes)


@pytest.mark.parametrize("operation", [op for op in OPERATIONS if op.by_form], ids=repr)
def test_checks_by_form_look_at_no_values(operation, rng):
    for sample in operation.samples:
        if not sample.large:
            inputs = sample.build(rng, np.float32)
            others = [
                np.full_like(x, np.nan if x.dtype.kind == "f" else -1) if isinstance(x, np.ndarray) else x
                for x in inputs
            ]
            operation.check(*others, **sample.attributes)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"kernel_size": (2.0, 2)}, TypeError, "kernel_size"),
        ({"kernel_size": (np.float32(2), 2)}, TypeError, "kernel_size"),
        ({"stride": [2, 2]}, TypeError, "stride"),
        ({"ceil_mode": 0}, TypeError, "ceil_mode"),
        ({"padding": (0, 2)}, ValueError, "padding"),
    ],
)
def test_only_calls_like_one_that_has_passed_are_not_checked_again(changed, error, message):
    operation = next(op for op in OPERATIONS if op.name == "avg_pool")
    attributes = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "ceil_mode": False}
    x = np.zeros((1, 2, 4, 4), np.float32)
    for _ in range(2):
        operation.forward(x, **attributes)
    with pytest.raises(error, match=message):
        operation.forward(x, **attributes | changed)
    for other in (x[0, 0], x.astype(np.int64), x.tolist(), np.ma.array(x)):
        with pytest.raises((TypeError, ValueError), match="avg_pool: expected x"):
            operation.forward(other, **attributes)


@pytest.mark.parametrize("operation", OPERATIONS, ids=repr)
def test_declaration_is_whole(operation):
    assert operation.samples, "at least one sample"
    assert operation.refused, "at least one call that must be refused"
    assert (operation.check.__doc__ or "").strip(), "a check that says what is accepted"
    for sample in operation.samples:
        assert tuple(sample.inputs) == operation.input_names(len(sample.inputs)), f"{sample.name}: inputs out of order"
        assert set(sample.attributes) <= set(operation.attributes), f"{sample.name}: unknown attribute"
    small = next(sample for sample in operation.samples if not sample.large)
    inputs = small.build(np.random.default_rng(0), np.float32)
    cost = operation.cost(*inputs, **small.attributes)
    assert cost.flops >= 0
    assert cost.bytes > 0


@pytest.mark.parametrize(("operation", "sample"), FIRST_SAMPLES)
def test_mixed_devices_and_foreign_arrays_are_refused(operation, sample, rng):
    inputs = sample.build(rng, np.float32)
    with pytest.raises(TypeError, match=f"^{operation.name}: "):
        operation.forward(*[x.tolist() if isinstance(x, np.ndarray) else x for x in inputs], **sample.attributes)
