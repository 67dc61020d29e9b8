"""The learnable harmonic graph."""

import math

import numpy as np
import pytest
import torch

from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.harmonic_graph import (
    FORMS,
    HarmonicGraphAttention,
    frequency_features,
    harmonic_overlap,
    harmonic_pairs,
    nearest_neighbours,
)
from tests.twins import (
    affine,
    array,
    assert_twin,
    randn,
    scramble,
    sigmoid,
    silu,
    softmax,
)

CENTRES = (100.0, 210.0, 400.0, 900.0, 1250.0, 3000.0, 5100.0)
EDGES = (60.0, 140.0, 280.0, 520.0, 1000.0, 1500.0, 4500.0, 5700.0)
LAYOUT = BandLayout()


def tiny(**changes):
    """A scrambled graph of seven bands."""
    settings = {"edges_hz": EDGES, "centres": CENTRES, "num_neighbours": 2}
    return scramble(HarmonicGraphAttention(6, 2, **{**settings, **changes}))


def full(num_channels, num_heads, **changes):
    """A graph of the default layout as training begins."""
    return HarmonicGraphAttention(
        num_channels, num_heads, LAYOUT.edges_hz, LAYOUT.centres, **changes
    )


def ranked(similarity, i):
    """The other bands, the most similar first."""
    others = [j for j in range(len(similarity)) if j != i]
    return sorted(others, key=lambda j: -similarity[i][j])


def adjacency_twin(similarity, k, join=max):
    """The k largest S_ij with j != i; union of both directions; itself."""
    bands = len(similarity)
    chosen = np.zeros((bands, bands))
    for i in range(bands):
        for j in ranked(similarity, i)[:k]:
            chosen[i, j] = 1
    out = np.zeros((bands, bands))
    for i in range(bands):
        for j in range(bands):
            out[i, j] = 1 if i == j else join(chosen[i, j], chosen[j, i])
    return out


def similarity_twin(graph, embedding=None):
    """S_ij = cosine(E_i, E_j) / temperature."""
    if embedding is None:
        embedding = array(graph.embedding)
    bands = len(embedding)
    out = np.zeros((bands, bands))
    for i, j in np.ndindex(bands, bands):
        product = sum(embedding[i] * embedding[j])
        sizes = [math.sqrt(sum(embedding[n] ** 2)) for n in (i, j)]
        out[i, j] = product / (sizes[0] * sizes[1]) / graph.temperature
    return out


def graph_twin(graph, x, similarity, edges):
    """z_i = concat_h(sum_j a_ij V_j) W_o over the edges of a frame.

    a_i = softmax over j with an edge of (Q_i K_j / sqrt(d) + S_ij).
    """
    bands, batch, frames, channels = x.shape
    size = channels // graph.num_heads
    weights = [array(p) for p in graph.project.parameters()]
    last = [array(p) for p in graph.output.parameters()]
    out = np.zeros_like(x)
    for b, t in np.ndindex(batch, frames):
        rows = [weights[0] @ x[k, b, t] + weights[1] for k in range(bands)]
        for i in range(bands):
            mixed = np.zeros(channels)
            joined = [j for j in range(bands) if edges[i, j]]
            for h in range(graph.num_heads):
                own = slice(h * size, (h + 1) * size)
                query = rows[i][:channels][own]
                logits = [
                    sum(query * rows[j][channels : 2 * channels][own])
                    / math.sqrt(size)
                    + similarity[i, j]
                    for j in joined
                ]
                for share, j in zip(softmax(logits), joined, strict=True):
                    mixed[own] += share * rows[j][2 * channels :][own]
            out[i, b, t] = last[0] @ mixed + last[1]
    return out


