"""Level and trends of frames: literal twins, jumps, silence."""

import math

import numpy as np
import pytest
import torch

from dbtransform_lobes.models.detrend import Detrend
from dbtransform_lobes.models.level import RunningLevel, over_signal_level
from tests.twins import array, assert_twin, randn


def level_twin(bins, back):
    """X[t] over sqrt(sum P[s]^2 / sum P[s]), s = t - back, ..., t."""
    out = np.zeros_like(bins)
    for b, t in np.ndindex(bins.shape[:2]):
        seen = (bins[b, max(t - back, 0) : t + 1] ** 2).sum(-1).mean(-1)
        if seen.sum() > 0:
            level = math.sqrt((seen**2).sum() / seen.sum())
            out[b, t] = bins[b, t] / level
    return out


@pytest.mark.parametrize("back", [0, 3, 6])
def test_running_level_equals_its_twin(back):
    """Of digital silence and of a jump by 60 dB as well."""
    bins, level = randn(2, 40, 9, 2), RunningLevel(back)
    bins[:, 10:15] = 0
    bins[:, 25:] *= 1e-3
    twins = [level_twin(array(bins), n) for n in (back, back + 1)]
    assert_twin(level(bins), *twins)
    assert torch.allclose(level(bins.float()).double(), level(bins), atol=1e-5)
    for gain in (1e-4, 1e4):
        assert_twin(level(gain * bins), twins[0])


def test_level_of_a_signal_is_its_rms():
    signal = 0.03 * torch.randn(2, 16000, dtype=torch.float64)
    signal[1] *= 1e-9
    window = torch.hamming_window(400, dtype=torch.float64)
    spec = torch.stft(signal, 400, 100, window=window, return_complex=True)
    power = [sum(float(x) ** 2 for x in each) / 16000 for each in signal]
    over, level = over_signal_level(spec)
    expected = [math.sqrt(p) for p in power]
    assert level.flatten().tolist() == pytest.approx(expected, rel=0.02)
    assert torch.allclose(over * level, spec) and not torch.equal(over, spec)
    assert not over_signal_level(0 * spec)[0].any()


def test_detrend_is_the_projection_of_the_windowed_frame():
    window = torch.hann_window(64, dtype=torch.float64).sqrt()
    time = torch.linspace(-1, 1, 64, dtype=torch.float64)
    basis = torch.stack([window, window * time, window * time**2], dim=1)
    frame = torch.randn(64, dtype=torch.float64) + 1
    solution = torch.linalg.lstsq(basis, (window * frame)[:, None]).solution
    expected = window * frame - (basis @ solution)[:, 0]
    spec = torch.fft.rfft(window * frame).to(torch.complex64)
    result = Detrend(window)(torch.view_as_real(spec)[None, None])
    result = torch.fft.irfft(torch.view_as_complex(result)[0, 0])
    assert torch.allclose(result.double(), expected, atol=1e-5)
