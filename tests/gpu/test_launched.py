"""What the library hands to the CUDA driver, seen by a stand-in for it: `python tests/standin pytest` with this file.

No kernel runs here. `test_standin.py` starts this file in a process of its own.
"""

import gc
import threading

import pytest
import standin

if not standin.installed():
    pytest.skip("runs on the stand-in GPU only, which test_standin.py starts", allow_module_level=True)

import cupy
import ml_dtypes
import numpy as np
import triton
import triton.language as tl

import ranvier as rv
from ranvier.kernels import launch
from ranvier.kernels.compiled import OutOfResources
from ranvier.kernels.dense import matmul
from ranvier.kernels.device import OutOfMemory
from ranvier.kernels.gpu_arrays import sum_of_two_kernel

FAR = 2**40 + 3
DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int8, np.int64, np.uint8, np.bool_)


@triton.jit
def everything_kernel(x, y, count, far, flag, scale, extra, wide: "i64", BLOCK: tl.constexpr):  # noqa: F821
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + index, mask=index < count, other=0).to(tl.float32) * scale + wide + far
    if extra is not None:
        value += tl.load(extra + index, mask=index < count, other=0).to(tl.float32)
    if flag:
        value += 1
    tl.store(y + index, value.to(y.dtype.element_ty), mask=index < count)


@triton.jit
def scratch_kernel(x, y, rows, columns, BLOCK: tl.constexpr):
    source = tl.make_tensor_descriptor(x, [rows, columns], [columns, 1], [BLOCK, BLOCK])
    target = tl.make_tensor_descriptor(y, [rows, columns], [columns, 1], [BLOCK, BLOCK])
    row, column = tl.program_id(0) * BLOCK, tl.program_id(1) * BLOCK
    target.store([row, column], source.load([row, column]))


@triton.jit
def scaled_kernel(x, y, SCALE: tl.constexpr, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    tl.store(y + index, tl.load(x + index) * SCALE)


@triton.jit(do_not_specialize=["step"])
def step_kernel(x, count, step, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + index, tl.load(x + index, mask=index < count) + step, mask=index < count)


@triton.jit
def product_kernel(a, b, c, inner, BLOCK: tl.constexpr, STEP: tl.constexpr):
    row, column, step = tl.arange(0, BLOCK), tl.arange(0, BLOCK), tl.arange(0, STEP)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, inner, STEP):
        left = tl.load(a + row[:, None] * inner + start + step[None, :])
        total = tl.dot(left, tl.load(b + (start + step)[:, None] * BLOCK + column[None, :]), total)
    tl.store(c + row[:, None] * BLOCK + column[None, :], total)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Not the user's."""
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


def array(size=4096, dtype=np.float32):
    return cupy.empty(size, dtype)


def one_launch(*arguments, **options):
    with standin.recorded() as launches:
        launch.launch(*arguments, **options)
    (only,) = launches
    return only


def add(size=1024, grid=(1,), **options):
    a, b, total = array(), array(), array()
    return one_launch(sum_of_two_kernel, grid, a, b, total, size, BLOCK=1024, **options)


@pytest.mark.parametrize("count", [0, 2, 16, 1000, 2**31 - 1, 2**31, 2**33 + 16, -5])
@pytest.mark.parametrize(("flag", "scale"), [(True, 0.1), (False, 1.0)])
def test_numbers_and_arrays_arrive_as_declared(count, flag, scale):
    x, y, extra = array(), array(), array()
    seen = one_launch(everything_kernel, (5,), x, y, count, FAR, flag, scale, extra, 1, BLOCK=128)
    assert seen.name == "everything_kernel"
    form = "QQ" + ("i" if -(2**31) <= count < 2**31 else "q") + "q?fQqQQ"
    expected = [x.data.ptr, y.data.ptr, count, FAR, flag, np.float32(scale), extra.data.ptr, 1, 0, 0]
    assert seen.values(form) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_type_arrive(dtype):
    x, y = array(dtype=dtype), array()
    seen = one_launch(everything_kernel, (1,), x, y, 7, FAR, True, 2.0, None, 3, BLOCK=128)
    assert seen.values("QQiq?fqQQ") == [x.data.ptr, y.data.ptr, 7, FAR, True, 2.0, 3, 0, 0]


