"""Compiled kernels on disk: known ones are not compiled again, damaged and foreign files are not run.

Runs on the stand-in GPU: `python tests/standin pytest` with this file; `test_standin.py` starts it.
"""

import itertools
import os
import stat
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import standin

if not standin.installed():
    pytest.skip("runs on the stand-in GPU only, which test_standin.py starts", allow_module_level=True)

import cupy
import numpy as np
import triton
import triton.language as tl

from ranvier.kernels import cubin_cache, launch
from ranvier.kernels.gpu_arrays import fill_kernel, sum_of_two_kernel

STANDIN = Path(standin.__file__).parent


@pytest.fixture
def compilations(monkeypatch):
    """How often Triton compiles."""
    done, real = [], triton.compile
    monkeypatch.setattr(triton, "compile", lambda *args, **options: (done.append(1), real(*args, **options))[1])
    return done


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path / "own"))
    return tmp_path / "own" / "cubins"


def prepare(**options):
    """As a new process would: nothing is known but what is on disk."""
    arrays = [cupy.empty(4096, np.float32) for _ in range(3)]
    return launch.TritonKernel(sum_of_two_kernel).prepare(*arrays, 1000, **{"BLOCK": 256} | options)


def test_a_known_kernel_is_not_compiled_again(own_cache, compilations):
    first, second = prepare(), prepare()
    assert len(compilations) == 1
    assert first.compiled.cubin == second.compiled.cubin
    assert vars(first.compiled).keys() == vars(second.compiled).keys()
    assert first.compiled.threads == second.compiled.threads == 128


def test_constants_options_types_and_alignment_have_files_of_their_own(own_cache, compilations):
    kernel = launch.TritonKernel(sum_of_two_kernel)
    for dtype, shift, block, warps in itertools.product((np.float32, np.float64), (0, 1), (256, 512), (2, 4)):
        x = cupy.empty(4096, dtype)[shift:]
        kernel.prepare(x, x, x, 1000, BLOCK=block, num_warps=warps)
    assert len(compilations) == len(list(own_cache.iterdir())) == 16


def test_a_constants_type_counts():
    function, rest = sum_of_two_kernel, ({}, {}, 90)
    keys = {cubin_cache.key_of(function, {}, {(4,): value}, *rest) for value in (1, 1.0, True, "1", tl.float32, None)}
    assert len(keys) == 6


def test_source_and_architecture_count():
    keys = {
        cubin_cache.key_of(function, {}, {}, {}, {}, architecture)
        for function in (sum_of_two_kernel, fill_kernel)
        for architecture in (80, 90)
    }
    assert len(keys) == 4


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "metadata"])
def test_a_damaged_file_is_compiled_again_and_replaced(damage, own_cache, compilations):
    good = prepare().compiled.cubin
    (file,) = own_cache.iterdir()
    content = file.read_bytes()
    damaged = {
        "cut": content[:-100],
        "flipped": content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
        "emptied": b"",
        "metadata": content.replace(b'"num_warps": 4', b'"num_warps": 8'),
    }[damage]
    assert damaged != content
    file.write_bytes(damaged)
    assert prepare().compiled.cubin == good
    assert len(compilations) == 2
    assert file.read_bytes() == content


def test_an_entry_that_cannot_be_read_costs_only_time(own_cache, compilations):
    good = prepare().compiled.cubin
    (file,) = own_cache.iterdir()
    file.unlink()
    file.mkdir()
    with pytest.warns(UserWarning, match="compiled kernels are not kept"):
        assert prepare().compiled.cubin == good
    assert len(compilations) == 2
    assert list(own_cache.iterdir()) == [file]


def test_only_the_owner_may_read_the_cache(own_cache):
    prepare()
    assert stat.S_IMODE(own_cache.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in own_cache.iterdir()] == [0o600]


def test_a_cache_that_others_may_write_to_is_not_used(own_cache, compilations):
    prepare()
    own_cache.chmod(0o777)
    with pytest.warns(UserWarning, match="others than you may write to"):
        prepare()
    assert len(compilations) == 2


def test_a_cache_that_cannot_be_made_costs_only_time(tmp_path, monkeypatch, compilations):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="compiled kernels are not kept"):
        assert prepare().compiled.cubin
    assert len(compilations) == 1


def test_where_the_cache_lies(monkeypatch):
    assert cubin_cache.cache_directory() == Path(os.environ["RANVIER_CACHE_DIR"])
    monkeypatch.delenv("RANVIER_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cubin_cache.cache_directory() == Path("/caches/ranvier")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cubin_cache.cache_directory() == Path.home() / ".cache" / "ranvier"


def test_two_writers_at_once_leave_one_whole_file(own_cache):
    failures = []

    def work():
        try:
            prepare()
        except BaseException as error:
            failures.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert len(list(own_cache.iterdir())) == 1


SECOND_PROCESS = """
import sys
import cupy, numpy as np, triton
def refuse(*arguments, **options):
    raise AssertionError("compiled again")
if sys.argv[1] == "second":
    triton.compile = refuse
import standin
from ranvier.kernels import launch
from ranvier.kernels.gpu_arrays import sum_of_two_kernel
x = cupy.asarray(np.zeros(1000, np.float32))
with standin.recorded() as launches:
    launch.launch(sum_of_two_kernel, (1,), x, x, x, 1000, BLOCK=1024)
print(launches[0].name, launches[0].block[0])
"""


def test_a_second_process_does_not_compile(own_cache, tmp_path):
    (tmp_path / "one_launch.py").write_text(SECOND_PROCESS)
    for turns in (["first", "first"], ["second"]):  # two at once find an empty cache
        command, environment = [sys.executable, str(STANDIN), "one_launch"], os.environ | {"PYTHONPATH": str(tmp_path)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        for process in [subprocess.Popen([*command, turn], env=environment, **pipes) for turn in turns]:
            output, errors = process.communicate()
            assert output.split() == ["sum_of_two_kernel", "128"], errors
    assert len(list(own_cache.iterdir())) == 1
