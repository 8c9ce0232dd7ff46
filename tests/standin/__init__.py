"""A stand-in for two NVIDIA GPUs under CuPy: no kernel runs, and what each launch was given can be looked at.

    python tests/standin pytest tests/gpu/test_launched.py
    python tests/standin ranvier.profiling.launch_overhead

CuPy's own compiled code runs, with a driver that records (driver.c) and a runtime on host memory (runtime.c) below it.
It must be installed before CuPy is first imported and stays for the life of the process, so tests on it run in one of
their own. Written for CuPy 14.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_HERE = Path(__file__).parent
_KEPT = 1 << 12  # launches that driver.c keeps, and copies that runtime.c does
_driver = None
_alive = []  # callbacks and libraries, which ctypes does not hold
_images: dict[int, bytes] = {}
_names: dict[int, str] = {}


class _Kernel(ctypes.Structure):
    _fields_ = [
        ("module", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("size", ctypes.c_int32 * 64),
        ("dynamic_shared_size", ctypes.c_int32),
        ("registers", ctypes.c_int32),
    ]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("kernel", ctypes.POINTER(_Kernel)),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("cooperative", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("in_graph", ctypes.c_uint32),
        ("stream", ctypes.c_uint64),
        ("parameters", (ctypes.c_uint8 * 8) * 64),
    ]


@dataclass(frozen=True)
class Launch:
    """What one launch handed to the driver; `parameters` are the bytes of each."""

    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    dynamic_shared_size: int
    cooperative: bool
    device: int
    in_graph: bool
    stream: int
    parameters: list[bytes] = field(repr=False)

    def values(self, form: str) -> list:
        """The parameters as numbers, by one letter of `struct` each."""
        return [struct.unpack("=" + code, value)[0] for code, value in zip(form, self.parameters, strict=True)]


def missing() -> str | None:
    """What this machine lacks to build the stand-in, None if nothing."""
    if importlib.util.find_spec("cupy") is None or importlib.util.find_spec("triton") is None:
        return "the stand-in GPU needs CuPy and Triton: `pip install ranvier[gpu-proof]`"
    if shutil.which("gcc") is None:
        return "the stand-in GPU is built with gcc, which is not here"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "the stand-in GPU is built with Python's headers, which are not here"
    return None


def install() -> None:
    """Builds the stand-in and puts it under CuPy, which must not have been imported yet."""
    global _driver
    if "cupy" in sys.modules:
        raise RuntimeError("the stand-in GPU must be installed before CuPy is imported")
    with tempfile.TemporaryDirectory() as folder:
        driver = _build("driver.c", Path(folder, "libcuda.so.1"), "-Wl,-soname,libcuda.so.1")
        include, version = "-I" + sysconfig.get_path("include"), f"-DCUDA_MAJOR={_cuda_major()}"
        runtime = _build("runtime.c", Path(folder, "runtime.so"), include, version)
        # Global, and by its soname what CuPy then finds when it looks for the driver.
        _driver = ctypes.CDLL(driver, mode=ctypes.RTLD_GLOBAL)
        _replace_runtime(ctypes.PyDLL(runtime))
        import cupy  # loads the driver while its file is there
    del cupy
    _driver.standin_launched.restype = ctypes.c_uint64
    _driver.standin_launch.restype = ctypes.POINTER(_Launch)
    _driver.standin_launch.argtypes = [ctypes.c_uint64]
    loaded = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)(_loaded)
    found = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_Kernel))(_found)
    _alive.extend((loaded, found))
    _driver.standin_callbacks(loaded, found)


def installed() -> bool:
    """Whether CuPy runs on the stand-in in this process."""
    return _driver is not None


@contextlib.contextmanager
def recorded() -> Iterator[list[Launch]]:
    """A list that holds, after the block, what it launched."""
    before, launches = _driver.standin_launched(), []
    yield launches
    after = _driver.standin_launched()
    assert after - before <= _KEPT, "more launches than the driver keeps"
    launches.extend(_read(number) for number in range(before, after))


@contextlib.contextmanager
def fetched() -> Iterator[list[int]]:
    """A list that holds, after the block, the bytes of each copy to the host in it. Zeros arrive there, whatever lies
    on the device: no kernel has computed it."""
    library = _alive[0]
    library.standin_fetches.restype = library.standin_fetched.restype = ctypes.c_longlong
    library.standin_fetched.argtypes = [ctypes.c_longlong]
    before, sizes = library.standin_fetches(), []
    library.standin_fetch_zeros(1)
    try:
        yield sizes
    finally:
        library.standin_fetch_zeros(0)
    after = library.standin_fetches()
    assert after - before <= _KEPT, "more copies than the runtime keeps"
    sizes.extend(map(library.standin_fetched, range(before, after)))


@contextlib.contextmanager
def memory_of(size: int) -> Iterator[None]:
    """A device with `size` bytes of memory in all, within the block."""
    library = _alive[0]
    library.standin_limit(ctypes.c_longlong(size))
    try:
        yield
    finally:
        library.standin_limit(ctypes.c_longlong(8 << 30))


@contextlib.contextmanager
def paced(kernel: float, gigabyte: float) -> Iterator[None]:
    """A device on which a kernel takes `kernel` seconds and a gigabyte copied on it `gigabyte`, within the block."""
    _driver.standin_pace(ctypes.c_double(kernel * 1e3), ctypes.c_double(gigabyte * 1e3))
    try:
        yield
    finally:
        _driver.standin_pace(ctypes.c_double(0), ctypes.c_double(0))


@contextlib.contextmanager
def only_our_kernels() -> Iterator[None]:
    """Within the block an AssertionError is raised where CuPy compiles a kernel of its own: with NVRTC, at run time."""
    from cupy.cuda import compiler

    def refuse(*arguments, **options):
        raise AssertionError("CuPy compiled a kernel")

    before = {name: value for name, value in vars(compiler).items() if name.startswith(("_compile", "compile"))}
    vars(compiler).update(dict.fromkeys(before, refuse))
    try:
        yield
    finally:
        vars(compiler).update(before)


@functools.cache
def _cuda_major() -> int:
    """12 or 13: the CUDA that the installed CuPy was built for."""
    names = importlib.metadata.packages_distributions()["cupy"]
    return int(re.search(r"cuda(\d+)x", " ".join(names))[1])


def _build(source: str, target: Path, *options: str) -> str:
    command = ["gcc", "-O1", "-shared", "-fPIC", *options, "-o", str(target), str(_HERE / source)]
    subprocess.run(command, check=True)
    return str(target)


def _replace_runtime(library) -> None:
    import cupy_backends.cuda.api.runtime as runtime

    _alive.insert(0, library)
    set_pointer = ctypes.pythonapi.PyCapsule_SetPointer
    set_pointer.argtypes, set_pointer.restype = [ctypes.py_object, ctypes.c_void_p], ctypes.c_int
    for name in re.findall(r"^\w[\w *]*\bruntime_(\w+)\(", (_HERE / "runtime.c").read_text(), re.MULTILINE):
        set_pointer(runtime.__pyx_capi__[name], ctypes.cast(getattr(library, f"runtime_{name}"), ctypes.c_void_p))
    # What is called from Python does not go through those pointers.
    library.runtime_memGetInfo.restype = ctypes.py_object
    library.runtime_streamCreateWithFlags.restype = ctypes.c_ssize_t
    library.runtime_setDevice.restype = ctypes.py_object
    runtime.getDevice, runtime.getDeviceCount = lambda: library.runtime_getDevice(0), lambda: 2
    runtime.setDevice = lambda device: library.runtime_setDevice(device, 0)
    runtime.deviceGetAttribute = lambda attribute, device: library.runtime_deviceGetAttribute(attribute, device, 0)
    runtime.memGetInfo = lambda: library.runtime_memGetInfo(0)
    runtime.runtimeGetVersion = runtime.driverGetVersion = lambda: 1000 * _cuda_major()
    library.runtime_deviceSynchronize.restype = library.runtime_streamSynchronize.restype = ctypes.py_object
    library.runtime_streamSynchronize.argtypes = [ctypes.c_ssize_t, ctypes.c_int]
    library.runtime_streamIsCapturing.argtypes = [ctypes.c_ssize_t, ctypes.c_int]
    runtime.deviceSynchronize = lambda: library.runtime_deviceSynchronize(0)
    runtime.streamSynchronize = lambda stream: library.runtime_streamSynchronize(stream, 0)
    runtime.streamCreateWithFlags = lambda flags: library.runtime_streamCreateWithFlags(flags, 0)
    runtime.streamDestroy = lambda stream: None
    runtime.streamIsCapturing = lambda stream: bool(library.runtime_streamIsCapturing(stream, 0))
    runtime.getDeviceProperties = lambda device: {
        "name": b"stand-in", "major": 9, "minor": 0, "multiProcessorCount": 132, "totalGlobalMem": 8 << 30,
        "l2CacheSize": 50 << 20,
    }  # fmt: skip


def _loaded(module: int, image: int) -> None:
    """Keeps a cubin. Its section table is the last thing in an ELF file that ptxas writes, or its program headers."""
    header = ctypes.string_at(image, 64)
    program, sections = struct.unpack_from("<QQ", header, 0x20)
    program_size, programs, section_size, count = struct.unpack_from("<HHHH", header, 0x36)
    _images[module] = ctypes.string_at(image, max(program + program_size * programs, sections + section_size * count))


def _found(module: int, name: bytes, kernel) -> None:
    """Tells the driver a kernel's registers and the sizes of its parameters, as its cubin has them."""
    from ranvier.kernels.cubin import read_cubin

    info = read_cubin(_images[module], name.decode())
    kernel.contents.count, kernel.contents.registers = len(info.parameters), info.registers
    for position, _, size in info.parameters:
        kernel.contents.size[position] = size
    _names[ctypes.addressof(kernel.contents)] = name.decode()


def _read(number: int) -> Launch:
    launch = _driver.standin_launch(number).contents
    kernel = launch.kernel.contents
    return Launch(
        name=_names[ctypes.addressof(kernel)],
        grid=tuple(launch.grid),
        block=tuple(launch.block),
        shared_bytes=launch.shared_bytes,
        dynamic_shared_size=kernel.dynamic_shared_size,
        cooperative=bool(launch.cooperative),
        device=launch.device,
        in_graph=bool(launch.in_graph),
        stream=launch.stream,
        parameters=[bytes(launch.parameters[i][: kernel.size[i]]) for i in range(kernel.count)],
    )