def test_one_and_none_are_constants_and_drop_out():
    x, y = array(), array()
    seen = one_launch(everything_kernel, (1,), x, y, 1, 1, False, 2.0, None, 1, BLOCK=128)
    assert seen.values("QQ?fqQQ") == [x.data.ptr, y.data.ptr, False, 2.0, 1, 0, 0]  # annotated: `wide` stays


def test_an_unaligned_view_arrives_at_its_own_address_in_a_form_of_its_own():
    a, b, total = array(), array(), array()
    kernel = launch.TritonKernel(sum_of_two_kernel)
    aligned = kernel.prepare(a, b, total, 1000, BLOCK=1024)
    unaligned = kernel.prepare(a[1:], b, total, 1000, BLOCK=1024)
    assert aligned is not unaligned
    assert aligned is kernel.prepare(a[4:], b, total, 1001, BLOCK=1024)  # 16 bytes on is aligned again
    seen = one_launch(sum_of_two_kernel, (1,), a[1:], b, total, 1000, BLOCK=1024)
    assert seen.values("QQQiQQ")[:4] == [a.data.ptr + 4, b.data.ptr, total.data.ptr, 1000]


@pytest.mark.parametrize(("grid", "expected"), [((3,), (3, 1, 1)), ((3, 5), (3, 5, 1)), ((2**31 - 1, 5, 7),) * 2])
def test_the_grid_arrives(grid, expected):
    assert add(grid=grid).grid == expected


@pytest.mark.parametrize("warps", [1, 4, 8])
def test_a_block_has_32_threads_a_warp(warps):
    assert add(num_warps=warps).block == (32 * warps, 1, 1)


@pytest.mark.parametrize("grid", [(0,), (3, 0), (0, 5, 7)])
def test_an_empty_grid_is_not_launched(grid):
    with standin.recorded() as launches:
        launch.launch(sum_of_two_kernel, grid, array(), array(), array(), 0, BLOCK=1024)
    assert launches == []


def test_the_current_stream_is_honoured():
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        assert add().stream == stream.ptr != 0
    assert add().stream == 0


