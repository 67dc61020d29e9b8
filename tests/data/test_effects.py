"""Filters, speed, rooms, bands, codecs, clipping, babble and clatter."""

import math

import numpy as np
import pytest

from dbtransform_lobes.data import effects
from dbtransform_lobes.data.levels import rms
from tests.corpora import room
from tests.signals import noise_like, speech_like

generator = np.random.default_rng


def decibel(ratio):
    return 20 * math.log10(ratio)


def test_random_filter_is_a_smooth_response_within_its_range():
    signal = noise_like(0.1)
    out = effects.random_filter(signal, generator(1), max_db=6, num_points=4)
    # The points are the first numbers drawn, on 50 Hz to 8 kHz.
    drawn = generator(1).uniform(-6, 6, 4)
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


FRAGMENTS = [noise_like(0.05, seed) for seed in range(3)]
RANDOM = {
    "random_filter": effects.random_filter,
    "jump_level": effects.jump_level,
    "ring": effects.ring,
    "clatter": lambda x, rng: effects.clatter(FRAGMENTS, len(x), rng),
    "babble": lambda x, rng: effects.babble([x, x[::-1]], rng),
}


@pytest.mark.parametrize("name", list(RANDOM))
@pytest.mark.parametrize("length", [1, 799, 800])
def test_effects_depend_on_the_generator_alone(name, length):
    signal = noise_like(0.1)[:length]
    kept = signal.copy()
    effect = RANDOM[name]
    first, again, other = (effect(signal, generator(n)) for n in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(signal, kept)
    assert first.shape == signal.shape and np.isfinite(first).all()
    assert np.abs(first - other).max() > 1e-6 or length == 1


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.13, 2.0])
def test_change_speed_leaves_no_aliases(factor):
    """A tone of 3.5 kHz against the same tone at the new pitch."""
    time, length = np.arange(8000) / 16000, round(8000 / factor)
    out = effects.change_speed(np.sin(2 * np.pi * 3500 * time), factor)
    assert len(out) == length
    moved = np.sin(2 * np.pi * 3500 * factor * np.arange(length) / 16000)
    error = (out - moved)[200:-200]
    assert np.mean(error**2) < 1e-4 * np.mean(moved**2)


def test_level_jumps_once_by_the_drawn_gain():
    ones = np.ones((2, 16000))
    out = effects.jump_level(ones, generator(3), (20.0, 20.0))
    np.testing.assert_array_equal(out[0], out[1])
    assert (out[0, :3200] == 1).all()
    np.testing.assert_allclose(out[0, 13600:], 10)
    assert (np.diff(out[0]) > 0).sum() == pytest.approx(800, abs=1)


def literal_room(signal, rir, first_late):
    """h[k] s[n - k] summed from the direct path on, and up to first_late."""
    direct = np.argmax(np.abs(rir))
    h = rir[direct:] / rir[direct]
    both = (np.convolve(part, signal) for part in (h, h[:first_late]))
    return [part[: len(signal)] for part in both]


@pytest.mark.parametrize("early_ms, first_late", [(5.0, 80), (None, 10**6)])
@pytest.mark.parametrize("sign", [1, -1])
def test_room_equals_its_literal_twin(early_ms, first_late, sign):
    signal, rir = noise_like(0.05, 1), sign * room(1, seconds=0.03)
    for length in (1, 79, 80, 81, len(signal)):
        made = effects.reverberate(signal[:length], rir, early_ms)
        twin = literal_room(signal[:length], rir, first_late)
        np.testing.assert_allclose(made, twin, rtol=0, atol=1e-10)
    assert np.abs(made[0] - signal).max() > 1e-3
    # Late reflections are in the one and not in the other.
    assert (np.abs(made[0] - made[1]).max() > 1e-3) == (early_ms is not None)
    later = literal_room(signal, rir, first_late + 1)[1]
    if early_ms is not None:
        assert np.abs(made[1] - later).max() > 1e-6


def test_simulated_room_has_a_tail_that_decays():
    for seed in range(5):
        tail = effects.simulated_room(generator(seed))
        assert len(tail) == int(generator(seed).uniform(0.15, 0.8) * 16000)
        tail[0] -= 1
        assert 0.3 <= np.sqrt(np.sum(tail**2)) <= 1.5
        tenth = len(tail) // 10
        fall = decibel(rms(tail[-tenth:]) / rms(tail[:tenth]))
        assert abs(fall + 54) < 4  # 60 dB in all


