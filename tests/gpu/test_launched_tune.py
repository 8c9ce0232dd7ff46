"""`ranvier tune` and what kernels make of its file, on the stand-in GPU: no kernel runs there and the clock is a fake.
`test_standin.py` starts this file in a process of its own."""

import json
import threading
import warnings

import pytest
import standin

if not standin.installed():
    pytest.skip("runs on the stand-in GPU only, which test_standin.py starts", allow_module_level=True)

import cupy
import numpy as np
import triton

import ranvier.__main__ as command
from ranvier.kernels import tuning
from ranvier.kernels.dense.gpu_product import PRODUCT
from ranvier.kernels.softmax import softmax
from ranvier.kernels.softmax.gpu import FORWARD
from ranvier.kernels.tuning import Question
from ranvier.profiling import agreement, gpu_timing, tune

ATTENTION = Question("softmax.forward", "float32", (65536, 512, True, False))  # what softmax's first large sample asks
LINES = (16 * 12 * 256, 512, True, False)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, tmp_path, monkeypatch):
    """Tuned configurations of this test's own; compiled kernels are shared."""
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(tuning, "cache_directory", lambda: tmp_path)
    tuning.forget()
    yield
    tuning.forget()


class FakeClock:
    """A candidate takes as many microseconds as `microseconds` says of its configuration."""

    def __init__(self, microseconds):
        self.microseconds = microseconds

    def settle(self):
        pass

    def sample(self, function, calls):
        function()
        return calls * self.microseconds(function.configuration) * 1e-6


def tune_softmax(monkeypatch, capsys, microseconds, *words, agree=lambda *arguments: None):
    monkeypatch.setattr(tune, "clock_for", lambda device: FakeClock(microseconds))
    monkeypatch.setattr(agreement, "disagreement", agree)  # no kernel runs: outputs are what memory holds
    status = command.main(["tune", *(words or ["softmax", "--quick"]), "--dtype", "float32", "--seconds", "0.001"])
    return status, capsys.readouterr().out


def path():
    return tuning.path_of("stand-in", 90)


def entries():
    return {tuning.question_of(entry): entry for entry in json.loads(path().read_text())["entries"]}


def write(entries, **header):
    path().parent.mkdir(parents=True, exist_ok=True)
    path().write_text(json.dumps(tuning.header_of("stand-in", 90) | {"entries": entries} | header))
    tuning.forget()


def entry(configuration, **changed):
    names = dict(zip(FORWARD.fields, configuration))
    return {
        "kernel": ATTENTION.kernel, "dtype": ATTENTION.dtype, "bucket": list(ATTENTION.bucket),
        "triton": triton.__version__, "configuration": names,
    } | changed  # fmt: skip


def picked(*sizes, dtype=np.float32):
    return tuple(FORWARD.pick(cupy.empty(1, dtype), *(sizes or LINES)).values())


def other_than_shipped():
    shipped, *others = FORWARD.configurations(90, np.dtype(np.float32), ATTENTION.bucket)
    assert others
    return shipped, others[0], others[-1]


def test_a_family_is_tuned_and_the_next_call_runs_with_what_was_found(monkeypatch, capsys):
    shipped, _, _ = other_than_shipped()
    chosen = FORWARD.configurations(90, np.dtype(np.float32), ATTENTION.bucket)[3]
    status, output = tune_softmax(monkeypatch, capsys, lambda tried: 5.0 if tried == chosen else 10.0)
    assert status == 0
    found = entries()[ATTENTION]
    assert found["configuration"] == dict(zip(FORWARD.fields, chosen))
    assert (found["seconds"], found["shipped_seconds"]) == pytest.approx((5e-6, 10e-6))
    assert found["triton"] == triton.__version__
    assert found["candidates"] == 4
    line = next(line for line in output.splitlines() if line.startswith("softmax.forward"))
    assert "65536 512 True False" in line
    assert " ".join(map(str, shipped)) in line
    assert " ".join(map(str, chosen)) in line
    assert "2.00x" in line
    assert str(path()) in output
    with standin.recorded() as launches:
        softmax.forward(cupy.empty((16 * 12 * 256, 512), np.float32))
    assert launches[0].block[0] == 32 * chosen[2]
    assert picked() == chosen != shipped


def test_the_devices_own_clock_times_what_was_compiled_ahead(monkeypatch, capsys):
    monkeypatch.setattr(gpu_timing, "_COPY_BYTES", 1 << 16)
    monkeypatch.setattr(agreement, "disagreement", lambda *arguments: None)
    ahead, real = [], triton.compile
    monkeypatch.setattr(
        triton, "compile", lambda *given, **options: (ahead.append(running()), real(*given, **options))[1]
    )
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(path().parent / "nothing compiled"))

    def running():
        return threading.current_thread() is not threading.main_thread()

    with standin.paced(50e-6, 1.0):
        assert command.main(["tune", "softmax", "--quick", "--dtype", "float32", "--seconds", "0.001"]) == 0
    assert "0 of" in capsys.readouterr().out
    for found in entries().values():
        assert found["seconds"] == pytest.approx(50e-6, rel=0.05)
    assert len(ahead) >= 4
    assert all(ahead)


def test_tuning_again_shows_what_was_in_force(monkeypatch, capsys):
    chosen = FORWARD.configurations(90, np.dtype(np.float32), ATTENTION.bucket)[3]
    for best in (5.0, 5.0):
        _, output = tune_softmax(monkeypatch, capsys, lambda tried, best=best: best if tried == chosen else 10.0)
    (line,) = [line for line in output.splitlines() if line.startswith("softmax.forward")]
    assert "as it was" in line
    assert "1.00x" in line


