"""The mask decoder and the filter it gives."""

import numpy as np
import pytest
import torch

from dbtransform_lobes.models import mask_decoder
from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.spectrum import complex_spectrum, real_parts
from tests.formulas import affine, filter_twin, sigmoid, standardise
from tests.literal import places
from tests.models.tiny import LAYOUT
from tests.twins import array, assert_twin, mask_of, randn, scramble, spectrum

each_direction = pytest.mark.parametrize("causal", [False, True])


def filtered(mask, spec, causal=False, first=0):
    """The filter on complex numbers; the mask stands at frame ``first``."""
    neighbours = mask_decoder.Neighbours(causal)
    _, shared = neighbours.prepare(real_parts(spec))
    around = neighbours.combine(mask.shape[2], shared, first)
    taps = torch.view_as_real(mask).transpose(1, 2)
    return complex_spectrum(mask_decoder.apply_filter(taps, around))


@each_direction
@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_filter_equals_its_twin(frames, causal):
    """Taps t-1, t, t+1, or t-2, t-1, t when causal, in this order."""
    spec = spectrum(2, 5, frames)
    mask = spectrum(2, 5, frames, 3, seed=2)
    numbers = array(mask), array(spec)
    taps, others = (-1, 0, 1), (-2, -1, 0)
    taps, others = (others, taps) if causal else (taps, others)
    wrong = [
        filter_twin(numbers[0].conj(), numbers[1], taps),
        filter_twin(numbers[0], numbers[1].conj(), taps),
        filter_twin(*numbers, others),
    ]
    if frames > 1:
        # The taps the other way round, and a signal that wraps.
        wrong.append(filter_twin(*numbers, taps[::-1]))
        turned = [np.roll(numbers[1], -tau, -1) for tau in taps]
        wrong.append(sum(numbers[0][..., i] * turned[i] for i in range(3)))
    expected = filter_twin(*numbers, taps)
    assert_twin(filtered(mask, spec, causal), expected, *wrong)


def decoder_twin(decoder, z, taps_first=False, gate_first=False):
    """norm -> Linear -> tanh -> Linear -> GLU -> (w_k, 3 taps, re/im)."""
    layout, norm = decoder.layout, decoder.norm
    _, batch, frames, _ = z.shape
    mask = np.zeros((batch, layout.num_bins, frames, 3), dtype=complex)
    gain, bias = array(norm.weight)[:, 0, 0], array(norm.bias)[:, 0, 0]
    for k, (number, place) in enumerate(places(layout)):
        width, head = layout.widths[k], decoder.heads[number]
        for b, t in np.ndindex(batch, frames):
            row = standardise(z[k, b, t], norm.eps) * gain[k] + bias[k]
            row = np.tanh(affine(decoder.expand, k, row))
            value, gate = np.split(affine(head, place, row), 2)
            if gate_first:
                value, gate = gate, value
            pairs = (value * sigmoid(gate)).reshape(-1, 2)
            for f, tap in np.ndindex(width, 3):
                pair = tap * width + f if taps_first else f * 3 + tap
                mask[b, layout.edges[k] + f, t, tap] = complex(*pairs[pair])
    return mask


@each_direction
def test_decoder_equals_its_twin(causal):
    """It only starts otherwise when causal, and the filter reads it so."""
    decoder = mask_decoder.MaskDecoder(LAYOUT, 4, expansion=1.5, causal=causal)
    scramble(decoder)
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


@each_direction
@torch.no_grad()
def test_training_starts_near_the_identity_that_zero_weights_give(causal):
    """1 at the tap of frame t: the middle one, or the last when causal."""
    torch.manual_seed(0)
    decoder = mask_decoder.MaskDecoder(BandLayout(), 32, causal=causal)
    z = torch.randn(31, 1, 20, 32)
    identity = torch.zeros(1, 257, 20, 3, dtype=torch.complex64)
    identity[..., 2 if causal else 1] = 1
    mask = mask_of(decoder(z))
    assert (mask - identity).mean((0, 1, 2)).abs().max() < 0.05
    # Near, not at: the taps differ from bin to bin, so that they learn.
    assert mask.std() > 0.05
    for head in decoder.heads:
        head.weight.zero_()
    mask = mask_of(decoder(z))
    assert torch.equal(mask, identity)
    spec = spectrum(1, 257, 20).to(torch.complex64)
    assert torch.equal(filtered(mask, spec, causal), spec)
    assert not torch.equal(filtered(mask, spec, not causal), spec)


@pytest.mark.parametrize("autocast", [False, True])
def test_taps_are_float32_under_autocast(autocast):
    decoder = mask_decoder.MaskDecoder(LAYOUT, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        assert decoder(torch.randn(7, 1, 2, 4)).dtype == torch.float32
