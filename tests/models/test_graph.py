"""The learnable harmonic graph."""

import math

import numpy as np
import pytest
import torch

from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.harmonic_graph import (
    HarmonicGraphAttention,
    attend_straight_through,
    frequency_features,
    harmonic_overlap,
    harmonic_pairs,
    nearest_neighbours,
)
from tests.formulas import affine, shares, sigmoid, silu
from tests.models.tiny import BLOCKS, block
from tests.models.tiny import LAYOUT as TINY
from tests.twins import array, assert_twin, randn, scramble

LAYOUT = BandLayout()


def tiny(form="learned"):
    """A scrambled graph of seven bands with two neighbours each."""
    return scramble(block(form if form in BLOCKS else f"form={form}"))


def full(num_channels=8, num_heads=2, **changes):
    """A graph of the default layout as training begins."""
    torch.manual_seed(0)
    return HarmonicGraphAttention(
        num_channels, num_heads, LAYOUT.edges_hz, LAYOUT.centres, **changes
    )


def ranked(similarity, i):
    """The other bands, the most similar first."""
    others = [j for j in range(len(similarity)) if j != i]
    return sorted(others, key=lambda j: -similarity[i][j])


def adjacency_twin(similarity, k, join=np.maximum):
    """The k largest S_ij with j != i; union of both directions; itself."""
    chosen = np.eye(len(similarity))
    for i, row in enumerate(chosen):
        row[ranked(similarity, i)[:k]] = 1
    return join(chosen, chosen.T)


def similarity_twin(graph, embedding=None):
    """S_ij = cosine(E_i, E_j) / temperature."""
    embedding = array(graph.embedding) if embedding is None else embedding
    unit = [row / math.sqrt(sum(row**2)) for row in embedding]
    cosine = [[sum(one * other) for other in unit] for one in unit]
    return np.array(cosine) / graph.temperature


def graph_twin(graph, x, similarity, edges):
    """z_i = concat_h(sum_j a_ij V_j) W_o over the edges of a frame.

    a_i = softmax over j with an edge of (Q_i K_j / sqrt(d) + S_ij).
    """
    out, size = np.zeros_like(x), x.shape[-1] // graph.num_heads
    bias = np.where(edges, similarity, -math.inf)
    for b, t in np.ndindex(x.shape[1:3]):
        rows = [affine(graph.project, k, x[k, b, t]) for k in range(len(x))]
        query, key, value = np.split(np.array(rows), 3, axis=1)
        for i in range(len(x)):
            mixed = []
            for first in range(0, x.shape[-1], size):
                own = slice(first, first + size)
                weights = shares(query[i, own], key[:, own], bias[i])
                mixed += [*(weights @ value[:, own])]
            out[i, b, t] = affine(graph.output, i, mixed)
    return out


@pytest.mark.parametrize("bands", range(2, 9))
def test_neighbours_equal_their_twin(bands):
    for k in range(1, bands):
        similarity = randn(bands, bands, seed=10 * bands + k)
        twins = [adjacency_twin(similarity, k)]
        if 1 < k < bands - 3:
            twins.append(adjacency_twin(similarity, k, join=np.minimum))
            twins += [adjacency_twin(similarity, n) for n in (k - 1, k + 1)]
        assert_twin(nearest_neighbours(similarity, k), *twins)


def test_gradient_of_neighbours_is_that_of_a_sigmoid():
    """Of S less its row's threshold, between the last chosen and the next."""
    bands, k = 6, 2
    similarity = randn(bands, bands).requires_grad_()
    weight = randn(bands, bands, seed=1)
    edges = nearest_neighbours(similarity, k)
    (edges * weight).sum().backward()
    numbers, pull = array(similarity), array(weight + weight.T)
    middle = [ranked(numbers, i)[k - 1 : k + 1] for i in range(bands)]
    levels = [numbers[i, pair].mean() for i, pair in enumerate(middle)]
    soft = sigmoid(numbers - np.array(levels)[:, None])
    detached = np.where(soft > soft.T, pull * soft * (1 - soft), 0)
    expected = detached.copy()
    for i, pair in enumerate(middle):
        expected[i, pair] -= detached[i].sum() / 2
    assert_twin(similarity.grad, expected, expected.T, detached)


