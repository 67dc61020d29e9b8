"""Differential attention over time."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from dbtransform_lobes.models import windowed_attention
from dbtransform_lobes.models.differential_attention import (
    LAMBDAS,
    DifferentialBandAttention,
)
from dbtransform_lobes.models.lambdas import MapStatistics, VectorLambda
from tests.formulas import affine, shares, sigmoid
from tests.literal import statistics
from tests.twins import array, assert_twin, randn, scramble

each_direction = pytest.mark.parametrize("causal", [False, True])
each_number = pytest.mark.parametrize("differential", [True, False])


def rotate_twin(row, t, base=10000.0):
    """Pair (x_i, x_{i + d/2}) turned by the angle t base^(-2 i / d)."""
    left, right = np.split(row, 2)
    angles = t * base ** (-np.arange(len(left)) / len(left))
    turned = (left + 1j * right) * np.exp(1j * angles)
    return np.concatenate((turned.real, turned.imag))


def map_twin(query, key, window=None, causal=False):
    """A[t, s] = softmax_s(q_t k_s / sqrt(d)) over the frames that t sees."""
    window = math.inf if window is None else window
    rows, frame = [], np.arange(len(query))
    for t in frame:
        seen = (abs(t - frame) <= window) & ((frame <= t) | (not causal))
        rows.append(shares(query[t], key, np.where(seen, 0, -math.inf)))
    return np.array(rows)


def initial_twin(layer):
    """lambda_init = 0.8 - 0.6 exp(-0.3 layer) (eq. 3)."""
    return 0.8 - 0.6 * math.exp(-0.3 * layer)


def lambda_twin(module, k, h, rows, maps, layer):
    """lambda of each frame: one number, one of the maps, or the frame's own.

    "vector": exp(lq1 . lk1) - exp(lq2 . lk2) + lambda_init (eq. 2);
    "statistics": sigmoid(W_2 relu(W_1 x + b_1) + b_2), the band's own;
    "token": sigmoid(x W_lambda + b_k).
    """
    if module.vector is not None:
        vectors = array(module.vector.vectors)  # (4, K or 1, d)
        q1, k1, q2, k2 = vectors[:, k % vectors.shape[1]]
        lam = math.exp(sum(q1 * k1)) - math.exp(sum(q2 * k2))
        return np.full(len(rows), lam + initial_twin(layer))
    if module.statistics is not None:
        mlp = module.statistics
        both = [statistics(torch.from_numpy(each)) for each in maps]
        numbers = np.array([*both[0], *both[-1]])
        hidden = np.maximum(affine(mlp.hidden, k, numbers), 0)
        return np.full(len(rows), sigmoid(affine(mlp.output, k, hidden)[0]))
    logits = rows[:, -module.num_heads + h]
    return sigmoid(logits + array(module.offset)[k, 0, 0, h])


def normalise_twin(vector, row, layer, gain=True, share=True):
    """(1 - lambda_init) RMSNorm(row) with a gain (eq. 3)."""
    unit = row / math.sqrt(sum(row**2) / len(row) + 1e-5)
    unit = unit * array(vector.norm.weight) if gain else unit
    return (1 - initial_twin(layer)) * unit if share else unit


def maps_twin(module, rows, h, rope, **reach):
    """A_1 and A_2 of a head; without ``differential`` A of a head of 2 d."""
    channels = module.project.weight.shape[-1]
    size = channels // module.num_maps // module.num_heads
    maps = []
    for i in range(module.num_maps):
        first = i * channels // 2 + h * size
        parts = [rows[:, n + first :][:, :size] for n in (0, channels)]
        if rope:
            parts = [
                np.array([rotate_twin(row, t) for t, row in enumerate(part)])
                for part in parts
            ]
        maps.append(map_twin(*parts, **reach))
    return maps


def projected(module, x, k, b):
    """Queries, keys, values (and logits of lambda) of a band's frames."""
    rows = x[k, b]
    if module.embedding is not None:
        rows = rows + array(module.embedding)[k, 0]
    return np.array([affine(module.project, k, row) for row in rows])


