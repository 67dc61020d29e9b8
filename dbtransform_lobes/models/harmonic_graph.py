"""Learnable harmonic graph: attention over neighbouring bands, by frame.

Source: DB-Transform proposal, "learnable harmonic graph"; graph attention:
Velickovic et al. (2018, arXiv:1710.10903); straight-through gradients: Bengio
et al. (2013, arXiv:1308.3432).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.band_linear import BandLinear
from dbtransform_lobes.models.compose import check_choice, check_heads
from dbtransform_lobes.models.windowed_attention import attend

FORMS = ("learned", "fixed", "dense")


def frequency_features(centres, size, noise=0.01):
    """Return Fourier features of log frequency, (K, size).

    The longest wave spans a quarter turn from the lowest to the highest band
    and dominates, so that the cosine of two embeddings falls with their
    distance in log frequency. ``centres`` are in Hz, all above 0, ``size`` is
    even; ``noise`` is the standard deviation of what is added, so that ties
    break.

    Example
    -------
    >>> features = frequency_features([100.0, 200.0, 4000.0], 16, noise=0.0)
    >>> near, far = F.cosine_similarity(features[:1], features[1:])
    >>> bool(near > far)
    True
    """
    if size % 2:
        raise ValueError(f"embedding size is {size}, expected an even number")
    position = torch.tensor(centres).log2()
    span = position.max() - position.min()
    position = (position - position.min()) / span.clamp_min(1e-6)
    wave = torch.arange(1, size // 2 + 1)
    angle = position[:, None] * wave * (math.pi / 2)
    features = torch.cat((angle.cos() / wave, angle.sin() / wave), dim=-1)
    return features + noise * torch.randn(features.shape)


def nearest_neighbours(similarity, num_neighbours):
    """Join every band to itself and its most similar ones, symmetrically.

    Maps S (..., K, K) to the adjacency of zeros and ones (..., K, K); a band
    has more than ``num_neighbours`` if the last ones are equal. The gradient
    is that of a sigmoid around each band's threshold, so that candidates not
    chosen learn as well. The threshold has a gradient, too: the choice does
    not change if all bands become more alike, and without it all embeddings
    become one.

    Example
    -------
    >>> similarity = torch.tensor([[9., 2., 1.], [2., 9., 3.], [1., 3., 9.]])
    >>> nearest_neighbours(similarity, 1)
    tensor([[1., 1., 0.],
            [1., 1., 1.],
            [0., 1., 1.]])
    """
    bands = similarity.shape[-1]
    itself = torch.eye(bands, dtype=torch.bool, device=similarity.device)
    others = similarity.masked_fill(itself, -math.inf)
    ranked = others.sort(dim=-1, descending=True).values
    weakest = ranked[..., num_neighbours - 1].unsqueeze(-1)
    chosen = others >= weakest
    # The threshold lies between the last chosen and the first not chosen.
    runner_up = ranked[..., min(num_neighbours, bands - 2)].unsqueeze(-1)
    soft = torch.sigmoid(others - (weakest + runner_up) / 2)
    soft = torch.maximum(soft, soft.mT)
    hard = (chosen | chosen.mT | itself).to(similarity.dtype)
    return hard + (soft - soft.detach())


def harmonic_overlap(edges_hz, num_neighbours=5):
    """Join bands by their harmonics: the graph (K, K) that is not learned.

    Bands i and j are joined when n times the range of i meets the range of
    j for some n in 2..5; the ``num_neighbours`` largest overlaps (as a share
    of the width of j) of every band are kept, and those as large as the last
    of them: many cover all of j. Symmetric, with self-loops. ``edges_hz`` are
    the K + 1 edges of the bands, ascending.

    Example
    -------
    >>> harmonic_overlap([0.0, 100.0, 200.0, 300.0], 1)
    tensor([[1., 1., 1.],
            [1., 1., 1.],
            [1., 1., 1.]])
    """
    edges = torch.tensor(edges_hz)
    low, high = edges[:-1], edges[1:]
    overlap = torch.zeros(len(low), len(low))
    for n in range(2, 6):
        top = torch.minimum(n * high[:, None], high)
        bottom = torch.maximum(n * low[:, None], low)
        overlap = torch.maximum(overlap, (top - bottom) / (high - low))
    overlap.fill_diagonal_(0.0)
    weakest = overlap.sort(dim=-1, descending=True).values
    weakest = weakest[:, min(num_neighbours, len(low)) - 1, None]
    chosen = (overlap > 0) & (overlap >= weakest)
    itself = torch.eye(len(low), dtype=torch.bool)
    return (chosen | chosen.T | itself).float()


def harmonic_pairs(adjacency, centres, tolerance=0.2):
    """List edges (i, j, n) with f_j near n f_i, n in 2..5.

    ``adjacency`` (K, K) is above 0.5 where two bands are joined, ``centres``
    are in Hz, ``tolerance`` is the largest `|f_j / f_i - n|`.

    Example
    -------
    >>> harmonic_pairs(torch.ones(3, 3), [100.0, 200.0, 310.0])
    [(0, 1, 2), (0, 2, 3)]
    """
    pairs = []
    for i, j in (adjacency > 0.5).nonzero().tolist():
        ratio = centres[j] / centres[i]
        n = round(ratio)
        if 2 <= n <= 5 and abs(ratio - n) < tolerance:
            pairs.append((i, j, n))
    return pairs


class HarmonicGraphAttention(nn.Module):
    """Multi-head attention of a band to its neighbours in a graph of bands.

    S = cosine(E_i, E_j) / temperature is added to the attention logits of
    the edges; the k most similar bands are the neighbours. A ValueError tells
    of C that is no multiple of H, of no more bands than k, of an unknown form
    and of a graph that is conditioned and not learned.

    Arguments
    ---------
    num_channels : int
        C.
    num_heads : int
        H.
    edges_hz : sequence of float
        The K + 1 edges of the bands in Hz.
    centres : sequence of float
        Centre frequency of each band in Hz.
    form : str
        "learned"; "fixed": neighbours by ``harmonic_overlap`` and no S;
        "dense": all bands are neighbours (a control).
    num_neighbours : int
        k.
    input_conditioned : bool
        E + MLP(mean over time of the bands' channels): a graph for each
        item, "learned" only.
    embedding_size : int
        d_e.
    temperature : float
        Divides the cosine.

    Example
    -------
    >>> from dbtransform_lobes.models.bands import BandLayout
    >>> layout = BandLayout()
    >>> graph = HarmonicGraphAttention(
    ...     16, 2, layout.edges_hz, layout.centres
    ... )
    >>> graph(torch.randn(31, 2, 10, 16)).shape
    torch.Size([31, 2, 10, 16])
    """

    def __init__(
        self,
        num_channels,
        num_heads,
        edges_hz,
        centres,
        form="learned",
        num_neighbours=5,
        input_conditioned=False,
        embedding_size=16,
        temperature=0.2,
    ):
        super().__init__()
        check_heads(num_channels, num_heads)
        _check(form, input_conditioned, num_neighbours, len(centres))
        self.num_heads, self.num_neighbours = num_heads, num_neighbours
        self.form, self.temperature = form, temperature
        self.centres = tuple(centres)
        self.embedding = self.condition = None
        self.ahead = None if input_conditioned else 0  # None: all frames
        if form != "fixed":
            self.embedding = nn.Parameter(
                frequency_features(self.centres, embedding_size)
            )
        fixed = harmonic_overlap(edges_hz, num_neighbours)
        self.register_buffer("fixed_edges", fixed, persistent=False)
        if input_conditioned:
            self.condition = nn.Sequential(
                nn.Linear(num_channels, num_channels),
                nn.SiLU(),
                nn.Linear(num_channels, embedding_size),
            )
        self.project = BandLinear(num_channels, 3 * num_channels)
        self.output = BandLinear(num_channels, num_channels)

    def similarity(self, x=None):
        """Return S of the band embeddings alone (K, K) or, for a graph that is
        conditioned on x (K, B, T, C), of each item (B, K, K)."""
        if self.embedding is None:
            return torch.zeros_like(self.fixed_edges)
        # Less precision would tie neighbours, or let the order in which a
        # machine adds decide between them.
        device = self.embedding.device.type
        precise = torch.float32 if device == "mps" else torch.float64
        with torch.autocast(device, enabled=False):
            embedding = self.embedding
            if self.condition is not None and x is not None:
                pooled = x.mean(2).transpose(0, 1).to(embedding.dtype)
                embedding = embedding + self.condition(pooled)  # (B, K, d_e)
            unit = F.normalize(embedding.to(precise), dim=-1)
            return (unit @ unit.mT / self.temperature).to(embedding.dtype)

    def learned(self):
        """Report the edges (K, K) and those near a multiple, see
        ``DBTransform.analyse`` and ``harmonic_pairs``. Of a graph that follows
        the signal they are those of the band embeddings alone."""
        edges = self.adjacency().detach()
        pairs = harmonic_pairs(edges, self.centres)
        return {"adjacency": edges, "harmonic_pairs": pairs}

    def adjacency(self, similarity=None):
        """Edges between bands, (K, K) or (B, K, K) of zeros and ones."""
        if similarity is None:
            similarity = self.similarity()
        if self.form == "fixed":
            return self.fixed_edges
        if self.form == "dense":
            return torch.ones_like(similarity)
        return nearest_neighbours(similarity, self.num_neighbours)

    def forward(self, x):
        """Map (K, B, T, C) to (K, B, T, C)."""
        bands, batch, frames, channels = x.shape
        similarity = self.similarity(x)
        edges = self.adjacency(similarity)
        if similarity.dim() == 3:  # one graph for each item, (B T, 1, K, K)
            similarity, edges = (
                each.unsqueeze(1)
                .expand(-1, frames, -1, -1)
                .flatten(0, 1)[:, None]
                for each in (similarity, edges)
            )
        if torch.compiler.is_exporting():
            return self._exported(x, similarity, edges)
        heads = (bands, batch * frames, self.num_heads, -1)
        query, key, value = (
            part.reshape(heads).permute(1, 2, 0, 3)
            for part in self.project.split(x, 3 * [channels])
        )  # (B T, H, K, d)
        if torch.is_grad_enabled():
            out = attend_straight_through(query, key, value, similarity, edges)
        else:
            bias = similarity.masked_fill(edges < 0.5, -math.inf)
            out = attend(query, key, value, bias)
        out = out.permute(2, 0, 1, 3).reshape(x.shape)  # (K, B, T, C)
        return self.output(out)

    def _exported(self, x, similarity, edges):
        """Attend by the operator of ONNX, which splits the heads itself."""
        bias = similarity.masked_fill(edges < 0.5, -math.inf)
        rows = x.permute(1, 2, 0, 3).flatten(0, 1)  # (B T, K, C)
        parts = self.project.split(rows, 3 * [x.shape[-1]])
        count = self.num_heads
        out, *_ = torch.onnx.ops.attention(
            *parts, bias, q_num_heads=count, kv_num_heads=count
        )
        return self.output(out).unflatten(0, x.shape[1:3]).permute(2, 0, 1, 3)


class EdgeGradient(torch.autograd.Function):
    """Hands the result of attention on, and a gradient to all edges.

    With edges as factors, out_i = sum_j e_ij w_ij v_j / sum_j e_ij w_ij,
    w = exp(logits), the derivative to e_ij is w_ij (v_j - out_i) / sum, for
    edges of value 0 as well. Only ``backward`` computes it.
    """

    @staticmethod
    def forward(ctx, out, edges, logits, chosen, value):
        """Return out; chosen are the logits with -inf off the edges."""
        ctx.save_for_backward(out, edges, logits, chosen, value)
        return out.view_as(out)

    @staticmethod
    def backward(ctx, grad):
        """Gradients of out and of edges."""
        out, edges, logits, chosen, value = ctx.saved_tensors
        total = chosen.logsumexp(-1, keepdim=True)
        # Bands far more alike than any on an edge shall not overflow.
        share = (logits - total).clamp_max(20.0).exp()
        change = grad @ value.mT - (grad * out).sum(-1, keepdim=True)
        change = (share * change).to(edges.dtype).sum_to_size(edges.shape)
        return grad, change, None, None, None


def attend_straight_through(query, key, value, similarity, edges):
    """Attend over edges, with a gradient also for those not chosen.

    Query, key, value and result are (N, H, K, d); ``similarity``, added to the
    logits, and ``edges`` of zeros and ones are broadcast to (N, H, K, K).

    Example
    -------
    >>> q, k, v = torch.randn(3, 1, 1, 4, 8)
    >>> alone = torch.eye(4)  # self-loops only
    >>> torch.allclose(attend_straight_through(q, k, v, 0 * alone, alone), v)
    True
    """
    scale = query.shape[-1] ** -0.5
    logits = query * scale @ key.mT + similarity
    chosen = logits.masked_fill(edges.detach() < 0.5, -math.inf)
    out = chosen.softmax(-1) @ value
    return EdgeGradient.apply(
        out, edges, logits.detach(), chosen.detach(), value.detach()
    )


def _check(form, input_conditioned, num_neighbours, bands):
    check_choice("graph", form, FORMS)
    if not 1 <= num_neighbours < bands:
        raise ValueError(
            f"num_neighbours is {num_neighbours}, expected 1 to "
            f"{bands - 1} (one less than the bands)"
        )

    if input_conditioned and form != "learned":
        raise ValueError(
            f"graph {form!r} has no neighbours to learn: use 'learned' with "
            f"input_conditioned"
        )
