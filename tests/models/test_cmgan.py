"""CMGAN's generator: literal twins of its parts, composition, size."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch

from dbtransform_lobes.models import cmgan, conformer
from dbtransform_lobes.models.level import over_signal_level
from tests.formulas import affine, shares, sigmoid, silu, standardise
from tests.models.tiny import BASELINES
from tests.twins import array, assert_twin, randn, scramble, spectrum


def by_item(twin, x, *arguments, **options):
    """The twin of each item of a batch."""
    return np.stack([twin(item, *arguments, **options) for item in x])


def attention_twin(x, module, clip=512, sign=1):
    """softmax_j(q_i . (k_j + p[clip(i - j)]) / sqrt(d)) v_j, head by head."""
    table, (length, channels) = array(module.positions.weight), x.shape
    middle, d = len(table) // 2, table.shape[1]
    query = x @ array(module.query.weight).T
    key, value = np.split(x @ array(module.key_value.weight).T, 2, axis=-1)
    heads = np.zeros_like(x)
    for first, i in np.ndindex(channels // d, length):
        head = slice(d * first, d * (first + 1))
        steps = sign * np.clip(i - np.arange(length), -clip, clip)
        where = key[:, head] + table[middle + steps]
        heads[i, head] = shares(query[i, head], where) @ value[:, head]
    return np.array([affine(module.out, 0, row) for row in heads])


@pytest.mark.parametrize("held, calls", [(1, 7), (2 * 2 * 7 * 3, 3)])
def test_attention_in_blocks_is_the_same(monkeypatch, held, calls):
    module = conformer.RelativeAttention(4, num_heads=2, max_distance=3)
    scramble(module)
    x, attend = randn(2, 7, 4), Mock(wraps=module._attend)
    whole = array(module(x))
    monkeypatch.setattr(conformer, "MAX_LOGITS", held)
    monkeypatch.setattr(module, "_attend", attend)
    assert_twin(module(x), whole)
    assert attend.call_count == calls


def layer_norm_twin(norm, x):
    """(x - mean) / sqrt(var + 1e-5) of each step's channels."""
    rows = np.array([standardise(row) for row in x])
    return rows * array(norm.weight) + array(norm.bias)


def convolution_twin(x, module, shift=0, swap=False):
    """Norm, GLU, one channel at a time along the steps, norm, SiLU."""
    kernels, norm = array(module.depthwise.weight)[:, 0], module.batch_norm
    scale = np.sqrt(array(norm.running_var) + 1e-5)
    gated, out = [], np.zeros_like(x)
    for row in layer_norm_twin(module.norm, x):
        row = affine(module.expand, 0, row)
        value, gate = np.split(row, 2)[:: -1 if swap else 1]
        gated.append(value * sigmoid(gate))
    for i in range(len(x)):
        row = array(module.depthwise.bias).copy()
        for tap in range(kernels.shape[1]):
            j = i + tap - kernels.shape[1] // 2 + shift
            if 0 <= j < len(x):
                row += kernels[:, tap] * gated[j]
        row = (row - array(norm.running_mean)) / scale
        row = row * array(norm.weight) + array(norm.bias)
        out[i] = affine(module.reduce, 0, silu(row))
    return out


def feed_forward_twin(x, part):
    """W_2 silu(W_1 norm(x) + b_1) + b_2, step by step."""
    norm, expand, _, _, reduce, _ = part
    rows = [affine(expand, 0, row) for row in layer_norm_twin(norm, x)]
    return np.array([affine(reduce, 0, silu(row)) for row in rows])


def conformer_twin(x, module, step=0.5):
    """Half a feed-forward, attention, convolution, half of another, norm."""
    norm, attention, _ = module.attention
    x = x + step * feed_forward_twin(x, module.first)
    x = x + attention_twin(layer_norm_twin(norm, x), attention)
    x = x + convolution_twin(x, module.convolution)
    x = x + step * feed_forward_twin(x, module.last)
    return layer_norm_twin(module.norm, x)


