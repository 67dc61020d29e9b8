"""Differential attention over time."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from dbtransform_lobes.models import differential_attention
from dbtransform_lobes.models.differential_attention import (
    LAMBDAS,
    DifferentialBandAttention,
    MapStatistics,
    VectorLambda,
    attend,
    blocks_of_frames,
    rotate,
    window_mask,
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

each_lambda = pytest.mark.parametrize("lambda_form", LAMBDAS)
each_weights = pytest.mark.parametrize("band_weights", ["shared", "per_band"])


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


def sees(t, s, window=None, causal=False):
    """Whether frame t may attend to frame s."""
    near = window is None or abs(t - s) <= window
    return near and (s <= t or not causal)


def map_twin(query, key, window=None, causal=False):
    """A[t, s] = softmax_s(q_t k_s / sqrt(d)) over the frames that t sees."""
    frames, size = query.shape
    rows = []
    for t in range(frames):
        logits = [
            query[t] @ key[s] / math.sqrt(size)
            if sees(t, s, window, causal)
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


def vector_twin(vector, band, layer):
    """exp(lq1 . lk1) - exp(lq2 . lk2) + lambda_init (eq. 2)."""
    rows = array(vector.vectors)  # (4, K or 1, d): lq1, lk1, lq2, lk2
    rows = rows[:, band if rows.shape[1] > 1 else 0]
    first = math.exp(sum(rows[0] * rows[1]))
    second = math.exp(sum(rows[2] * rows[3]))
    return first - second + 0.8 - 0.6 * math.exp(-0.3 * layer)


def lambda_twin(module, k, h, rows, maps, layer=0):
    """lambda of every frame: sigmoid(x W_lambda + b_k); eq. 2; MLP_k."""
    channels = module.project.weight.shape[-1]
    if module.vector is not None:
        return np.full(len(rows), vector_twin(module.vector, k, layer))
    if module.statistics is not None:
        numbers = statistics_twin(maps[0]) + statistics_twin(maps[-1])
        lam = mlp_twin(module.statistics, k, np.array(numbers))
        return np.full(len(rows), lam)
    logits = rows[:, 2 * channels + channels // 2 + h]
    return sigmoid(logits + array(module.offset)[k, 0, 0, h])


def normalise_twin(vector, row, layer):
    """(1 - lambda_init) RMSNorm(row) with a gain (eq. 3)."""
    level = math.sqrt(sum(value**2 for value in row) / len(row) + 1e-5)
    initial = 0.8 - 0.6 * math.exp(-0.3 * layer)
    return (1 - initial) * row / level * array(vector.norm.weight)


def maps_twin(module, rows, h, rope, **reach):
    """A_1 and A_2 of a head; without ``differential`` A of a head of 2 d."""
    channels = module.project.weight.shape[-1]
    size = channels // module.num_maps // module.num_heads
    maps = []
    for i in range(module.num_maps):
        first = i * channels // 2 + h * size
        q = rows[:, first : first + size]
        k = rows[:, channels + first : channels + first + size]
        if rope:
            frames = range(len(rows))
            q = np.array([rotate_twin(q[t], t) for t in frames])
            k = np.array([rotate_twin(k[t], t) for t in frames])
        maps.append(map_twin(q, k, **reach))
    return maps


def attention_twin(
    module,
    x,
    rope=True,
    layer=0,
    weigh=lambda lam: lam,
    normalise=normalise_twin,
    **reach,
):
    """out = concat_h((A1 - lambda A2) V) W_o, head by head (eq. 1 and 3).

    A_i = softmax(Q_i K_i^T / sqrt(d)), d = C / H / 2.
    """
    bands, batch, frames, channels = x.shape
    size = channels // 2 // module.num_heads
    out, lambdas = np.zeros_like(x), {}
    for k, b in np.ndindex(bands, batch):
        rows = x[k, b]
        if module.embedding is not None:
            rows = rows + array(module.embedding)[k, 0]
        rows = np.array([affine(module.project, k, row) for row in rows])
        mixed = np.zeros((frames, channels // 2))
        for h in range(module.num_heads):
            maps = maps_twin(module, rows, h, rope, **reach)
            value = rows[:, 2 * channels + h * size :][:, :size]
            lam = lambda_twin(module, k, h, rows, maps, layer)
            lambdas[k, b, h] = lam
            for t in range(frames):
                weights = maps[0][t] - weigh(lam[t]) * maps[-1][t]
                head = weights @ value
                if module.vector is not None:
                    head = normalise(module.vector, head, layer)
                mixed[t, h * size : (h + 1) * size] = head
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
    for first in (0, 11):
        expected, wrong = np.zeros((2, 2, 7, 3, 8))
        for b, t, h in np.ndindex(2, 7, 3):
            row = array(x)[b, t, h]
            expected[b, t, h] = rotate_twin(row, first + t)
            wrong[b, t, h] = rotate_twin(row, first + t, base=1000.0)
        assert_twin(rotate(x, first), expected, wrong, array(x))
    assert (rotate(x, 11) - rotate(x)).abs().max() > 0.1


def test_rotated_products_depend_on_the_distance_alone():
    q, k = randn(2, 1, 1, 8).expand(2, 12, 1, 8)

    def turned(x, first=0):
        return rotate(x, first).squeeze(1)

    products = turned(q) @ turned(k).T
    for lag in range(-11, 12):
        diagonal = products.diagonal(lag)
        assert (diagonal - diagonal[0]).abs().max() < 1e-12
    assert products[0].std() > 0.1
    moved = turned(q, first=50) @ turned(k, first=50).T
    assert (moved - products).abs().max() < 1e-12
    assert (turned(q, first=1) @ turned(k).T - products).abs().max() > 0.1


@pytest.mark.parametrize("rope", [True, False])
@each_weights
@each_lambda
def test_attention_equals_its_twin(lambda_form, band_weights, rope):
    module = scramble(
        DifferentialBandAttention(8, 2, 3, lambda_form, band_weights, rope)
    )
    x = randn(3, 2, 6, 8)
    out, lam = module(x), module.lambda_of(x)
    expected, lambdas = attention_twin(module, array(x), rope)
    wrong = wrong_lambdas(module, array(x), rope=rope)
    wrong.append(attention_twin(module, array(x), not rope)[0])
    assert_twin(out, expected, *wrong)
    bands = 1 if (lambda_form, band_weights) == ("vector", "shared") else 3
    shape = {
        "token": (3, 2, 6, 2),
        "vector": (bands, 1, 1, 1),
        "statistics": (3, 2, 1, 2),
    }
    assert lam.shape == shape[lambda_form]
    lam = lam.expand(3, 2, 6, 2)
    for (k, b, h), values in lambdas.items():
        assert np.abs(array(lam[k, b, :, h]) - values).max() < 1e-10
    assert (lam.std() > 1e-3) == (bands == 3)
    if lambda_form != "vector":
        assert ((lam > 0) & (lam < 1)).all()


@pytest.mark.parametrize("layer", [0, 1, 4])
@each_weights
def test_vector_lambda_equals_its_twin(band_weights, layer):
    """The layer counts from 0; each head has a norm of its own (eq. 3)."""
    module = DifferentialBandAttention(
        12, 3, 2, "vector", band_weights, layer=layer
    )
    scramble(module)
    x = randn(2, 2, 5, 12)

    def no_gain(vector, row, layer):
        return normalise_twin(vector, row, layer) / array(vector.norm.weight)

    def no_share(vector, row, layer):
        initial = 0.8 - 0.6 * math.exp(-0.3 * layer)
        return normalise_twin(vector, row, layer) / (1 - initial)

    expected, _ = attention_twin(module, array(x), layer=layer)
    wrong = [
        attention_twin(module, array(x), layer=layer, normalise=other)[0]
        for other in (no_gain, no_share, lambda vector, row, layer: row)
    ]
    wrong.append(attention_twin(module, array(x), layer=layer + 1)[0])
    assert_twin(module(x), expected, *wrong)


def test_each_head_has_a_norm_of_its_own():
    """RMSNorm over the d channels of a head, not over all heads (eq. 3)."""
    vector = scramble(VectorLambda(2, layer=1))
    heads = randn(5, 3, 2)
    expected, joint = np.zeros((2, 5, 3, 2))
    for t in range(5):
        level = math.sqrt((array(heads)[t] ** 2).mean() + 1e-5)
        for h in range(3):
            head = array(heads)[t, h]
            expected[t, h] = normalise_twin(vector, head, layer=1)
            own = math.sqrt((head**2).mean() + 1e-5)
            joint[t, h] = expected[t, h] * own / level
    assert_twin(vector.scale(heads), expected, joint)


def test_vector_lambda_starts_near_its_initial_value():
    torch.manual_seed(0)
    for layer, initial in ((0, 0.2), (1, 0.3555091), (5, 0.6661219)):
        lam = VectorLambda(64, layer, 100)()
        assert lam.shape == (100, 1, 1, 1)
        assert abs(lam.mean() - initial) < 0.03
        assert lam.std() > 0.01


@each_weights
@each_lambda
def test_a_control_without_a_second_map_equals_its_twin(
    lambda_form, band_weights
):
    """(1 - lambda) A V, A of heads of 2 d: plain attention."""
    settings = (8, 2, 3, lambda_form, band_weights)
    module = scramble(DifferentialBandAttention(*settings, differential=False))
    x = randn(3, 2, 6, 8)
    expected, lambdas = attention_twin(module, array(x))
    wrong = [attention_twin(module, array(x), weigh=lambda lam: 2 * lam)[0]]
    if lambda_form != "vector":  # whose norm takes the level away
        wrong = wrong_lambdas(module, array(x))[1:]
    differential = DifferentialBandAttention(*settings).double()
    differential.load_state_dict(module.state_dict())
    wrong.append(array(differential(x)))
    out, lam = module(x), module.lambda_of(x)
    assert_twin(out, expected, *wrong)
    lam = array(lam.expand(3, 2, 6, 2))
    for (k, b, h), values in lambdas.items():
        assert np.abs(lam[k, b, :, h] - values).max() < 1e-10


@each_weights
@each_lambda
def test_the_control_has_as_many_parameters(lambda_form, band_weights):
    def shapes(differential):
        module = DifferentialBandAttention(
            8, 2, 3, lambda_form, band_weights, differential=differential
        )
        return {n: p.shape for n, p in module.named_parameters()}

    assert shapes(True) == shapes(False)


def test_the_control_scales_plain_attention_by_one_minus_lambda():
    module = scramble(DifferentialBandAttention(8, 1, 2, differential=False))
    x = randn(2, 1, 7, 8)
    with torch.no_grad():
        module.output.bias.zero_()
        # A logit that follows no frame: lambda = sigmoid(b_k).
        module.project.weight[-1:].zero_()
        module.project.bias[-1:].zero_()
        out, lam = module(x), module.lambda_of(x)
        module.offset.fill_(-1000)
        plain, none = module(x), module.lambda_of(x)
    assert none.max() == 0 and lam.min() > 0.1
    assert_twin(out, array((1 - lam) * plain), array(plain))


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


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lambda_form", ["token", "vector"])
@pytest.mark.parametrize("frames", [1, 4, 8, 9, 10])
def test_windowed_module_equals_its_twin(frames, lambda_form, causal):
    module = scramble(
        DifferentialBandAttention(8, 2, 2, lambda_form, window=2, causal=causal)
    )
    x = randn(2, 1, frames, 8)
    expected, _ = attention_twin(module, array(x), window=2, causal=causal)
    wrong = []
    if frames > 3:
        reaches = [(1, causal), (3, causal), (2, not causal), (None, causal)]
        wrong = [
            attention_twin(module, array(x), window=window, causal=ahead)[0]
            for window, ahead in reaches
        ]
    assert_twin(module(x), expected, *wrong)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [1, 2, 5])
def test_blocks_equal_a_masked_full_map(window, causal):
    # T = 1, T < window, and T around every multiple of the block.
    module = DifferentialBandAttention(4, 1, 1, window=window, causal=causal)
    scramble(module, scale=1)
    for frames in range(1, 7 * window + 3):
        x = randn(1, 1, frames, 4, seed=frames)
        reaches = [window]
        reaches += [window + 1] if frames > window + 2 else []
        reaches += [window - 1] if frames > window else []
        expected, *wrong = (
            attention_twin(module, array(x), window=reach, causal=causal)[0]
            for reach in reaches
        )
        assert_twin(module(x), expected, *wrong)


@pytest.mark.parametrize("differential", [False, True])
@pytest.mark.parametrize("rope", [False, True])
def test_a_window_longer_than_the_input_sees_all(rope, differential):
    settings = {"rope": rope, "differential": differential}
    module = scramble(DifferentialBandAttention(8, 2, 3, **settings))
    x = randn(3, 2, 9, 8)
    everything = array(module(x))
    for window, equal in ((8, True), (30, True), (7, False)):
        module.window = window
        difference = np.abs(array(module(x)) - everything).max()
        assert (difference < 1e-10) == equal


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 2, 3, 5])
def test_blocks_of_frames_by_loops(window, causal):
    for frames in range(1, 40):
        blocks = blocks_of_frames(frames, window, causal)
        queries = [range(frames)[rows] for rows, _ in blocks]
        assert [t for rows in queries for t in rows] == list(range(frames))
        for rows, (_, reach) in zip(queries, blocks, strict=True):
            needed = [
                s
                for s in range(frames)
                if any(sees(t, s, window) for t in rows)
                and (s <= rows[-1] or not causal)
            ]
            assert list(range(frames)[reach]) == needed
            assert window is None or len(rows) <= 3 * window


def count_products(monkeypatch):
    """Let attention count its products of queries and keys, call by call."""
    products = []

    def count(query, key, value, mask=None):
        products.append(query.shape[-2] * key.shape[-2])
        return torch.zeros_like(query)

    monkeypatch.setattr(differential_attention, "attend", count)
    monkeypatch.setattr(differential_attention, "CPU_QUERIES", 3)
    return products


@pytest.mark.parametrize("causal", [False, True])
def test_cost_of_a_window_grows_linearly(monkeypatch, causal):
    products = count_products(monkeypatch)
    module = DifferentialBandAttention(4, 1, 1, window=6, causal=causal)
    totals = {}
    for frames in (60, 120, 480, 960):
        products.clear()
        module(torch.randn(1, 1, frames, 4))
        totals[frames] = sum(products)
        # No call is larger than a window by three.
        assert max(products) <= 6 * 18
    assert totals[960] - totals[480] == 8 * (totals[120] - totals[60])
    assert totals[960] <= 960 * (6 / 2 + 2 * 6)


def test_attend_equals_its_twin_with_heads_of_two_sizes():
    query, key = 2 * randn(2, 2, 3, 7, 4)
    value = randn(2, 3, 7, 2, seed=1)
    frames = torch.arange(7)
    for reach in ({}, {"window": 2}, {"window": 2, "causal": True}):
        mask = window_mask(frames, frames, **reach) if reach else None
        expected, wrong = np.zeros((2, 2, 3, 7, 2))
        for n, h in np.ndindex(2, 3):
            parts = array(query)[n, h], array(key)[n, h]
            expected[n, h] = map_twin(*parts, **reach) @ array(value)[n, h]
            wrong[n, h] = map_twin(*parts, window=1) @ array(value)[n, h]
        assert_twin(attend(query, key, value, mask), expected, wrong)


def test_products_equal_the_fused_kernel_of_other_devices():
    query, key = 2 * randn(2, 2, 3, 7, 4)
    value = randn(2, 3, 7, 4, seed=1)
    frames = torch.arange(7)
    wide, narrow = (window_mask(frames, frames, w).double() for w in (3, 2))
    fused = functional.scaled_dot_product_attention
    expected, wrong = (
        array(fused(query, key, value, attn_mask=mask))
        for mask in (wide, narrow)
    )
    assert_twin(attend(query, key, value, wide), expected, wrong)


@pytest.mark.parametrize("causal", [False, True])
def test_rotary_positions_depend_on_differences_alone(causal):
    """A passage gives the same wherever it stands in a longer signal."""
    module = DifferentialBandAttention(8, 2, 1, window=3, causal=causal)
    scramble(module, scale=1)
    long, passage = randn(1, 1, 120, 8), randn(1, 1, 20, 8, seed=1)
    alone = array(module(passage))[:, :, 3:-3]
    for start in (0, 1, 5, 6, 7, 50, 99, 100):
        x = long.clone()
        x[:, :, start : start + 20] = passage
        within = module(x)[:, :, start + 3 : start + 17]
        other = module(long)[:, :, start + 3 : start + 17]
        assert_twin(within, alone, array(other))


def test_positions_far_into_a_signal_keep_their_precision():
    """Angles of frame numbers in the ten thousands would not, in fp32."""
    torch.manual_seed(0)
    module = DifferentialBandAttention(8, 1, 1, window=20)
    far = 20_000
    x = 3 * torch.randn(1, 1, far + 100, 8)
    with torch.no_grad():
        long = module(x)[:, :, far + 20 : -20]
        alone = module(x[:, :, far:])[:, :, 20:-20]
    assert (long - alone).abs().max() < 1e-5
    assert alone.std() > 0.01


def test_window_mask_by_loops():
    for window in (None, 2):
        for causal in (False, True):
            mask = window_mask(
                torch.arange(3, 7), torch.arange(1, 9), window, causal
            )
            for i, query in enumerate(range(3, 7)):
                for j, key in enumerate(range(1, 9)):
                    seen = sees(query, key, window, causal)
                    assert mask[i, j] == (0 if seen else -math.inf)
            everything = window is None and not causal
            assert torch.isinf(mask).any() != everything
            assert (mask == 0).any()


@pytest.mark.parametrize("rows", [0.1, 1, 3, 8, 16, 100])
def test_statistics_by_blocks_equal_those_of_whole_maps(rows):
    """Blocks of a part of a map, of one item, of two and of all three."""
    statistics = MapStatistics(2, entries=int(rows * 2 * 8)).double()
    query, key, value = 2 * randn(3, 3, 2, 8, 4)
    out, numbers = statistics.attend(query, key, value)
    expected_out, expected = np.zeros((3, 2, 8, 4)), np.zeros((3, 2, 4))
    for n, h in np.ndindex(3, 2):
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
    module = scramble(DifferentialBandAttention(4, 1, 2, "statistics"), scale=1)
    x = randn(2, 1, 1100, 4)
    assert module.statistics.entries < 1100**2
    out = module(x)
    module.statistics.entries = 1100**2
    assert_twin(out, array(module(x)))
    with torch.no_grad():
        module.statistics.output.bias.add_(1)
    assert (module(x) - out).abs().max() > 1e-3


def test_statistics_have_the_gradient_of_whole_maps():
    """Maximum and minimum are made anew from their rows: not constants."""
    statistics = MapStatistics(1).double()
    query, key, value = 0.7 * randn(3, 2, 2, 8, 4)
    query.requires_grad_(), key.requires_grad_()
    weights = 10 * randn(2, 2, 4, seed=5)
    maps = (query @ key.mT / 2).softmax(-1).flatten(-2)
    whole = torch.stack(
        (
            maps.mean(-1),
            (maps.var(-1, correction=0) + 1e-12).sqrt(),
            maps.amax(-1),
            maps.amin(-1),
        ),
        dim=-1,
    )
    _, numbers = statistics.attend(query, key, value)
    for i in range(1, 4):  # the mean is a constant

        def gradients(numbers, i=i):
            total = (weights[..., i] * numbers[..., i]).sum()
            return torch.autograd.grad(total, (query, key), retain_graph=True)

        pairs = zip(gradients(numbers), gradients(whole), strict=True)
        for mine, expected in pairs:
            assert_twin(mine, array(expected), array(0 * expected))


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
        ({"num_heads": 0}, "num_heads is 0, expected at least 1"),
        ({"lambda_form": "vectors"}, "'vectors', expected one of"),
        ({"causal": True}, "causal model needs a window, given null"),
        (
            {"causal": True, "lambda_form": "statistics"},
            "describes whole maps",
        ),
        ({"window": 0}, "window is 0, expected at least 1 or null"),
        ({"window": 9, "lambda_form": "statistics"}, "whole maps: set window"),
        ({"band_weights": "own"}, "'own', expected 'shared' or 'per_band'"),
    ],
)
def test_impossible_attention_is_refused(arguments, message):
    settings = {"num_channels": 8, "num_heads": 2, "num_bands": 3}
    with pytest.raises(ValueError, match=message):
        DifferentialBandAttention(**{**settings, **arguments})


@pytest.mark.parametrize("causal", [False, True])
@each_lambda
def test_attention_in_bfloat16_comes_close(lambda_form, causal):
    torch.manual_seed(0)
    causal = causal and lambda_form != "statistics"
    window = 3 if causal else None
    module = DifferentialBandAttention(
        16, 2, 3, lambda_form, window=window, causal=causal
    )
    x = torch.randn(3, 2, 20, 16)
    exact = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(x)
    error = (out.float() - exact).square().mean().sqrt()
    assert 0 < error < 0.05 * exact.square().mean().sqrt()


@each_weights
@pytest.mark.parametrize("differential", [False, True])
@each_lambda
def test_gradients_reach_every_parameter(
    lambda_form, differential, band_weights
):
    module = scramble(
        DifferentialBandAttention(
            8, 2, 3, lambda_form, band_weights, differential=differential
        )
    )
    out = module(randn(3, 2, 9, 8))
    (out - randn(3, 2, 9, 8, seed=1)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        # A norm takes 1 - lambda away, but for what is added to its level.
        nearly = "vector.vectors" in name and not differential
        assert parameter.grad.abs().max() > (0 if nearly else 1e-6), name


def step(module, x, sizes):
    """The outputs of a causal module, given chunks of these sizes."""
    cache, outs, first = None, [], 0
    for chunk in x.split(sizes, dim=2):
        out, cache = module.step(chunk, cache, first)
        first += chunk.shape[2]
        outs.append(out)
    return torch.cat(outs, dim=2), cache


@pytest.mark.parametrize("differential", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lambda_form", ["token", "vector"])
def test_chunks_equal_the_whole(lambda_form, causal, differential):
    form = (lambda_form, "shared", True, 4, causal, differential)
    module = scramble(DifferentialBandAttention(8, 2, 3, *form))
    x = randn(3, 2, 31, 8)
    reach = {"causal": causal}
    expected, _ = attention_twin(module, array(x), window=4, **reach)
    narrower, _ = attention_twin(module, array(x), window=3, **reach)
    for sizes in (1, 2, 3, 4, 5, 7, 16, 31, [1, 9, 2, 19]):
        chunks = list(module.stream(x.split(sizes, dim=2)))
        assert [chunk.shape for chunk in chunks] == [
            chunk.shape for chunk in x.split(sizes, dim=2)
        ]
        assert_twin(torch.cat(chunks, dim=2), expected, narrower)
        if causal:
            out, cache = step(module, x, sizes)
            assert_twin(out, expected, narrower)
            assert [each.shape[-2] for each in cache] == [4, 4]


def test_cost_of_a_long_chunk_grows_linearly(monkeypatch):
    module = DifferentialBandAttention(4, 1, 1, window=6, causal=True)
    _, cache = step(module, torch.randn(1, 1, 7, 4), 7)
    products = count_products(monkeypatch)
    module.step(torch.randn(1, 1, 480, 4), cache, 7)
    assert sum(products) <= 480 * (6 / 2 + 6)


@pytest.mark.parametrize("differential", [False, True])
@pytest.mark.parametrize("window", [None, 2])
def test_maps_equal_their_twin(window, differential):
    settings = {"window": window, "differential": differential}
    module = scramble(DifferentialBandAttention(8, 2, 3, **settings))
    x = randn(3, 2, 6, 8)
    maps = module.maps_of(x, band=1)
    assert maps.shape == (3, 2, 2, 6, 6)
    expected, wrong = np.zeros((2, *maps.shape))
    for b, h in np.ndindex(2, 2):
        for band, out in ((1, expected), (2, wrong)):
            rows = array(x)[band, b] + array(module.embedding)[band, 0]
            rows = np.array([affine(module.project, band, row) for row in rows])
            found = maps_twin(module, rows, h, True, window=window)
            lam = lambda_twin(module, band, h, rows, found)[:, None]
            out[:, b, h] = (
                found[0],
                found[-1],
                found[0] - lam * found[-1],
            )
    assert_twin(maps, expected, wrong)


def test_an_odd_head_size_is_allowed_without_rotary_positions():
    module = DifferentialBandAttention(6, 1, 3, rope=False)
    assert module(torch.randn(3, 1, 5, 6)).shape == (3, 1, 5, 6)
