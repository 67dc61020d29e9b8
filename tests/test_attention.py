"""Differential attention over time."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from dbtransform_lobes.models.differential_attention import (
    DifferentialBandAttention,
    MapStatistics,
    rotate,
    window_mask,
    windowed_attention,
)
from tests.twins import (
    affine,
    array,
    assert_twin,
    randn,
    scramble,
    sigmoid,
    softmax,
)


def rotate_twin(row, t, base=10000.0):
    """Pair (x_i, x_{i + d/2}) turned by the angle t base^(-2 i / d)."""
    size = len(row)
    out = [0.0] * size
    for i in range(size // 2):
        angle = t * base ** (-2 * i / size)
        left, right = row[i], row[i + size // 2]
        out[i] = left * math.cos(angle) - right * math.sin(angle)
        out[i + size // 2] = left * math.sin(angle) + right * math.cos(angle)
    return out


def map_twin(query, key, window=None):
    """A[t, s] = softmax_s(q_t k_s / sqrt(d)) over |t - s| <= window."""
    frames, size = query.shape
    rows = []
    for t in range(frames):
        logits = [
            sum(query[t] * key[s]) / math.sqrt(size)
            if window is None or abs(t - s) <= window
            else -math.inf
            for s in range(frames)
        ]
        rows.append(softmax(logits))
    return np.array(rows)


def statistics_twin(attention):
    """Mean, standard deviation, maximum and minimum of a whole map."""
    values = attention.flatten().tolist()
    mean = sum(values) / len(values)
    var = sum((value - mean) ** 2 for value in values) / len(values)
    return [mean, math.sqrt(var + 1e-12), max(values), min(values)]


def mlp_twin(statistics, band, numbers):
    """sigmoid(W_2 relu(W_1 x + b_1) + b_2), the band's own."""
    hidden = np.maximum(affine(statistics.hidden, band, numbers), 0)
    return sigmoid(affine(statistics.output, band, hidden)[0])


def attention_twin(module, x, rope=True, window=None, weigh=lambda lam: lam):
    """out = concat_h((A1 - lambda A2) V) W_o, head by head.

    A_i = softmax(Q_i K_i^T / sqrt(d)), d = C / H / 2; lambda =
    sigmoid(x W_lambda + b_k) for each frame and head, or
    sigmoid(MLP_k(statistics of A1 and A2)) for each head.
    """
    bands, batch, frames, channels = x.shape
    heads, half = module.num_heads, channels // 2
    size = half // heads
    out, lambdas = np.zeros_like(x), {}
    for k, b in np.ndindex(bands, batch):
        rows = x[k, b]
        if module.embedding is not None:
            rows = rows + array(module.embedding)[k, 0]
        rows = np.array([affine(module.project, k, row) for row in rows])
        mixed = np.zeros((frames, half))
        for h in range(heads):
            maps = []
            for i in range(2):
                own = slice(i * half + h * size, i * half + (h + 1) * size)
                q, k_ = rows[:, :channels][:, own], rows[:, channels:][:, own]
                if rope:
                    q = np.array([rotate_twin(q[t], t) for t in range(frames)])
                    k_ = np.array(
                        [rotate_twin(k_[t], t) for t in range(frames)]
                    )
                maps.append(map_twin(q, k_, window))
            value = rows[:, 2 * channels + h * size :][:, :size]
            if module.statistics is None:
                logits = rows[:, 2 * channels + half + h]
                lam = sigmoid(logits + array(module.offset)[k, 0, 0, h])
            else:
                numbers = statistics_twin(maps[0]) + statistics_twin(maps[1])
                lam = mlp_twin(module.statistics, k, np.array(numbers))
                lam = np.full(frames, lam)
            lambdas[k, b, h] = lam
            for t in range(frames):
                weights = maps[0][t] - weigh(lam[t]) * maps[1][t]
                mixed[t, h * size : (h + 1) * size] = weights @ value
        for t in range(frames):
            out[k, b, t] = affine(module.output, k, mixed[t])
    return out, lambdas


