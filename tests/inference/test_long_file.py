"""Long files: blocks with the result of the whole, in little memory."""

import cmath
import gc
import io
import math
import sys
import warnings
import weakref

import numpy as np
import pytest
import soundfile as sf
import soxr
import torch
from speechbrain.processing.features import ISTFT, STFT

from dbtransform_lobes.inference import long_file, long_signal
from dbtransform_lobes.inference.any_rate import enhance_signal, measure
from dbtransform_lobes.inference.block_stft import (
    BlockISTFT,
    BlockSTFT,
    block_transforms,
)
from dbtransform_lobes.inference.blocks import (
    align,
    regroup,
    resample_blocks,
)
from dbtransform_lobes.inference.long_file import enhance_long_file
from dbtransform_lobes.models.chunks import fork
from dbtransform_lobes.models.db_transform import DBTransform
from tests.composition import composed
from tests.runs import model_of
from tests.signals import noise_like, speech_like

CPU = {"device": "cpu"}
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


def noisy_signal(seconds, sample_rate=16000, channels=1):
    rows = [
        speech_like(seconds, n, sample_rate)
        + noise_like(seconds, n, sample_rate)
        for n in range(channels)
    ]
    return np.stack(rows).astype(np.float32)


def snr_db(reference, estimate):
    error = np.square(reference - estimate).sum() + 1e-20
    return 10 * np.log10(np.square(reference).sum() / error)


def joined(blocks):
    return np.concatenate(list(blocks), axis=-1)


# Transforms


