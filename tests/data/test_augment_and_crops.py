"""Augmentation, sources of speech and noise, and training crops."""

import json
import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dbtransform_lobes.data import sources
from dbtransform_lobes.data.audio import read_audio
from dbtransform_lobes.data.augment import (
    babble,
    change_speed,
    clatter,
    random_filter,
    random_room,
    ring,
)
from dbtransform_lobes.data.crops import EpochSampler, TrainingCrops
from dbtransform_lobes.data.mixing import rms
from dbtransform_lobes.data.sources import Pairs, Recordings, is_pause
from tests.signals import noise_like, speech_like, voicebank_tree, write_wav


def decibel(ratio):
    return 20 * math.log10(ratio)


# Augmentation


def test_random_filter_is_a_smooth_response_within_its_range():
    signal = noise_like(0.1)
    out = random_filter(
        signal, np.random.default_rng(1), max_db=6, num_points=4
    )
    # The points are the first numbers drawn, on 50 Hz to 8 kHz.
    drawn = np.random.default_rng(1).uniform(-6, 6, 4)
    points = [50 * 160 ** (i / 3) for i in range(4)]
    length = len(signal)
    before, after = np.fft.rfft(signal), np.fft.rfft(out)
    for f in range(0, length // 2, 7):
        hertz = max(f * 16000 / length, 50)
        i = max(i for i in range(3) if points[i] <= hertz * (1 + 1e-12))
        part = math.log(hertz / points[i]) / math.log(points[i + 1] / points[i])
        gain = drawn[i] + part * (drawn[i + 1] - drawn[i])
        expected = before[f] * 10 ** (gain / 20)
        assert abs(after[f] - expected) < 1e-9 * np.abs(before).max()
    assert np.ptp(drawn) > 1
    assert out.shape == signal.shape


@pytest.mark.parametrize("function", [random_filter, random_room])
def test_augmentation_depends_on_the_generator_alone(function):
    for length in (1, 799, 800):
        signal = noise_like(0.1)[:length]
        kept = signal.copy()
        first = function(signal, np.random.default_rng(5))
        again = function(signal, np.random.default_rng(5))
        other = function(signal, np.random.default_rng(6))
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(signal, kept)
        assert first.shape == signal.shape
        assert np.abs(first - other).max() > 1e-6


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.13, 2.0])
def test_change_speed_leaves_no_aliases(factor):
    """A tone of 3.5 kHz against the same tone at the new pitch."""
    time, length = np.arange(8000) / 16000, round(8000 / factor)
    out = change_speed(np.sin(2 * np.pi * 3500 * time), factor)
    assert len(out) == length
    moved = np.sin(2 * np.pi * 3500 * factor * np.arange(length) / 16000)
    error = (out - moved)[200:-200]
    assert np.mean(error**2) < 1e-4 * np.mean(moved**2)


def test_faster_is_higher():
    time = np.arange(8000) / 16000
    out = change_speed(np.sin(2 * np.pi * 500 * time), 1.25)
    peak = np.abs(np.fft.rfft(out)).argmax() * 16000 / len(out)
    assert abs(peak - 625) < 5


def test_room_adds_a_tail_that_decays():
    click = np.zeros(16000)
    click[0] = 1
    for seed in range(5):
        response = random_room(click, np.random.default_rng(seed))
        decay = np.random.default_rng(seed).uniform(0.15, 0.8)
        end = int(decay * 16000)
        assert np.abs(response[end:]).max() < 1e-9
        tail = response[:end].copy()
        tail[0] -= 1
        assert 0.3 <= np.sqrt(np.sum(tail**2)) <= 1.5
        tenth = end // 10
        fall = decibel(rms(tail[-tenth:]) / rms(tail[:tenth]))
        assert abs(fall + 54) < 4  # 60 dB in all


def test_room_is_a_convolution():
    signal = noise_like(0.02)
    click = np.eye(1, len(signal))[0]
    response = random_room(click, np.random.default_rng(2))
    twin = np.zeros(len(signal))
    for n in range(len(signal)):
        for m in range(n + 1):
            twin[n] += response[m] * signal[n - m]
    out = random_room(signal, np.random.default_rng(2))
    np.testing.assert_allclose(out, twin, rtol=0, atol=1e-10)
    assert np.abs(out - signal).max() > 1e-2