def test_neither_order_of_adding_nor_mixed_precision_change_the_graph():
    graph = full(8, 2)
    edges, similarity = graph.adjacency(), graph.similarity()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(graph.adjacency(), edges)
        assert torch.allclose(graph.similarity(), similarity)
    noise = 1e-3 * torch.randn_like(graph.embedding)
    graph.embedding.data = 1 + noise  # cosines of about 1 - 1e-6
    edges, similarity = graph.adjacency(), graph.similarity()
    graph.embedding.data = graph.embedding.data.flip(-1)
    assert torch.equal(graph.similarity(), similarity)
    assert torch.equal(graph.adjacency(), edges)


def overlap_twin(edges, k=5, symmetric=True, harmonics=range(2, 6)):
    """Bands are joined to those of their k strongest overlaps.

    An overlap is the largest share of band j that n times the range of i
    covers. As strong as the k-th counts too. Symmetric by union; itself.
    """
    bands = len(edges) - 1
    overlaps = np.zeros((bands, bands))
    for i, j in np.ndindex(bands, bands):
        for n in harmonics if i != j else ():
            top = min(n * edges[i + 1], edges[j + 1])
            bottom = max(n * edges[i], edges[j])
            share = (top - bottom) / (edges[j + 1] - edges[j])
            overlaps[i, j] = max(overlaps[i, j], share)
    weakest = np.sort(overlaps)[:, [-k]]
    chosen = (overlaps > 0) & (overlaps >= weakest) | np.eye(bands, dtype=bool)
    return (chosen | chosen.T if symmetric else chosen).astype(float)


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_harmonic_overlap_equals_its_twin(k):
    edges = TINY.edges_hz
    assert_twin(harmonic_overlap(edges, k), overlap_twin(edges, k))
    edges = LAYOUT.edges_hz
    twin = overlap_twin(edges, k)
    others = range(2, 7), range(2, 5), range(3, 6)
    wrong = [overlap_twin(edges, k, harmonics=each) for each in others]
    wrong += [overlap_twin(edges, k + 2), np.ones((31, 31))]
    wrong.append(overlap_twin(edges, k, symmetric=False))
    assert_twin(harmonic_overlap(edges, k), twin, *wrong)
    graph = full(form="fixed", num_neighbours=k)
    assert_twin(graph.adjacency(), twin, *wrong)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("form", ["learned", "fixed", "dense"])
def test_message_passing_equals_its_twin(form, grad):
    graph, x = tiny(form), randn(7, 2, 3, 8)
    similarity = similarity_twin(tiny("learned"))
    edges = {
        "learned": adjacency_twin(similarity, 2),
        "fixed": overlap_twin(TINY.edges_hz, 2),
        "dense": np.ones((7, 7)),
    }
    right = edges.pop(form)
    others = [*edges.values(), np.eye(7), right - np.eye(7)]
    wrong = [(0 * similarity, right)]
    if form == "fixed":
        similarity, wrong = 0 * similarity, []
        others.append(overlap_twin(TINY.edges_hz, 1))
        names = {name.split(".")[0] for name in graph.state_dict()}
        assert names == {"project", "output"}
    assert_twin(graph.similarity(), similarity)
    assert_twin(graph.adjacency(), right, *others)
    with torch.set_grad_enabled(grad):
        out = graph(x)
    assert out.requires_grad == grad
    forms = [(similarity, each) for each in (right, *others)] + wrong
    assert_twin(out, *(graph_twin(graph, array(x), *each) for each in forms))


def conditioned_twin(graph, x):
    """E + MLP(mean over time of the bands' channels), of one item (K, T, C)."""
    first, _, last = graph.condition
    embedding = array(graph.embedding).copy()
    for k in range(len(x)):
        pooled = sum(x[k]) / len(x[k])
        embedding[k] += affine(last, k, silu(affine(first, k, pooled)))
    return embedding


def test_a_conditioned_graph_equals_its_twin():
    """Each item has a graph of its own."""
    graph, x = tiny("conditioned"), 2 * randn(7, 3, 4, 8)
    items = np.split(array(x), 3, axis=1)
    alone = [similarity_twin(graph)] * 3
    embeddings = [conditioned_twin(graph, item[:, 0]) for item in items]
    own = [similarity_twin(graph, embedding) for embedding in embeddings]
    edges = [adjacency_twin(similarity, 2) for similarity in own]
    assert len({tuple(each.flatten()) for each in edges}) == 3
    assert_twin(graph.similarity(), alone[0])
    assert_twin(graph.similarity(x), own, alone)
    assert_twin(graph.adjacency(graph.similarity(x)), edges)

    def of_items(similarities):
        outs = [
            graph_twin(graph, item, each, adjacency_twin(each, 2))
            for item, each in zip(items, similarities, strict=True)
        ]
        return np.concatenate(outs, axis=1)

    twin, *wrong = map(of_items, (own, alone, own[-1:] + own[:-1]))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert_twin(graph(x), twin, *wrong)


