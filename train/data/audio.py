"""Sound: WAV files as samples, and what a network hears of them, log-mel features."""

from __future__ import annotations

import wave
from functools import cache
from pathlib import Path

import numpy as np

_WIDTHS = {1: "8-bit", 2: "16-bit", 3: "24-bit", 4: "32-bit"}


def read_wav(path: str | Path, rate: int | None = None) -> tuple[np.ndarray, int]:
    """The samples of a WAV file (PCM of 8, 16, 24 or 32 bits); channels are averaged.

    Args:
        path: the file, or an open binary one.
        rate: samples a second to which it is resampled; None takes them as they are.

    Returns:
        samples [time] float32 in -1..1, and their rate.

    Raises:
        ValueError: no WAV file, one without samples, or one that is not PCM.
    """
    try:
        with wave.open(str(path) if isinstance(path, Path) else path, "rb") as file:
            width, channels, own_rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"read_wav: expected a WAV file of PCM samples, got {path}: {error}") from None
    if width not in _WIDTHS:
        raise ValueError(f"read_wav: expected samples of 8, 16, 24 or 32 bits in {path}, got {8 * width}")
    samples = _decode(data[: len(data) // (width * channels) * width * channels], width)
    if not samples.size:
        raise ValueError(f"read_wav: expected samples in {path}, got none")
    samples = samples.reshape(-1, channels).mean(axis=1)
    if rate is not None and rate != own_rate:
        samples, own_rate = resample(samples, own_rate, rate), rate
    return samples.astype(np.float32), own_rate


def _decode(data: bytes, width: int) -> np.ndarray:
    """Little-endian PCM as float64 in -1..1. (8 bits are unsigned, all others signed.)"""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    if width == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)  # 24 bits as the upper three bytes of 32
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return padded.view("<i4")[:, 0] / 2.0**31
    return np.frombuffer(data, f"<i{width}") / 2.0 ** (8 * width - 1)


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Samples [time] at another rate, by Fourier series: what lies above half of the lower rate is left out."""
    new_length = max(1, round(len(samples) * new_rate / rate))
    # Padded by its mirror image, so that end and start, neighbours to a Fourier series, meet without a jump.
    spectrum = np.fft.rfft(np.concatenate([samples, samples[::-1]]))
    kept = np.zeros(new_length + 1, complex)
    common = min(len(kept), len(spectrum))
    kept[:common] = spectrum[:common]
    return np.fft.irfft(kept, 2 * new_length)[:new_length] * (new_length / len(samples))


def mel_filters(bands: int, rate: int, window: int, lowest: float = 60.0) -> np.ndarray:
    """Triangles over the frequencies of a spectrum, evenly spaced in mel: [bands, window // 2 + 1] float64.

    mel(f) = 2595 log10(1 + f / 700) (O'Shaughnessy 1987), as hearing spaces pitches; each triangle rises from its
    lower neighbour's middle and falls to its upper neighbour's (Davis & Mermelstein 1980).
    """
    mel = np.linspace(2595 * np.log10(1 + lowest / 700), 2595 * np.log10(1 + rate / 2 / 700), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequencies = np.arange(window // 2 + 1) * rate / window
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling))


_mel_filters = cache(mel_filters)


def log_mel(samples: np.ndarray, rate: int, bands: int = 40, window: float = 0.025, hop: float = 0.01) -> np.ndarray:
    """How loud each band of pitches is in each moment, the mean over time of each band taken away.

    Windows of 25 ms every 10 ms, weighted by Hann's bell; power spectrum; mel bands; logarithm. Taking the mean away
    (cepstral mean normalisation, Atal 1974) removes the microphone and the loudness of the speaker.

    Args:
        samples: [time] in -1..1; shorter sound than a window is filled with silence.
        rate: samples a second.
        bands: of pitches.
        window, hop: s.

    Returns:
        [frames, bands] float32.
    """
    size, step = round(window * rate), round(hop * rate)
    samples = np.pad(samples, (0, max(0, size - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::step] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    features = np.log(power @ _mel_filters(bands, rate, size).T + 1e-6)
    return (features - features.mean(axis=0)).astype(np.float32)