def test_voices_of_babble_lie_within_six_decibel():
    time = np.arange(1600) / 16000
    gains = (1.0, 0.01, 30.0)
    tones = [np.sin(2 * np.pi * 100 * n * time) for n in (2, 3, 5)]
    voices = [gain * tone for gain, tone in zip(gains, tones, strict=True)]
    levels = []
    for seed in range(30):
        mixed = babble(voices, np.random.default_rng(seed))
        for tone in tones:
            # The tones are orthogonal.
            levels.append(decibel(2 * np.mean(mixed * tone) / math.sqrt(2)))
    assert -6.001 <= min(levels) < -5 and -1 < max(levels) <= 0.001


def test_ring_resonates_and_decays():
    click = np.zeros(16000)
    click[0] = 1
    peaks = []
    for seed in range(10):
        out = ring(click, np.random.default_rng(seed))
        energy = np.abs(np.fft.rfft(out)) ** 2
        peaks.append(float(energy.argmax()))  # in Hz: one second long
        assert 490 < peaks[-1] < 7010
        assert rms(out[8000:]) < 1e-3 * rms(out[:800])
        assert rms(out[160:480]) > 1e-3 * rms(out[:160])
        double = ring(2 * click, np.random.default_rng(seed))
        np.testing.assert_allclose(double, 2 * out, rtol=1e-12)
    assert np.ptp(peaks) > 500


def test_ring_is_a_sum_of_two_pole_resonators():
    """y[n] = sin(a) x[n] + 2 r cos(a) y[n-1] - r^2 y[n-2], summed."""
    click = noise_like(0.01)
    rng = np.random.default_rng(3)
    twin = np.zeros(len(click))
    for _ in range(rng.integers(3, 9)):
        a = 2 * np.pi * math.exp(rng.uniform(np.log(500), np.log(7000))) / 16000
        r = 10 ** (-3 / (rng.uniform(0.03, 0.4) * 16000))
        gain, last, before = rng.uniform(0.1, 1.0), 0.0, 0.0
        for n, x in enumerate(click):
            y = math.sin(a) * x + 2 * r * math.cos(a) * last - r**2 * before
            last, before = y, last
            twin[n] += gain * y
    out = ring(click, np.random.default_rng(3))
    np.testing.assert_allclose(out, twin, rtol=0, atol=1e-10)
    assert np.abs(out - click).max() > 1e-2


def test_clatter_is_impulsive():
    fragments = [noise_like(0.05, seed) for seed in range(3)]
    crests, first = [], []
    for seed in range(20):
        out = clatter(fragments, 16000, np.random.default_rng(seed))
        again = clatter(fragments, 16000, np.random.default_rng(seed))
        np.testing.assert_array_equal(out, again)
        assert out.shape == (16000,) and np.isfinite(out).all()
        assert rms(out) > 0
        crests.append(np.abs(out).max() / rms(out))
        first.append(np.flatnonzero(out)[0])
    steady = noise_like(1.0)
    assert np.median(crests) > 1.5 * np.abs(steady).max() / rms(steady)
    assert len(set(first)) > 10
    for length in (1, 100):
        out = clatter(fragments, length, np.random.default_rng(0))
        assert out.shape == (length,) and np.isfinite(out).all()