@pytest.mark.parametrize("bands", range(2, 9))
def test_neighbours_equal_their_twin(bands):
    for k in range(1, bands):
        similarity = randn(bands, bands, seed=10 * bands + k)
        edges = nearest_neighbours(similarity, k)
        twin = adjacency_twin(similarity.tolist(), k)
        wrong = []
        if 1 < k < bands - 3:
            wrong = [
                adjacency_twin(similarity.tolist(), k, join=min),
                adjacency_twin(similarity.tolist(), k + 1),
                adjacency_twin(similarity.tolist(), k - 1),
            ]
        assert_twin(edges, twin, *wrong)
        assert torch.equal(edges, edges.T)
        assert (edges.diagonal() == 1).all()
        assert (edges.sum(-1) > k).all()


def test_neighbours_do_not_depend_on_the_diagonal():
    similarity = randn(6, 6)
    edges = nearest_neighbours(similarity, 2)
    low = similarity - 100 * torch.eye(6)
    assert torch.equal(edges, nearest_neighbours(low, 2))
    assert not torch.equal(edges, nearest_neighbours(-similarity, 2))


def test_gradient_of_neighbours_is_that_of_a_sigmoid():
    """d max(s_ij, s_ji): s = sigmoid(S - threshold of the row).

    The threshold lies midway between the last chosen and the next, which
    have its gradient.
    """
    bands, k = 6, 2
    similarity = randn(bands, bands).requires_grad_()
    weight = randn(bands, bands, seed=1)
    edges = nearest_neighbours(similarity, k)
    (edges * weight).sum().backward()
    numbers = array(similarity)
    soft, middle = np.zeros((bands, bands)), []
    for i in range(bands):
        order = ranked(numbers, i)
        middle.append([order[k - 1], order[k]])
        threshold = numbers[i, middle[i]].mean()
        for j in order:
            soft[i, j] = sigmoid(numbers[i, j] - threshold)
    detached = np.zeros((bands, bands))
    for i, j in np.ndindex(bands, bands):
        if i != j and soft[i, j] > soft[j, i]:
            pull = weight[i, j] + weight[j, i]
            detached[i, j] = pull * soft[i, j] * (1 - soft[i, j])
    expected = detached.copy()
    for i in range(bands):
        expected[i, middle[i]] -= detached[i].sum() / 2
    assert_twin(similarity.grad, expected, expected.T, detached)
    both = (similarity.grad + similarity.grad.T).abs()
    apart = edges.detach() < 0.5
    assert apart.any() and (both[apart] > 0).all()


def test_the_gradient_does_not_make_all_bands_more_alike():
    similarity = randn(7, 7).requires_grad_()
    (nearest_neighbours(similarity, 3) * randn(7, 7, seed=1)).sum().backward()
    by_row = similarity.grad.sum(-1)
    assert torch.allclose(by_row, torch.zeros_like(by_row), atol=1e-12)
    assert (similarity.grad.abs().sum(-1) > 1e-3).all()


def test_the_order_of_adding_does_not_change_the_graph():
    torch.manual_seed(0)
    graph = full(8, 2)
    noise = 1e-3 * torch.randn_like(graph.embedding)
    graph.embedding.data = 1 + noise  # cosines of about 1 - 1e-6
    similarity, edges = graph.similarity(), graph.adjacency()
    graph.embedding.data = graph.embedding.data.flip(-1)
    assert torch.equal(graph.similarity(), similarity)
    assert torch.equal(graph.adjacency(), edges)


@pytest.mark.parametrize("grad", [True, False])
def test_message_passing_equals_its_twin(grad):
    graph = tiny()
    x = randn(7, 2, 3, 6)
    with torch.set_grad_enabled(grad):
        out = graph(x)
    assert out.requires_grad == grad
    similarity = similarity_twin(graph)
    assert_twin(graph.similarity(), similarity, similarity.T * 0.5)
    edges = adjacency_twin(similarity.tolist(), 2)
    assert_twin(graph.adjacency(), edges)
    twin = graph_twin(graph, array(x), similarity, edges)
    wrong = [
        graph_twin(graph, array(x), 0 * similarity, edges),
        graph_twin(graph, array(x), similarity, np.ones((7, 7))),
        graph_twin(graph, array(x), similarity, np.eye(7)),
        graph_twin(graph, array(x), similarity, edges - np.eye(7)),
    ]
    assert_twin(out, twin, *wrong)


