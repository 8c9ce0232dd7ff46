"""The committed table of compiled kernels (`profiling/results/static.json`): all have room, spills are known, and the
kernels as they are now spill no more and have lost no tensor-core instruction and no asynchronous copy."""

import importlib
import os
import pkgutil

import pytest

triton = pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES

import ranvier.kernels
from ranvier.kernels.launch_numba import NumbaKernel
from ranvier.profiling.occupancy import ARCHITECTURES as LIMITS
from ranvier.profiling.static import TABLE
from ranvier.profiling.static_analysis import Analysis, analyse
from ranvier.profiling.static_table import form_of_line, numba_version, read

HEADER, LINES = read(TABLE)
AGAIN = f"write it again: `{HEADER['command']}`"
# Bytes a thread at most, on any architecture.
KNOWN_SPILLS = {
    # Heads of 128 and 256, and taps in three dimensions, want more than the 255 registers that a thread can have.
    ("attention_forward_kernel", "float32"): 48,
    ("attention_grad_query_kernel", "float32"): 160,
    ("attention_grad_key_value_kernel", "float32"): 280,
    # A value or two, most of them kept across the call of a slow path: a division or a power in float64.
    ("activation_forward_kernel", "float64"): 8,
    ("activation_grad_input_kernel", "float64"): 8,
    ("attention_forward_kernel", "float16"): 8,
    ("attention_forward_kernel", "bfloat16"): 8,
    ("attention_grad_key_value_kernel", "float16"): 8,
    ("attention_grad_key_value_kernel", "bfloat16"): 8,
    ("attention_grad_key_value_kernel", "float64"): 8,
    ("cosine_embedding_kernel", "float64"): 8,
    ("cumprod_grad_x_kernel", "float64"): 8,
    ("elementwise_loss_grad_kernel", "float64"): 8,
    ("max_pool_kernel", "float64"): 16,
    ("norm_moments_kernel", "float64"): 8,
    ("rmsprop_step_kernel", "float64"): 16,
    ("rows_norm_grad_x_kernel", "float64"): 16,
    ("tile_kernel", "float16"): 8,
}
PRODUCTS = {
    "product_forward_kernel", "product_mapped_kernel", "product_persistent_kernel",
    "conv_correlate_kernel", "conv_grad_weight_kernel",
    "attention_forward_kernel", "attention_grad_query_kernel", "attention_grad_key_value_kernel",
    "attention_grad_mask_kernel", "rnn_resident_kernel", "lstm_resident_kernel", "gru_resident_kernel",
    "rnn_resident_grad_kernel", "lstm_resident_grad_kernel", "gru_resident_grad_kernel", "rnn_step_kernel",
    "lstm_step_kernel", "gru_step_kernel", "lstm_project_kernel", "rnn_grad_sums_kernel", "lstm_grad_gates_kernel",
    "gru_grad_gates_kernel", "lstm_grad_projected_kernel",
}  # fmt: skip


NOT_EVERYWHERE = {"product_mapped_kernel": (90, 100)}  # of the others, each is there for all architectures


def name_of(line: dict) -> str:
    return line["kernel"].rpartition(".")[2]


def test_every_kernel_has_room_on_every_architecture():
    met = {}
    for line, analyses in LINES:
        met.setdefault(name_of(line), set()).update(analyses)
        for architecture, found in analyses.items():
            assert found.registers <= 255
            assert found.shared_bytes <= LIMITS[architecture].block_shared_bytes
            assert found.occupancy(architecture).blocks >= 1, (line, architecture)
    for name, architectures in met.items():
        assert architectures == set(NOT_EVERYWHERE.get(name, ARCHITECTURES)), name


def test_spills_are_those_that_are_known():
    spills = {}
    for line, analyses in LINES:
        worst = max(found.spill_bytes for found in analyses.values())
        if worst:
            key = (name_of(line), line["dtype"])
            spills[key] = max(worst, spills.get(key, 0))
    assert spills == KNOWN_SPILLS


def test_products_use_tensor_cores():
    met = set()
    for line, analyses in LINES:
        if name_of(line) in PRODUCTS:
            met.add(name_of(line))
            assert all(found.tensor_instructions for found in analyses.values()), line
    assert met == PRODUCTS


def kernels_of_the_library() -> set[str]:
    """The names of all Triton and Numba-CUDA kernels."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(ranvier.kernels.__path__, "ranvier.kernels.")
        if "gpu" in module.name.rpartition(".")[2]
    ]
    return {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, (triton.JITFunction, NumbaKernel)) and name.endswith("_kernel")
    }


def test_every_kernel_is_in_the_table():
    missing = kernels_of_the_library() - {name_of(line) for line, _ in LINES}
    assert not missing, AGAIN


def worse(before: Analysis, now: Analysis) -> list[str]:
    """What a kernel has lost."""
    found = []
    if now.spill_bytes > before.spill_bytes:
        found.append(f"spills {now.spill_bytes} bytes a thread, {before.spill_bytes} before")
    if now.tensor_instructions < before.tensor_instructions:
        found.append(f"{now.tensor_instructions} tensor-core instructions, {before.tensor_instructions} before")
    if before.async_copies and not now.async_copies:
        found.append(f"no asynchronous copies, {before.async_copies} before")
    if now.load_width < before.load_width:
        found.append(f"loads of {now.load_width} bytes at most, {before.load_width} before")
    return found


def test_what_is_worse_is_found():
    good = Analysis(32, 0, 0, 0, 128, instructions={"tensor": {"HMMA": 8}, "async_copy": {"16": 4}})
    assert worse(good, good) == []
    assert worse(good, Analysis(32, 8, 8, 0, 128, instructions=good.instructions)) == [
        "spills 8 bytes a thread, 0 before"
    ]
    assert worse(good, Analysis(32, 0, 0, 0, 128, instructions={"global_load": {"4": 16}})) == [
        "0 tensor-core instructions, 8 before",
        "no asynchronous copies, 4 before",
        "loads of 4 bytes at most, 16 before",
    ]


def chosen(architecture: int) -> list[tuple[dict, Analysis]]:
    """Lines to compile again: each product in float32 and float16; of the other kernels a third, in either."""
    firsts = {}
    for line, analyses in LINES:
        if line["dtype"] != "float64" and architecture in analyses:
            firsts.setdefault(name_of(line), {}).setdefault(line["dtype"], (line, analyses[architecture]))
    picked = []
    for index, (name, by_dtype) in enumerate(firsts.items()):
        if name in PRODUCTS:
            picked += [by_dtype[dtype] for dtype in ("float32", "float16") if dtype in by_dtype]
        elif ARCHITECTURES[index % 3] == architecture:
            picked.append(list(by_dtype.values())[index % len(by_dtype)])
    return picked


@pytest.mark.skipif(
    triton.__version__ != HEADER["triton"],
    reason=f"the table is of Triton {HEADER['triton']}, here is {triton.__version__}; other versions spill differently",
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_are_no_worse_than_in_the_table(architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path))  # compiled now, not taken from what was kept
    lines = chosen(architecture)
    if numba_version() != HEADER["numba-cuda"]:
        lines = [line for line in lines if not isinstance(form_of_line(line[0]).kernel, NumbaKernel)]
    try:
        found = analyse([form_of_line(line) for line, _ in lines], architecture)
    except (AttributeError, TypeError) as error:
        pytest.fail(f"the table has a form that its kernel no longer has ({error}); {AGAIN}")
    for (line, before), now in zip(lines, found):
        assert worse(before, now) == [], f"{name_of(line)}, {line['dtype']}, sample {line['sample']}"