# Sources


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two speakers and two types of noise in train, others in valid."""
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(2):
        for speaker in ("a", "b"):
            seed = number + 10 * (speaker == "b")
            write_wav(
                folder / f"speech/train/{speaker}/{number}.wav",
                speech_like(0.4 + 0.3 * number, seed),
            )
        for kind in ("hum", "wind"):
            write_wav(
                folder / f"noise/train/{kind}/{number}.wav",
                noise_like(0.3 + 0.4 * number, number),
            )
    write_wav(folder / "speech/valid/c/0.wav", speech_like(0.5, 5))
    write_wav(folder / "noise/valid/rain/0.wav", noise_like(0.5, 5))
    return folder


KINDS = {
    "mixed": {},
    "babble": {"babble": 1.0, "clatter": 0.0},
    "clatter": {"babble": 0.0, "clatter": 1.0},
    "recorded": {"babble": 0.0, "clatter": 0.0, "second_noise": 1.0},
    "augmented": {"speech_filter": 1.0, "noise_filter": 1.0, "room": 1.0},
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_recordings_give_speech_and_noise_of_any_length(tree, kind):
    source = Recordings(tree, **KINDS[kind])
    assert len(source) == 4
    for length in (3200, 24000):
        for seed in range(6):
            name, clean, noise = source.draw(
                0, length, np.random.default_rng(seed)
            )
            again = source.draw(0, length, np.random.default_rng(seed))
            assert "/speech/train/" in name
            for signal, other in zip((clean, noise), again[1:], strict=True):
                assert signal.shape == (length,)
                assert np.isfinite(signal).all()
                np.testing.assert_array_equal(signal, other)
            assert not is_pause(clean)
            assert rms(noise) > 1e-3


def test_recordings_read_their_split_alone(tree, monkeypatch):
    opened = set()

    def read(path, *arguments):
        opened.add(path.removeprefix(str(tree)))
        return read_audio(path, *arguments)

    monkeypatch.setattr(sources, "read_audio", read)
    source = Recordings(tree)
    for seed in range(60):
        source.draw(0, 3200, np.random.default_rng(seed))
    assert len(opened) == 8
    assert all("/train/" in path for path in opened)
    opened.clear()
    valid = Recordings(tree, split="valid", babble=0)
    valid.draw(0, 3200, np.random.default_rng(0))
    assert opened == {"/speech/valid/c/0.wav", "/noise/valid/rain/0.wav"}


def test_an_utterance_is_followed_by_the_same_speaker(tmp_path):
    """Speakers are tones around 500 and 3000 Hz; two tones for each."""
    time = np.arange(16000) / 16000
    tones = {"a": (420, 580), "b": (2500, 3500)}
    for speaker, pair in tones.items():
        for tone in pair:
            signal = 0.3 * np.sin(2 * np.pi * tone * time)
            write_wav(tmp_path / f"speech/train/{speaker}/{tone}.wav", signal)
    write_wav(tmp_path / "noise/train/hum/0.wav", noise_like(1.0))
    source = Recordings(tmp_path, speech_filter=0.0)
    both = {"a": 0, "b": 0}
    for seed in range(60):
        name, clean, _ = source.draw(0, 16000, np.random.default_rng(seed))
        speaker = name.split("/")[-2]
        energy = np.abs(np.fft.rfft(clean)) ** 2  # bins of 1 Hz
        low, high = energy[:1500].sum(), energy[1500:].sum()
        own, other = (low, high) if speaker == "a" else (high, low)
        assert other < 0.02 * own
        # Speeds of 0.9 to 1.1 leave the tones of a speaker apart.
        middle = 500 if speaker == "a" else 2960
        parts = energy[:middle].sum(), energy[middle:].sum()
        parts = (parts[0], energy[middle:1500].sum()) if own is low else parts
        both[speaker] += min(parts) > 0.1 * max(parts)
    # Half are joined, and half of these to the other tone.
    assert 4 <= sum(both.values()) <= 30


def test_silent_recordings_do_no_harm(tmp_path):
    silence = np.zeros(8000)
    for speaker in ("a", "b"):
        write_wav(tmp_path / f"speech/train/{speaker}/0.wav", silence)
    write_wav(tmp_path / "noise/train/hum/0.wav", silence)
    source = Recordings(tmp_path)
    for seed in range(12):
        _, clean, noise = source.draw(0, 3200, np.random.default_rng(seed))
        assert clean.shape == noise.shape == (3200,)
        assert not clean.any() and not noise.any()


def test_a_click_after_digital_silence_does_no_harm(tmp_path):
    """A change of speed may step over the last sample of a recording."""
    write_wav(tmp_path / "speech/train/a/0.wav", speech_like(0.5))
    write_wav(tmp_path / "noise/train/hum/0.wav", np.eye(1, 1000, 999)[0])
    source = Recordings(
        tmp_path, "train", babble=0, clatter=0, noise_filter=0, room=0
    )
    heard = 0
    for seed in range(300):
        _, _, noise = source.draw(0, 1600, np.random.default_rng(seed))
        assert np.isfinite(noise).all()
        heard += noise.any()
    assert heard > 200


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A manifest of six pairs; 0.55 to 0.6 s each."""
    folder = voicebank_tree(tmp_path_factory.mktemp("pairs"), 16000)
    entries = {
        path.stem: {
            "noisy_wav": f"{{data_root}}/noisy_trainset_28spk_wav/{path.name}",
            "clean_wav": f"{{data_root}}/clean_trainset_28spk_wav/{path.name}",
            "length": len(read_audio(path)) / 16000,
        }
        for path in folder.glob("clean_trainset_28spk_wav/*.wav")
    }
    manifest = folder / "train.json"
    manifest.write_text(json.dumps(entries))
    return Pairs(manifest, folder)


