"""The mask decoder and the filter it gives."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from dbtransform_lobes.models.band_linear import BandNorm
from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.mask_decoder import MaskDecoder
from tests.twins import (
    affine,
    array,
    assert_twin,
    filtered,
    mask_of,
    randn,
    scramble,
    sigmoid,
)

WIDTHS = [1, 1, 2, 2, 3, 4, 4]


def tiny_layout():
    return BandLayout(WIDTHS, n_fft=32)


def random_spec(*shape, seed=0):
    return torch.complex(randn(*shape, seed=seed), randn(*shape, seed=seed + 1))


def filter_twin(mask, spec, sign=1, taps=(-1, 0, 1)):
    """Y[f, t] = sum_tau M[f, t, tau] X[f, t + tau], zero outside.

    tau = -1..1, or -2..0 when causal.
    """
    out = np.zeros_like(spec)
    frames = spec.shape[-1]
    for b, f, t in np.ndindex(spec.shape):
        for i, tau in enumerate(taps):
            if 0 <= t + sign * tau < frames:
                out[b, f, t] += mask[b, f, t, i] * spec[b, f, t + sign * tau]
    return out


@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_filter_equals_its_twin(frames):
    spec = random_spec(2, 5, frames)
    mask = random_spec(2, 5, frames, 3, seed=2)
    numbers = array(mask), array(spec)
    wrong = [
        filter_twin(numbers[0].conj(), numbers[1]),
        filter_twin(numbers[0], numbers[1].conj()),
    ]
    if frames > 1:
        # The taps the other way round, and a signal that wraps.
        wrong.append(filter_twin(*numbers, sign=-1))
        wrong.append(
            sum(
                numbers[0][..., tau + 1] * np.roll(numbers[1], -tau, -1)
                for tau in (-1, 0, 1)
            )
        )
    assert_twin(filtered(mask, spec), filter_twin(*numbers), *wrong)


@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_causal_filter_equals_its_twin(frames):
    """Taps t-2, t-1, t, in this order."""
    spec = random_spec(2, 5, frames)
    mask = random_spec(2, 5, frames, 3, seed=2)
    numbers = array(mask), array(spec)
    expected = filter_twin(*numbers, taps=(-2, -1, 0))
    wrong = [filter_twin(*numbers, taps=(0, -1, -2)), filter_twin(*numbers)]
    out = filtered(mask, spec, causal=True)
    assert_twin(out, expected, *wrong)
    # Two frames before the first are seen by the taps that reach back.
    past = random_spec(2, 5, 2, seed=4)
    seen = torch.cat((past, spec), dim=-1)
    none = torch.zeros(2, 5, 2, 3, dtype=mask.dtype)
    longer = torch.cat((none, mask), dim=2)
    longer = filter_twin(array(longer), array(seen), taps=(-2, -1, 0))
    out = filtered(mask, seen, causal=True, first=2)
    assert_twin(out, longer[..., 2:], expected)
    silence = torch.cat((0 * past, spec), -1)
    out = filtered(mask, silence, causal=True, first=2)
    assert_twin(out, expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("first", [0, 1, 2, 5, 6])
def test_filter_of_some_frames_equals_that_of_all(first, causal):
    spec, mask = random_spec(2, 5, 8), random_spec(2, 5, 8, 3, seed=2)
    whole = array(filtered(mask, spec, causal))
    part = filtered(mask[:, :, first : first + 2], spec, causal, first)
    wrong = array(filtered(mask[:, :, first : first + 2], spec, causal, 3))
    assert_twin(part, whole[..., first : first + 2], wrong)


def test_filter_has_a_finite_gradient():
    spec, mask = random_spec(1, 3, 4), random_spec(1, 3, 4, 3, seed=2)
    spec.requires_grad_()
    mask.requires_grad_()
    filtered(mask, spec).abs().square().sum().backward()
    # A tap that looks outside of the signal has no influence.
    outside = mask.grad[:, :, 0, 0].abs(), mask.grad[:, :, -1, 2].abs()
    assert outside[0].max() == outside[1].max() == 0
    assert mask.grad[:, :, 1:, 0].abs().min() > 0
    assert torch.isfinite(torch.view_as_real(spec.grad)).all()


def frame_norm_twin(norm, row, band):
    """LayerNorm of the channels of one frame, the band's own gain."""
    mean = sum(row) / len(row)
    var = sum((value - mean) ** 2 for value in row) / len(row)
    gain, bias = array(norm.weight)[band, 0, 0], array(norm.bias)[band, 0, 0]
    return (row - mean) / math.sqrt(var + norm.eps) * gain + bias


