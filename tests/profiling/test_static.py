"""Kernels looked at without a GPU: the forms that are launched, their machine code, occupancy, and the table of it."""

import os
import re
import subprocess
import time
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

import triton
import triton.language as tl

from ranvier.kernels import activation, launch, recurrent, softmax
from ranvier.kernels.cubin import read_code
from ranvier.profiling import commands, launches, static_analysis, static_table
from ranvier.profiling.launches import Form, form_of, forms_of, launches_of, read_form, to_text
from ranvier.profiling.machine_code import arrays_on_the_stack, disassemble, instruction_mix, ptx_mix
from ranvier.profiling.occupancy import occupancy


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty one, not the user's."""
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path / "cache"))


def profile(capsys, *words) -> tuple[int, str]:
    status = commands.profile(Namespace(words=["--static", *words]))
    return status, capsys.readouterr().out


# Worked by hand from the limits; NVIDIA's occupancy calculator gives the same.
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((80, 256, 32, 0), (8, 1.0, "threads")),
        ((80, 128, 168, 0), (3, 0.1875, "registers")),  # 21 * 256 registers a warp: 12 warps
        ((80, 128, 33, 0), (12, 0.75, "registers")),  # 33 are handed out as 40
        ((80, 1024, 64, 0), (1, 0.5, "registers")),
        ((80, 128, 32, 48 * 1024), (3, 0.1875, "shared memory")),  # 1 KB is the system's
        ((90, 128, 32, 48 * 1024), (4, 0.25, "shared memory")),
        ((90, 32, 16, 0), (32, 0.5, "blocks")),
        ((86, 256, 32, 0), (6, 1.0, "threads")),
        ((100, 128, 32, 0, 256), (2, 0.125, "tensor memory")),
        ((80, 128, 32, 164 * 1024), (0, 0.0, "shared memory")),  # more than a block can have
    ],
)
def test_occupancy_is_the_calculators(asked, expected):
    assert occupancy(*asked) == expected


def test_instructions_are_counted_by_kind_and_width():
    opcodes = ["LDG.E.128", "LDG.E.U16.CONSTANT", "LDG.E", "STG.E.64", "LDGSTS.E.BYPASS.LTC128B.128", "UTMALDG.2D"]
    opcodes += ["HMMA.16816.F32", "HGMMA.64x64x16.F32", "BAR.SYNC.DEFER_BLOCKING", "LDL.64", "MUFU.EX2", "NOP", "IADD3"]
    assert instruction_mix(opcodes) == {
        "total": 12,
        "global_load": {"16": 1, "2": 1, "4": 1},
        "global_store": {"8": 1},
        "async_copy": {"16": 1, "0": 1},
        "tensor": {"HMMA": 1, "HGMMA": 1},
        "barrier": 1,
        "local": 1,
        "special": 1,
        "other": 1,
    }


def test_ptx_is_counted_and_arrays_on_the_stack_are_no_spills():
    ptx = ".local .align 4 .b8 \t__local_depot0[28];\n cp.async.cg.shared.global [a], [b];\nmma.sync.aligned\nmma.sync"
    assert ptx_mix(ptx) == {"mma.sync": 2, "cp.async.cg": 1}
    assert arrays_on_the_stack(ptx) == 28
    assert arrays_on_the_stack("") == 0


