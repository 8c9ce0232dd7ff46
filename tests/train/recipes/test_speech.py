"""The recipe `speech`, end to end: it writes down digits of voices it never heard, and of WAV files."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from ranvier.__main__ import main
from ranvier.train.recipes import speech

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs Debian's espeak-ng")


def test_no_tested_voice_or_accent_is_trained():
    trained = [set((a + " " + b).split()) for a, b in zip(speech.TRAINING, speech.VALIDATION)]
    for group, tested in zip(trained, speech.TEST):
        assert not group & set(tested.split())


@pytest.mark.parametrize(
    ("heard", "spoken", "errors"),
    [([], [], 0), ([1, 2], [1, 2], 0), ([1, 3], [1, 2], 1), ([1], [1, 2], 1), ([3, 1, 2], [1, 2], 1), ([], [4, 4], 2)],
)
def test_edits(heard, spoken, errors):
    assert speech.edits(heard, spoken) == errors


def test_variation_keeps_shape_and_repeats_with_its_seed():
    features = np.random.default_rng(0).standard_normal((4, 50, speech.BANDS)).astype(np.float32)
    before = features.copy()
    first, again = (speech.vary(features, np.random.default_rng(1)) for _ in range(2))
    assert first.shape == features.shape
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(features, before)
    assert (first == 0).any()


def test_missing_espeak_comes_with_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["train", "speech", "--run-dir", str(tmp_path / "run")]) == 1
    assert "`apt-get install espeak-ng`" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    assert main(["train", "speech", "--quick", "--run-dir", str(folder)]) == 0
    return folder


@needs_espeak
@pytest.mark.slow
def test_voices_never_heard_are_understood(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["word_error_rate"] < 0.3
    assert result["word_error_rate"] < result["baseline_word_error_rate"]
    for name in ("moments.png", "example-0.wav", "curves.png", "checkpoint/state.json"):
        assert (trained / name).is_file()


@needs_espeak
@pytest.mark.slow
def test_predict_writes_down_a_wav_file(trained, tmp_path, capsys):
    paths = []
    for digits in ("seven three nine", "one eight two"):
        paths.append(tmp_path / f"{digits[:3]}.wav")
        subprocess.run(["espeak-ng", "-v", "en-us+m4", "-s", "150", "-w", str(paths[-1]), digits], check=True)
    assert main(["predict", str(trained), *map(str, paths)]) == 0
    answers = [line.split(": ")[1].split() for line in capsys.readouterr().out.splitlines()]
    numbers = [[speech.WORDS.index(word) for word in answer if word in speech.WORDS] for answer in answers]
    assert speech.edits(numbers[0], [7, 3, 9]) + speech.edits(numbers[1], [1, 8, 2]) <= 2
    (tmp_path / "no.wav").write_text("no sound")
    assert main(["predict", str(trained), str(tmp_path / "no.wav")]) == 1
    assert "expected a WAV file of PCM samples" in capsys.readouterr().err
