"""A network that writes down spoken digits (voices synthesised by espeak-ng; voices held back; your WAV files).

Sound becomes features first: how loud each of 40 bands of pitch is, a hundred times a second. Two convolutions hear
short sounds and halve the rate twice, a GRU that reads both ways puts them into context, and a dense layer gives at
each of 25 moments a second the chances of ten digits and of a blank. Nobody says at which moment a digit was spoken:
the CTC loss (Graves et al. 2006) adds up the chances of all ways in which the moments, without repeats and blanks,
spell the right digits. To read the answer, take the likeliest sign of each moment, and drop repeats, then blanks.

Needs espeak-ng (`apt-get install espeak-ng`), which speaks strings of one to six digits into memory when the recipe
runs: voices, accents and speeds for training, and for the test voices and accents that training never heard. Moving the
bands up and down a little imitates longer and shorter throats, and so helps with voices not heard.

The baseline is told how many digits there are, cuts the sound into so many equal parts and takes each for the digit
whose average over the training voices is nearest.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

import ranvier as rv

from .. import pictures, run_folder
from ..data import ArrayDataset, DataLoader, log_mel, read_wav
from ..trainer import Trainer

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BLANK = len(WORDS)
RATE, BANDS, MOST = 16000, 40, 6  # samples a second, bands of pitch, digits in a string

# Accents and voices; what is tested occurs in neither of the others.
TRAINING = (
    "en-us en-gb en-gb-scotland en-029 en-gb-x-gbclan",
    "m1 m2 m3 m5 m6 m8 f1 f2 f4 f5 Alex Alicia Andy Annie Denis Diogo Gene Henrique Hugo Jacky Lee Marco Michael "
    "Nguyen adam anika antonio belinda benjamin boris caleb ed edward linda marcelo max",
)
VALIDATION = ("en-us en-gb", "m4 Mario john shelby")
TEST = ("en-gb-x-rp en-us-nyc en-gb-x-gbcwmd", "m7 f3 Andrea Mike david steph miguel pablo quincy rob travis zac")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=25)


class Recognizer(rv.Layer):
    """Features [N, T, BANDS] and their lengths [N] -> log-probabilities [T / 4, N, digits and blank], and lengths."""

    def __init__(self):
        super().__init__()
        self.hear = rv.Conv1d(BANDS, 64, 5, stride=2, padding=2)
        self.hear_norm = rv.BatchNorm1d(64, activation="relu")
        self.listen = rv.Conv1d(64, 96, 5, stride=2, padding=2)
        self.listen_norm = rv.BatchNorm1d(96, activation="relu")
        self.dropout = rv.Dropout(0.2)
        self.context = rv.GRU(96, 80, bidirectional=True)
        self.output = rv.Dense(160, len(WORDS) + 1)

    def forward(self, features, lengths):
        sounds = self.hear_norm(self.hear(features.transpose(1, 2)))
        sounds = self.dropout(self.listen_norm(self.listen(sounds)))
        lengths = (lengths + 3) // 4
        context, _ = self.context(sounds.permute(2, 0, 1), lengths=lengths)
        return rv.functional.log_softmax(self.output(self.dropout(context)), dim=2), lengths


def build() -> rv.Layer:
    return Recognizer()


def listen(path: Path) -> np.ndarray:
    """A WAV file's features [T, BANDS], of deviation 1."""
    samples, _ = read_wav(path, RATE)
    features = log_mel(samples, RATE, BANDS)
    return features / max(float(features.std()), 1e-3)