@triton.jit
def too_many_registers_kernel(x, y, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    values = tl.load(x + at)
    total = tl.cumsum(values)
    tl.store(y + at, total * values)


def test_spills_are_seen_with_their_instructions(cache):
    form = Form(too_many_registers_kernel, ("*float32:16", "*float32:16"), {"SIZE": 32768, "num_warps": 4})
    (found,) = static_analysis.analyse([form], 90)
    assert found.spill_bytes > 0
    assert found.instructions["local"] > 0
    assert found.threads == 128


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_many_kernels_are_disassembled_as_each_is_alone(architecture, tmp_path):
    compiled = []
    for form in forms_of(softmax.softmax, "float16")[:3]:
        known, signature = form.compile_arguments()
        compiled.append(known.compile(signature, architecture, **form.constants))
    together = disassemble([read_code(one.cubin, one.name) for one in compiled], architecture)
    for one, opcodes in zip(compiled, together):
        (tmp_path / "kernel.cubin").write_bytes(one.cubin)
        command = [triton.knobs.nvidia.nvdisasm.path, "-c", tmp_path / "kernel.cubin"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        alone = [line.split("*/", 1)[1].split() for line in lines if re.match(r" +/\*[0-9a-f]{4}\*/", line)]
        alone = [words[1] if words[0].startswith("@") else words[0] for words in alone]
        assert opcodes == [opcode.rstrip(";") for opcode in alone]
        assert len(opcodes) == one.info.code_bytes // 16


def test_code_that_is_none_is_refused():
    with pytest.raises(RuntimeError, match="nvdisasm: expected machine code of SM12, got"):
        disassemble([bytes(128)], 12)


def test_launches_are_written_down_and_not_done():
    x = np.full((4, 33), 2.0, np.float32)
    made = launches_of(lambda: softmax.softmax.forward(x, implementation="gpu", axis=1))
    assert [one.kernel.__name__ for one in made] == ["softmax_forward_kernel"]
    assert launch.interpreter is None
    with pytest.raises(ValueError, match="axis"):
        launches_of(lambda: softmax.softmax.forward(x, implementation="gpu", axis=7))
    assert launch.interpreter is None


def test_an_array_keeps_its_alignment_and_type():
    x = np.zeros((9, 33), np.float16)
    words = []
    for view in (x, x[1:], x[4:], x[8:]):
        (made,) = launches_of(lambda view=view: softmax.softmax.forward(view, implementation="gpu", axis=1))
        words.append(form_of(made).arguments[0])
    assert words == ["*float16:16", "*float16", "*float16", "*float16:16"]  # 0, 66, 264 and 528 bytes from the start


def test_a_form_comes_back_from_its_words():
    for form in forms_of(recurrent.lstm, "float16"):
        kernel, arguments, _ = form.key
        again = read_form(kernel, list(arguments), to_text(form.constants))
        assert again.key == form.key
        assert again.compile_arguments()[1] == form.compile_arguments()[1]


def test_forms_are_the_widest_of_the_timed_shapes_and_of_what_only_others_launch():
    some, every = forms_of(recurrent.lstm, "float32"), forms_of(recurrent.lstm, "float32", every=True)
    large = {sample.name for sample in recurrent.lstm.samples if sample.large}
    assert {form.name for form in some} == {form.name for form in every}
    assert len({(form.name, str(to_text(form.constants))) for form in some}) == len(some) < len(every)
    assert {form.sample for form in some if form.name != "reorder_kernel"} <= large
    assert not {form.sample for form in some if form.name == "reorder_kernel"} & large  # lengths: in small samples only


def test_the_command_prints_a_table_and_what_limits(capsys, cache):
    status, text = profile(capsys, "lstm", "--arch", "sm_90", "--dtype", "float16")
    assert status == 0
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    product = next(line for line in lines if line.startswith("product_mapped") and "128x128x64" in line)
    assert "wgmma" in product
    assert "12% shared" in product
    assert "Occupancy is limited by registers in" in text
    assert "No kernel spills registers." in text
    assert "lstm_grad_gates" in text


def test_a_second_call_compiles_nothing_and_says_the_same(capsys, cache, monkeypatch):
    words = ("relu", "softmax", "--arch", "sm_80", "--arch", "sm_100")
    _, first = profile(capsys, *words)
    monkeypatch.setattr(triton, "compile", lambda *_, **options: pytest.fail("compiled again"))
    started = time.process_time()
    _, second = profile(capsys, *words)
    assert second == first
    assert time.process_time() - started < 5
    assert "on sm_80:" in first
    assert "on sm_100:" in first


def test_spills_are_named_and_rows_told_apart():
    sizes = [
        Form(too_many_registers_kernel, ("*float32:16",) * 2, {"SIZE": size}, "float32", "s", 9) for size in (2, 4)
    ]
    held = static_analysis.Analysis(200, 0, 0, 0, 128, instructions={"tensor": {"HMMA": 4}}, ptx={"mma.sync": 4})
    spilt = static_analysis.Analysis(255, 24, 24, 70_000, 256)
    text = static_table.describe(sizes, [held, spilt], 80, "test")
    assert "too_many_registers size 2" in text
    assert "too_many_registers size 4 in float32: 24 B a thread" in text
    assert "limited by registers in 2 of 2 forms" in text
    assert "The lowest occupancy is 12%: too_many_registers size 2" in text
    assert "mma 4" in text
    assert "68.4 KB" in text


def test_a_written_table_is_read_back(capsys, cache, tmp_path):
    path = tmp_path / "table.json"
    profile(capsys, "relu", "--arch", "sm_80", "--write", str(path))
    header, lines = static_table.read(path)
    assert header["triton"] == triton.__version__
    assert header["command"].startswith("ranvier profile --static relu")
    forms = [form for dtype in ("float32", "float16") for form in forms_of(activation.relu, dtype)]
    assert {static_table.form_of_line(line).key for line, _ in lines} == {form.key for form in forms}
    for line, analyses in lines:
        again = static_analysis.analyse([static_table.form_of_line(line)], 80)[0]
        assert again.ptx
        assert analyses == {80: replace(again, ptx={})}  # which the file leaves out
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))
    with pytest.raises(ValueError, match="expected a table of schema 1"):
        static_table.read(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lstn"], r"got 'lstn'; did you mean lstm.*Families: activation"),
        (["lstm", "--arch", "sm_70"], r"expected --arch to be one of sm_80, .*sm_120, got 'sm_70'"),
    ],
)
def test_bad_input_is_refused_with_what_there_is(words, message, capsys):
    with pytest.raises(ValueError, match=message):
        profile(capsys, *words)


def test_operations_without_gpu_kernels_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(launches, "has_gpu_kernels", lambda operation: False)
    message = "expected operations that launch GPU kernels in float32 or float16, got relu"
    with pytest.raises(ValueError, match=message):
        profile(capsys, "relu")


def test_numbas_kernels_have_lines_as_tritons_have(capsys, cache, tmp_path):
    path = tmp_path / "table.json"
    _, text = profile(capsys, "ctc_loss", "--arch", "sm_90", "--dtype", "float32", "--write", str(path))
    (row,) = [line.split() for line in text.splitlines() if line.startswith("ctc_grad_log_probs")]
    assert row[1] == "1"  # warps
    assert row[3:5] == ["256", "B"]  # of shared memory, and no spills before it
    header, lines = static_table.read(path)
    assert header["numba-cuda"] == static_table.numba_version()
    (found,) = [found for line, found in lines if line["kernel"].endswith(".gpu_ctc_kernels.ctc_kernel")]
    assert found[90].registers > 32
    assert found[90].instructions["barrier"] == 1
    assert found[90].instructions["double"] > 10


def test_samples_are_built_without_drawing_normal_values():
    generator = launches._Zeros(np.random.PCG64(0))
    assert not generator.standard_normal((2, 3)).any()
    assert generator.integers(0, 10, 100).any()