def decoder_twin(decoder, z, taps_first=False, gate_first=False):
    """norm -> Linear -> tanh -> Linear -> GLU -> (w_k, 3 taps, re/im)."""
    layout = decoder.layout
    _, batch, frames, _ = z.shape
    mask = np.zeros((batch, layout.num_bins, frames, 3), dtype=complex)
    for k, width in enumerate(layout.widths):
        index = [k in range(31)[run.bands] for run in layout.runs].index(True)
        head = decoder.heads[index]
        place = k - layout.runs[index].bands.start
        for b, t in np.ndindex(batch, frames):
            row = frame_norm_twin(decoder.norm, z[k, b, t], k)
            row = np.tanh(affine(decoder.expand, k, row))
            row = affine(head, place, row)
            value, gate = row[: 6 * width], row[6 * width :]
            if gate_first:
                value, gate = gate, value
            row = value * sigmoid(gate)
            for f, tap in np.ndindex(width, 3):
                first = 2 * (tap * width + f if taps_first else f * 3 + tap)
                mask[b, layout.edges[k] + f, t, tap] = complex(
                    row[first], row[first + 1]
                )
    return mask


def test_decoder_equals_its_twin():
    decoder = scramble(MaskDecoder(tiny_layout(), 4, expansion=1.5))
    assert decoder.expand.weight.shape[1:] == (6, 4)
    z = randn(7, 2, 5, 4)
    assert_twin(
        mask_of(decoder(z)),
        decoder_twin(decoder, array(z)),
        decoder_twin(decoder, array(z), taps_first=True),
        decoder_twin(decoder, array(z), gate_first=True),
        decoder_twin(decoder, array(z)).conj(),
        decoder_twin(decoder, array(z)[::-1]),
    )


def test_a_group_norm_looks_at_all_frames():
    z = randn(7, 2, 5, 4)
    changed = z.clone()
    changed[:, :, 0] *= 3
    moved = {}
    for norm in ("frame", "group"):
        decoder = scramble(
            MaskDecoder(tiny_layout(), 4, norm=partial(BandNorm, kind=norm))
        )
        difference = (mask_of(decoder(changed)) - mask_of(decoder(z))).abs()
        moved[norm] = difference[:, :, 1:].max() > 1e-3
    assert moved == {"frame": False, "group": True}


def test_zero_weights_give_the_identity():
    decoder = MaskDecoder(BandLayout(), 8)
    with torch.no_grad():
        for head in decoder.heads:
            head.weight.zero_()
    mask = mask_of(decoder(torch.randn(31, 2, 6, 8)))
    expected = torch.zeros(2, 257, 6, 3, dtype=torch.complex64)
    expected[..., 1] = 1
    assert torch.equal(mask, expected)
    spec = random_spec(2, 257, 6).to(torch.complex64)
    assert torch.equal(filtered(mask, spec), spec)


def test_zero_weights_give_the_identity_when_causal():
    """1 at the tap of frame t, which is the last."""
    decoder = MaskDecoder(BandLayout(), 8, causal=True)
    with torch.no_grad():
        for head in decoder.heads:
            head.weight.zero_()
    mask = mask_of(decoder(torch.randn(31, 2, 6, 8)))
    expected = torch.zeros(2, 257, 6, 3, dtype=torch.complex64)
    expected[..., 2] = 1
    assert torch.equal(mask, expected)
    spec = random_spec(2, 257, 6).to(torch.complex64)
    assert torch.equal(filtered(mask, spec, causal=True), spec)
    assert not torch.equal(filtered(mask, spec), spec)


def test_a_causal_decoder_differs_where_it_starts_alone():
    """The same weights give the same mask: the filter reads it otherwise."""
    decoder = MaskDecoder(tiny_layout(), 4)
    causal = MaskDecoder(tiny_layout(), 4, causal=True)
    z = torch.randn(7, 2, 5, 4)
    assert not torch.equal(mask_of(decoder(z)), mask_of(causal(z)))
    causal.load_state_dict(decoder.state_dict())
    assert torch.equal(mask_of(decoder(z)), mask_of(causal(z)))


@pytest.mark.parametrize(
    "causal, taps", [(False, [0, 1, 0]), (True, [0, 0, 1])]
)
def test_training_starts_near_the_identity(causal, taps):
    torch.manual_seed(0)
    decoder = MaskDecoder(BandLayout(), 32, causal=causal)
    mask = mask_of(decoder(torch.randn(31, 1, 20, 32)))
    mean = mask.mean((0, 1, 2))
    assert (mean - torch.tensor(taps)).abs().max() < 0.05
    # Near, not at: the taps differ from bin to bin, so that they learn.
    assert mask.std() > 0.05


def test_taps_are_float32_under_autocast():
    decoder = MaskDecoder(tiny_layout(), 4)
    assert decoder(torch.randn(7, 1, 2, 4)).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        taps = decoder(torch.randn(7, 1, 2, 4))
    assert taps.dtype == torch.float32


@pytest.mark.parametrize("expansion", [0, -1, 0.01])
def test_a_decoder_without_hidden_channels_is_refused(expansion):
    with pytest.raises(ValueError, match="expansion"):
        MaskDecoder(tiny_layout(), 4, expansion)