def test_training_and_inference_agree_in_single_precision():
    graph = full(16, 4)
    x = torch.randn(31, 2, 5, 16)
    with torch.no_grad():
        inference = graph(x)
    training = graph(x)
    assert torch.allclose(training, inference, rtol=0, atol=1e-5)
    assert inference.std() > 0.01


@pytest.mark.parametrize("level", [8, 20, 100])
def test_training_and_inference_agree_for_large_logits(level):
    """A band that is not joined may have the largest logit by far."""
    torch.manual_seed(0)
    graph = full(32, 2)
    x = level * torch.randn(31, 1, 20, 32)
    with torch.no_grad():
        inference = graph(x)
    training = graph(x)
    error = (training.detach() - inference).abs().max()
    assert error < 1e-4 * inference.abs().max()
    training.square().sum().backward()
    for name, parameter in graph.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_a_band_hears_its_neighbours_alone():
    graph = tiny()
    edges = graph.adjacency() > 0.5
    assert not edges.all()
    x = randn(7, 1, 2, 6)
    before = graph(x)
    for band in range(7):
        changed = x.clone()
        changed[band] += 1
        moved = (graph(changed) - before).abs().amax((1, 2, 3)) > 1e-9
        assert torch.equal(moved, edges[band])
    # One frame at a time.
    changed = x.clone()
    changed[:, :, 0] += 1
    assert torch.equal(graph(changed)[:, :, 1], before[:, :, 1])


def gradient_of_similarity(graph, x, adjacency):
    """d loss / d S with S as an input and edges made by ``adjacency``."""
    similarity = graph.similarity().detach().requires_grad_()
    graph.similarity = lambda x: similarity
    graph.adjacency = lambda s: adjacency(s)
    graph(x).square().sum().backward()
    del graph.similarity, graph.adjacency
    return similarity.grad


def test_gradient_reaches_the_similarity_of_bands_not_joined():
    graph = tiny()
    x = randn(7, 1, 3, 6)
    through = gradient_of_similarity(
        graph, x, lambda s: nearest_neighbours(s, 2)
    )
    blocked = gradient_of_similarity(
        graph, x, lambda s: nearest_neighbours(s, 2).detach()
    )
    apart = graph.adjacency() < 0.5
    assert apart.any()
    assert (blocked[apart].abs() < 1e-12).all()
    reached = (through + through.T)[apart].abs()
    assert (reached > 1e-9).all()


def test_every_embedding_learns_from_bands_it_is_not_joined_to():
    graph = tiny()
    x = randn(7, 1, 3, 6)
    graph(x).square().sum().backward()
    through = graph.embedding.grad.clone()
    graph.zero_grad()
    graph.adjacency = lambda s: nearest_neighbours(s, 2).detach()
    graph(x).square().sum().backward()
    difference = (through - graph.embedding.grad).abs().amax(-1)
    assert (difference > 1e-6).all()


def test_a_conditioned_graph_learns_from_bands_not_joined():
    graph = tiny(input_conditioned=True)
    x = randn(7, 2, 3, 6)
    graph(x).square().sum().backward()
    through = {n: p.grad.clone() for n, p in graph.named_parameters()}
    graph.zero_grad()
    graph.adjacency = lambda s: nearest_neighbours(s, 2).detach()
    graph(x).square().sum().backward()
    for name, parameter in graph.named_parameters():
        moved = (through[name] - parameter.grad).abs()
        learns = name.startswith(("embedding", "condition"))
        assert (moved.max() > 1e-6) == learns, name
    moved = (through["embedding"] - graph.embedding.grad).abs().amax(-1)
    assert (moved > 1e-6).all()


