"""The layout of the bands, their split, compression, maps and norms."""

from functools import partial

import numpy as np
import pytest
import torch

from dbtransform_lobes.models.band_linear import FEW_ROWS, BandLinear, BandNorm
from dbtransform_lobes.models.band_split import BandSplit
from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.feed_forward import FeedForward
from dbtransform_lobes.models.spectrum import real_parts
from tests.formulas import affine, silu, standardise
from tests.literal import places
from tests.models.tiny import LAYOUT, WIDTHS
from tests.twins import array, assert_twin, randn, scramble, spectrum

each_owner = pytest.mark.parametrize("num_bands", [None, 3])


def compress_twin(spec, exponent):
    """X |X|^(c - 1), with 1e-12 added to |X|^2 unless c is 1."""
    power = (spec**2).sum(-1, keepdims=True) + 1e-12 * (exponent != 1)
    return spec * np.sqrt(power) ** (exponent - 1)


def linear_twin(x, linear, shift=0):
    """y[k,b,t] = b_k + W_k x[k,b,t]."""
    out = np.zeros((*x.shape[:3], linear.weight.shape[-2]))
    for k, b, t in np.ndindex(x.shape[:3]):
        out[k, b, t] = affine(linear, (k + shift) % len(x), x[k, b, t])
    return out


@each_owner
def test_band_linear_equals_its_twin(num_bands):
    linear = scramble(BandLinear(4, 5, num_bands))
    x = randn(3, 2, 6, 4)
    twin = linear_twin(array(x), linear)
    wrong = [linear_twin(array(x)[..., ::-1], linear)]
    wrong += [linear_twin(array(x), linear, 1)] if num_bands else []
    wrong += [twin - array(linear.bias).reshape(-1, 1, 1, 5)]
    assert_twin(linear(x), twin, *wrong)


@pytest.mark.parametrize("shape", [(31, 1, 9), (31, 1, 10), (20, 16, 3)])
def test_single_precision_gives_the_same_with_many_rows(shape):
    """float32 is convolved on the CPU, float64 and few rows are not."""
    torch.manual_seed(0)
    linear, x = BandLinear(16, 24), torch.randn(*shape, 16)
    gradient = torch.randn(*shape, 24)
    results = []
    for dtype in (torch.float32, torch.float64):
        module, inputs = linear.to(dtype), x.to(dtype).requires_grad_()
        out = module(inputs)
        leaves = (inputs, module.weight, module.bias)
        grads = torch.autograd.grad(out, leaves, gradient.to(dtype))
        results.append((out, *grads))
    for single, double in zip(*results, strict=True):
        error = (single - double).abs().max()
        assert error < 1e-5 * double.abs().max() and double.abs().max() > 0.1
    rows = torch.Size(shape).numel()
    assert (rows > FEW_ROWS) == (shape != (31, 1, 9))


@each_owner
def test_feed_forward_equals_its_twin(num_bands):
    """(silu(x W_1) * x W_2) W_3."""
    module = scramble(FeedForward(4, 1.5, num_bands, num_bands is not None))
    x = randn(3, 2, 5, 4)
    expected, wrong = np.zeros((2, *x.shape))
    for k, b, t in np.ndindex(x.shape[:3]):
        row = affine(module.expand, k, array(x)[k, b, t])
        first, second = row[:6], row[6:]
        expected[k, b, t] = affine(module.reduce, k, silu(first) * second)
        wrong[k, b, t] = affine(module.reduce, k, first * silu(second))
    assert_twin(module(x), expected, wrong)


def norm_twin(x, gain, bias, kind, eps=1e-5):
    """(x - mean) / sqrt(var + eps) gain + bias; biased variance.

    Mean and variance over the channels and frames of a band (group) or over
    the channels of a frame (frame).
    """
    out = np.zeros_like(x)
    for k, b in np.ndindex(x.shape[:2]):
        rows = x[k, b]
        if kind == "group":
            rows = standardise(rows, eps)
        if kind == "frame":
            rows = np.array([standardise(row, eps) for row in rows])
        own = k if gain.ndim > 1 else ...
        out[k, b] = rows * gain[own] + bias[own]
    return out


