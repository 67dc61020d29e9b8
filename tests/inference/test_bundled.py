"""What the bundled models do with levels, DC, silence and noise alone."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import dbtransform_lobes
from dbtransform_lobes.evaluation.metrics import si_sdr
from dbtransform_lobes.inference.backend import load_enhancer
from tests.signals import noise_like, snr_db

RATE = 16000
NAMES = ("db_transform_small", "db_transform_streaming")


@pytest.fixture(scope="module")
def noisy():
    folder = Path(dbtransform_lobes.__file__).parent / "bundled"
    signal, rate = sf.read(folder / "example_noisy.flac", dtype="float32")
    assert rate == RATE
    return signal


@pytest.fixture(scope="module", params=[*NAMES, "live"])
def enhance(request):
    if request.param != "live":
        model = load_enhancer(request.param, threads=1)
        return lambda signal: model.enhance_array(np.float32(signal), RATE)
    stream = load_enhancer(NAMES[1], threads=1).stream()
    return lambda signal: np.concatenate(
        [stream.feed(np.float32(signal)), stream.flush()]
    )


@pytest.mark.parametrize("gain_db", [-60, -30, 20])
def test_the_gain_of_a_file_does_not_matter(enhance, noisy, gain_db):
    """But for how eight bits are rounded."""
    gain, expected = 10 ** (gain_db / 20), enhance(noisy)
    error = enhance(gain * noisy) / gain - expected
    assert np.square(error).mean() < 0.01**2 * np.square(expected).mean()


@pytest.mark.parametrize("kind", ["coloured", "white"])
def test_noise_alone_gets_15_db_quieter_and_silence_stays_silent(enhance, kind):
    assert not enhance(np.zeros(RATE)).any()
    noise = noise_like(4.0)
    if kind == "white":
        noise = 0.05 * np.random.default_rng(0).standard_normal(4 * RATE)
    change = np.mean(enhance(noise) ** 2) / np.mean(noise**2)
    assert 10 * np.log10(change) < -15


@pytest.mark.parametrize(
    ("silence", "gain", "later_db", "whole_db"),
    [(False, 0.1, 20, 10), (True, 1.0, 25, 15)],
)
def test_a_talker_after_a_loud_one_or_silence_is_enhanced_as_alone(
    enhance, noisy, silence, gain, later_db, whole_db
):
    before = np.zeros(2 * RATE) if silence else noisy
    both = enhance(np.concatenate((before, gain * noisy)))
    second, alone = both[len(before) :] / gain, enhance(noisy)
    assert si_sdr(alone[RATE:], second[RATE:]) > later_db  # after a second
    assert si_sdr(alone, second) > whole_db


@pytest.mark.parametrize(
    ("gain", "hertz"), [(1.0, 0), (1.0, 5), (1.0, 15), (0.05, 0)]
)
def test_dc_and_rumble_do_not_count(enhance, noisy, gain, hertz):
    rumble = 0.3 * np.cos(2 * np.pi * hertz * np.arange(len(noisy)) / RATE)
    expected, enhanced = enhance(gain * noisy), enhance(gain * noisy + rumble)
    begun = RATE // 10 if hertz else 0  # the file's first sample is a step
    assert si_sdr(expected[begun:], enhanced[begun:]) > 25


def test_bf16_is_near_fp32(noisy):
    exact, rounded = (
        load_enhancer(NAMES[0], "torch", precision=precision)
        for precision in ("fp32", "bf16")
    )
    enhanced = exact.enhance_array(noisy, RATE)
    half = rounded.enhance_array(noisy, RATE)
    assert half.dtype == np.float32
    assert 20 < snr_db(enhanced, half) < 80  # near, and not fp32 itself