def taps_twin(x, conv, frames, bins, stride=1, size=None):
    """y[t, f] = b + sum W[a, c] x[t + frames[a], stride f + bins[c]]."""
    weight, (_, num_frames, num_bins) = array(conv.weight), x.shape
    out = np.zeros((len(weight), num_frames, size or num_bins))
    out += array(conv.bias)[:, None, None]
    for t, f in np.ndindex(out.shape[1:]):
        for a, c in np.ndindex(weight.shape[2:]):
            row, column = t + frames[a], stride * f + bins[c]
            if 0 <= row < num_frames and 0 <= column < num_bins:
                out[:, t, f] += weight[:, :, a, c] @ x[:, row, column]
    return out


def prelu_twin(x, prelu):
    """x where positive, else slope x; one slope for each x[c]."""
    slopes = array(prelu.weight).reshape(-1, *(x.ndim - 1) * [1])
    return np.where(x > 0, x, slopes * x)


def norm_prelu_twin(x, norm, prelu):
    """PReLU of (x - mean) / sqrt(var + 1e-5) of a channel's frames and bins."""
    parts = zip(x, array(norm.weight), array(norm.bias), strict=True)
    x = np.stack([standardise(c) * gain + bias for c, gain, bias in parts])
    return prelu_twin(x, prelu)


def dense_twin(x, block, newest_first=True, sign=-1):
    """Every layer by loops over frames, bins and taps; x (C, T, F)."""
    for i, (_, conv, norm, prelu) in enumerate(block.layers):
        out = taps_twin(x, conv, (sign * 2**i, 0), (-1, 0, 1))
        out = norm_prelu_twin(out, norm, prelu)
        x = np.concatenate([out, x] if newest_first else [x, out])
    return out


def sub_pixel_twin(x, module, halves=False):
    """Bin 2 f + r of channel c is channel r C + c of the convolution."""
    both = taps_twin(x, module.convolution, (0,), (-1, 0, 1))
    channels, frames, bins = x.shape
    out = np.zeros((channels, frames, 2 * bins))
    for c, f, r in np.ndindex(channels, bins, 2):
        place = r * bins + f if halves else 2 * f + r
        out[c, :, place] = both[r * channels + c, :, f]
    return out


def encoder_twin(x, encoder):
    """1x1, dense block, every other bin; x (3, T, F)."""
    first, norm, prelu, dense, last, last_norm, last_prelu = encoder.layers
    x = norm_prelu_twin(taps_twin(x, first, (0,), (0,)), norm, prelu)
    x, half = dense_twin(x, dense), (x.shape[-1] + 1) // 2
    x = taps_twin(x, last, (0,), (-1, 0, 1), stride=2, size=half)
    return norm_prelu_twin(x, last_norm, last_prelu)


def two_stage_twin(x, block, swap=False):
    """Each bin's frames, then each frame's bins, a sequence at a time."""
    if swap:
        return two_stage_twin(x.swapaxes(1, 2), block).swapaxes(1, 2)
    out = torch.from_numpy(x.copy())
    for f in range(x.shape[2]):
        out[:, :, f] += block.time(out[:, :, f].T[None])[0].T
    for t in range(x.shape[1]):
        out[:, t] += block.bins(out[:, t].T[None])[0].T
    return array(out)


def mask_twin(x, decoder):
    """(C, T, F') to a gain (T, F), a last slope for each bin."""
    dense, sub_pixel, conv, norm, prelu, final = decoder.layers
    x = sub_pixel_twin(dense_twin(x, dense), sub_pixel)
    x = taps_twin(x, conv, (0,), (0, 1), size=x.shape[-1] - 1)
    x = taps_twin(norm_prelu_twin(x, norm, prelu), final, [0], [0])
    return prelu_twin(x[0].T, decoder.slopes).T


def complex_twin(x, decoder):
    """(C, T, F') to (2, T, F)."""
    dense, sub_pixel, norm, prelu, conv = decoder.layers
    x = sub_pixel_twin(dense_twin(x, dense), sub_pixel)
    x = norm_prelu_twin(x, norm, prelu)
    return taps_twin(x, conv, (0,), (0, 1), size=x.shape[-1] - 1)


