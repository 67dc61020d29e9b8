"""Long files: blocks with the result of the whole, in little memory."""

import gc
import io
import math
import sys
import weakref

import numpy as np
import pytest
import soundfile as sf
import torch

from dbtransform_lobes.inference import (
    EnhanceModel,
    audio_file,
    enhancer,
    segments,
)
from dbtransform_lobes.inference.blocks import BlockISTFT, BlockSTFT, Resampler
from dbtransform_lobes.inference.segments import Segments
from dbtransform_lobes.inference.signal_path import SignalPath
from dbtransform_lobes.inference.stream_resampler import StreamResampler
from dbtransform_lobes.models.chunks import fork
from dbtransform_lobes.models.db_transform import DBTransform
from dbtransform_lobes.models.waveform import noisy_spectrum
from tests.composition import composed
from tests.formulas import literal_stft
from tests.inference.test_any_audio import write
from tests.runs import model_of
from tests.signals import noisy_signal, snr_db

TINY = {
    "num_channels": 8,
    "num_heads": 1,
    "window": 6,
    "fusion_windows": [[4, 8, 16], [2, 4, 8], [1, 2, 4]],
}


def tiny(**changes):
    """An EnhanceModel of a tiny windowed DB-Transform, 8 ms a frame."""
    torch.manual_seed(0)
    network = composed(**{**TINY, **changes})
    for weight in network.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    return model_of(network)


@pytest.fixture(scope="module")
def model():
    return tiny()