@each_owner
@pytest.mark.parametrize("kind", ["group", "frame"])
def test_band_norm_equals_its_twin(kind, num_bands):
    norm = scramble(BandNorm(4, kind, num_bands, num_bands is not None))
    x = randn(3, 2, 5, 4) + torch.arange(5.0)[:, None]
    parts = array(norm.weight), array(norm.bias)
    kinds = kind, *({"group", "frame", "none"} - {kind})
    expected, *wrong = (norm_twin(array(x), *parts, each) for each in kinds)
    assert_twin(norm(x), expected, *wrong)


def split_twin(split, spec, exponent, norm, interleaved=True):
    """z[k,b,t] = W_k norm(re_0, im_0, re_1, im_1, ...) + b_k by band.

    With magnitudes: re_0, im_0, |X_0|, re_1, ...
    """
    batch, bins, frames = spec.shape
    parts = np.stack([spec.real, spec.imag], axis=-1)
    parts = compress_twin(parts, exponent)
    if split.magnitude:
        size = np.sqrt((parts**2).sum(-1, keepdims=True) + 1e-12)
        parts = np.concatenate([parts, size], axis=-1)
    out = []
    for k, (number, place) in enumerate(places(split.layout)):
        first, last = split.layout.edges[k : k + 2]
        rows = parts[:, first:last].swapaxes(1, 2)  # (B, T, w, 2 or 3)
        rows = rows if interleaved else rows.swapaxes(2, 3)
        rows = rows.reshape(1, batch, frames, -1)
        if norm == "group":
            gain, bias = map(array, split.norms[number].parameters())
            rows = norm_twin(rows, gain[[place]], bias[[place]], "group")
        band = partial(affine, split.linears[number], place)
        out.append([list(map(band, item)) for item in rows[0]])
    return np.array(out)


@pytest.mark.parametrize("magnitude", [False, True])
@pytest.mark.parametrize("norm", ["none", "group"])
@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
def test_band_split_equals_its_twin(exponent, norm, magnitude):
    split = scramble(BandSplit(LAYOUT, 4, exponent, norm, magnitude))
    # Frames of different level, so that the norm has something to lose.
    spec = spectrum(2, 17, 5)
    spec[0, 0, 0] = 0
    out, numbers = split(real_parts(spec)), array(spec)
    wrong = [split_twin(split, numbers, exponent, norm, interleaved=False)]
    wrong.append(split_twin(split, numbers, 0.6, norm))
    if norm == "group":
        wrong.append(split_twin(split, numbers, exponent, "none"))
    assert_twin(out, split_twin(split, numbers, exponent, norm), *wrong)


FULL = [2] + [3] * 10 + [8] * 12 + [16] * 7 + [17]


def test_default_layout_by_counting_bins():
    layout = BandLayout()
    assert list(layout.widths) == FULL
    assert (layout.num_bands, layout.num_bins) == (31, 257)
    # With 30 of them the top band would be lost.
    assert layout.edges[30] * layout.bin_hz == 7500
    assert layout.edges[31] * layout.bin_hz > 8000
    for band, width in enumerate(FULL):
        first = sum(FULL[:band])
        assert layout.edges[band : band + 2] == (first, first + width)
        assert layout.edges_hz[band] == first * 31.25
        # (first bin + w_k / 2) x 31.25 Hz, half a bin above their mean.
        assert layout.centres[band] == (first + width / 2) * 31.25


@pytest.mark.parametrize(
    "layout, widths",
    [
        (BandLayout(), [2, 3, 8, 16, 17]),
        (BandLayout([2, 2, 3, 3, 2, 2, 3], n_fft=32), [2, 3, 2, 3]),
        (BandLayout([17], n_fft=32), [17]),
    ],
)
def test_runs_cover_every_band_and_bin_once(layout, widths):
    bands, bins = [], []
    for run in layout.runs:
        own = range(layout.num_bands)[run.bands]
        assert len(own) == run.num_bands > 0
        assert {layout.widths[band] for band in own} == {run.width}
        assert run.bins.start == layout.edges[own[0]]
        bands += own
        bins += range(layout.num_bins)[run.bins]
    assert bands == list(range(layout.num_bands))
    assert bins == list(range(layout.num_bins))
    assert [run.width for run in layout.runs] == widths


def test_centres_follow_the_sample_rate():
    assert BandLayout(WIDTHS, 32, 16000).centres[:3] == (250, 750, 1500)
    assert BandLayout(WIDTHS, 32, 8000).centres[:3] == (125, 375, 750)
