"""Rooms, bands, codecs and clipping, and crops made with them."""

import math

import numpy as np
import pytest

from dbtransform_lobes.data.crops import TrainingCrops
from dbtransform_lobes.data.degrade import (
    CODECS,
    clip_peaks,
    limit_band,
    reverberate,
    transcode,
)
from dbtransform_lobes.data.degraded import DegradedRecordings
from dbtransform_lobes.data.mixing import rms
from tests.corpora import room
from tests.signals import noise_like, speech_like, write_wav

NOTHING = {
    "reverberation": 0.0,
    "band_limit": 0.0,
    "codec": 0.0,
    "clipping": 0.0,
    "babble": 0.0,
    "clatter": 0.0,
    "second_noise": 0.0,
    "speech_filter": 0.0,
    "noise_filter": 0.0,
    "room": 0.0,
}


def literal_room(signal, rir, first_late):
    """h[k] s[n - k] summed from the direct path on, and up to first_late."""
    direct = max(range(len(rir)), key=lambda k: abs(rir[k]))
    h = [value / rir[direct] for value in rir[direct:]]
    reverberant, target = np.zeros((2, len(signal)))
    for n in range(len(signal)):
        for k in range(min(n + 1, len(h))):
            reverberant[n] += h[k] * signal[n - k]
            if k < first_late:
                target[n] += h[k] * signal[n - k]
    return reverberant, target


@pytest.mark.parametrize("early_ms, first_late", [(5.0, 80), (None, 10**6)])
@pytest.mark.parametrize("sign", [1, -1])
def test_room_equals_its_literal_twin(early_ms, first_late, sign):
    signal, rir = noise_like(0.05, 1), sign * room(1, seconds=0.03)
    made = reverberate(signal, rir, early_ms)
    twin = literal_room(signal, rir, first_late)
    np.testing.assert_allclose(made, twin, rtol=0, atol=1e-10)
    assert np.abs(made[0] - signal).max() > 1e-3
    # Late reflections are in the one and not in the other.
    assert (np.abs(made[0] - made[1]).max() > 1e-3) == (early_ms is not None)
    later = literal_room(signal, rir, first_late + 1)[1]
    if early_ms is not None:
        assert np.abs(made[1] - later).max() > 1e-6


@pytest.mark.parametrize("length", [1, 79, 80, 81, 5000])
def test_room_keeps_the_length(length):
    made = reverberate(np.ones(length), room(seconds=0.05), 5.0)
    assert [part.shape for part in made] == [(length,), (length,)]


def test_silent_room_is_refused():
    with pytest.raises(ValueError, match="silent"):
        reverberate(np.ones(8), np.zeros(8))


def test_band_limit_passes_and_stops():
    time = np.arange(16000) / 16000

    def gain(hertz):
        tone = np.sin(2 * np.pi * hertz * time)
        out = limit_band(tone, 300.0, 3400.0)[4000:]
        return 20 * math.log10(rms(out) / rms(tone))

    assert abs(gain(1000)) < 0.2
    assert gain(75) == pytest.approx(-24, abs=1.5)
    assert gain(6000) < -40
    for low, high in ((3400, 300), (-1, 300), (0, 8000)):
        with pytest.raises(ValueError, match="expected 0 <= low < high"):
            limit_band(time, low, high)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("length", [400, 16000, 31999])
def test_codec_neither_delays_nor_scales(codec, length):
    signal = 1e-3 * speech_like(2.0, 3)[8000 : 8000 + length]
    coded = transcode(signal, codec, 0.5)
    again = transcode(signal, codec, 0.5)
    np.testing.assert_array_equal(coded, again)
    error = coded - signal
    assert coded.shape == signal.shape
    snr = 10 * math.log10(np.sum(signal**2) / np.sum(error**2))
    assert 10 < snr < 60


def test_mu_law_equals_its_literal_twin():
    """G.711's law: F(x) = sgn(x) ln(1 + 255 |x|) / ln 256, in 255 steps."""
    signal = speech_like(0.2, 1)
    peak = max(abs(x) for x in signal)
    coded = transcode(signal, "mu-law")
    for x, y in zip(signal, coded, strict=True):
        z = 0.9 * x / peak
        f = math.copysign(math.log(1 + 255 * abs(z)) / math.log(256), z)
        step = math.floor(127 * f + 0.5) / 127
        inverse = math.copysign((256 ** abs(step) - 1) / 255, step)
        assert abs(y - inverse * peak / 0.9) < 1e-10
    assert np.abs(coded - signal).max() > 1e-4


def test_unknown_codec_is_refused():
    with pytest.raises(ValueError, match="mu-law, vorbis, mp3"):
        transcode(np.ones(8), "telegraph")


def test_clipping_cuts_the_peaks_only():
    signal = speech_like(0.3, 2)
    cut = clip_peaks(signal, 0.5)
    limit = 0.5 * np.abs(signal).max()
    inside = np.abs(signal) <= limit
    np.testing.assert_array_equal(cut[inside], signal[inside])
    assert np.abs(cut).max() == limit and not inside.all()