def wrong_lambdas(module, x, **arguments):
    """The twin without lambda, without A2, and with A2 added."""
    return [
        attention_twin(module, x, weigh=weigh, **arguments)[0]
        for weigh in (lambda lam: 1, lambda lam: 0, lambda lam: -lam)
    ]


def test_rotate_equals_its_twin():
    x = randn(2, 7, 3, 8)
    expected, wrong = np.zeros((2, 2, 7, 3, 8))
    for b, t, h in np.ndindex(2, 7, 3):
        expected[b, t, h] = rotate_twin(array(x)[b, t, h], t)
        wrong[b, t, h] = rotate_twin(array(x)[b, t, h], t, base=1000.0)
    assert_twin(rotate(x), expected, wrong, array(x))


def test_rotated_products_depend_on_the_distance_alone():
    q, k = randn(2, 1, 1, 8).expand(2, 12, 1, 8)
    q, k = rotate(q)[:, 0], rotate(k)[:, 0]
    products = q @ k.T
    for lag in range(-11, 12):
        diagonal = products.diagonal(lag)
        assert (diagonal - diagonal[0]).abs().max() < 1e-6
    assert products[0].std() > 0.1


@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("band_weights", ["shared", "per_band"])
@pytest.mark.parametrize("lambda_form", ["token", "statistics"])
def test_attention_equals_its_twin(lambda_form, band_weights, rope):
    module = scramble(
        DifferentialBandAttention(8, 2, 3, lambda_form, band_weights, rope)
    )
    x = randn(3, 2, 6, 8)
    out, lam = module(x, return_lambda=True)
    expected, lambdas = attention_twin(module, array(x), rope)
    wrong = wrong_lambdas(module, array(x), rope=rope)
    wrong.append(attention_twin(module, array(x), not rope)[0])
    assert_twin(out, expected, *wrong)
    for (k, b, h), values in lambdas.items():
        own = lam[k, b, :, h] if lambda_form == "token" else lam[k, b, h]
        assert np.abs(array(own) - values).max() < 1e-10
    assert lam.std() > 1e-3
    assert ((lam > 0) & (lam < 1)).all()


def test_shared_weights_tell_bands_apart_by_their_embedding():
    module = scramble(DifferentialBandAttention(8, 2, 3))
    x = randn(1, 2, 6, 8).expand(3, 2, 6, 8)
    out = module(x)
    assert (out[0] - out[1]).abs().max() > 1e-2
    with torch.no_grad():
        module.embedding.zero_()
        module.offset.zero_()
    out = module(x)
    assert (out[0] - out[1]).abs().max() < 1e-12


@pytest.mark.parametrize("frames", [1, 4, 8, 9, 10])
def test_windowed_module_equals_its_twin(frames):
    module = scramble(DifferentialBandAttention(8, 2, 2, window=2))
    x = randn(2, 1, frames, 8)
    expected, _ = attention_twin(module, array(x), window=2)
    wrong = []
    if frames > 3:
        wrong.append(attention_twin(module, array(x), window=1)[0])
        wrong.append(attention_twin(module, array(x), window=3)[0])
    assert_twin(module(x), expected, *wrong)


@pytest.mark.parametrize("window", [1, 2, 5])
def test_windowed_attention_equals_a_masked_map(window):
    # T = 1, T < window, and T around every multiple of the block.
    for frames in range(1, 7 * window + 3):
        query, key, value = 2 * randn(3, 1, 2, frames, 4, seed=frames)
        out = windowed_attention(query, key, value, window)
        expected, wider, narrower = np.zeros((3, 1, 2, frames, 4))
        for h in range(2):
            parts = array(query)[0, h], array(key)[0, h]
            rows = array(value)[0, h]
            expected[0, h] = map_twin(*parts, window) @ rows
            wider[0, h] = map_twin(*parts, window + 1) @ rows
            narrower[0, h] = map_twin(*parts, window - 1) @ rows
        wrong = [wider] if frames > window + 1 else []
        wrong += [narrower] if frames > window else []
        assert_twin(out, expected, *wrong)