def test_features_by_loops():
    features = frequency_features(CENTRES, 6, noise=0.0)
    low, high = math.log2(CENTRES[0]), math.log2(CENTRES[-1])
    expected = np.zeros((7, 6))
    for k, centre in enumerate(CENTRES):
        position = (math.log2(centre) - low) / (high - low)
        for wave in (1, 2, 3):
            angle = position * wave * math.pi / 2
            expected[k, wave - 1] = math.cos(angle) / wave
            expected[k, wave + 2] = math.sin(angle) / wave
    assert_twin(features, expected, expected[::-1], tolerance=1e-5)


@pytest.mark.parametrize("noise, steps", [(0.0, 1), (0.01, 4)])
def test_cosine_falls_with_the_distance_in_log_frequency(noise, steps):
    torch.manual_seed(0)
    centres = BandLayout().centres
    features = frequency_features(centres, 16, noise).double()
    unit = torch.nn.functional.normalize(features, dim=-1)
    cosine = (unit @ unit.T).tolist()
    for i in range(31):
        # To either side, band by band or (with noise) four bands on.
        for side in (range(i, 31), range(i, -1, -1)):
            row = [cosine[i][j] for j in side]
            assert all(a > b for a, b in zip(row, row[steps:], strict=False))
    distances, values = [], []
    for i in range(31):
        for j in range(31):
            distances.append(abs(math.log2(centres[j] / centres[i])))
            values.append(cosine[i][j])
    ranks = [np.argsort(np.argsort(row)) for row in (distances, values)]
    assert np.corrcoef(*ranks)[0, 1] < -0.99


def test_first_neighbours_are_near_in_log_frequency():
    torch.manual_seed(0)
    centres = BandLayout().centres
    graph = full(8, 2)
    edges = array(graph.adjacency()) > 0.5
    octaves = np.abs(np.log2(np.array(centres)[:, None] / np.array(centres)))
    # Of the bands above 250 Hz, which lie close enough to have five near.
    near = octaves[3:, 3:]
    assert near[edges[3:, 3:]].max() < np.median(near)
    assert len({tuple(row) for row in edges.tolist()}) > 20


def test_noise_tells_equal_frequencies_apart():
    features = frequency_features([500.0] * 4, 8)
    assert torch.isfinite(features).all()
    assert (features[0] - features[1]).abs().max() > 1e-4


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
    for centres in (CENTRES, BandLayout().centres):
        bands = len(centres)
        edges = (randn(bands, bands) > 0.3).double()
        twin = pairs_twin(edges.tolist(), centres)
        assert harmonic_pairs(edges, centres) == twin
        assert twin != pairs_twin(edges.tolist(), centres, 0.3)
        assert twin != pairs_twin(edges.T.tolist(), centres)
        assert len(twin) < len(pairs_twin(np.ones((bands, bands)), centres))
    assert {n for *_, n in twin} == {2, 3, 4, 5}


def test_pairs_leave_out_unisons_and_the_sixth_harmonic():
    centres = [100.0, 115.0, 600.0, 519.0, 521.0]
    pairs = harmonic_pairs(torch.ones(5, 5), centres)
    assert [(i, j, n) for i, j, n in pairs if i == 0] == [(0, 3, 5)]


def test_mixed_precision_does_not_change_the_graph():
    torch.manual_seed(0)
    graph = full(8, 2)
    edges, similarity = graph.adjacency(), graph.similarity()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(graph.adjacency(), edges)
        assert torch.allclose(graph.similarity(), similarity)


def overlaps_twin(edges, harmonics=range(2, 6)):
    """The largest share of band j that n times the range of i covers."""
    bands = len(edges) - 1
    overlaps = [[0.0] * bands for _ in range(bands)]
    for i in range(bands):
        for j in range(bands):
            if i == j:
                continue
            for n in harmonics:
                top = min(n * edges[i + 1], edges[j + 1])
                bottom = max(n * edges[i], edges[j])
                share = (top - bottom) / (edges[j + 1] - edges[j])
                overlaps[i][j] = max(overlaps[i][j], share)
    return overlaps


