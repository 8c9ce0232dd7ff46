"""Numba-CUDA kernels on the stand-in GPU: what reaches the driver, what is kept on the disk, what is refused.

No kernel runs here. `test_standin.py` starts this file in a process of its own.
"""

import struct
import subprocess
import sys

import pytest
import standin

if not standin.installed():
    pytest.skip("runs on the stand-in GPU only, which test_standin.py starts", allow_module_level=True)

import cupy
import ml_dtypes
import numpy as np
from numba import cuda, float64

import ranvier as rv
from ranvier.kernels import launch, launch_numba
from ranvier.kernels.compiled import OutOfResources
from ranvier.kernels.cubin import read_code
from ranvier.kernels.launch_numba import NumbaKernel

FAR = 2**40 + 3


@cuda.jit(device=True, inline="always")
def _weighed(value, factor):
    return value * factor


@NumbaKernel
def weighed_kernel(x, y, size, factor):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        y[i] = _weighed(x[i], factor)


@NumbaKernel
def summed_kernel(x, y):
    sums = cuda.shared.array(0, float64)
    sums[cuda.threadIdx.x] = x[cuda.threadIdx.x]
    cuda.syncthreads()
    y[0] = sums[0] + sums[1]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path / "own"))
    return tmp_path / "own" / "cubins"


@pytest.fixture
def compilations(monkeypatch):
    """How often Numba compiles."""
    done, real = [], cuda.compile
    monkeypatch.setattr(cuda, "compile", lambda *args, **options: (done.append(1), real(*args, **options))[1])
    return done


def array(dtype=np.float32):
    return cupy.empty(64, dtype)


def fresh(kernel):
    """As a new process would see it: nothing is known but what is on disk."""
    return NumbaKernel(kernel.function)


def one_launch(*arguments, **options):
    with standin.recorded() as launches:
        launch.launch(*arguments, **options)
    (only,) = launches
    return only


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64, np.uint8])
@pytest.mark.parametrize(("size", "factor"), [(0, 0.1), (1, 1.0), (FAR, -2.5)])
def test_numbers_and_arrays_arrive_as_declared(dtype, size, factor):
    x, y = array(dtype), array(np.float64)
    seen = one_launch(weighed_kernel, (5, 3), x, y[1:], size, factor, num_warps=2)
    assert seen.name == "weighed_kernel"
    assert seen.values("QQqd") == [x.data.ptr, y.data.ptr + 8, size, factor]
    assert (seen.grid, seen.block, seen.shared_bytes) == ((5, 3, 1), (64, 1, 1), 0)
    assert not seen.cooperative


def test_the_block_and_its_shared_memory_are_what_was_asked_for():
    seen = one_launch(summed_kernel, (1,), array(np.float64), array(np.float64), num_warps=1, shared_bytes=256)
    assert (seen.block, seen.shared_bytes) == ((32, 1, 1), 256)
    seen = one_launch(summed_kernel, (1,), array(np.float64), array(np.float64), num_warps=16, shared_bytes=100_000)
    assert (seen.block, seen.shared_bytes, seen.dynamic_shared_size) == ((512, 1, 1), 100_000, 100_000)
    with pytest.raises(OutOfResources, match="summed_kernel: needs 1000000 bytes of shared memory"):
        launch.launch(summed_kernel, (1,), array(np.float64), array(np.float64), shared_bytes=1_000_000)


def test_the_current_stream_and_the_arrays_device_are_honoured():
    with cupy.cuda.Device(1):
        x, y, stream = array(), array(), cupy.cuda.Stream(non_blocking=True)
        with stream:
            seen = one_launch(weighed_kernel, (1,), x, y, 64, 1.0)
    assert (seen.device, seen.stream) == (1, stream.ptr)
    assert one_launch(weighed_kernel, (1,), x, y, 64, 1.0).device == 1


def test_a_known_kernel_is_not_compiled_again(own_cache, compilations):
    x = array()
    forms = [fresh(weighed_kernel).prepare(x, x, 64, 1.0, num_warps=2) for _ in range(2)]
    assert len(compilations) == len(list(own_cache.iterdir())) == 1
    assert forms[0].compiled.cubin == forms[1].compiled.cubin
    assert forms[1].compiled.threads == 64
    (file,) = own_cache.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    again = fresh(weighed_kernel).prepare(x, x, 64, 1.0, num_warps=2)
    assert read_code(again.compiled.cubin, "weighed_kernel") == read_code(forms[0].compiled.cubin, "weighed_kernel")
    assert len(compilations) == 2


