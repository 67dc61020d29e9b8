"""Recordings mixed on the fly, and pairs of files."""

import json
import math

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from dbtransform_lobes.data import sources
from dbtransform_lobes.data.audio import read_audio
from dbtransform_lobes.data.crops import EpochSampler, TrainingCrops
from dbtransform_lobes.data.levels import rms
from dbtransform_lobes.data.sources import Pairs, Recordings
from tests.corpora import room
from tests.signals import (
    noise_like,
    snr_db,
    speech_like,
    voicebank_tree,
    write_wav,
)

NOISES = ("babble", "clatter", "second_noise")
PLAIN = dict.fromkeys((*NOISES, "speech_filter", "noise_filter", "room"), 0.0)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two speakers, two types of noise and two rooms in train."""
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(2):
        for speaker in ("a", "b"):
            seed = number + 10 * (speaker == "b")
            signal = speech_like(0.4 + 0.3 * number, seed)
            write_wav(folder / f"speech/train/{speaker}/{number}.wav", signal)
        signal = noise_like(0.3 + 0.4 * number, number)
        for kind in ("hum", "wind"):
            write_wav(folder / f"noise/train/{kind}/{number}.wav", signal)
        write_wav(folder / f"rir/train/hall/{number}.wav", room(number))
    write_wav(folder / "speech/valid/c/0.wav", speech_like(0.5, 5))
    write_wav(folder / "noise/valid/rain/0.wav", noise_like(0.5, 5))
    return folder


def draws(source, count=20, length=8000):
    """(clean, noisy) of some examples."""
    rng = np.random.default_rng(0)
    return [source.draw(i % len(source), length, rng)[1:] for i in range(count)]


OPTIONS = """
mixed: {}
babble: {babble: 1.0, clatter: 0.0}
clatter: {babble: 0.0, clatter: 1.0}
recorded: {babble: 0.0, clatter: 0.0, second_noise: 1.0}
augmented: {speech_filter: 1.0, noise_filter: 1.0, room: 1.0}
degraded: {clean_share: 0.5, reverberation: 0.7, early_ms: 50.0, codec: 0.5,
    band_limit: 0.5, clipping: 0.5, level_jump: 0.5}
