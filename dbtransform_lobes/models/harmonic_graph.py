"""Learnable harmonic graph: attention over neighbouring bands, by frame.

Source: DB-Transform proposal, "learnable harmonic graph"; graph attention:
Velickovic et al. (2018, arXiv:1710.10903); straight-through gradients: Bengio
et al. (2013, arXiv:1308.3432).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def frequency_features(centres, size, noise=0.01):
    """Fourier features of log frequency that keep its order under a cosine.

    The longest wave spans a quarter turn from the lowest to the highest band
    and dominates, so that the cosine of two embeddings falls with their
    distance in log frequency.

    Arguments
    ---------
    centres : sequence of float
        Centre frequencies in Hz, all above 0.
    size : int
        Length of an embedding, even.
    noise : float
        Standard deviation of what is added, so that ties break.

    Returns
    -------
    torch.Tensor
        (K, size).

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
    """Edges to the most similar bands, made symmetric, with self-loops.

    The forward value is 0 or 1; the gradient is that of a sigmoid around
    each band's threshold, so that candidates not chosen learn as well.

    Arguments
    ---------
    similarity : torch.Tensor
        S, (K, K).
    num_neighbours : int
        Neighbours that every band chooses, besides itself.

    Returns
    -------
    torch.Tensor
        Adjacency (K, K) of zeros and ones with a straight-through gradient.

    Example
    -------
    >>> similarity = torch.tensor([[9., 2., 1.], [2., 9., 3.], [1., 3., 9.]])
    >>> nearest_neighbours(similarity, 1)
    tensor([[1., 1., 0.],
            [1., 1., 1.],
            [0., 1., 1.]])
    """
    bands = similarity.shape[0]
    itself = torch.eye(bands, dtype=torch.bool, device=similarity.device)
    others = similarity.masked_fill(itself, -math.inf)
    ranked = others.detach().sort(dim=-1, descending=True).values
    weakest = ranked[:, num_neighbours - 1 : num_neighbours]
    chosen = others.detach() >= weakest
    # The threshold lies between the last chosen and the first not chosen.
    runner_up = ranked[:, min(num_neighbours, bands - 2)].unsqueeze(-1)
    soft = torch.sigmoid(others - (weakest + runner_up) / 2)
    soft = torch.maximum(soft, soft.T)
    hard = (chosen | chosen.T | itself).to(similarity.dtype)
    return hard + (soft - soft.detach())


def harmonic_pairs(adjacency, centres, tolerance=0.2):
    """Edges that join a band with one near a multiple of its frequency.

    Arguments
    ---------
    adjacency : torch.Tensor
        (K, K), above 0.5 where two bands are joined.
    centres : sequence of float
        Centre frequencies in Hz.
    tolerance : float
        Largest |f_j / f_i - n|.

    Returns
    -------
    list of (int, int, int)
        (i, j, n) with n in 2..5.

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
    """Multi-head attention of a band to its neighbours in a learned graph.

    S = cosine(E_i, E_j) / temperature is added to the attention logits of
    the edges; the k most similar bands are the neighbours.

    Arguments
    ---------
    num_channels : int
        C.
    num_heads : int
        H.
    centres : sequence of float
        Centre frequency of each band in Hz.
    num_neighbours : int
        k.
    embedding_size : int
        d_e.
    temperature : float
        Divides the cosine.

    Raises
    ------
    ValueError
        If C is not a multiple of H or there are not more bands than k.

    Example
    -------
    >>> centres = [100.0 * (k + 1) for k in range(8)]
    >>> graph = HarmonicGraphAttention(16, num_heads=2, centres=centres)
    >>> graph(torch.randn(8, 2, 10, 16)).shape
    torch.Size([8, 2, 10, 16])
    """

    def __init__(
        self,
        num_channels,
        num_heads,
        centres,
        num_neighbours=5,
        embedding_size=16,
        temperature=0.2,
    ):
        super().__init__()
        if num_channels % num_heads:
            raise ValueError(
                f"num_channels is {num_channels}, expected a multiple of "
                f"num_heads = {num_heads}"
            )
        if not 1 <= num_neighbours < len(centres):
            raise ValueError(
                f"num_neighbours is {num_neighbours}, expected 1 to "
                f"{len(centres) - 1} (one less than the bands)"
            )
        self.num_heads, self.num_neighbours = num_heads, num_neighbours
        self.temperature = temperature
        self.centres = tuple(centres)
        self.embedding = nn.Parameter(
            frequency_features(self.centres, embedding_size)
        )
        self.project = nn.Linear(num_channels, 3 * num_channels)
        self.output = nn.Linear(num_channels, num_channels)

    def similarity(self):
        """S: cosine of the band embeddings over the temperature, (K, K)."""
        # Half precision would tie neighbours and change the graph.
        with torch.autocast(self.embedding.device.type, enabled=False):
            unit = F.normalize(self.embedding, dim=-1)
            return unit @ unit.T / self.temperature

    def adjacency(self):
        """Edges between bands, (K, K) of zeros and ones."""
        return nearest_neighbours(self.similarity(), self.num_neighbours)

    def forward(self, x):
        """Map (K, B, T, C) to (K, B, T, C)."""
        bands, batch, frames, channels = x.shape
        x = x.permute(1, 2, 0, 3)  # (B, T, K, C)
        heads = (batch * frames, bands, 3 * self.num_heads, -1)
        query, key, value = (
            self.project(x).view(heads).transpose(1, 2).chunk(3, dim=1)
        )  # (B T, H, K, d)
        similarity, edges = self.similarity(), self.adjacency()
        if torch.is_grad_enabled():
            out = self._attend_straight_through(
                query, key, value, similarity, edges
            )
        else:
            bias = similarity.masked_fill(edges < 0.5, -math.inf)
            out = F.scaled_dot_product_attention(
                query, key, value, attn_mask=bias.to(query.dtype)
            )
        out = out.transpose(1, 2).reshape(batch, frames, bands, channels)
        return self.output(out).permute(2, 0, 1, 3)  # (K, B, T, C)

    @staticmethod
    def _attend_straight_through(query, key, value, similarity, edges):
        """The same attention with a gradient for the edges not chosen.

        Exponentials of all bands, restricted to the edges by a product, give
        the softmax over the edges; unlike -inf they leave a gradient. They
        are relative to the largest on an edge, so that the sum is at least 1
        however large the logits of other bands are.
        """
        scale = query.shape[-1] ** -0.5
        logits = query * scale @ key.transpose(-1, -2) + similarity
        apart = edges.detach() < 0.5
        peak = logits.detach().masked_fill(apart, -math.inf)
        peak = peak.amax(-1, keepdim=True)
        weight = (logits - peak).clamp_max(20.0).exp() * edges
        return weight @ value / weight.sum(-1, keepdim=True)