def overlap_twin(edges, k=5, symmetric=True, harmonics=range(2, 6)):
    """Bands are joined to those of their k strongest overlaps.

    As strong as the k-th counts too: an overlap can be no more than all of
    a band, and often is. Symmetric by union; itself.
    """
    overlaps = overlaps_twin(edges, harmonics)
    bands = len(overlaps)
    out = np.eye(bands)
    for i in range(bands):
        strongest = sorted(overlaps[i], reverse=True)
        for j in range(bands):
            if overlaps[i][j] > 0 and overlaps[i][j] >= strongest[k - 1]:
                out[i, j] = 1
                if symmetric:
                    out[j, i] = 1
    return out


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_harmonic_overlap_equals_its_twin(k):
    for edges in (LAYOUT.edges_hz, EDGES):
        twin = overlap_twin(edges, k)
        wrong = []
        if edges == LAYOUT.edges_hz:
            wrong = [
                overlap_twin(edges, k + 2),
                overlap_twin(edges, k, symmetric=False),
                overlap_twin(edges, k, harmonics=range(2, 7)),
                overlap_twin(edges, k, harmonics=range(2, 5)),
                overlap_twin(edges, k, harmonics=range(3, 6)),
                np.ones((31, 31)),
            ]
        assert_twin(harmonic_overlap(edges, k), twin, *wrong)


def test_every_band_keeps_the_strongest_overlaps():
    overlaps = overlaps_twin(LAYOUT.edges_hz)
    edges = harmonic_overlap(LAYOUT.edges_hz)
    assert torch.equal(edges, edges.T)
    assert (edges.diagonal() == 1).all()
    for i, row in enumerate(overlaps):
        for j in sorted(range(31), key=lambda j: -row[j])[:5]:
            assert edges[i, j] == (row[j] > 0 or overlaps[j][i] > 0 or i == j)
    # Low bands have harmonics in the layout, the highest are harmonics.
    assert sum(overlaps[30]) == 0 < edges[30].sum() - 1


def test_a_fixed_graph_equals_its_twin():
    graph = tiny(form="fixed")
    x = randn(7, 2, 3, 6)
    edges = overlap_twin(EDGES, 2)
    learned = tiny()
    learned = adjacency_twin(similarity_twin(learned).tolist(), 2)
    assert_twin(graph.adjacency(), edges, learned)
    none = np.zeros((7, 7))
    twin = graph_twin(graph, array(x), none, edges)
    wrong = [
        graph_twin(graph, array(x), none, np.ones((7, 7))),
        graph_twin(graph, array(x), none, overlap_twin(EDGES, 1)),
        graph_twin(graph, array(x), none, learned),
    ]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert_twin(graph(x), twin, *wrong)
    names = {name.split(".")[0] for name in graph.state_dict()}
    assert names == {"project", "output"}


def test_a_fixed_graph_of_the_default_layout_has_its_edges():
    assert_twin(
        full(8, 2, form="fixed").adjacency(), overlap_twin(LAYOUT.edges_hz)
    )


