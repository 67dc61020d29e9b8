"""The band split, its compression, and the maps and norms of bands."""

import math

import numpy as np
import pytest
import torch

from dbtransform_lobes.models.band_linear import BandLinear, BandNorm
from dbtransform_lobes.models.band_split import BandSplit, compress
from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.spectrum import real_parts
from tests.twins import affine, array, assert_twin, randn, scramble

WIDTHS = [1, 1, 2, 2, 3, 4, 4]


def tiny_layout():
    return BandLayout(WIDTHS, n_fft=32)


def compress_twin(spec, exponent):
    """X |X|^(c - 1), with 1e-12 added to |X|^2, number by number."""
    out = np.zeros_like(spec)
    for index in np.ndindex(spec.shape[:-1]):
        real, imag = spec[index]
        size = math.sqrt(real**2 + imag**2 + (1e-12 if exponent != 1 else 0))
        out[index] = [
            part * (size ** (exponent - 1) if size else 1.0)
            for part in (real, imag)
        ]
    return out


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
def test_compress_equals_its_twin(exponent):
    spec = 3 * randn(2, 5, 4, 2)
    spec[0, 0, 0] = 0
    wrong = compress_twin(array(spec), exponent + 1)
    assert_twin(
        compress(spec, exponent), compress_twin(array(spec), exponent), wrong
    )


def test_compress_keeps_the_phase_and_bends_the_magnitude():
    spec = 3 * randn(50, 2)
    bent = torch.view_as_complex(compress(spec, 0.3))
    spec = torch.view_as_complex(spec)
    assert torch.allclose(bent.angle(), spec.angle(), rtol=0, atol=1e-10)
    assert torch.allclose(bent.abs(), spec.abs() ** 0.3, rtol=0, atol=1e-7)
    assert not torch.allclose(bent.abs(), spec.abs(), atol=0.1)


def test_compress_has_a_finite_gradient_at_silence():
    spec = torch.zeros(4, 2, requires_grad=True)
    out = compress(spec, 0.3)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(4, 2))
    assert torch.isfinite(spec.grad).all() and (spec.grad > 0).all()


def linear_twin(x, weight, bias, wrong=False):
    """y[k,b,t,o] = b_k[o] + sum_c W_k[o,c] x[k,b,t,c]."""
    bands, batch, frames, channels = x.shape
    out = np.zeros((bands, batch, frames, weight.shape[-2]))
    for k, b, t, o in np.ndindex(out.shape):
        own = (k + 1) % bands if wrong else k
        w = weight[own] if weight.ndim == 3 else weight
        value = 0.0
        if bias is not None:
            value = bias[own][o] if weight.ndim == 3 else bias[o]
        for c in range(channels):
            value += w[o, c] * x[k, b, t, c]
        out[k, b, t, o] = value
    return out


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_bands", [3, None])
def test_band_linear_equals_its_twin(num_bands, bias):
    linear = scramble(BandLinear(4, 5, num_bands, bias))
    x = randn(3, 2, 6, 4)
    parts = array(linear.weight), array(linear.bias) if bias else None
    wrong = [linear_twin(array(x), *parts, wrong=True)] if num_bands else []
    if bias:
        wrong.append(linear_twin(array(x), parts[0], None))
    assert_twin(linear(x), linear_twin(array(x), *parts), *wrong)


NORMS = {"group", "frame"}


def norm_twin(norm, x, kind):
    """(x - mean) / sqrt(var + eps) gain + bias; biased variance.

    Mean and variance over the channels and frames of a band (group) or over
    the channels of a frame (frame).
    """
    bands, batch, frames, channels = x.shape
    gain, bias = array(norm.weight), array(norm.bias)
    out = np.zeros_like(x)
    for k, b, t, c in np.ndindex(x.shape):
        values = {"group": x[k, b], "frame": x[k, b, t]}[kind]
        values = [float(value) for value in values.flatten()]
        mean = sum(values) / len(values)
        var = sum((value - mean) ** 2 for value in values) / len(values)
        own = (gain[k, 0, 0], bias[k, 0, 0]) if gain.ndim > 1 else (gain, bias)
        unit = (x[k, b, t, c] - mean) / math.sqrt(var + norm.eps)
        out[k, b, t, c] = unit * own[0][c] + own[1][c]
    return out


@pytest.mark.parametrize("num_bands", [3, None])
@pytest.mark.parametrize("kind", sorted(NORMS))
def test_band_norm_equals_its_twin(kind, num_bands):
    norm = scramble(BandNorm(4, kind, num_bands, num_bands is not None))
    x = randn(3, 2, 5, 4) + torch.arange(5.0)[:, None]
    others = [norm_twin(norm, array(x), each) for each in NORMS - {kind}]
    assert_twin(norm(x), norm_twin(norm, array(x), kind), *others)