def literal_stft(signal, n_fft, hop, window):
    """X_t[f] in loops, zeros around the signal; a list of frames."""
    frames = []
    for t in range(1 - (-len(signal) // hop)):
        bins = []
        for f in range(n_fft // 2 + 1):
            total = 0j
            for n in range(n_fft):
                at = n + t * hop - n_fft // 2
                if 0 <= at < len(signal):
                    turn = cmath.exp(-2j * math.pi * f * n / n_fft)
                    total += window[n] * signal[at] * turn
            bins.append(total)
        frames.append(bins)
    return frames


def literal_istft(frames, length, n_fft, hop, window):
    """y[m] in loops."""
    signal = []
    for m in range(length):
        total = weight = 0.0
        for t, bins in enumerate(frames):
            n = m + n_fft // 2 - t * hop
            if not 0 <= n < n_fft:
                continue
            sample = bins[0].real + bins[-1].real * (-1) ** n
            for f in range(1, n_fft // 2):
                turn = cmath.exp(2j * math.pi * f * n / n_fft)
                sample += 2 * (bins[f] * turn).real
            total += window[n] * sample / n_fft
            weight += window[n] ** 2
        signal.append(total / weight)
    return signal


@pytest.mark.parametrize("hop", [3, 4, 8])
@pytest.mark.parametrize("sizes", [[53], [1] * 53, [20, 1, 30, 2]])
def test_transforms_equal_their_literal_twins(hop, sizes):
    signal = torch.randn(1, 53, dtype=torch.float64)
    window = torch.hamming_window(16, dtype=torch.float64)
    settings = (16, hop, window)
    stft, istft = BlockSTFT(*settings), BlockISTFT(*settings)
    specs = [stft.push(block) for block in signal.split(sizes, dim=-1)]
    specs.append(stft.end())
    frames = literal_stft(signal[0].tolist(), 16, hop, window.tolist())
    spec = torch.cat(specs, dim=-1)[0].T
    assert np.allclose(spec, frames, rtol=0, atol=1e-10)
    # The model's changes, which no signal has for its spectrum.
    changed = [each * (1 + torch.arange(9.0))[:, None] for each in specs]
    literal = [[(1 + f) * x for f, x in enumerate(bins)] for bins in frames]
    parts = [istft.push(each) for each in changed] + [istft.end(53)]
    expected = literal_istft(literal, 53, 16, hop, window.tolist())
    found = torch.cat(parts, dim=-1)[0, :53]
    assert np.allclose(found, expected, rtol=0, atol=1e-10)
    assert not np.allclose(found, signal[0], atol=0.1)


@pytest.mark.parametrize("length", [1, 255, 256, 257, 511, 512, 5000])
@pytest.mark.parametrize("win_length", [32, 25])
def test_transforms_equal_those_of_speechbrain(length, win_length):
    options = {"win_length": win_length, "hop_length": 8, "n_fft": 512}
    whole = STFT(16000, **options), ISTFT(16000, **options)
    stft, istft = block_transforms(*whole)
    signal = torch.randn(2, length)
    spec = torch.cat((stft.push(signal), stft.end()), dim=-1)
    padded = torch.nn.functional.pad(signal, (0, -length % 128))
    expected = whole[0](padded)
    found = torch.view_as_real(spec.transpose(1, 2))
    assert torch.allclose(found, expected, atol=1e-4)
    back = torch.cat((istft.push(spec), istft.end(length)), dim=-1)
    back = back[:, :length]
    expected = whole[1](expected, sig_length=length)
    assert torch.allclose(back, expected, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"pad_mode": "reflect"}, {"center": False}, {"hop_length": 20}],
)
def test_transforms_of_the_whole_alone_are_refused(changes):
    options = {"win_length": 32, "hop_length": 8, "n_fft": 512, **changes}
    stft = STFT(16000, **options)
    options.pop("pad_mode", None)
    with pytest.raises(ValueError, match="cannot take blocks, expected"):
        block_transforms(stft, ISTFT(16000, **options))
    with pytest.raises(ValueError, match="cannot take blocks"):
        block_transforms(torch.nn.Identity(), torch.nn.Identity())


# Blocks


def test_blocks_are_aligned_and_regrouped():
    signal = np.arange(20).reshape(1, 20)
    one, two = np.split(signal, [7, 7, 15], 1), np.split(-signal, [2, 8], 1)
    pairs = list(align(one, two))
    assert all(a.shape == b.shape and a.size for a, b in pairs)
    assert np.array_equal(joined(a for a, _ in pairs), signal)
    assert np.array_equal(joined(b for _, b in pairs), -signal)
    with pytest.raises(AssertionError, match="differ in length"):
        list(align(one, two[:-1]))
    for size in (1, 3, 20, 30):
        blocks = list(regroup(two, size))
        assert all(block.shape[1] == size for block in blocks[:-1])
        assert np.array_equal(joined(blocks), -signal)


@pytest.mark.parametrize("rates", [(44100, 16000), (16000, 48000), (1, 1)])
@pytest.mark.parametrize("extra", [-5, 0, 5])
def test_resampling_blocks_equals_the_whole(rates, extra):
    signal = np.random.default_rng(0).standard_normal((2, 30011))
    signal = signal.astype(np.float32)
    whole = soxr.resample(signal.T, *rates).T
    length = whole.shape[1] + extra
    blocks = np.split(signal, [100, 15000, 15001], axis=-1)
    found = joined(resample_blocks(blocks, *rates, 2, length))
    shared = min(length, whole.shape[1])
    assert found.shape == (2, length)
    assert np.allclose(found[:, :shared], whole[:, :shared], atol=1e-6)
    assert not found[:, shared:].any()


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


# Signals


def test_sixty_seconds_in_blocks_and_segments(model):
    """The exact result, or one with seams that nobody hears."""
    noisy = noisy_signal(60.0)[0]
    noisy[: 9 * 16000] *= 0.03
    whole = model.enhance_batch(torch.from_numpy(noisy)[None])[0].numpy()
    assert snr_db(whole, noisy) < 10
    blocks = model.enhance_array(noisy, 16000)
    assert snr_db(whole, blocks) > 100
    other = tiny()
    other.mods.model.in_chunks = False
    segments = other.enhance_array(noisy, 16000)
    assert 40 < snr_db(whole, segments) < 100


@pytest.mark.parametrize("causal", [False, True])
def test_channels_do_not_meet(causal):
    enhancer = tiny(causal=causal)
    noisy = noisy_signal(21.0, channels=3)
    noisy[1] *= 1e-3
    noisy[2] = 0
    both = enhancer.enhance_array(noisy.T, 16000).T
    alone = enhancer.enhance_array(noisy[1], 16000)
    assert snr_db(alone, both[1]) > 90
    assert not both[2].any() and both[0].any()


def test_blocks_are_asked_for_as_they_are_needed(model):
    """So that memory does not grow; at most 4 s of 60 s lie around."""
    block = noisy_signal(1.0, 44100)
    blocks, asked = [block] * 60, [0]

    def counted():
        for each in blocks:
            asked[0] += 1
            yield each

    measured = measure(blocks, 1, 44100, 16000)
    found, most = 0, 0
    with torch.inference_mode():
        for part in enhance_signal(
            model, counted(), measured, 44100, 0.5, "keep"
        ):
            most = max(most, asked[0] - found / 44100)
            found += part.shape[-1]
    assert found == 60 * 44100 and asked[0] == 60
    assert most < 8  # with the one that is made


# Files


@pytest.fixture
def long(monkeypatch):
    """Make half a second long."""
    monkeypatch.setattr(long_file, "LONG_SECONDS", 0.5)
    monkeypatch.setattr(long_signal, "LONGEST_SECONDS", 0)


def write(path, sample_rate=16000, channels=1, seconds=1.0, **options):
    signal = noisy_signal(seconds, sample_rate, channels)
    sf.write(path, signal.T, sample_rate, **options)
    return path


@pytest.mark.parametrize("high_band", ["keep", "drop"])
@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100])
def test_a_long_file_is_as_a_short_one(
    model, tmp_path, monkeypatch, request, sample_rate, high_band
):
    path = write(tmp_path / "a.wav", sample_rate, 2, 1.23, subtype="FLOAT")
    options = {"high_band": high_band, "strength": 0.9}
    expected = model.enhance_file(path, **options)
    request.getfixturevalue("long")
    output = tmp_path / "b.wav"
    enhance_long_file(model, path, output, **options)
    found, rate = sf.read(output, dtype="float32")
    assert rate == sample_rate and found.shape == expected.shape
    assert snr_db(expected.numpy(), found) > 90
    # All of it at once is the same enhancement, and of one type.
    again = model.enhance_file(path, tmp_path / "c.wav", **options).numpy()
    assert np.array_equal(again, sf.read(tmp_path / "c.wav")[0])
    assert snr_db(again, found) > 120


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_format_and_tags_of_a_long_file(long, model, tmp_path, suffix):
    path, output = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write(path, 44100, 2)
    tagged = tmp_path / "tagged.flac"
    with sf.SoundFile(tagged, "w", 44100, 2, "PCM_24") as file:
        file.title, file.artist = "Ä title", "Somebody"
        file.write(noisy_signal(1.0, 44100, 2).T)
    enhance_long_file(model, path, output)
    before, after = sf.info(path), sf.info(output)
    for key in ("format", "subtype", "samplerate", "channels", "frames"):
        assert getattr(after, key) == getattr(before, key), key
    enhance_long_file(model, tagged, output)
    with sf.SoundFile(output) as file:
        assert (file.title, file.artist) == ("Ä title", "Somebody")
    assert len(list(tmp_path.iterdir())) == 3