def test_windowed_attention_without_a_window_sees_all():
    query, key, value = randn(3, 1, 1, 9, 4)
    expected = map_twin(array(query)[0, 0], array(key)[0, 0])
    wrong = map_twin(array(query)[0, 0], array(key)[0, 0], 5)
    value_rows = array(value)[0, 0]
    assert_twin(
        windowed_attention(query, key, value)[0, 0],
        expected @ value_rows,
        wrong @ value_rows,
    )


def test_windowed_attention_costs_grow_linearly(monkeypatch):
    products = []

    def count(query, key, value, attn_mask=None):
        products.append(query.shape[-2] * key.shape[-2])
        return torch.zeros_like(query)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", count)
    totals = {}
    for frames in (50, 100, 400, 800):
        products.clear()
        windowed_attention(*randn(3, 1, 1, frames, 2), window=5)
        totals[frames] = sum(products)
        # No call is larger than three windows by five.
        assert max(products) <= (3 * 5) * (5 * 5)
    assert totals[800] - totals[400] == 8 * (totals[100] - totals[50])
    assert totals[800] < 800 * 25


def test_window_mask_by_loops():
    mask = window_mask(torch.arange(3, 7), torch.arange(1, 9), 2)
    for i, query in enumerate(range(3, 7)):
        for j, key in enumerate(range(1, 9)):
            far = abs(query - key) > 2
            assert mask[i, j] == (-math.inf if far else 0)
    assert torch.isinf(mask).any() and (mask == 0).any()


@pytest.mark.parametrize("block", [1, 3, 8, 100])
def test_statistics_by_blocks_equal_those_of_whole_maps(block):
    statistics = MapStatistics(2, block=block).double()
    query, key, value = 2 * randn(3, 2, 2, 8, 4)
    out, numbers = statistics.attend(query, key, value)
    expected_out, expected = np.zeros((2, 2, 8, 4)), np.zeros((2, 2, 4))
    for n, h in np.ndindex(2, 2):
        attention = map_twin(array(query)[n, h], array(key)[n, h])
        expected_out[n, h] = attention @ array(value)[n, h]
        expected[n, h] = statistics_twin(attention)
    assert_twin(out, expected_out)
    assert_twin(numbers, expected, expected[..., [0, 1, 3, 2]])
    # Statistics of the first block alone would be others.
    part = array(query)[0, 0][:3], array(key)[0, 0]
    rows = [softmax([sum(q * k) / 2 for k in part[1]]) for q in part[0]]
    assert abs(statistics_twin(np.array(rows))[1] - expected[0, 0, 1]) > 1e-4


def test_long_input_needs_several_blocks_by_default():
    module = scramble(DifferentialBandAttention(4, 1, 1, "statistics"), scale=1)
    x = randn(1, 1, 133, 4)
    out = module(x)
    module.statistics.block = 1000
    assert_twin(out, array(module(x)))
    with torch.no_grad():
        module.statistics.output.bias.add_(1)
    assert (module(x) - out).abs().max() > 1e-3


def test_statistics_of_one_frame_have_a_finite_gradient():
    module = DifferentialBandAttention(8, 2, 3, "statistics")
    module(torch.randn(3, 1, 1, 8)).sum().backward()
    for name, parameter in module.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
    assert module.output.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_heads": 3}, "num_channels is 8, .* 2 num_heads = 6"),
        ({"num_heads": 4}, "even head size, .* = 1"),
        ({"lambda_form": "vector"}, "'vector', expected one of"),
        ({"window": 0}, "window is 0, expected at least 1 or null"),
        ({"window": 9, "lambda_form": "statistics"}, "whole maps: set window"),
        ({"band_weights": "own"}, "'own', expected 'shared' or 'per_band'"),
    ],
)
def test_impossible_attention_is_refused(arguments, message):
    settings = {"num_channels": 8, "num_heads": 2, "num_bands": 3}
    with pytest.raises(ValueError, match=message):
        DifferentialBandAttention(**{**settings, **arguments})


def test_an_odd_head_size_is_allowed_without_rotary_positions():
    module = DifferentialBandAttention(6, 1, 3, rope=False)
    assert module(torch.randn(3, 1, 5, 6)).shape == (3, 1, 5, 6)