@pytest.mark.parametrize("level", [1, 8, 20, 100])
def test_training_and_inference_agree_for_large_logits(level):
    """A band that is not joined may have the largest logit by far."""
    graph = full(32, 2)
    x = level * torch.randn(31, 1, 20, 32)
    with torch.no_grad():
        inference = graph(x)
    training = graph(x)
    error = (training.detach() - inference).abs().max()
    limit = 1e-5 if level == 1 else 1e-4 * inference.abs().max()
    assert error < limit and inference.std() > 0.01
    training.square().sum().backward()
    for name, parameter in graph.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_gradient_of_edges_equals_its_twin():
    """out_i = sum_j e_ij w_ij v_j / sum_j e_ij w_ij, w = exp(logits)."""
    query, key, value = randn(3, 2, 2, 7, 4)
    similarity, weight = randn(7, 7), randn(2, 2, 7, 4, seed=1)
    edges = nearest_neighbours(similarity, 2)
    grads = []
    for literal in (False, True):
        edges = edges.detach().requires_grad_()
        if literal:
            shares = edges * (query @ key.mT / 2 + similarity).exp()
            out = shares @ value / shares.sum(-1, keepdim=True)
        else:
            parts = (query, key, value, similarity, edges)
            out = attend_straight_through(*parts)
        (out * weight).sum().backward()
        grads.append(edges.grad)
    joined = array(edges) * array(grads[1])
    assert_twin(grads[0], array(grads[1]), joined)
    assert (grads[0][edges < 0.5].abs() > 1e-9).all()


@pytest.mark.parametrize("form", ["learned", "conditioned"])
def test_bands_learn_from_bands_they_are_not_joined_to(form):
    """Each embedding, and what conditions them; nothing else moves."""
    graph, x = tiny(form), randn(7, 2, 3, 8)
    graph(x).square().sum().backward()
    through = {n: p.grad.clone() for n, p in graph.named_parameters()}
    graph.zero_grad()
    graph.adjacency = lambda s: nearest_neighbours(s, 2).detach()
    graph(x).square().sum().backward()
    for name, parameter in graph.named_parameters():
        moved = (through[name] - parameter.grad).abs()
        learns = name.startswith(("embedding", "condition"))
        assert (moved.max() > 1e-6) == learns, name
        if name == "embedding":
            assert (moved.amax(-1) > 1e-6).all()


def test_features_by_loops():
    features = frequency_features(TINY.centres, 6, noise=0.0)
    low, high = math.log2(TINY.centres[0]), math.log2(TINY.centres[-1])
    expected = np.zeros((7, 6))
    for k, centre in enumerate(TINY.centres):
        position = (math.log2(centre) - low) / (high - low)
        for wave in (1, 2, 3):
            angle = position * wave * math.pi / 2
            expected[k, wave - 1] = math.cos(angle) / wave
            expected[k, wave + 2] = math.sin(angle) / wave
    assert_twin(features, expected, expected[::-1], tolerance=1e-5)
    # Noise tells equal frequencies apart.
    features = frequency_features([500.0] * 4, 8)
    assert torch.isfinite(features).all()
    assert 1e-4 < (features[0] - features[1]).abs().max() < 0.1


def pairs_twin(adjacency, centres, tolerance=0.2):
    """Edges (i, j, n) with |f_j / f_i - n| < 0.2, n in 2..5."""
    return [
        (i, j, n)
        for i in range(len(centres))
        for j in range(len(centres))
        for n in (2, 3, 4, 5)
        if adjacency[i][j] > 0.5
        and abs(centres[j] / centres[i] - n) < tolerance
    ]


def test_harmonic_pairs_equal_their_twin():
    centres = LAYOUT.centres
    edges = (randn(31, 31) > 0.3).double()
    twin = pairs_twin(edges.tolist(), centres)
    assert harmonic_pairs(edges, centres) == twin
    assert twin != pairs_twin(edges.tolist(), centres, 0.3)
    assert twin != pairs_twin(edges.T.tolist(), centres)
    assert len(twin) < len(pairs_twin(np.ones((31, 31)), centres))
    assert {n for *_, n in twin} == {2, 3, 4, 5}