def test_pairs_are_cut_at_the_same_place(pairs):
    assert len(pairs) == 6
    starts = set()
    for index, seed in ((0, 0), (0, 1), (5, 2)):
        name, noisy_path, clean_path, _ = pairs.items[index]
        given = pairs.draw(index, 3200, np.random.default_rng(seed))
        assert given[0] == name
        clean, noisy = read_audio(clean_path), read_audio(noisy_path)
        fits = [
            start
            for start in range(len(clean) - 3200 + 1)
            if np.array_equal(clean[start : start + 3200], given[1])
        ]
        (start,) = fits
        expected = noisy[start : start + 3200]
        np.testing.assert_allclose(given[1] + given[2], expected, atol=1e-12)
        assert rms(given[2]) > 1e-3
        starts.add(start)
    assert len(starts) == 3


def test_short_pairs_are_followed_by_silence(pairs):
    for index in range(6):
        _, clean, noise = pairs.draw(index, 16000, np.random.default_rng(0))
        whole = read_audio(pairs.items[index][2])
        assert clean.shape == noise.shape == (16000,)
        assert 8000 < len(whole) < 16000
        np.testing.assert_array_equal(clean[: len(whole)], whole)
        assert not clean[len(whole) :].any() and not noise[len(whole) :].any()


# Crops


class Hiss:
    """Files of noise at known levels: SNR 3 dB; remembers what it drew."""

    def __init__(self, files=5, clean=0.2, noise=0.2 * 10 ** (-3 / 20)):
        self.files, self.levels, self.drawn = files, (clean, noise), []

    def __len__(self):
        return self.files

    def draw(self, index, length, rng):
        self.drawn.append(index)
        pair = rng.uniform(-1, 1, (2, length))
        pair *= np.array(self.levels)[:, None] * math.sqrt(3)
        return f"file{index}", *pair


def same(first, second):
    return first["id"] == second["id"] and all(
        torch.equal(first[key], second[key]) for key in ("noisy", "clean")
    )


def test_examples_are_a_function_of_seed_epoch_and_position(tree):
    def crops(seed):
        return TrainingCrops(Recordings(tree), 4, 0.2, seed=seed)

    first = crops(seed=3)[2, 1]
    assert first["noisy"].shape == first["clean"].shape == (3200,)
    assert first["noisy"].dtype == torch.float32
    used = crops(seed=3)
    for key in ((1, 0), (2, 0), (2, 3)):
        used[key]
    assert same(first, used[2, 1])
    for seed, key in ((3, (1, 1)), (3, (2, 2)), (3, (3, 1)), (4, (2, 1))):
        other = crops(seed)[key]
        assert not torch.equal(first["noisy"], other["noisy"])