def test_band_limit_passes_and_stops():
    time = np.arange(16000) / 16000

    def gain(hertz):
        tone = np.sin(2 * np.pi * hertz * time)
        out = effects.limit_band(tone, 300.0, 3400.0)[4000:]
        return decibel(rms(out) / rms(tone))

    assert abs(gain(1000)) < 0.2
    assert gain(75) == pytest.approx(-24, abs=1.5)
    assert gain(6000) < -40


@pytest.mark.parametrize("codec", effects.CODECS)
@pytest.mark.parametrize("length", [400, 16000, 31999])
def test_codec_neither_delays_nor_scales(codec, length):
    signal = 1e-3 * speech_like(2.0, 3)[8000 : 8000 + length]
    coded = effects.transcode(signal, codec, 0.5)
    again = effects.transcode(signal, codec, 0.5)
    np.testing.assert_array_equal(coded, again)
    error = coded - signal
    assert coded.shape == signal.shape
    assert 10 < decibel(rms(signal) / rms(error)) < 60


def test_mu_law_equals_its_literal_twin():
    """G.711's law: F(x) = sgn(x) ln(1 + 255 |x|) / ln 256, in 255 steps."""
    signal = speech_like(0.2, 1)
    scale, coded = max(abs(signal)) / 0.9, effects.transcode(signal, "mu-law")
    size = np.log(1 + 255 * abs(signal) / scale) / math.log(256)
    step = np.floor(127 * np.copysign(size, signal) + 0.5) / 127
    inverse = np.copysign((256 ** abs(step) - 1) / 255, step)
    np.testing.assert_allclose(coded, inverse * scale, rtol=0, atol=1e-10)
    assert np.abs(coded - signal).max() > 1e-4


def test_voices_of_babble_lie_within_six_decibel():
    time = np.arange(1600) / 16000
    gains = (1.0, 0.01, 30.0)
    tones = [np.sin(2 * np.pi * 100 * n * time) for n in (2, 3, 5)]
    voices = [gain * tone for gain, tone in zip(gains, tones, strict=True)]
    levels = []
    for seed in range(30):
        mixed = effects.babble(voices, generator(seed))
        for tone in tones:
            # The tones are orthogonal.
            levels.append(decibel(2 * np.mean(mixed * tone) / math.sqrt(2)))
    assert -6.001 <= min(levels) < -5 and -1 < max(levels) <= 0.001


def test_ring_is_a_sum_of_two_pole_resonators():
    """y[n] = sin(a) x[n] + 2 r cos(a) y[n-1] - r^2 y[n-2], summed."""
    click = noise_like(0.01)
    rng = generator(3)
    twin = np.zeros(len(click))
    for _ in range(rng.integers(3, 9)):
        a = 2 * np.pi * math.exp(rng.uniform(np.log(500), np.log(7000))) / 16000
        r = 10 ** (-3 / (rng.uniform(0.03, 0.4) * 16000))
        gain, last, before = rng.uniform(0.1, 1.0), 0.0, 0.0
        for n, x in enumerate(click):
            y = math.sin(a) * x + 2 * r * math.cos(a) * last - r**2 * before
            last, before = y, last
            twin[n] += gain * y
    out = effects.ring(click, generator(3))
    np.testing.assert_allclose(out, twin, rtol=0, atol=1e-10)
    assert np.abs(out - click).max() > 1e-2


def test_clatter_is_impulsive():
    crests, first = [], []
    for seed in range(20):
        out = effects.clatter(FRAGMENTS, 16000, generator(seed))
        crests.append(np.abs(out).max() / rms(out))
        first.append(np.flatnonzero(out)[0])
    steady = noise_like(1.0)
    assert np.median(crests) > 1.5 * np.abs(steady).max() / rms(steady)
    assert len(set(first)) > 10


def test_a_silent_room_is_refused():
    with pytest.raises(ValueError, match="silent"):
        effects.reverberate(np.ones(8), np.zeros(8))