def model_twin(spec, model, exponent):
    """Polar form: mask |X|^e exp(i phase) + complex part, then |.|^(1/e).

    Of the spectrum over the level of the signal, times that level.
    """
    level = over_signal_level(torch.from_numpy(spec)[None])[1].item()
    magnitude = np.abs(spec.T / level) ** exponent  # (T, F)
    phase = np.angle(spec.T)
    real, imag = magnitude * np.cos(phase), magnitude * np.sin(phase)
    x = encoder_twin(np.stack([magnitude, real, imag]), model.encoder)
    for block in model.blocks:
        x = two_stage_twin(x, block)
    real, imag = complex_twin(x, model.complex_decoder)
    gained = mask_twin(x, model.mask_decoder) * magnitude
    estimate = gained * np.exp(1j * phase) + real + 1j * imag
    power = np.abs(estimate) ** (1 / exponent)
    return level * (power * np.exp(1j * np.angle(estimate))).T


NEAR = conformer.RelativeAttention(4, num_heads=2, max_distance=3)
ATTENTION_FORMS = [{"clip": 3}, {"clip": 3, "sign": -1}, {"clip": 0}]
DENSE_FORMS = [{}, {"newest_first": False}, {"sign": 1}]
SWAP, STEP = {"swap": True}, {"step": 1}
GLU_FORMS = [{}, {"shift": 1}, SWAP]
PARTS = [
    (NEAR, (2, 2, 4), attention_twin, ATTENTION_FORMS),
    (NEAR, (2, 7, 4), attention_twin, [*ATTENTION_FORMS, {"clip": 2}]),
    (conformer.ConvolutionModule(4, 5), (2, 7, 4), convolution_twin, GLU_FORMS),
    (conformer.Conformer(4, 2, 5), (2, 6, 4), conformer_twin, [{}, STEP]),
    (cmgan.DilatedDenseBlock(3), (2, 3, 9, 4), dense_twin, DENSE_FORMS),
    (cmgan.SubPixelConv(3), (2, 3, 4, 5), sub_pixel_twin, [{}, {"halves": 1}]),
    (cmgan.DenseEncoder(3), (2, 3, 4, 9), encoder_twin, [{}]),
    (cmgan.TwoStageBlock(4, 2, 5), (2, 4, 3, 5), two_stage_twin, [{}, SWAP]),
]


@pytest.mark.parametrize("module, shape, twin, forms", PARTS)
@torch.no_grad()
def test_part_equals_its_twin(module, shape, twin, forms):
    scramble(module).eval()
    x = randn(*shape)
    twins = [by_item(twin, array(x), module, **form) for form in forms]
    assert_twin(module(x), *twins)


@torch.no_grad()
def test_model_equals_its_twin():
    model = scramble(BASELINES["cmgan"](), scale=0.3).eval()
    spec = spectrum(2, 17, 4)
    twins = [by_item(model_twin, array(spec), model, e) for e in (0.3, 0.5)]
    # 1e-12 is added to powers under the root, for the gradient at silence.
    assert_twin(model(spec), *twins, tolerance=1e-8)


def test_size_is_that_of_the_paper():
    """1.83 M parameters with C = 64; a slope of the mask for each bin."""
    model = cmgan.CMGAN()
    assert sum(p.numel() for p in model.parameters()) == 1_834_833
    assert model.num_bins == 201
    for n_fft in (4, 512):
        other = sum(p.numel() for p in cmgan.CMGAN(n_fft).parameters())
        assert other == 1_834_833 + n_fft // 2 + 1 - 201


@torch.no_grad()
def test_dropout_is_of_training_alone():
    model = BASELINES["cmgan"](dropout=0.5)
    spec = spectrum(1, 17, 8, dtype=torch.float32)
    assert not torch.equal(model(spec), model(spec))
    model.eval()
    assert torch.equal(model(spec), model(spec))


def test_mask_starts_without_negative_gains():
    decoder = cmgan.MagnitudeMaskDecoder(4, num_bins=9)
    mask = decoder(randn(2, 4, 20, 5, dtype=torch.float32))
    assert mask.shape == (2, 1, 20, 9)
    assert mask.min() >= 0 and mask.max() > 0