def test_a_gain_within_the_clocks_noise_changes_nothing(monkeypatch, capsys):
    shipped, _, _ = other_than_shipped()
    tune_softmax(monkeypatch, capsys, lambda tried: 10.0 if tried == shipped else 9.9)
    assert picked() == shipped


def test_a_candidate_that_computes_something_else_is_never_chosen(monkeypatch, capsys):
    shipped, wrong, _ = other_than_shipped()

    compared = iter([None, "output: 3 of 4 elements differ"])  # the shipped one with itself, the first of the others

    def agree(*arguments):
        return next(compared, None)

    status, output = tune_softmax(monkeypatch, capsys, lambda tried: 1.0 if tried == wrong else 10.0, agree=agree)
    assert status == 1
    assert f"error: softmax.forward float32 {' '.join(map(str, wrong))}: output: 3 of 4 elements differ" in output
    assert entries()[ATTENTION]["configuration"] == dict(zip(FORWARD.fields, shipped))


def test_a_candidate_that_the_device_has_no_room_for_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(PRODUCT, "_candidates", lambda *question: [(256, 256, 128, 8, 8, 4, 0)])
    status, output = tune_softmax(monkeypatch, capsys, lambda tried: 10.0, "matmul", "--quick")
    assert status == 0
    assert "1 candidates need more of the device than it has" in output


def test_what_was_measured_is_kept_after_an_interruption(monkeypatch, capsys):
    def microseconds(tried):
        if path().exists():
            raise KeyboardInterrupt
        return 10.0

    status, output = tune_softmax(monkeypatch, capsys, microseconds, "softmax")
    assert status == 130
    assert "interrupted; kept" in output
    assert len(entries()) == 1


def test_tuned_comes_before_shipped_for_its_bucket_and_dtype_only():
    shipped, tuned, _ = other_than_shipped()
    write([entry(tuned)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picked() == tuned
        assert picked(65536, 300, True, False) == tuned  # up to the next power of two
        assert picked(65537, 512, True, False) == shipped
        assert picked(65536, 512, True, True) != tuned
        assert picked(dtype=np.float16) == shipped
    with cupy.cuda.Device(1):
        assert picked() == tuned  # a device of the same name


def test_a_trial_comes_before_both():
    _, tuned, trial = other_than_shipped()
    write([entry(tuned)])
    with tuning.trying(ATTENTION, trial):
        assert picked() == trial
    assert picked() == tuned


def test_the_file_is_read_once():
    shipped, tuned, _ = other_than_shipped()
    write([entry(tuned)])
    assert picked() == tuned
    path().unlink()
    assert picked() == tuned
    assert picked(2 * 65536, 512, True, False) == shipped  # decided now, from what was read
    tuning.forget()
    assert picked() == shipped


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"cannot be read as JSON"),
        ("\xff\xfe", r"cannot be read as JSON|is no file of configurations"),
        ("[]", r"is no file of configurations of schema 1"),
        (json.dumps({"schema": 2}), r"is no file of configurations of schema 1"),
        (json.dumps(tuning.header_of("another", 90) | {"entries": []}), r"is of another \(sm_90\), this device is"),
        (json.dumps(tuning.header_of("stand-in", 80) | {"entries": []}), r"is of stand-in \(sm_80\), this device is"),
        (json.dumps(tuning.header_of("stand-in", 90)), r"has entries without kernel"),
        (json.dumps(tuning.header_of("stand-in", 90) | {"entries": [{"kernel": 1}]}), r"has entries without kernel"),
        (json.dumps(tuning.header_of("stand-in", 90) | {"entries": [entry((1, 2, 3), bucket=[[1]])]}), r"has entries"),
    ],
)
def test_a_damaged_or_foreign_file_is_not_used_and_said_once(content, message):
    shipped, _, _ = other_than_shipped()
    write([])
    path().write_bytes(content.encode("latin-1"))
    with pytest.warns(UserWarning, match=message + r".*`ranvier tune` writes it again"):
        first = picked()
    assert first == shipped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picked(2 * 65536, 512, True, False) == shipped


def test_what_another_triton_was_tuned_to_is_not_used():
    shipped, tuned, other = other_than_shipped()
    write([entry(tuned, triton="3.0.0")])
    with pytest.warns(UserWarning, match=r"tuned with Triton 3.0.0, this is .*`ranvier tune` measures again"):
        first = picked()
    assert first == shipped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picked(2 * 65536, 512, True, False) == shipped
    write([entry(tuned, triton="3.0.0"), entry(other)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picked() == other


def test_a_configuration_that_is_no_candidate_is_not_used():
    shipped, _, _ = other_than_shipped()
    write([entry((3, 5, 7))])
    with pytest.warns(UserWarning, match=r"softmax.forward was tuned to .*'LINES': 3.* does not try"):
        first = picked()
    assert first == shipped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picked() == shipped


def test_a_damaged_file_is_written_anew_and_other_entries_stay(monkeypatch, capsys):
    shipped, tuned, _ = other_than_shipped()
    write([entry(tuned, triton="3.0.0")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tune_softmax(monkeypatch, capsys, lambda tried: 10.0)
        assert {one["triton"] for one in json.loads(path().read_text())["entries"]} == {"3.0.0", triton.__version__}
        path().write_text("{")
        tune_softmax(monkeypatch, capsys, lambda tried: 10.0)
    assert entries()[ATTENTION]["configuration"] == dict(zip(FORWARD.fields, shipped))


def test_no_call_searches_or_writes():
    with standin.recorded() as launches:
        softmax.forward(cupy.empty((64, 512), np.float32))
    assert len(launches) == 1
    assert not path().exists()