def test_what_wav_cannot_hold_is_rf64(long, model, tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", channels=2)
    enhance_long_file(model, path, tmp_path / "b.wav")
    monkeypatch.setattr(
        "dbtransform_lobes.inference.audio_file.WAV_BYTES", 4 * 16000
    )
    enhance_long_file(model, path, tmp_path / "c.wav")
    enhance_long_file(model, path, tmp_path / "c.flac")
    names = "b.wav c.wav c.flac".split()
    formats = [sf.info(tmp_path / name).format for name in names]
    assert formats == ["WAV", "RF64", "FLAC"]
    signals = [sf.read(tmp_path / f"{n}.wav")[0] for n in "bc"]
    assert np.array_equal(*signals)


def test_a_long_file_that_fails_leaves_nothing(
    long, model, tmp_path, monkeypatch
):
    path, output = (
        write(tmp_path / "a.wav", 48000, seconds=3.0),
        tmp_path / "b.wav",
    )
    output.write_text("old")
    for error in (KeyboardInterrupt, RuntimeError):

        def fail(*_, error=error):
            raise error("in the middle")

        with monkeypatch.context() as patch:
            patch.setattr(DBTransform, "stream", fail)
            with pytest.raises(error, match="in the middle"):
                enhance_long_file(model, path, output)
        assert output.read_text() == "old"
    with pytest.raises(ValueError, match="strength is 2, expected"):
        enhance_long_file(model, path, output, strength=2)
    with pytest.raises(ValueError, match="high_band is 'no', expected"):
        enhance_long_file(model, path, output, high_band="no")

    class Broken(torch.nn.Module):
        def forward(self, spec):
            return spec * float("nan")

    monkeypatch.setattr(long_signal, "LONGEST_SECONDS", 20)
    with pytest.raises(ValueError, match="a.wav: the model returned samples"):
        enhance_long_file(model_of(Broken()), path, output)
    signal = np.full(48000, 0.1)
    signal[-1] = math.nan
    sf.write(path, signal, 48000, subtype="FLOAT")
    with pytest.raises(ValueError, match="a.wav: samples are not finite"):
        enhance_long_file(model, path, output)
    assert len(list(tmp_path.iterdir())) == 2 and output.read_text() == "old"


def test_a_long_file_that_is_cut_off_is_told_once(long, model, tmp_path):
    path, output = write(tmp_path / "a.wav", seconds=2.0), tmp_path / "b.wav"
    data = path.read_bytes()
    path.write_bytes(data[: 44 + 2 * 20001])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        enhance_long_file(model, path, output)
    told = [str(each.message) for each in caught if "ends after" in str(each)]
    assert len(told) == 1
    assert sf.info(output).frames == 20001


def test_the_progress_bar_is_for_terminals(long, model, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    path = write(tmp_path / "a.wav", seconds=2.0)
    for stream, progress in (
        (Terminal(), True),
        (Terminal(), False),
        (io.StringIO(), True),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        enhance_long_file(model, path, tmp_path / "b.wav", progress)
        shown = stream.isatty() and progress
        assert ("a.wav" in stream.getvalue()) == shown