def test_group_norm_is_that_of_torch():
    norm = scramble(BandNorm(4, "group"))
    x = randn(3, 2, 5, 4)
    expected = torch.nn.functional.group_norm(
        x.flatten(0, 1).transpose(1, 2), 1, norm.weight, norm.bias
    )
    assert_twin(norm(x).flatten(0, 1).transpose(1, 2), array(expected))


def test_unknown_norm_is_refused():
    with pytest.raises(
        ValueError, match="'batch', expected 'group' or 'frame'"
    ):
        BandNorm(4, "batch")


def split_twin(split, spec, exponent, norm, interleaved=True):
    """z[k,b,t] = W_k norm(re_0, im_0, re_1, im_1, ...) + b_k by band.

    With magnitudes: re_0, im_0, |X_0|, re_1, ...
    """
    batch, _, frames = spec.shape
    layout = split.layout
    parts = np.stack([spec.real, spec.imag], axis=-1)
    parts = compress_twin(parts, exponent)
    if split.magnitude:
        size = np.sqrt((parts**2).sum(-1, keepdims=True) + 1e-12)
        parts = np.concatenate([parts, size], axis=-1)
    count = parts.shape[-1]
    out = []
    for k, width in enumerate(layout.widths):
        index = [k in range(31)[run.bands] for run in layout.runs].index(True)
        place = k - layout.runs[index].bands.start
        rows = np.zeros((1, batch, frames, count * width))
        for b, t, f, part in np.ndindex(batch, frames, width, count):
            column = count * f + part if interleaved else part * width + f
            rows[0, b, t, column] = parts[b, layout.edges[k] + f, t, part]
        if norm == "group":
            module = split.norms[index]
            own = BandNorm(count * width, "group").double()
            own.weight.data = module.weight.data[place, 0, 0]
            own.bias.data = module.bias.data[place, 0, 0]
            rows = norm_twin(own, rows, "group")
        linear = split.linears[index]
        band = [
            [affine(linear, place, rows[0, b, t]) for t in range(frames)]
            for b in range(batch)
        ]
        out.append(band)
    return np.array(out)


@pytest.mark.parametrize("magnitude", [False, True])
@pytest.mark.parametrize("norm", ["none", "group"])
@pytest.mark.parametrize("exponent", [0.3, 1.0])
def test_band_split_equals_its_twin(exponent, norm, magnitude):
    split = scramble(BandSplit(tiny_layout(), 4, exponent, norm, magnitude))
    spec = torch.complex(randn(2, 17, 5), randn(2, 17, 5, seed=1))
    # Frames of different level, so that the norm has something to lose.
    spec = spec * torch.tensor([1.0, 4.0, 0.2, 2.0, 1.0])
    out = split(real_parts(spec))
    assert out.shape == (7, 2, 5, 4)
    numbers = array(spec)
    other = "group" if norm == "none" else "none"
    wrong = [split_twin(split, numbers, exponent, norm, interleaved=False)]
    wrong.append(split_twin(split, numbers, 0.6, norm))
    if norm == "group":
        wrong.append(split_twin(split, numbers, exponent, other))
    assert_twin(out, split_twin(split, numbers, exponent, norm), *wrong)


@pytest.mark.parametrize("norm", ["none", "group"])
def test_level_differences_between_frames_survive(norm):
    split = BandSplit(BandLayout(), 4, 0.3, norm).double()
    with torch.no_grad():
        for linear in split.linears:
            linear.bias.zero_()
    spec = torch.complex(randn(1, 257, 1), randn(1, 257, 1, seed=1))
    loud_and_soft = torch.cat([spec, 0.01 * spec], dim=-1)
    z = split(real_parts(loud_and_soft))  # (K, 1, 2, C)
    spread = z - z.mean((2, 3), keepdim=True) if norm == "group" else z
    loud, soft = spread.abs().amax(-1)[:, 0].T
    assert (loud - soft).abs().mean() > 0.05


def test_a_band_sees_its_own_bins_alone():
    split = BandSplit(BandLayout(), 4).double()
    spec = torch.complex(randn(1, 257, 3), randn(1, 257, 3, seed=1))
    z = split(real_parts(spec))
    for band, (first, last) in enumerate(
        zip(split.layout.edges, split.layout.edges[1:], strict=False)
    ):
        changed = spec.clone()
        changed[:, first:last] *= 2
        moved = (split(real_parts(changed)) - z).abs().amax((1, 2, 3)) > 1e-6
        assert moved.nonzero().flatten().tolist() == [band]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"norm": "frame"}, "'frame', expected 'none' or 'group'"),
        ({"compression": 0.0}, "compression is 0.0, expected 0 < "),
        ({"compression": 1.5}, "compression is 1.5, expected 0 < "),
    ],
)
def test_impossible_splits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BandSplit(tiny_layout(), 4, **arguments)
