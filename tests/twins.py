"""What the slow literal twins share: float64 numpy in, float64 numpy out."""

import cmath
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
    Running means and variances of a BatchNorm become random as well.
    """
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, scale, generator=generator)
    for number, part in enumerate(module.modules()):
        if isinstance(part, torch.nn.BatchNorm1d):
            part.running_mean.copy_(randn(part.num_features, seed=number))
            part.running_var.copy_(randn(part.num_features, seed=-number) ** 2)
    return module


def randn(*shape, seed=0, dtype=torch.float64):
    """Random numbers that depend on the seed alone."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def spectrum(*shape, seed=0, dtype=torch.float64):
    """A random complex spectrum (B, F, T) whose frames differ in level."""
    parts = [randn(*shape, seed=seed + i, dtype=dtype) for i in range(2)]
    return torch.complex(*parts) * (1 + torch.arange(shape[-1]) % 3)


def affine(linear, band, vector):
    """y = W x + b with the weights of a band, or with those all share."""
    weight, bias = array(linear.weight), linear.bias
    bias = np.zeros(weight.shape[-2]) if bias is None else array(bias)
    if weight.ndim == 3:
        weight, bias = weight[band], bias[band]
    return weight @ vector + bias


def standardise(x, eps=1e-5):
    """(x - mean) / sqrt(var + eps) over all values; biased variance."""
    values = x.flatten().tolist()
    mean = sum(values) / len(values)
    var = sum((value - mean) ** 2 for value in values) / len(values)
    return (x - mean) / math.sqrt(var + eps)


def filter_twin(mask, spec, taps=(-1, 0, 1)):
    """Y[f, t] = sum_tau M[f, t, tau] X[f, t + tau], zero outside."""
    out = np.zeros_like(spec)
    for b, f, t in np.ndindex(spec.shape):
        for i, tau in enumerate(taps):
            if 0 <= t + tau < spec.shape[-1]:
                out[b, f, t] += mask[b, f, t, i] * spec[b, f, t + tau]
    return out


def literal_stft(signal, n_fft, hop, window):
    """X_t[f] in loops, zeros around the signal; a list of frames."""
    frames = []
    for t in range(1 - (-len(signal) // hop)):
        bins = []
        for f in range(n_fft // 2 + 1):
            total = 0j
            for n in range(n_fft):
                at = n + t * hop - n_fft // 2
                if 0 <= at < len(signal):
                    turn = cmath.exp(-2j * math.pi * f * n / n_fft)
                    total += window[n] * signal[at] * turn
            bins.append(total)
        frames.append(bins)
    return frames


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


def assert_close_in_bfloat16(module, x, share=0.05):
    """Autocast changes the output, but by a small share; return the output."""
    exact = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(x)
    error = (out.to(exact.dtype) - exact).abs().square().mean().sqrt()
    assert 0 < error < share * exact.abs().square().mean().sqrt()
    return out


def assert_gradients(module, least=0.0, bands=None, without=()):
    """Every parameter (of each band, where it has its own) has a gradient."""
    for name, parameter in module.named_parameters():
        grad = parameter.grad
        assert grad is not None and torch.isfinite(grad).all(), name
        rows = grad if len(grad) == bands else grad[None]
        learns = (rows.abs().flatten(1).amax(-1) > least).all()
        assert learns or name in without, name


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