"""
OPTIONS = yaml.safe_load(OPTIONS)


@pytest.mark.parametrize("name", list(OPTIONS))
@pytest.mark.parametrize("length", [3200, 24000])
def test_recordings_give_examples_of_any_length(tree, name, length):
    source = Recordings(tree, **OPTIONS[name])
    assert len(source) == 4
    for seed in range(6):
        path, *signals = source.draw(0, length, np.random.default_rng(seed))
        again = source.draw(0, length, np.random.default_rng(seed))
        assert "/speech/train/" in path and again[0] == path
        for signal, other in zip(signals, again[1:], strict=True):
            assert signal.shape == (length,) and np.isfinite(signal).all()
            np.testing.assert_array_equal(signal, other)
        clean, noisy = signals
        assert 20 * math.log10(rms(clean)) >= -50  # no pause
        assert rms(noisy - clean) > 1e-4


def test_recordings_read_their_split_alone(tree, monkeypatch):
    opened = set()

    def read(path, *arguments, **options):
        opened.add(path.removeprefix(str(tree)))
        return read_audio(path, *arguments, **options)

    monkeypatch.setattr(sources, "read_audio", read)
    draws(Recordings(tree, reverberation=0.5), 100, 3200)
    assert len(opened) == 10
    assert all("/train/" in path for path in opened)
    opened.clear()
    draws(Recordings(tree, reverberation=1.0, simulated_rooms=1.0))
    assert opened and not any("/rir/" in path for path in opened)
    opened.clear()
    draws(Recordings(tree, split="valid"), 1)
    assert opened == {"/speech/valid/c/0.wav", "/noise/valid/rain/0.wav"}


def test_recordings_in_memory_give_the_same(tree):
    options = {"reverberation": 0.5, "band_limit": 0.5}
    expected = draws(Recordings(tree, **options), 12)
    source = Recordings(tree, in_memory=True, **options)
    assert len(source.memory) == 8
    np.testing.assert_allclose(draws(source, 12), expected, atol=1e-12)


def test_a_silent_room_is_none(tree, monkeypatch):
    source = Recordings(tree, simulated_rooms=0.0)
    monkeypatch.setattr(sources, "read_audio", lambda *_, **__: np.zeros(9))
    signal, rng = np.ones(8), np.random.default_rng(0)
    assert all(part is signal for part in source._in_room(signal, rng))


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """Five speakers, apart at any speed: two files of one tone each."""
    folder = tmp_path_factory.mktemp("tones")
    time = np.arange(24000) / 16000
    lines = ["path,kind,speaker,split,source"]
    for k in range(5):
        tone = 0.1 * np.sin(2 * np.pi * 200 * 2**k * time)
        for take in "ab":
            path = write_wav(folder / f"{k}{take}.wav", tone)
            lines.append(f"{path.name},speech,t{k},train,c{k}")
    path = write_wav(folder / "noise.wav", noise_like(1.0))
    lines.append(f"{path.name},noise,n,train,x")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder / "manifest.csv"


def speaker_of(clean):
    """Number of the speaker by the loudest frequency."""
    hertz = np.abs(np.fft.rfft(clean)).argmax() * 16000 / len(clean)
    return round(math.log2(hertz / 200))


@pytest.mark.parametrize("length", [8000, 32000])
def test_an_utterance_is_followed_by_its_speaker_without_a_click(tones, length):
    joined = 0
    for clean, _ in draws(Recordings(tones, **PLAIN), 40, length):
        assert max(abs(clean[[0, -1]])) < 0.01 * max(abs(clean))  # faded
        power = np.abs(np.fft.rfft(clean * np.hanning(length))) ** 2
        hertz = np.arange(len(power)) * 16000 / length
        centre = 200 * 2 ** speaker_of(clean)
        near = (hertz > 0.8 * centre - 150) & (hertz < 1.2 * centre + 150)
        assert power[~near].sum() < 2e-3 * power.sum()
        envelope = np.abs(clean).reshape(-1, 160).max(1)
        joined += envelope.min() < 0.5 * envelope.max()
    assert joined > 10


def test_babble_is_of_other_speakers(tones):
    source = Recordings(tones, **{**PLAIN, "babble": 1.0}, snr_db=(0, 0))
    for clean, noisy in draws(source, 20, 32000):
        spectrum = np.abs(np.fft.rfft(noisy - clean))
        centre = round(400 * 2 ** speaker_of(clean))  # two seconds
        own = spectrum[int(0.95 * centre) : int(1.05 * centre)].max()
        assert own < 0.05 * spectrum.max()


def test_weights_and_sources_choose_the_speech(tones):
    source = Recordings(tones, source_weights={"c0": 4.0})
    rng = np.random.default_rng(0)
    drawn = np.concatenate([source.order(rng) for _ in range(400)])
    assert np.mean(drawn < 2) == pytest.approx(4 / 8, abs=0.03)
    assert len(Recordings(tones, sources=["c1", "c3"])) == 4


WRONG = """
- [{sources: [cX]}, "cX, expected some of c0, c1"]
- [{sources: []}, "none, expected some of c0, c1"]
- [{source_weights: {cX: 1.0}}, "cX, expected some of c0, c1"]
- [{sources: [c0], source_weights: {c0: 0}}, "0 or more that leave some speech"]
- [{source_weights: {c0: -1, c1: 4}}, "expected finite numbers of 0 or more"]
- [{source_weights: {c0: .nan}}, "expected finite numbers of 0 or more"]
- [{snr_db: 5.0}, "snr_db is 5.0, expected two numbers in dB"]
- [{snr_db: [20, -5]}, "the lower first"]
- [{level_jump: 1.5}, "level_jump is 1.5, expected 0 to 1"]
- [{clean_share: -0.1}, "clean_share is -0.1, expected 0 to 1"]
"""


@pytest.mark.parametrize(("options", "told"), yaml.safe_load(WRONG))
def test_wrong_options_are_refused_at_once(tones, options, told):
    """Not by numpy in the middle of an epoch."""
    with pytest.raises(ValueError, match=told):
        Recordings(tones, **options)


def test_wrong_ranges_of_decibels_are_refused(pairs):
    with pytest.raises(ValueError, match="level_dbfs is .*the lower first"):
        TrainingCrops(pairs, 8, level_dbfs=(-18, -38))
    with pytest.raises(ValueError, match="snr_db is .*expected two numbers"):
        Pairs("train.json", "", snr_db=(1, 2, 3))


def test_crops_in_memory_go_on_where_a_run_stopped_with_any_workers(tree):
    source = Recordings([tree, tree], in_memory=True)
    crops = TrainingCrops(source, 8, 0.5, seed=1)

    def batches(workers, done):
        sampler = EpochSampler(len(crops))
        sampler.skip(done)
        options = {"sampler": sampler, "num_workers": workers}
        return [b["noisy"] for b in DataLoader(crops, 2, **options)]

    alone, others = batches(0, 0), batches(2, 4)
    assert len(alone) == 4 and len(others) == 2
    assert all(map(torch.equal, alone[2:], others))
    assert not torch.equal(alone[0], others[0])


def test_speech_and_noise_are_wanted(tmp_path):
    write_wav(tmp_path / "speech/train/a/0.wav", speech_like(0.5))
    with pytest.raises(ValueError, match="0 types of noise in the split train"):
        Recordings(tmp_path)


def test_silent_recordings_do_no_harm(tmp_path):
    silence = np.zeros(8000)
    for speaker in ("a", "b"):
        write_wav(tmp_path / f"speech/train/{speaker}/0.wav", silence)
    write_wav(tmp_path / "noise/train/hum/0.wav", silence)
    source = Recordings(tmp_path, reverberation=0.5, codec=0.5, clipping=0.5)
    for clean, noisy in draws(source, 12, 3200):
        assert clean.shape == noisy.shape == (3200,)
        assert not clean.any() and not noisy.any()


def test_a_click_after_digital_silence_does_no_harm(tmp_path):
    """A change of speed may step over the last sample of a recording."""
    write_wav(tmp_path / "speech/train/a/0.wav", speech_like(0.5))
    write_wav(tmp_path / "noise/train/hum/0.wav", np.eye(1, 1000, 999)[0])
    heard = 0
    for clean, noisy in draws(Recordings(tmp_path, **PLAIN), 300, 1600):
        assert np.isfinite(noisy).all()
        heard += not np.array_equal(clean, noisy)
    assert heard > 200


def test_the_snr_lies_in_its_range_or_the_target_is_silent(tree):
    ratios = [snr_db(*pair) for pair in draws(Recordings(tree, **PLAIN), 100)]
    assert -5 <= min(ratios) < -2 and 17 < max(ratios) <= 20
    nearly = Recordings(tree, clean_share=1.0, **PLAIN)
    ratios = [snr_db(*pair) for pair in draws(nearly)]
    assert 24.99 <= min(ratios) and max(ratios) <= 45.01
    for clean, noisy in draws(Recordings(tree, snr_db=None, **PLAIN)):
        assert 20 * math.log10(rms(noisy - clean)) == pytest.approx(-26)
    for clean, noisy in draws(Recordings(tree, noise_share=1.0)):
        assert not clean.any() and noisy.any()


@pytest.mark.parametrize("measured", [True, False])
def test_target_lacks_the_late_reflections(tree, tones, measured):
    """At 200 dB all that is left beside the target is the late part."""
    wet = {**PLAIN, "snr_db": (200, 200), "reverberation": 1.0}
    collection = tree if measured else tones
    early = Recordings(collection, early_ms=50.0, **wet)
    whole = Recordings(collection, early_ms=None, **wet)
    dry = Recordings(collection, **{**wet, "reverberation": 0.0})
    assert len(early.rooms) == (2 if measured else 0)
    for (target, noisy), (everything, same), (plain, _) in zip(
        draws(early), draws(whole), draws(dry), strict=True
    ):
        assert rms(noisy - target) > 1e-3 * rms(target)
        np.testing.assert_allclose(everything, same, atol=1e-9)
        np.testing.assert_allclose(noisy, everything, atol=1e-9)
        assert rms(everything - plain) > 1e-3 * rms(plain)


def test_band_limit_is_on_the_target_as_well(tree):
    source = Recordings(tree, **PLAIN, snr_db=(0, 0), band_limit=1.0)
    high = slice(3700, None)  # above the highest band limit, 7.2 kHz
    for signals in draws(source, 5):
        for spectrum in np.abs(np.fft.rfft(signals)):
            assert spectrum[high].mean() < 0.3 * spectrum.mean()


@pytest.mark.parametrize("name", ["codec", "clipping", "level_jump"])
def test_codec_and_clipping_spare_the_target_not_so_jumps(tree, name):
    """Drawn apart from the rest, they change nothing but the mixture."""
    plain = {**PLAIN, "snr_db": (0, 0)}
    both = Recordings(tree, **plain, **{name: 1.0}), Recordings(tree, **plain)
    for seed in range(5):
        rngs = np.random.default_rng(seed), np.random.default_rng(seed)
        pairs = zip(both, rngs, strict=True)
        one, other = (source.draw(0, 8000, rng) for source, rng in pairs)
        assert np.abs(one[2] - other[2]).max() > 1e-4
        if name == "level_jump":  # on both alike
            np.testing.assert_allclose(one[1] * other[2], one[2] * other[1])
        else:
            np.testing.assert_array_equal(one[1], other[1])


def test_speech_keeps_its_highest_frequencies(tmp_path):
    """A model that hears none above 7.5 kHz in speech takes them for noise."""
    rng = np.random.default_rng(0)
    for kind in ("speech", "noise"):
        path = tmp_path / kind / "train/a/0.wav"
        write_wav(path, 0.1 * rng.standard_normal(24000))
    power = np.zeros(129)
    for clean, _ in draws(Recordings(tmp_path, speech_filter=0), 60):
        frames = clean[: len(clean) // 256 * 256].reshape(-1, 256)
        power += (np.abs(np.fft.rfft(frames * np.hanning(256))) ** 2).mean(0)
    assert power[120:].mean() > power[60:100].mean() / 2


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


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", "{}", '{"a": 1}', '{"a": {"noisy_wav": "a", "length": 1}}']
    + [json.dumps({"a": dict.fromkeys(("noisy_wav", "clean_wav", "length"))})],
)
def test_manifests_of_another_form_are_refused(tmp_path, text):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(
        ValueError, match="mine.json: expected JSON of the form"
    ):
        Pairs(tmp_path / "mine.json", tmp_path)


def test_pairs_of_two_lengths_are_named(tmp_path):
    entry = {"length": 0.5}
    for kind, length in (("noisy", 7990), ("clean", 8000)):
        write_wav(tmp_path / f"{kind}.wav", speech_like(0.5)[:length])
        entry[f"{kind}_wav"] = f"{{data_root}}/{kind}.wav"
    manifest = tmp_path / "train.json"
    manifest.write_text(json.dumps({"a": entry}))
    with pytest.raises(ValueError, match="noisy.wav and .*clean.wav differ in"):
        Pairs(manifest, tmp_path).draw(0, 8000, np.random.default_rng(0))


RAMP = np.arange(1, 3201)


def test_pairs_are_cut_at_the_same_place_and_faded(pairs):
    assert len(pairs) == len(set(pairs.order(np.random.default_rng(0)))) == 6
    starts = set()
    for index, seed in ((0, 0), (0, 1), (5, 2)):
        name, noisy_path, clean_path, _ = pairs.items[index]
        given = pairs.draw(index, 3200, np.random.default_rng(seed))
        assert given[0] == name
        clean, noisy = read_audio(clean_path), read_audio(noisy_path)
        fade = np.minimum(1, np.minimum(RAMP, RAMP[::-1]) / 160)
        (start,) = (
            start
            for start in range(len(clean) - 3200 + 1)
            if np.allclose(clean[start:][:3200] * fade, given[1], atol=1e-12)
        )
        noise = (noisy - clean)[start : start + 3200]
        np.testing.assert_allclose(given[2] - given[1], noise, atol=1e-12)
        starts.add(start)
    assert len(starts) == 3


def test_short_pairs_are_followed_by_silence(pairs):
    for index in range(6):
        _, clean, noisy = pairs.draw(index, 16000, np.random.default_rng(0))
        whole = read_audio(pairs.items[index][2])
        assert clean.shape == noisy.shape == (16000,)
        assert 8000 < len(whole) < 16000
        inside = slice(160, len(whole) - 160)  # the ends are faded
        np.testing.assert_array_equal(clean[inside], whole[inside])
        assert not clean[len(whole) :].any() and not noisy[len(whole) :].any()


def test_pairs_are_brought_to_an_snr(pairs, monkeypatch):
    monkeypatch.setattr(pairs, "snr_db", (-4.0, 12.0))
    ratios = [snr_db(*pair) for pair in draws(pairs, 60)]
    assert -4.001 < min(ratios) < -1 and 9 < max(ratios) < 12.001