def literal_istft(frames, length, n_fft, hop, window):
    """sum_t w[n] x_t[n] / sum_t w[n]^2 at n = m + n_fft / 2 - t hop."""
    total, weight = np.zeros((2, hop * len(frames) + n_fft))
    bins, n = np.arange(n_fft // 2 + 1), np.arange(n_fft)
    turns = np.exp(2j * np.pi * np.outer(bins, n) / n_fft)
    turns[1:-1] *= 2  # and the negative frequencies
    for t, frame in enumerate(frames):
        place = slice(t * hop, t * hop + n_fft)
        total[place] += window * (frame @ turns).real / n_fft
        weight[place] += window**2
    inside = slice(n_fft // 2, n_fft // 2 + length)
    return total[inside] / weight[inside]


def pushed(stage, parts):
    """What a stage returns for these blocks, put together."""
    lasts = [False] * (len(parts) - 1) + [True]
    return np.concatenate([*map(stage.push, parts, lasts)], axis=-1)


@pytest.mark.parametrize("hop", [3, 4, 8])
@pytest.mark.parametrize("sizes", [[53], [1] * 53, [20, 1, 30, 2]])
def test_transforms_equal_their_literal_twins(hop, sizes):
    signal = np.random.default_rng(0).standard_normal((1, 53))
    window = np.hamming(17)[:16]
    blocks = np.split(signal, np.cumsum(sizes)[:-1], axis=-1)
    found = pushed(BlockSTFT(window, hop), blocks)
    frames = literal_stft(signal[0], 16, hop, window)
    assert np.allclose(found[0].T, frames, rtol=0, atol=1e-10)
    # The model's changes, which no signal has for its spectrum.
    factor = np.arange(1.0, 10)
    changed = np.split(found * factor[:, None], [2, 3], axis=-1)
    back = pushed(BlockISTFT(window, hop), changed)
    expected = literal_istft(factor * frames, 53, 16, hop, window)
    assert np.allclose(back[0, :53], expected, rtol=0, atol=1e-10)
    assert back.shape == (1, -(-53 // hop) * hop)
    assert not np.allclose(back[0, :53], signal[0], atol=0.1)


@pytest.mark.parametrize("win_length", [32, 25])
@pytest.mark.parametrize("offset", [0, 1, 100])
def test_streams_of_any_length_are_as_batches(identity, win_length, offset):
    """Those are of SpeechBrain's transforms; an offset goes on at the edges."""
    model = model_of(tiny(causal=True).mods.model, win_length=win_length)
    short = 1, 2, 100, 127, 128, 255, 256, 257, 511, 512, 513
    for length in (*short, 5000, 16000, 16001):
        noisy = offset + torch.randn(1, length)
        same = identity.enhance_batch(noisy)
        assert same.shape == noisy.shape
        assert torch.allclose(same, noisy, atol=1e-4)
        expected = model.enhance_batch(noisy)[0].numpy()
        stream = model.stream()
        for gain in (0, 1):  # silence stays silent
            parts = np.split(gain * noisy[0].numpy(), [100])
            found = [*map(stream.feed, parts), stream.flush()]
            found = np.concatenate(found)
            assert found.shape == expected.shape == (length,)
            assert found.dtype == np.float32 and found.any() == (gain == 1)
        if offset == 100 and length > 255:
            spec = noisy_spectrum(model.hparams.compute_stft, noisy).abs()
            edges = spec[..., [0, -1]]
            assert (edges[:, 20:] < edges[:, :1] / 80).all()
        assert np.abs(found - expected).max() < 4e-6 * (1 + offset)


@pytest.mark.parametrize(
    "changes", [{"pad_mode": "reflect"}, {"center": False}, {"hop_length": 20}]
)
def test_transforms_of_the_whole_alone_are_refused(changes):
    network = composed(**TINY)
    model = model_of(network, **changes)
    with pytest.raises(ValueError, match="cannot take blocks, expected"):
        assert model.window
    assert model.reach is None and model_of(network).reach is not None


@pytest.mark.parametrize("resampler", [Resampler, StreamResampler])
@pytest.mark.parametrize("rate", [2000, 8000, 16000, 22050, 44100, 192000])
@pytest.mark.parametrize("length", [1, 2, 13, 30011])
def test_a_path_returns_what_it_is_given(rate, length, resampler):
    """As many samples, whatever the blocks; without a change the same."""
    signal = noisy_signal(30011 / rate, rate, 2)[:length].T
    found = []
    for size in (length, 4000, 7 if length < 100 else 997):
        stage, given = Resampler(1, 1, 2), {"resampler": resampler}
        path = SignalPath(stage, 16000, rate, channels=2, **given)
        cuts = range(size, length, size)
        found.append(pushed(path, np.split(signal, cuts, axis=-1)))
        assert found[-1].shape == signal.shape
        assert np.allclose(found[-1], found[0], atol=1e-6)
    assert rate < 16000 or np.allclose(found[0], signal, atol=1e-6)


@pytest.mark.parametrize("reach", [None, (9, 5)])
def test_segments_are_as_the_whole(reach):
    """A sample depends on 8 before and 4 after it, or on its segment."""
    lengths = []

    def smooth(samples):
        lengths.append(len(samples))
        return np.convolve(samples, np.arange(1, 14), "full")[4:-8]

    signal = np.random.default_rng(0).standard_normal((2, 90))
    expected = np.stack(list(map(smooth, signal)))
    lengths.clear()
    stage = Segments(smooth, 1, 16, reach, hop_length=3)
    found = pushed(stage, np.split(signal, [1, 3, 40], axis=-1))
    assert found.shape == signal.shape and len(lengths) > 4
    assert max(lengths) <= 20 + sum(reach or (0, 0)) + 2
    assert np.allclose(found, expected, atol=1e-10) == (reach is not None)
    shorter = Segments(smooth, 1, 16, (6, 3), hop_length=3)
    assert not np.allclose(pushed(shorter, [signal]), expected)


def test_fork_holds_nothing_that_both_have():
    class Item:
        pass

    one, two = fork(Item() for _ in range(9))
    gone = [weakref.ref(next(one)) for _ in range(3)]
    gc.collect()
    assert all(item() is not None for item in gone)
    for _ in range(3):
        next(two)
    gc.collect()
    assert all(item() is None for item in gone)


def test_forty_seconds_in_blocks_and_segments(model):
    """The exact result, or one with seams that nobody hears."""
    noisy = noisy_signal(40.0)[:, 0]
    noisy[: 9 * 16000] *= 0.03
    whole = model.enhance_batch(torch.from_numpy(noisy)[None])[0].numpy()
    assert snr_db(whole, noisy) < 10
    blocks = tiny()
    blocks.segment_seconds = 16
    assert snr_db(whole, blocks.enhance_array(noisy, 16000)) > 100
    other = tiny()
    other.mods.model.in_chunks = False
    segments = other.enhance_array(noisy, 16000)
    assert 40 < snr_db(whole, segments) < 100


def test_memory_does_not_grow(model, monkeypatch):
    """Samples come out at most a segment after they went in."""
    monkeypatch.setattr(EnhanceModel, "segment_seconds", 5)
    path = SignalPath(model.open_signal(1), 16000, 44100, channels=1, wet=0.5)
    block, waiting = noisy_signal(1.0, 44100).T, []
    for number in range(1, 31):
        found = path.push(block, last=number == 30).shape[-1] / 44100
        waiting.append((waiting[-1] if waiting else 0) + 1 - found)
    assert waiting[-1] == pytest.approx(0) and 5 < max(waiting) < 15


@pytest.fixture
def long(monkeypatch):
    """Make half a second long, for files and for signals."""
    monkeypatch.setattr(enhancer, "LONG_SECONDS", 0.5)
    monkeypatch.setattr(segments, "SLACK_SECONDS", 0)
    monkeypatch.setattr(EnhanceModel, "segment_seconds", 0)


@pytest.mark.parametrize("high_band", ["keep", "drop"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_long_files_are_as_short(model, tmp_path, request, rate, high_band):
    path = write(tmp_path / "a.wav", 1.23, rate, 2, subtype="FLOAT")
    options = {"high_band": high_band, "strength": 0.9}
    expected = model.enhance_file(path, **options)
    request.getfixturevalue("long")
    output = tmp_path / "b.wav"
    model.enhance_long_file(path, output, **options)
    found, written_rate = sf.read(output, dtype="float32")
    assert written_rate == rate and found.shape == expected.shape
    assert snr_db(expected.numpy(), found) > 90
    # All of it at once is the same enhancement.
    again = model.enhance_file(path, tmp_path / "c.wav", **options).numpy()
    assert np.array_equal(again, sf.read(tmp_path / "c.wav")[0])
    assert snr_db(again, found) > 120


def test_what_wav_cannot_hold_is_rf64(long, identity, tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", 1.0, channels=2)
    identity.enhance_long_file(path, tmp_path / "b.wav")
    monkeypatch.setattr(audio_file, "WAV_BYTES", 4 * 16000)
    identity.enhance_long_file(path, tmp_path / "c.wav")
    identity.enhance_long_file(path, tmp_path / "c.flac")
    names = "b.wav c.wav c.flac".split()
    formats = [sf.info(tmp_path / name).format for name in names]
    assert formats == ["WAV", "RF64", "FLAC"]
    opus = write(tmp_path / "a.ogg", 1.0, format="OGG", subtype="OPUS")
    identity.enhance_long_file(opus, tmp_path / "b.ogg")
    assert sf.info(tmp_path / "b.ogg").subtype == "OPUS"
    signals = [sf.read(tmp_path / f"{n}.wav")[0] for n in "bc"]
    assert np.array_equal(*signals)


def test_a_failing_long_file_leaves_nothing(long, model, tmp_path, monkeypatch):
    path, output = write(tmp_path / "a.wav", 3.0, 48000), tmp_path / "b.wav"
    output.write_text("old")
    for error in (KeyboardInterrupt, RuntimeError):

        def fail(*_, error=error):
            raise error("in the middle")

        with monkeypatch.context() as patch:
            patch.setattr(DBTransform, "forward", fail)
            with pytest.raises(error, match="in the middle"):
                model.enhance_long_file(path, output)
        assert output.read_text() == "old"

    broken = model_of(lambda spec: spec * math.nan)
    with pytest.raises(ValueError, match="a.wav: the model returned samples"):
        broken.enhance_long_file(path, output)
    assert len(list(tmp_path.iterdir())) == 2 and output.read_text() == "old"


def test_the_progress_bar_is_for_terminals(
    long, identity, tmp_path, monkeypatch
):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    path = write(tmp_path / "a.wav", 1.0)
    terminal, other = (Terminal(), True), (io.StringIO(), True)
    for stream, progress in (terminal, other, (Terminal(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        identity.enhance_long_file(path, tmp_path / "b.wav", progress)
        shown = stream.isatty() and progress
        assert ("a.wav" in stream.getvalue()) == shown