# Crops


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for seed in range(3):
        write_wav(folder / f"speech/train/s{seed}/a.wav", speech_like(1, seed))
        write_wav(folder / f"noise/train/n{seed}/a.wav", noise_like(1, seed))
        write_wav(folder / f"rir/train/r/{seed}.wav", room(seed), 16000)
    return folder


def draws(source, count=20, length=8000):
    rng = np.random.default_rng(0)
    return [source.draw(i % len(source), length, rng) for i in range(count)]


def test_snr_lies_in_its_range(recordings):
    source = DegradedRecordings(recordings, (-5.0, 20.0), **NOTHING)
    ratios = [
        20 * math.log10(rms(target) / rms(rest))
        for _, target, rest in draws(source, 100)
    ]
    assert -5 <= min(ratios) < -2 and 17 < max(ratios) <= 20


def test_target_lacks_the_late_reflections(recordings):
    """At 200 dB all that is left beside the target is the late part."""
    rooms = {**NOTHING, "reverberation": 1.0}
    early = DegradedRecordings(recordings, (200, 200), early_ms=50.0, **rooms)
    whole = DegradedRecordings(recordings, (200, 200), early_ms=None, **rooms)
    pairs = zip(draws(early), draws(whole), strict=True)
    for (_, target, rest), (_, everything, nothing) in pairs:
        assert rms(rest) > 1e-3 * rms(target)
        assert rms(nothing) < 1e-8 * rms(everything)
        np.testing.assert_allclose(target + rest, everything, atol=1e-9)


@pytest.mark.parametrize("name, same_target", [("band_limit", False)])
def test_band_limit_is_on_the_target_as_well(recordings, name, same_target):
    source = DegradedRecordings(recordings, (0, 0), **{**NOTHING, name: 1.0})
    plain = DegradedRecordings(recordings, (0, 0), **NOTHING)
    high = slice(3700, None)  # above the highest band limit, 7.2 kHz
    for _, target, rest in draws(source, 5):
        spectrum = np.abs(np.fft.rfft(target + rest))
        assert spectrum[high].mean() < 0.3 * spectrum.mean()
        target = np.abs(np.fft.rfft(target))
        assert target[high].mean() < 0.3 * target.mean()
    assert len(draws(plain, 1)[0][1]) == 8000


@pytest.mark.parametrize("name", ["codec", "clipping"])
def test_codec_and_clipping_spare_the_target(recordings, name):
    """Drawn apart from the rest, they change nothing but the mixture."""
    for seed in range(5):
        one, other = (
            DegradedRecordings(recordings, (0, 0), **options).draw(
                0, 8000, np.random.default_rng(seed)
            )
            for options in ({**NOTHING, name: 1.0}, NOTHING)
        )
        np.testing.assert_array_equal(one[1], other[1])
        assert np.abs(one[2] - other[2]).max() > 1e-4


def test_crops_depend_on_seed_epoch_and_position_alone(recordings):
    def crops(seed):
        source = DegradedRecordings(
            recordings, reverberation=0.7, codec=0.7, clipping=0.7
        )
        return TrainingCrops(source, 8, 0.5, seed, snr_db=None)

    first, again, other = crops(1), crops(1), crops(2)
    for key in ((3, 5), (1, 0), (1, 7)):
        a, b, c = first[key], again[key], other[key]
        assert a["id"] == b["id"]
        for part in ("noisy", "clean"):
            np.testing.assert_array_equal(a[part], b[part])
        assert (a["noisy"] - c["noisy"]).abs().max() > 1e-4
        assert (a["noisy"] - a["clean"]).abs().max() > 1e-4
        assert a["noisy"].isfinite().all()


def test_every_speech_file_is_used_once_in_a_pass(recordings):
    source = DegradedRecordings(recordings, **NOTHING)
    crops = TrainingCrops(source, 6, 0.25, 0, snr_db=None)
    names = [crops[1, i]["id"].split("@")[0] for i in range(6)]
    assert len(set(names[:3])) == len(set(names[3:])) == 3


def test_sources_choose_the_speech(recordings, tmp_path):
    lines = ["path,kind,speaker,split,source"]
    for kind, source in (("speech", "german"), ("speech", "french")):
        path = recordings / f"speech/train/s{len(lines)}/a.wav"
        lines.append(f"{path},{kind},x,train,{source}")
    lines.append(f"{recordings}/noise/train/n0/a.wav,noise,n,train,x")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(lines))
    source = DegradedRecordings(manifest, sources=["german"], **NOTHING)
    assert len(source) == 1
    with pytest.raises(ValueError, match="dutch, expected some of french"):
        DegradedRecordings(manifest, sources=["dutch"], **NOTHING)
    with pytest.raises(ValueError, match="no train rir"):
        DegradedRecordings(manifest, reverberation=0.5)
