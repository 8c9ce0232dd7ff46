"""GPU kernels in machine code: one compiled form of a kernel, and the same loaded on a device, where CuPy launches it.

How a compiled Triton kernel wants to be called (Triton 3.6 to 3.9; checked against the cubin's own parameter table when
it is loaded): one parameter per argument that is not constexpr, in order, then two pointers to scratch memory; a block
has 32 * num_warps threads as the metadata says, not as was asked; shared memory is all dynamic; grid.x is multiplied by
num_ctas.
"""

from __future__ import annotations

import functools
import struct
import threading

import numpy as np

from .cubin import read_cubin
from .device import out_of_memory

_PACKED = {
    "u1": "?", "i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q",
    "fp32": "f", "fp64": "d",
}  # fmt: skip
_MAX_DYNAMIC_SHARED_SIZE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_MULTIPROCESSORS, _COOPERATIVE = 16, 95  # cudaDevAttrMultiProcessorCount, cudaDevAttrCooperativeLaunch
_SHARED_WITHOUT_ASKING = 48 * 1024


class OutOfResources(RuntimeError):
    """A kernel needs more shared memory than the device has."""


class Compiled:
    """One compiled form of a kernel, on no device yet. `ptx` is None where it came from the disk.

    Args:
        result: an object with `metadata` and `asm`, as `triton.compile` gives it.
        types: of the parameters that a launch passes, such as "i64", "*fp32".
        scratch_pointers: how many follow them.
        compiler: whose cubin it is, with its version.

    Raises:
        RuntimeError: the cubin's parameters are not laid out as a launch would pack them.
    """

    def __init__(self, result, types: list[str], scratch_pointers: int, compiler: str):
        metadata = result.metadata
        self.metadata, self.cubin, self.name = metadata, result.asm["cubin"], metadata.name
        self.ptx = result.asm.get("ptx")
        self.threads, self.shared_bytes, self.num_ctas = 32 * metadata.num_warps, metadata.shared, metadata.num_ctas
        self.scratch_bytes, self.scratch_pointers = metadata.global_scratch_size or 0, scratch_pointers
        self.format = "@" + "".join("Q" if t[0] == "*" else _PACKED[t] for t in types) + "Q" * scratch_pointers
        self.info = read_cubin(self.cubin, self.name)
        packed, offset = [], 0
        for position, code in enumerate(self.format[1:]):
            size = struct.calcsize(code)
            offset = -(-offset // size) * size
            packed.append((position, offset, size))
            offset += size
        if tuple(packed) != self.info.parameters:
            raise RuntimeError(
                f"{self.name}: expected parameters (position, offset, size) {packed}, the cubin has "
                f"{list(self.info.parameters)}; {compiler} is not supported"
            )


class Loaded:
    """A compiled kernel on one device; calling it launches on CuPy's current stream of that device, the current one."""

    def __init__(self, compiled: Compiled, device: int):
        import cupy

        driver, runtime = cupy.cuda.driver, cupy.cuda.runtime
        available = runtime.deviceGetAttribute(97, device)  # cudaDevAttrMaxSharedMemoryPerBlockOptin
        if compiled.shared_bytes > available:
            raise OutOfResources(
                f"{compiled.name}: needs {compiled.shared_bytes} bytes of shared memory, "
                f"device {device} has {available}"
            )
        self.compiled, self._device = compiled, device
        self._module = cupy.cuda.function.Module()
        self._module.load(compiled.cubin)
        self._function = self._module.get_function(compiled.name)
        if compiled.shared_bytes > _SHARED_WITHOUT_ASKING:
            driver.funcSetAttribute(self._function.ptr, _MAX_DYNAMIC_SHARED_SIZE, compiled.shared_bytes)
        self._launch = self._make_launch(cupy, device)

    def __call__(self, grid_x: int, grid_y: int, grid_z: int, *values) -> None:
        self._launch(grid_x, grid_y, grid_z, values)

    @functools.cached_property
    def programs_at_once(self) -> int:
        """How many programs the device holds at once, by its driver; 0 where it launches nothing cooperatively."""
        from cupy.cuda import driver, runtime

        blocks = driver.occupancyMaxActiveBlocksPerMultiprocessor(
            self._function.ptr, self.compiled.threads, self.compiled.shared_bytes
        )
        multiprocessors = runtime.deviceGetAttribute(_MULTIPROCESSORS, self._device)
        return blocks * multiprocessors if runtime.deviceGetAttribute(_COOPERATIVE, self._device) else 0

    def _make_launch(self, cupy, device: int):
        compiled = self.compiled
        pack, size = struct.Struct(compiled.format).pack_into, struct.calcsize(compiled.format)
        offsets = [offset for _, offset, _ in compiled.info.parameters]
        function, threads, shared = self._function.ptr, compiled.threads, compiled.shared_bytes
        clusters, scratch, no_scratch = compiled.num_ctas, compiled.scratch_bytes, (0,) * compiled.scratch_pointers
        driver_launch = _driver_launch(cupy, compiled)
        current_stream = cupy.cuda.get_current_stream
        ready = threading.local()
        # One buffer a launch under way: list.pop and append are atomic, so threads never share one.
        buffers: list[tuple[memoryview, int]] = []

        def new_buffer():
            storage = np.zeros(-(-size // 8) * 8 + 8 * len(offsets), np.uint8)
            table = storage[-(-size // 8) * 8 :].view(np.uint64)
            table[:] = [storage.ctypes.data + offset for offset in offsets]
            return memoryview(storage), table.ctypes.data

        def take_scratch(size):
            try:
                return cupy.cuda.alloc(size)
            except cupy.cuda.memory.OutOfMemoryError as error:
                raise out_of_memory(compiled.name, "its scratch", size, device) from error

        def run(grid_x, grid_y, grid_z, values):
            if not hasattr(ready, "context"):
                cupy.cuda.runtime.memGetInfo()  # makes the device's context current on this thread
                ready.context = True
            # Scratch goes back to CuPy's pool right after the launch: the pool's reuse is ordered by the stream.
            memory = take_scratch(scratch * grid_x * grid_y * grid_z * clusters) if scratch else None
            buffer, table = buffers.pop() if buffers else new_buffer()
            pack(buffer, 0, *values, *(no_scratch if memory is None else (memory.ptr, 0)))
            stream = current_stream().ptr
            driver_launch(function, grid_x * clusters, grid_y, grid_z, threads, 1, 1, shared, stream, table, 0)
            buffers.append((buffer, table))

        return run


def _driver_launch(cupy, compiled: Compiled):
    """cuLaunchKernel, or cuLaunchCooperativeKernel for kernels whose blocks wait for one another."""
    if compiled.num_ctas != 1 or compiled.metadata.launch_pdl:
        raise ValueError(f"{compiled.name}: clusters and dependent launches are not used in this library")
    if not compiled.metadata.launch_cooperative_grid:
        return cupy.cuda.driver.launchKernel
    cooperative = cupy.cuda.driver.launchCooperativeKernel
    return lambda *arguments: cooperative(*arguments[:-1])
