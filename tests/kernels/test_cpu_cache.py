"""Compiled CPU kernels on disk: the next process finds them, and only while all their sources are what they were."""

import os
import subprocess
import sys

import pytest

KERNEL = """
from ranvier.kernels.cpu_jit import serial_kernel
from .helper import FACTOR, twice

@serial_kernel
def scaled(x):
    return twice(x) * FACTOR
"""

HELPER = """
from ranvier.kernels.cpu_jit import serial_kernel

FACTOR = {factor}

@serial_kernel
def twice(x):
    return x + x
"""

RUN = """
from room.cpu import scaled
print(scaled(3.0), scaled(3), sum(scaled.stats.cache_hits.values()))
"""


@pytest.fixture
def room(tmp_path):
    """A package with a kernel and a helper, and a function that runs the kernel in a process of its own: the results
    for a float and an integer, and how many compiled forms were found on disk."""
    (tmp_path / "room").mkdir()
    (tmp_path / "room/__init__.py").touch()
    (tmp_path / "room/cpu.py").write_text(KERNEL)
    (tmp_path / "room/helper.py").write_text(HELPER.format(factor=1))

    def run():
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, "-c", RUN]
        shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        return [float(word) for word in shown.split()]

    return tmp_path, run


def test_a_kernel_is_found_until_a_file_it_imports_changes(room):
    folder, run = room
    assert run() == [6, 6, 0]
    assert run() == [6, 6, 2]
    (folder / "room/helper.py").write_text(HELPER.format(factor=100))
    assert run() == [600, 600, 0]
    kept = {path: path.read_bytes() for path in folder.glob("cache/**/*.nbc")}
    # None of `twice`, which is compiled as a part of its caller: for Python there is no machine code of it.
    assert [path.name.partition("-")[0] for path in kept] == ["cpu.scaled"] * 2

    # An entry that names other sources or arguments than it should, or is cut short, is compiled again.
    first, second = kept
    first.write_bytes(kept[second])
    second.write_bytes(kept[second][:40])
    assert run() == [600, 600, 0]
    assert run() == [600, 600, 2]


MADE = """
import sys
from ranvier.kernels.cpu_jit import serial_kernel

def times(factor):
    @serial_kernel
    def scaled(x):
        return x * factor

    return scaled

made = {"two": times(2.0), "three": times(3.0)}
for name in sys.argv[1:]:
    kernel = made[name]
    print(kernel(1.0), next(iter(kernel.overloads.values())).fndesc.llvm_func_name)
"""


def test_kernels_that_one_function_makes_are_told_apart_in_any_process(tmp_path):
    (tmp_path / "made.py").write_text(MADE)

    def run(*names):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, str(tmp_path / "made.py"), *names]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()

    # Each is the first kernel that its process compiles, which is what Numba numbers them by.
    alone = [*run("two"), *run("three")]
    assert [line.split()[0] for line in alone] == ["2.0", "3.0"]
    assert len({line.split()[1] for line in alone}) == 2
    assert run("two", "three") == alone