def test_workers_do_not_change_the_examples(tree):
    crops = TrainingCrops(Recordings(tree), 5, 0.2, seed=3)
    assert len(crops) == 5
    sampler = EpochSampler(len(crops))
    given = {}
    for workers in (0, 2):
        loader = DataLoader(
            crops, batch_size=2, sampler=sampler, num_workers=workers
        )
        for epoch in (1, 2):
            sampler.set_epoch(epoch)
            given[workers, epoch] = list(loader)
    for epoch in (1, 2):
        assert len(given[0, epoch]) == 3
        for pair in zip(given[0, epoch], given[2, epoch], strict=True):
            assert same(*pair)
    assert not same(given[0, 1][0], given[0, 2][0])


def test_sampler_gives_epoch_and_position():
    sampler = EpochSampler(3)
    assert len(sampler) == 3
    assert list(sampler) == [(1, 0), (1, 1), (1, 2)]
    sampler.set_epoch(4)
    assert list(sampler) == [(4, 0), (4, 1), (4, 2)]


def test_snr_and_level_lie_in_their_ranges():
    crops = TrainingCrops(
        Hiss(), 60, 0.1, snr_db=(-4.0, 12.0), level_dbfs=(-30.0, -20.0)
    )
    snrs, levels = [], []
    for position in range(60):
        example = crops[1, position]
        clean, noisy = example["clean"].double(), example["noisy"].double()
        snrs.append(decibel(rms(clean) / rms(noisy - clean)))
        levels.append(decibel(rms(noisy)))
    assert -4.001 < min(snrs) < -1 and 9 < max(snrs) < 12.001
    assert -30.001 < min(levels) < -28 and -22 < max(levels) < -19.999
    assert abs(np.corrcoef(snrs, levels)[0, 1]) < 0.5


def test_without_a_range_the_snr_is_that_of_the_source():
    crops = TrainingCrops(Hiss(), 5, 0.1, snr_db=None)
    for position in range(5):
        example = crops[1, position]
        clean, noisy = example["clean"].double(), example["noisy"].double()
        assert abs(decibel(rms(clean) / rms(noisy - clean)) - 3) < 0.5
        assert -38.001 < decibel(rms(noisy)) < -17.999


def test_no_mixture_clips():
    class Click(Hiss):
        def draw(self, index, length, rng):
            name, clean, noise = super().draw(index, length, rng)
            clean = 1e-3 * clean
            clean[rng.integers(length)] = 1.0
            return name, clean, noise

    crops = TrainingCrops(Click(), 20, 0.1, snr_db=(20, 30))
    peaks = [float(crops[1, i]["noisy"].abs().max()) for i in range(20)]
    assert max(peaks) == pytest.approx(0.99, abs=1e-6)
    assert min(peaks) > 0.1


@pytest.mark.parametrize("levels", [(0.0, 0.1), (0.1, 0.0), (0.0, 0.0)])
def test_silence_is_kept(levels):
    example = TrainingCrops(Hiss(5, *levels), 5, 0.1)[1, 0]
    clean, noisy = example["clean"], example["noisy"]
    assert torch.isfinite(noisy).all()
    assert bool(clean.any()) == (levels[0] > 0)
    assert bool((noisy - clean).any()) == (levels[1] > 0)


@pytest.mark.parametrize("examples", [3, 5, 7])
def test_passes_visit_every_file_once(examples):
    source = Hiss(files=5)
    crops = TrainingCrops(source, examples, 0.01)
    for epoch in range(1, 11):
        for position in range(examples):
            crops[epoch, position]
    passes = [source.drawn[i : i + 5] for i in range(0, 10 * examples, 5)]
    assert len(passes) == 2 * examples
    for files in passes:
        assert sorted(files) == [0, 1, 2, 3, 4]
    assert len({tuple(files) for files in passes}) > 1


def test_an_epoch_of_pairs_visits_every_pair(pairs):
    crops = TrainingCrops(pairs, len(pairs), 0.2, seed=1)
    orders = []
    for epoch in (1, 2, 3):
        names = [crops[epoch, i]["id"].split("@")[0] for i in range(6)]
        assert sorted(names) == [item[0] for item in pairs.items]
        orders.append(tuple(names))
    assert len(set(orders)) > 1
