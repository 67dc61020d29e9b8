"""Formulas of the slow literal twins: float64 numpy in, float64 numpy out."""

import cmath
import math

import numpy as np

from tests.twins import array


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