def speak(voices: tuple[str, str], count: int, most: int, rng, folder: Path, kind: str) -> tuple[list, list]:
    """Features and digits of `count` strings, each in some accent, voice, speed and pitch; WAV files go to `folder`."""
    accents, variants = (names.split() for names in voices)
    digits = [rng.integers(0, 10, rng.integers(1, most + 1)) for _ in range(count)]
    commands = []
    for index, string in enumerate(digits):
        voice, speed, pitch = (
            f"{rng.choice(accents)}+{rng.choice(variants)}",
            rng.integers(120, 211),
            rng.integers(25, 76),
        )
        text = " ".join(WORDS[digit] for digit in string)
        options = ["-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(folder / f"{kind}-{index}.wav")]
        commands.append(["espeak-ng", *options, text])

    def one(command: list[str]) -> np.ndarray:
        subprocess.run(command, check=True, capture_output=True)
        return listen(Path(command[-2]))

    with ThreadPoolExecutor(2) as threads:
        features = list(tqdm(threads.map(one, commands), total=count, desc=f"speaking, {kind}", unit="string"))
    return features, digits


def dataset(features: list, digits: list) -> ArrayDataset:
    """Features [N, longest, BANDS], their lengths [N], digits [N, MOST] with -1 past their end."""
    lengths = np.array([len(f) for f in features])
    padded = np.zeros((len(features), lengths.max(), BANDS), np.float32)
    targets = np.full((len(features), MOST), -1)
    for index, (one, string) in enumerate(zip(features, digits)):
        padded[index, : len(one)], targets[index, : len(string)] = one, string
    return ArrayDataset(padded, lengths, targets)


def vary(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each sound in another throat (bands moved by up to three), in noise, with a stretch of it and some bands lost."""
    varied = np.stack([np.roll(one, shift, axis=1) for one, shift in zip(features, rng.integers(-3, 4, len(features)))])
    varied += rng.standard_normal(varied.shape, dtype=np.float32) * rng.uniform(0, 0.3, (len(varied), 1, 1))
    for one, moment, band in zip(
        varied, rng.integers(0, features.shape[1], len(varied)), rng.integers(0, BANDS, len(varied))
    ):
        one[moment : moment + 6] = 0
        one[:, band : band + 4] = 0
    return varied.astype(np.float32)


def training_step(trainer: Trainer, batch) -> tuple:
    """The CTC loss of a batch."""
    features, lengths, targets = batch
    log_probabilities, moments = trainer.model(features[:, : int(lengths.numpy().max())], lengths)
    spoken = (targets >= 0).sum(dim=1)
    loss = rv.functional.ctc_loss(log_probabilities, targets.clamp(min=0), moments, spoken, blank=BLANK)
    return loss, None


def run(options: argparse.Namespace) -> dict:
    if shutil.which("espeak-ng") is None:
        raise FileNotFoundError("speech: expected the program espeak-ng; `apt-get install espeak-ng` brings it")
    rng = np.random.default_rng(options.seed)
    # In the quick form strings are short, and there are few.
    count, tested, most, size = (300, 60, 3, 10) if options.quick else (1500, 300, MOST, 20)
    epochs = min(20, options.epochs) if options.quick else options.epochs
    with tempfile.TemporaryDirectory() as folder:
        spoken = speak(TRAINING, count, most, rng, Path(folder), "training")
        validation = speak(VALIDATION, tested // 3, most, rng, Path(folder), "validation")
        test = speak(TEST, tested, most, rng, Path(folder), "test")
        for index in range(3):
            shutil.copy(Path(folder) / f"test-{index}.wav", options.run_dir / f"example-{index}.wav")

    model = build()
    train_loader = DataLoader(dataset(*spoken), batch_size=size, shuffle=True, augment=vary)
    optimizer = rv.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    trainer = Trainer(
        model,
        None,
        optimizer,
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * len(train_loader)),
        schedule_interval="step",
        gradient_clip_val=5.0,
        training_step=training_step,
        capture=False,  # the longest recording of a batch decides how many steps the GRU takes
        device=options.device,
        run_dir=options.run_dir,
    )
    trainer.fit(train_loader, DataLoader(dataset(*validation), batch_size=50), resume=options.resume)

    heard = [transcribe(model, one) for one in test[0]]
    errors = [edits(one, list(string)) for one, string in zip(heard, test[1])]
    template = centroids(*spoken)
    guessed = [nearest(template, one, len(string)) for one, string in zip(*test)]
    result = {
        "word_error_rate": sum(errors) / sum(map(len, test[1])),
        "baseline_word_error_rate": sum(map(edits, guessed, map(list, test[1]))) / sum(map(len, test[1])),
        "strings_right": sum(error == 0 for error in errors) / len(errors),
        "test_strings": len(errors),
        "test_words": sum(map(len, test[1])),
    }
    voices = len(TEST[1].split())
    print(f"\n{len(errors)} strings, {result['test_words']} digits, by {voices} voices never heard in training")
    print(f"word error rate  {result['word_error_rate']:.2%}  ({result['strings_right']:.1%} of the strings all right)")
    print(f"nearest average  {result['baseline_word_error_rate']:.2%}  (and it is told how many digits there are)")
    for index in range(3):
        print(f"  example-{index}.wav   spoken {_text(test[1][index]):12}   written down {_text(heard[index])}")
    draw(model, test[0], test[1], options.run_dir / "moments.png")
    run_folder.write_result(options.run_dir, result)
    print(f"\nrun folder  {options.run_dir}/  (moments.png, example-*.wav, curves.png, result.json, checkpoint/)")
    return result


def _text(digits) -> str:
    return "".join(str(digit) for digit in digits)


def moments(model: Recognizer, features: np.ndarray) -> np.ndarray:
    """The chances of each digit and the blank over time, [moments, BLANK + 1]."""
    device = next(model.parameters()).device
    model.eval()
    with rv.no_grad():
        inputs = rv.tensor(features[None], device=device), rv.tensor(np.array([len(features)]), device=device)
        return np.exp(model(*inputs)[0].numpy()[:, 0])


def transcribe(model: Recognizer, features: np.ndarray) -> list[int]:
    """The digits: the likeliest sign of each moment, without repeats, without blanks."""
    signs = moments(model, features).argmax(axis=1)
    kept = signs[np.flatnonzero(np.diff(signs, prepend=-1))]
    return [int(sign) for sign in kept if sign != BLANK]


def edits(heard: list[int], spoken: list[int]) -> int:
    """The fewest words to change, leave out or put in that turn one into the other (Levenshtein 1966)."""
    row = list(range(len(spoken) + 1))
    for i, word in enumerate(heard, start=1):
        above, row = row, [i]
        for j, other in enumerate(spoken, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return row[-1]


def _parts(features: np.ndarray, count: int) -> list[np.ndarray]:
    """So many equal parts of a sound, each shortened to ten moments."""
    places = np.linspace(0, len(features) - 1, 10 * count).round().astype(int)
    return np.split(features[places], count)


def centroids(features: list, digits: list) -> np.ndarray:
    """The average part of each digit, [digits, 10, BANDS]."""
    sums, counts = np.zeros((len(WORDS), 10, BANDS)), np.zeros(len(WORDS))
    for one, string in zip(features, digits):
        for digit, part in zip(string, _parts(one, len(string))):
            sums[digit] += part
            counts[digit] += 1
    return sums / counts[:, None, None]


def nearest(template: np.ndarray, features: np.ndarray, count: int) -> list[int]:
    return [int(((template - part) ** 2).sum(axis=(1, 2)).argmin()) for part in _parts(features, count)]


def draw(model: Recognizer, features: list, digits: list, path: Path) -> None:
    """Three strings: the features, and when the network is sure of which digit."""
    figure, axes = pictures.new_figure(13, 8, 2, 3)
    long = sorted(range(len(digits)), key=lambda index: -len(digits[index]))[:3]
    for column, index in enumerate(long):
        above, below, chances = axes[column], axes[3 + column], moments(model, features[index])
        above.imshow(features[index].T, origin="lower", aspect="auto", cmap="magma")
        above.set(title=f"spoken: {' '.join(map(str, digits[index]))}", xlabel="hundredths of a second", ylabel="band")
        for digit in range(len(WORDS)):
            shown = below.plot(4 * np.arange(len(chances)), chances[:, digit], color=f"C{digit}")[0]
            if chances[:, digit].max() > 0.5:
                shown.set_label(str(digit))
        below.plot(4 * np.arange(len(chances)), chances[:, BLANK], color="black", linestyle=":", label="blank")
        below.set(title=f"written down: {' '.join(map(str, transcribe(model, features[index])))}", ylabel="chance")
        below.set(xlabel="hundredths of a second", xlim=above.get_xlim())
        below.legend(fontsize=8)
    figure.savefig(path, dpi=75)


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """The digits spoken in each WAV file."""
    model = run.load_weights(build())
    for path in paths:
        yield f"{path}: {' '.join(WORDS[d] for d in transcribe(model, listen(path))) or '(no digit heard)'}"
