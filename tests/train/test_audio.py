"""Sound: every PCM width comes back as written, resampling keeps a tone, bands find their pitch, refusals."""

import wave

import numpy as np
import pytest

from ranvier.train.data import audio


def write_wav(path, samples, width=2, rate=16000):
    """Samples [time] or [time, channels] in -1..1."""
    full = 2.0 ** (8 * width - 1)
    numbers = np.clip(np.rint(samples * full), -full, full - 1).astype(np.int64)
    numbers = numbers + 128 if width == 1 else numbers
    data = numbers.astype("<i8")[..., None].view(np.uint8)[..., :width].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setparams((1 if samples.ndim == 1 else samples.shape[1], width, rate, 0, "NONE", ""))
        file.writeframes(data)


def tone(pitch, rate=16000, seconds=0.5):
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_comes_back_as_written(tmp_path, width):
    samples = np.concatenate([tone(440), [-1.0, 0.0, 0.5]])
    write_wav(tmp_path / "a.wav", samples, width)
    back, rate = audio.read_wav(tmp_path / "a.wav")
    assert (back.dtype, rate) == (np.float32, 16000)
    np.testing.assert_allclose(back, samples, atol=max(0.6 * 2.0 ** (1 - 8 * width), 1e-7))


def test_channels_are_averaged(tmp_path):
    write_wav(tmp_path / "a.wav", np.stack([tone(440), 0 * tone(440)], axis=1))
    np.testing.assert_allclose(audio.read_wav(tmp_path / "a.wav")[0], tone(440) / 2, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_a_tone_stays_itself_at_another_rate(tmp_path, rate):
    write_wav(tmp_path / "a.wav", tone(440, rate), rate=rate)
    samples, own = audio.read_wav(tmp_path / "a.wav", rate=16000)
    assert own == 16000
    assert len(samples) == 8000
    np.testing.assert_allclose(samples[400:-400], tone(440)[400:-400], atol=0.01)


def test_what_a_lower_rate_cannot_carry_is_left_out():
    assert np.abs(audio.resample(tone(6000), 16000, 8000)[200:-200]).max() < 0.01


def test_each_pitch_is_loudest_in_its_own_band():
    filters = audio.mel_filters(40, 16000, 400)
    assert filters.shape == (40, 201)
    assert filters.max() <= 1
    for pitch in (300, 1000, 4000):
        band = filters[:, round(pitch * 400 / 16000)].argmax()
        both = np.concatenate([tone(pitch), 0 * tone(pitch)])  # a tone, then silence
        features = audio.log_mel(both, 16000)
        assert features.dtype == np.float32
        assert features[10].argmax() == band
        np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-4)


def test_loudness_does_not_count():
    noise = np.random.default_rng(0).standard_normal(8000)
    np.testing.assert_allclose(audio.log_mel(noise, 16000), audio.log_mel(0.1 * noise, 16000), atol=1e-2)


def test_very_short_sound_is_one_frame():
    assert audio.log_mel(np.ones(10), 16000).shape == (1, 40)


def test_what_is_no_wav_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"ID3 not a wave")
    with pytest.raises(ValueError, match=r"expected a WAV file of PCM samples, got .*a\.wav"):
        audio.read_wav(path)
    write_wav(path, np.zeros(0))
    with pytest.raises(ValueError, match=r"expected samples in .*, got none"):
        audio.read_wav(path)
    write_wav(path, tone(440))
    whole = bytearray(path.read_bytes())
    whole[20] = 3  # the format's code: floating-point numbers
    path.write_bytes(bytes(whole))
    with pytest.raises(ValueError, match="expected a WAV file of PCM samples"):
        audio.read_wav(path)


def test_ends_are_kept_by_resampling():
    ramp = np.linspace(0.2, 0.8, 2205)
    np.testing.assert_allclose(audio.resample(ramp, 22050, 16000), np.linspace(0.2, 0.8, 1600), atol=2e-3)
