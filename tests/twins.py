"""What the slow literal twins share: float64 numpy in, float64 numpy out."""

import math

import numpy as np
import torch

from dbtransform_lobes.models.mask_decoder import Neighbours, apply_filter
from dbtransform_lobes.models.spectrum import complex_spectrum, real_parts


def array(tensor):
    """The values of a tensor."""
    return tensor.detach().cpu().numpy()


def scramble(module, seed=0, scale=0.5):
    """Give every parameter random values, in float64; return the module.

    Otherwise gains of one, biases of zero and equal bands would hide errors.
    """
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(
                parameter.shape, generator=generator, dtype=torch.float64
            )
            parameter.copy_(scale * noise)
    return module


def randn(*shape, seed=0, dtype=torch.float64):
    """Random numbers that depend on the seed alone."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def affine(linear, band, vector):
    """y = W x + b with the weights of a band, or with those all share."""
    weight, bias = array(linear.weight), linear.bias
    bias = np.zeros(weight.shape[-2]) if bias is None else array(bias)
    if weight.ndim == 3:
        weight, bias = weight[band], bias[band]
    return weight @ vector + bias


def softmax(logits):
    """exp(x_i) / sum_j exp(x_j) of a list in which -inf may stand."""
    highest = max(logits)
    powers = [math.exp(logit - highest) for logit in logits]
    return [power / sum(powers) for power in powers]


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def silu(x):
    """x sigmoid(x)."""
    return x * sigmoid(x)


def assert_twin(actual, expected, *wrong, tolerance=1e-10):
    """The module equals its twin, and no wrong form of it comes near."""
    if isinstance(actual, torch.Tensor):
        actual = array(actual)
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)
    for other in wrong:
        assert np.max(np.abs(np.asarray(other) - expected)) > 1e-3


def mask_of(taps):
    """The mask (B, F, T, 3) that a decoder's taps (B, T, F, 3, 2) are."""
    return torch.view_as_complex(taps).transpose(1, 2)


def filtered(mask, spec, causal=False, first=0):
    """The filter on complex numbers; the mask stands at frame ``first``."""
    neighbours = Neighbours(causal)
    _, shared = neighbours.prepare(real_parts(spec))
    around = neighbours.combine(mask.shape[2], shared, first)
    estimate = apply_filter(torch.view_as_real(mask).transpose(1, 2), around)
    return complex_spectrum(estimate)