def test_a_new_thread_launches_on_its_own_stream():
    a, b, total = array(), array(), array()
    errors, stream = [], cupy.cuda.Stream(non_blocking=True)

    def work(size):
        try:
            for _ in range(50):
                launch.launch(sum_of_two_kernel, (size,), a, b, total, size, BLOCK=1024)
        except BaseException as error:
            errors.append(error)

    with standin.recorded() as launches, stream:  # this thread's stream is none of theirs
        threads = [threading.Thread(target=work, args=(size,)) for size in (3, 5, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert len(launches) == 150
    for seen in launches:
        assert seen.values("QQQiQQ")[3] == seen.grid[0]
        assert seen.stream == 0


@pytest.mark.parametrize("current", [0, 1])
def test_arrays_device_is_where_kernels_run_and_results_lie(current):
    with cupy.cuda.Device(1):
        x, bias = array((4, 8)), array(8)
        stream = cupy.cuda.Stream(non_blocking=True)
        stream.use()
    with cupy.cuda.Device(current):
        with standin.recorded() as launches:
            y = rv.functional.linear(rv.Tensor(x), rv.Tensor(x), bias=rv.Tensor(bias[:4])).array
        assert cupy.cuda.get_device_id() == current
    with cupy.cuda.Device(1):
        cupy.cuda.Stream.null.use()
    assert y.device.id == 1
    assert [(seen.device, seen.stream) for seen in launches] == [(1, stream.ptr)]
    assert add().device == 0


def on_both_devices(shape, dtype=np.float32):
    first = array(shape, dtype)
    with cupy.cuda.Device(1):
        return first, array(shape, dtype)


@pytest.mark.parametrize(
    "call",
    [
        lambda first, second: rv.functional.linear(first, second),
        lambda first, second: first + second,
        lambda first, second: rv.functional.mse_loss(second, first),
        lambda first, second: rv.functional.cat([first, first, second]),
    ],
    ids=["linear", "add", "mse_loss", "cat"],
)
def test_arrays_of_two_devices_are_refused_before_a_launch(call):
    first, second = map(rv.Tensor, on_both_devices((8, 8)))
    with (
        standin.recorded() as launches,
        pytest.raises(TypeError, match=r"one device, got arrays on cuda:[01] and cuda:[01]"),
    ):
        call(first, second)
    assert launches == []


def test_a_result_for_another_device_is_refused():
    first, second = on_both_devices((8, 8))
    for out in (second, np.empty((8, 8), np.float32)):
        with standin.recorded() as launches, pytest.raises(TypeError, match="matmul: expected arrays of one device"):
            matmul.forward(first, first, out=out)
        assert launches == []


def test_a_gradient_of_another_device_is_refused():
    first, second = on_both_devices((8, 8))
    y = rv.functional.relu(rv.Tensor(first, requires_grad=True))
    with pytest.raises(TypeError, match="backward: expected grad on cuda:0, got one on cuda:1"):
        y.backward(second)


def test_a_gradient_lies_on_its_leafs_device():
    _, there = on_both_devices((8, 8))
    leaf = rv.Tensor(there, requires_grad=True)
    (leaf * 2.0).sum().backward()
    assert leaf.grad.device == "cuda:1"


def test_memory_of_another_device_runs_out_by_its_name():
    with cupy.cuda.Device(1):
        x = array(1)
    with standin.memory_of(0), pytest.raises(OutOfMemory, match="on cuda:1"):
        launch.empty(x, (10_000_000,))


def product(**options):
    a, b, c = array(dtype=np.float16), array(dtype=np.float16), array()
    return one_launch(product_kernel, (1,), a, b, c, 4096, **options)


def test_shared_memory_above_48_kilobytes_is_asked_for():
    seen = product(BLOCK=128, STEP=64, num_warps=8, num_stages=3)
    assert seen.shared_bytes > 48 * 1024
    assert seen.dynamic_shared_size == seen.shared_bytes
    small = product(BLOCK=32, STEP=32, num_warps=4, num_stages=2)
    assert 0 < small.shared_bytes <= small.dynamic_shared_size == 48 * 1024


def test_more_shared_memory_than_the_device_has_is_refused():
    with pytest.raises(OutOfResources, match=r"product_kernel: needs \d+ bytes .* device 0 has 232448"):
        product(BLOCK=256, STEP=128, num_warps=8, num_stages=4)


def test_a_cooperative_launch_goes_to_the_cooperative_entry():
    assert add(launch_cooperative_grid=True).cooperative
    assert not add().cooperative


def test_clusters_and_dependent_launches_are_refused():
    for options in ({"num_ctas": 2}, {"launch_pdl": True}):
        with pytest.raises(ValueError, match="sum_of_two_kernel: clusters and dependent launches"):
            add(**options)


def test_scratch_is_allocated_for_the_whole_grid():
    x, y = array((64, 64)), array((64, 64))
    seen = one_launch(scratch_kernel, (2, 2), x, y, 64, 64, BLOCK=32)
    *_, scratch, profile = seen.values("QQiiQQ")
    assert scratch % 128 == 0 != scratch
    assert profile == 0


@pytest.fixture
def memory_of_its_own():
    """Large blocks that are gone after the test, whatever small ones were cut from them."""
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        yield
    pool.free_all_blocks()


@pytest.mark.usefixtures("memory_of_its_own")
def test_a_large_product_goes_out_with_strides_for_maps_and_scratch_to_keep_them():
    a, b, c = array((2048, 1024), np.float16), array((2176, 1024), np.float16), array((2048, 2176), np.float16)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream, standin.recorded() as launches:
        matmul.forward(a, b.T, out=c)
    (seen,) = launches
    assert seen.name == "product_mapped_kernel"
    assert (seen.grid, seen.stream) == ((132, 1, 1), stream.ptr)  # of 16 x 17 tiles; as many as multiprocessors
    # One matrix: its count is compiled in.
    *declared, scratch, profile = seen.values("QQQiiiiiiiQQ")
    assert declared == [a.data.ptr, b.data.ptr, c.data.ptr, 2048, 2176, 1024, 1024, 1024, 1024, 1024]
    assert scratch % 128 == 0 != scratch
    assert profile == 0


@pytest.mark.usefixtures("memory_of_its_own")
@pytest.mark.parametrize(("columns", "first", "mapped"), [(1032, 8, True), (1032, 4, False), (1028, 4, False)])
def test_maps_are_for_lines_at_multiples_of_16_bytes(columns, first, mapped):
    view, c = array((2048, columns), np.float16)[:, first:], array((2048, 2048), np.float16)
    with standin.recorded() as launches:
        matmul.forward(view, view.T, out=c)
    assert [seen.name for seen in launches] == ["product_mapped_kernel" if mapped else "product_forward_kernel"]


def test_equal_constants_of_different_types_have_forms_of_their_own():
    x, y = array(), array()
    kernel = launch.TritonKernel(scaled_kernel)
    forms = [kernel.prepare(x, y, SCALE=scale, BLOCK=128) for scale in (2, 2.0, 2)]
    assert forms[0] is forms[2] is not forms[1]


def test_prepared_forms_launch_with_addresses_and_numbers():
    a, b, total = array(), array(), array()
    prepared = launch.TritonKernel(sum_of_two_kernel).prepare(a, b, total, 9, BLOCK=1024)
    with standin.recorded() as launches:
        prepared(2, 1, 1, a.data.ptr, b.data.ptr, total.data.ptr, 9)
    assert launches[0].grid == (2, 1, 1)
    assert launches[0].values("QQQiQQ") == [a.data.ptr, b.data.ptr, total.data.ptr, 9, 0, 0]


@pytest.mark.parametrize("device", [0, 1])
def test_steps_are_launched_in_turn_on_their_arrays_device(device):
    with cupy.cuda.Device(device):
        x, y = cupy.empty(300, np.int32), cupy.empty(40, np.int32)
    launches = [
        launch.Launch(step_kernel, (grid,), (z, z.size), {"BLOCK": 128}) for grid, z in ((3, x), (0, x), (1, y))
    ]
    with standin.recorded() as seen:
        launch.launch_steps((16, 1, 0), *launches)
        launch.launch_steps((), *launches)
        launch.launch_steps((5,), launches[1])
    found = [(made.device, made.grid[0], *made.values("QiiQQ")[:3]) for made in seen]
    pairs = ((3, x), (1, y))
    assert found == [(device, grid, z.data.ptr, z.size, step) for step in (16, 1, 0) for grid, z in pairs]


# ---- memory


def test_a_full_device_names_operation_and_bytes():
    x, weight = rv.Tensor(array((1000, 10))), rv.Tensor(array((1000, 10)))
    gc.collect()  # what other tests in this process have left
    cupy.get_default_memory_pool().free_all_blocks()
    left, total = cupy.cuda.runtime.memGetInfo()
    size = total - left + 1_000_000
    message = (
        r"dense_forward: expected 4,000,000 bytes of GPU memory for float32 \(1000, 1000\), "
        rf"got 1,000,000 free of {size:,} on cuda:0"
    )
    with standin.memory_of(size), pytest.raises(OutOfMemory, match=message) as caught:
        rv.functional.linear(x, weight)
    assert isinstance(caught.value, MemoryError)


def test_a_full_device_names_the_kernel_that_wants_scratch():
    x, y = array((64, 64)), array((64, 64))
    cupy.get_default_memory_pool().free_all_blocks()
    with standin.memory_of(0), pytest.raises(OutOfMemory, match=r"scratch_kernel: expected [\d,]+ bytes"):
        launch.launch(scratch_kernel, (400, 400), x, y, 64, 64, BLOCK=32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: rv.tensor(np.ones(1_000_000, np.float32), device="cuda"), r"to_device: expected 4,000,000 bytes"),
        (lambda x: rv.optim.SGD([rv.Parameter(x)], lr=0.1), r"pack: expected 4,000,000 bytes"),
        (lambda x: rv.Tensor(x, requires_grad=True).backward(x), r"backward: expected 4,000,000 bytes"),
    ],
    ids=["to the device", "flat buffer", "gradient"],
)
def test_a_full_device_is_named_wherever_memory_is_asked_for(call, message):
    x = array(1_000_000)
    cupy.get_default_memory_pool().free_all_blocks()
    with standin.memory_of(0), pytest.raises(OutOfMemory, match=message + r" of GPU memory .* on cuda:0"):
        call(x)


def test_outside_a_pass_the_asking_function_is_named():
    with standin.memory_of(0), pytest.raises(OutOfMemory, match=r"test_outside_a_pass.*: expected 40,000,000"):
        launch.empty(array(1), (10_000_000,))