def attention_twin(
    module,
    x,
    rope=True,
    layer=0,
    weigh=lambda lam: lam,
    normalise=normalise_twin,
    **reach,
):
    """out = concat_h((A1 - lambda A2) V) W_o, head by head (eq. 1 and 3)."""
    bands, batch, frames, channels = x.shape
    size = channels // 2 // module.num_heads
    out, lambdas = np.zeros_like(x), np.zeros((*x.shape[:3], module.num_heads))
    for k, b in np.ndindex(bands, batch):
        rows = projected(module, x, k, b)
        mixed = np.zeros((frames, channels // 2))
        for h in range(module.num_heads):
            maps = maps_twin(module, rows, h, rope, **reach)
            value = rows[:, 2 * channels + h * size :][:, :size]
            lam = lambda_twin(module, k, h, rows, maps, layer)
            lambdas[k, b, :, h] = lam
            for t in range(frames):
                head = (maps[0][t] - weigh(lam[t]) * maps[-1][t]) @ value
                if module.vector is not None:
                    head = normalise(module.vector, head, layer)
                mixed[t, h * size : (h + 1) * size] = head
        out[k, b] = [affine(module.output, k, row) for row in mixed]
    return out, lambdas


def wrong_forms(lambda_form, differential, layer):
    """Arguments of the twin that give something else."""
    weighs = [lambda lam: 2 - lam]
    if differential or lambda_form != "vector":  # its norm takes the level away
        weighs += [lambda lam: 1, lambda lam: 0, lambda lam: -lam]
    forms = [{"weigh": weigh} for weigh in weighs]
    if lambda_form == "vector":
        parts = [{"gain": False}, {"share": False}]
        others = [partial(normalise_twin, **part) for part in parts]
        others.append(lambda vector, row, layer: row)
        forms += [{"normalise": other} for other in others]
        forms.append({"layer": layer + 1})
    return forms


@pytest.mark.parametrize("rope, layer", [(False, 4), (True, 1)])
@each_number
@pytest.mark.parametrize("band_weights", ["shared", "per_band"])
@pytest.mark.parametrize("lambda_form", LAMBDAS)
def test_attention_equals_its_twin(
    lambda_form, band_weights, differential, rope, layer
):
    """Without a second map it is (1 - lambda) A V, A of heads of 2 d."""
    settings = (8, 2, 3, lambda_form, band_weights, rope)
    make = partial(DifferentialBandAttention, *settings, layer=layer)
    module = scramble(make(differential=differential))
    other = scramble(make(differential=not differential))
    other.load_state_dict(module.state_dict())  # as many parameters
    x, right = randn(3, 2, 6, 8), {"rope": rope, "layer": layer}
    expected, lambdas = attention_twin(module, array(x), **right)
    wrong = wrong_forms(lambda_form, differential, layer)
    wrong = [
        attention_twin(module, array(x), **{**right, **form})[0]
        for form in [*wrong, {"rope": not rope}]
    ]
    assert_twin(module(x), expected, *wrong, array(other(x)))
    lam = module.lambda_of(x)
    assert_twin(lam.expand(3, 2, 6, 2), lambdas)
    bands = 1 if (lambda_form, band_weights) == ("vector", "shared") else 3
    shapes = {"token": (3, 2, 6, 2), "statistics": (3, 2, 1, 2)}
    assert lam.shape == shapes.get(lambda_form, (bands, 1, 1, 1))
    assert (lambdas.std() > 1e-3) == (bands == 3)


def test_vector_lambda_starts_near_its_initial_value():
    torch.manual_seed(0)
    for layer, initial in ((0, 0.2), (1, 0.3555091), (5, 0.6661219)):
        lam = VectorLambda(64, layer, 100)()
        assert lam.shape == (100, 1, 1, 1)
        assert abs(lam.mean() - initial) < 0.03
        assert lam.std() > 0.01


@each_direction
@each_number
@pytest.mark.parametrize("lambda_form", ["token", "vector"])
@pytest.mark.parametrize("window", [1, 2, 5])
def test_windowed_attention_equals_its_twin(
    window, lambda_form, differential, causal, monkeypatch
):
    """T = 1, T < window, and T around multiples of a block of queries."""
    monkeypatch.setattr(windowed_attention, "CPU_KEYS", window)
    settings = {"window": window, "causal": causal}
    form = {"lambda_form": lambda_form, "differential": differential}
    module = DifferentialBandAttention(8, 2, 2, **form, **settings)
    scramble(module, scale=0.7)
    longest = 4 * window + 2
    sizes = {1, window - 1, longest} - {0}
    sizes |= {n * window + i for n in (1, 2, 3) for i in (0, 1)}
    for frames in sizes:
        x, reaches = randn(2, 2, frames, 8, seed=frames), [settings]
        if frames == longest:
            others = (window - 1, window + 1, None)
            reaches += [{**settings, "window": other} for other in others]
            reaches += [{**settings, "causal": not causal}]
        expected, *wrong = (
            attention_twin(module, array(x), **reach)[0] for reach in reaches
        )
        for exporting in (False, True):  # a graph has no loop
            is_exporting = partial(bool, exporting)
            monkeypatch.setattr(torch.compiler, "is_exporting", is_exporting)
            assert_twin(module(x), expected, *wrong)


@each_direction
def test_cost_of_a_window_grows_linearly(monkeypatch, causal):
    products = []  # of queries and keys, call by call

    def count(query, key, value, mask=None):
        products.append(query.shape[-2] * key.shape[-2])
        return torch.zeros_like(query)

    monkeypatch.setattr(windowed_attention, "attend", count)
    monkeypatch.setattr(windowed_attention, "CPU_KEYS", 3)
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
    if causal:  # nor does a step of a stream that has begun cost more
        _, cache = module.step(torch.randn(1, 1, 7, 4), None, 0)
        products.clear()
        module.step(torch.randn(1, 1, 480, 4), cache, 7)
        assert sum(products) <= 480 * (6 / 2 + 6)


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


@pytest.mark.parametrize("rows", [0.1, 1, 3, 8, 16, 100])
def test_statistics_by_blocks_equal_those_of_whole_maps(rows):
    """Blocks of a part of a map, of one item, of two and of all three.

    Maximum and minimum are made anew from their rows: not constants.
    """
    assert MapStatistics(2).entries < 1100**2  # maps of ten seconds are cut
    module = MapStatistics(2, entries=int(rows * 2 * 8)).double()
    query, key, value = (0.7 * randn(3, 3, 2, 8, 4)).requires_grad_()
    maps = (query @ key.mT / 2).softmax(-1)  # (N, H, T, T)
    whole = torch.stack(statistics(maps), dim=-1)
    first_rows = torch.stack(statistics(maps[..., :3, :]), dim=-1)
    out, numbers = module.attend(query, key, value)
    assert_twin(out, array(maps @ value))
    wrong = array(whole)[..., [0, 1, 3, 2]], array(first_rows)
    assert_twin(numbers, array(whole), *wrong)
    weights = 10 * randn(3, 2, 4, seed=5)
    for i in range(1, 4):  # the mean is a constant
        both = [(weights * each)[..., i].sum() for each in (numbers, whole)]
        for part in (query, key):
            one, other = (
                torch.autograd.grad(each, part, retain_graph=True)[0]
                for each in both
            )
            assert_twin(one, array(other), array(0 * other))


@each_number
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
            rows = projected(module, array(x), band, b)
            found = maps_twin(module, rows, h, True, window=window)
            lam = lambda_twin(module, band, h, rows, found, 0)[:, None]
            difference = found[0] - lam * found[-1]
            out[:, b, h] = found[0], found[-1], difference
    assert_twin(maps, expected, wrong)


def test_an_odd_head_size_is_allowed_without_rotary_positions():
    module = DifferentialBandAttention(6, 1, 3, rope=False)
    assert module(torch.randn(3, 1, 5, 6)).shape == (3, 1, 5, 6)