def test_a_dense_graph_equals_its_twin():
    graph = tiny(form="dense")
    x = randn(7, 2, 3, 6)
    similarity = similarity_twin(graph)
    assert_twin(graph.adjacency(), np.ones((7, 7)))
    twin = graph_twin(graph, array(x), similarity, np.ones((7, 7)))
    edges = adjacency_twin(similarity.tolist(), 2)
    wrong = [
        graph_twin(graph, array(x), similarity, edges),
        graph_twin(graph, array(x), 0 * similarity, np.ones((7, 7))),
        graph_twin(graph, array(x), similarity, np.ones((7, 7)) - np.eye(7)),
    ]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert_twin(graph(x), twin, *wrong)


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
    graph = tiny(input_conditioned=True)
    x = 2 * randn(7, 3, 4, 6)
    expected, plain, swapped = np.zeros((3, *x.shape))
    graphs = set()
    alone = similarity_twin(graph)
    for b in range(3):
        item = array(x)[:, b : b + 1]
        similarity = similarity_twin(graph, conditioned_twin(graph, item[:, 0]))
        edges = adjacency_twin(similarity.tolist(), 2)
        graphs.add(tuple(edges.flatten()))
        assert_twin(graph.similarity(x)[b], similarity, alone)
        assert_twin(graph.adjacency(graph.similarity(x))[b], edges)
        own = slice(b, b + 1)
        expected[:, own] = graph_twin(graph, item, similarity, edges)
        edges = adjacency_twin(alone.tolist(), 2)
        plain[:, own] = graph_twin(graph, item, alone, edges)
        other = conditioned_twin(graph, array(x)[:, b - 1])
        similarity = similarity_twin(graph, other)
        edges = adjacency_twin(similarity.tolist(), 2)
        swapped[:, own] = graph_twin(graph, item, similarity, edges)
    assert len(graphs) == 3
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert_twin(graph(x), expected, plain, swapped)
    assert_twin(graph.similarity(), alone)


SETTINGS = [{"form": form} for form in FORMS] + [{"input_conditioned": True}]
each_setting = pytest.mark.parametrize("setting", SETTINGS)


@each_setting
def test_items_of_a_batch_do_not_see_each_other(setting):
    graph = tiny(**setting)
    x = randn(7, 3, 4, 6)
    x[:, 1] *= 30
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            together = graph(x)
            for item in range(3):
                alone = graph(x[:, item : item + 1])
                assert_twin(together[:, item : item + 1], array(alone))


@each_setting
def test_padding_reaches_other_frames_of_a_conditioned_graph_alone(setting):
    graph = tiny(**setting)
    x = 2 * randn(7, 2, 5, 6)
    padded = torch.cat((x, 0 * x), dim=2)
    moved = (graph(padded)[:, :, :5] - graph(x)).abs().max()
    assert (moved > 1e-9) == ("input_conditioned" in setting)


@each_setting
def test_gradients_reach_every_parameter(setting):
    graph = tiny(**setting)
    x = randn(7, 2, 4, 6)
    (graph(x) - randn(*x.shape, seed=1)).square().sum().backward()
    for name, parameter in graph.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 1e-6, name
    if graph.embedding is not None:
        assert (graph.embedding.grad.abs().amax(-1) > 1e-6).all()


@each_setting
def test_graphs_in_bfloat16_come_close(setting):
    torch.manual_seed(0)
    graph = full(16, 2, **setting)
    x = torch.randn(31, 2, 5, 16)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            exact = graph(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = graph(x)
        error = (out.float() - exact).square().mean().sqrt()
        assert 0 < error < 0.05 * exact.square().mean().sqrt()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_heads": 4}, "num_channels is 6, .* num_heads = 4"),
        ({"num_neighbours": 7}, "num_neighbours is 7, expected 1 to 6"),
        ({"num_neighbours": 0}, "num_neighbours is 0, expected 1 to 6"),
        ({"embedding_size": 7}, "embedding size is 7, expected an even"),
        ({"form": "none"}, "graph is 'none', expected one of"),
        (
            {"form": "fixed", "input_conditioned": True},
            "'fixed' has no neighbours to learn",
        ),
        (
            {"form": "dense", "input_conditioned": True},
            "'dense' has no neighbours to learn",
        ),
    ],
)
def test_impossible_graphs_are_refused(arguments, message):
    settings = {
        "num_channels": 6,
        "num_heads": 2,
        "edges_hz": EDGES,
        "centres": CENTRES,
    }
    with pytest.raises(ValueError, match=message):
        HarmonicGraphAttention(**{**settings, **arguments})
