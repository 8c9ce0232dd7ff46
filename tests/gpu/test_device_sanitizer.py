"""The kernels under compute-sanitizer on a real GPU: no access out of bounds, no race; and it sees those that are there
on purpose. Part of `make gpu`; what needs no GPU is in `test_sanitizer.py`."""

import subprocess
from pathlib import Path

import pytest
import sanitizer

cupy = pytest.importorskip("cupy", reason="no CuPy: `pip install ranvier[cuda13]`")
if not cupy.cuda.is_available():
    pytest.skip("no GPU on this machine", allow_module_level=True)

PROGRAM = Path(sanitizer.__file__).with_name("sanitized.py")
pytestmark = pytest.mark.timeout(600)


def checked(tool, what, device):
    assert device == "cuda", "run with --device cuda"
    found = sanitizer.find()
    if found is None:
        pytest.skip(sanitizer.MISSING)
    command = sanitizer.command(found, tool, [str(PROGRAM), what])
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=550)
    if "Device not supported" in result.stdout:
        pytest.skip(f"{tool}: {found} does not support this device, as in some virtual machines")
    print(result.stdout[-4000:])
    return sanitizer.read(tool, result.stdout)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_training_steps_have_no_fault(tool, device):
    assert checked(tool, "training", device) == sanitizer.Report(0, ())


@pytest.mark.parametrize(
    ("tool", "what", "kernel"),
    [
        ("memcheck", "out_of_bounds", "read_past_the_end_kernel"),
        ("racecheck", "race", "read_without_a_barrier_kernel"),
    ],
)
def test_a_fault_is_seen(tool, what, kernel, device):
    found = checked(tool, what, device)
    assert found.errors > 0
    assert found.kernels == (kernel,)
