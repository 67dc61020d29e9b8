"""The norm over a window of frames."""

import math

import numpy as np
import pytest
import torch

from dbtransform_lobes.models.band_linear import BandNorm
from dbtransform_lobes.models.window_norm import WindowNorm, make_norm
from tests.twins import array, assert_twin, randn, scramble


def norm_twin(norm, x, back, ahead):
    """x / sqrt(mean square + eps) gain + bias; the mean around t."""
    frames = x.shape[2]
    gain, bias = (
        np.broadcast_to(array(each), (x.shape[0], 1, 1, x.shape[3]))
        for each in (norm.weight, norm.bias)
    )
    out = np.zeros_like(x)
    for k, b, t, c in np.ndindex(x.shape):
        around = range(max(t - back, 0), min(t + ahead, frames - 1) + 1)
        values = [float(v) for s in around for v in x[k, b, s]]
        square = sum(value**2 for value in values) / len(values)
        unit = x[k, b, t, c] / math.sqrt(square + norm.eps)
        out[k, b, t, c] = unit * gain[k, 0, 0, c] + bias[k, 0, 0, c]
    return out


def levels(frames, dtype=torch.float64):
    """Frames of different level and mean."""
    x = randn(3, 2, frames, 4, dtype=dtype)
    return x * (1 + torch.arange(frames)[:, None] % 4) + 1


@pytest.mark.parametrize("frames", [1, 2, 9])
@pytest.mark.parametrize("window", [1, 3, 20])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("per_band", [False, True])
def test_window_norm_equals_its_twin(frames, window, causal, per_band):
    norm = scramble(WindowNorm(4, 3, per_band, window, causal))
    x = levels(frames)
    expected = norm_twin(norm, array(x), window, 0 if causal else window)
    wrong = []
    if frames == 9 and window < 9:
        wrong.append(norm_twin(norm, array(x), window - 1, window))
        wrong.append(norm_twin(norm, array(x), window, window + 1))
    assert_twin(norm(x), expected, *wrong)


def test_a_window_of_all_frames_is_group_norm_without_a_mean():
    norm, group = WindowNorm(4, 3, window=8), BandNorm(4, "group")
    x = levels(9)
    x -= x.mean((2, 3), keepdim=True)
    assert_twin(norm.double()(x), array(group.double()(x)))


def test_levels_survive_from_frame_to_frame():
    x = randn(3, 1, 6, 4, dtype=torch.float32)
    x[:, :, 3:] *= 10
    level = WindowNorm(4, 3, window=5)(x).square().mean(dim=(0, 1, 3))
    assert level[3:].min() > 5 * level[:3].max()


def test_a_quiet_window_after_a_loud_one_is_exact():
    """Sums that run on would have lost the quiet one in fp32."""
    norm = WindowNorm(4, 3, window=2)
    x = randn(3, 1, 400, 4, dtype=torch.float32)
    x[:, :, :200] *= 1e5
    alone = norm(x[:, :, 200:])[:, :, 2:]
    after = norm(x)[:, :, 202:]
    assert (after - alone).abs().max() < 1e-6


def test_silence_stays_finite_and_has_gradients():
    norm, x = WindowNorm(4, 3, window=2), torch.zeros(3, 1, 5, 4)
    x.requires_grad_()
    y = norm(x)
    y.sum().backward()
    assert (y == 0).all() and x.grad.isfinite().all()


@torch.no_grad()
def test_half_precision_gives_what_float_gives():
    norm = scramble(WindowNorm(4, 3, window=2)).float()
    x = levels(9, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(x.bfloat16()).dtype == torch.float32
    half = WindowNorm(4, 3, window=2).bfloat16()
    half.load_state_dict(norm.state_dict())
    y = half(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert (y.float() - norm(x)).abs().max() < 0.05


def test_make_norm_gives_each_kind():
    for kind in ("group", "spectrum", "frame"):
        norm = make_norm(4, kind, 3, per_band=True)
        assert type(norm) is BandNorm and norm.kind == kind
        assert norm.weight.shape == (3, 1, 1, 4)
    norm = make_norm(4, "window", 3, window=7, causal=True)
    assert norm.weight.shape == (4,) and (norm.back, norm.ahead) == (7, 0)
