"""Formulas of the slow literal twins: float64 numpy in, float64 numpy out."""

import math

import numpy as np
from scipy.special import expit as sigmoid
from scipy.special import softmax

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
    return (x - x.mean()) / np.sqrt(x.var() + eps)


def filter_twin(mask, spec, taps=(-1, 0, 1)):
    """Y[f, t] = sum_tau M[f, t, tau] X[f, t + tau], zero outside."""
    out = np.zeros_like(spec)
    for b, f, t in np.ndindex(spec.shape):
        for i, tau in enumerate(taps):
            if 0 <= t + tau < spec.shape[-1]:
                out[b, f, t] += mask[b, f, t, i] * spec[b, f, t + tau]
    return out


def literal_stft(signal, n_fft, hop, window):
    """sum_n w[n] x[n + t hop - n_fft / 2] e^(-2 pi i f n / n_fft), (T, F)."""
    padded, n = np.pad(signal, n_fft), np.arange(n_fft)
    turns = np.exp(-2j * np.pi * np.outer(n, n[: n_fft // 2 + 1]) / n_fft)
    starts = n_fft - n_fft // 2 + hop * np.arange(1 - (-len(signal) // hop))
    return np.array([window * padded[at : at + n_fft] for at in starts]) @ turns


def shares(query, keys, bias=0.0):
    """softmax_j(q k_j / sqrt(d) + bias_j): what a query takes of each key."""
    return softmax(keys @ query / math.sqrt(len(query)) + bias)


def silu(x):
    """x sigmoid(x)."""
    return x * sigmoid(x)