def test_types_block_architecture_text_and_versions_have_files_of_their_own(monkeypatch):
    def key(architecture=90, dtype=np.float32, factor=1.0, **options):
        known = fresh(weighed_kernel)
        return known.key(tuple(known.bind((array(dtype), array(), 64, factor))[0]), architecture, **options)

    keys = [key(), key(80), key(num_warps=8), key(shared_bytes=8), key(dtype=np.float64), key(factor=1)]
    monkeypatch.setattr(launch_numba.inspect, "getsource", lambda module: "another text")
    keys.append(key())
    monkeypatch.setattr(launch_numba, "version", lambda package: "another version")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[-1]


def test_parameters_that_would_be_packed_otherwise_are_refused():
    known = fresh(weighed_kernel)
    signature, _ = known.bind((array(), array(), 64, 1.0))
    result = known._build(tuple(signature), 90, {})
    with pytest.raises(
        RuntimeError, match=r"weighed_kernel: expected parameters .*; Numba-CUDA [\d.]+ is not supported"
    ):
        known._compiled(result, (signature[0], "i64"), {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), r"weighed_kernel: expected 4 arguments \(x, y, size, factor\), got 1"),
        ((None, None, 1, 1.0), "weighed_kernel: expected x as an array, an int or a float, got NoneType"),
        ((1, 1, True, 1.0), "weighed_kernel: expected size as an array, an int or a float, got bool"),
    ],
)
def test_arguments_that_no_parameter_takes_are_refused(arguments, message):
    with pytest.raises(TypeError, match=message):
        fresh(weighed_kernel).bind(arguments)


def test_types_that_numba_has_not_are_refused():
    x = array(ml_dtypes.bfloat16)
    with pytest.raises(TypeError, match=r"weighed_kernel: expected arrays of float16, .*, got one of bf16; cast it"):
        launch.launch(weighed_kernel, (1,), x, x, 64, 1.0)


def test_without_numba_cuda_it_is_said_what_brings_it():
    program = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numba_cuda" else find_spec(name, *rest)
import ranvier.kernels.launch_numba
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ModuleNotFoundError: kernels for GPUs: expected numba-cuda, got none: `pip install ranvier" in result.stderr


def test_a_step_with_ctc_reaches_the_driver(monkeypatch):
    monkeypatch.setattr("ranvier.kernels.gpu_arrays.extent", lambda indices, ignored=None: None)
    scores = rv.tensor(np.zeros((9, 3, 5), np.float32), device="cuda", requires_grad=True)
    targets = rv.tensor(np.array([[1, 2, 3], [1, 1, 0], [4, 0, 0]]), device="cuda")
    lengths, spoken = [9, 8, 7], rv.tensor(np.array([3, 2, 1]), device="cuda")
    with standin.only_our_kernels():
        with standin.recorded() as forward:
            loss = rv.functional.ctc_loss(rv.functional.log_softmax(scores, -1), targets, lengths, spoken)
        with standin.recorded() as backward:
            loss.backward()
    assert loss.device == "cuda:0"
    (recursion,) = [seen for seen in forward if seen.name == "ctc_kernel"]
    log_probs, labels, *_, padding, blank, batch, classes, total, alphas, losses = recursion.values(
        "Q" * 4 + "q" * 5 + "QQ"
    )
    assert labels == targets.array.data.ptr
    assert (padding, blank, batch, classes, total) == (3, 0, 3, 5, 9)
    assert (recursion.grid, recursion.block) == ((3, 1, 1), (32, 1, 1))
    states, sums = [
        next(seen for seen in backward if seen.name == f"ctc_grad_{name}_kernel") for name in ("states", "log_probs")
    ]
    assert states.values("Q" * 4 + "q" * 5 + "Q" * 6)[:1] == [log_probs]
    assert states.values("Q" * 4 + "q" * 5 + "Q" * 6)[9:11] == [alphas, losses]
    assert (sums.grid, sums.block, sums.shared_bytes) == ((27, 1, 1), (32, 1, 1), 256)
    written = struct.unpack("Q", sums.parameters[13])[0]
    (softmax,) = [seen for seen in backward if "softmax" in seen.name]
    assert written in {struct.unpack("Q", raw)[0] for raw in softmax.parameters if len(raw) == 8}
