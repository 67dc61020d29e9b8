"""The lambda of differential attention, where a token does not give it.

Sources: Differential Transformer (Ye et al., 2024, arXiv:2410.05258), eq. 2
and 3; statistics of the maps: DB-Transform proposal.
"""

import math

import torch
from torch import nn

from dbtransform_lobes.models.band_linear import BandLinear


class VectorLambda(nn.Module):
    """lambda = exp(lq1 . lk1) - exp(lq2 . lk2) + lambda_init.

    lambda_init = 0.8 - 0.6 exp(-0.3 layer) (ibid., eq. 2 and 3).

    Arguments
    ---------
    size : int
        d.
    layer : int
        Index of the layer, from 0.
    num_bands : int | None
        K for a lambda of every band's own; None for one.
    """

    def __init__(self, size, layer, num_bands=None):
        super().__init__()
        self.initial = 0.8 - 0.6 * math.exp(-0.3 * layer)
        self.vectors = nn.Parameter(0.1 * torch.randn(4, num_bands or 1, size))
        self.norm = nn.RMSNorm(size, eps=1e-5)

    def forward(self):
        """Return lambda, (K, 1, 1, 1) or (1, 1, 1, 1)."""
        query1, key1, query2, key2 = self.vectors
        first = (query1 * key1).sum(-1).exp()
        second = (query2 * key2).sum(-1).exp()
        return (first - second + self.initial).view(-1, 1, 1, 1)

    def scale(self, out):
        """Return the norm of every head, times 1 - lambda_init."""
        return self.norm(out) * (1 - self.initial)


class MapStatistics(nn.Module):
    """lambda_k = sigmoid(MLP_k(mean, std, max, min of A1 and of A2)).

    The statistics and A_i V are gathered block by block of bands and query
    rows: rows are complete within a block, so no map is ever held for all.

    Arguments
    ---------
    num_bands : int
        K; the MLP 8 -> 16 -> 1 is each band's own.
    entries : int
        Entries of a block of maps, at least those of one row of each head;
        the default keeps a block in the caches of a CPU.
    """

    def __init__(self, num_bands, entries=2**20):
        super().__init__()
        self.entries = entries
        self.hidden = BandLinear(8, 16, num_bands)
        self.output = BandLinear(16, 1, num_bands)

    def attend(self, query, key, value):
        """Return A V (N, H, T, d) and the four statistics (N, H, 4)."""
        heads, frames = query.shape[1:3]
        # A GPU would rather have few large blocks.
        entries = self.entries * (1 if query.device.type == "cpu" else 64)
        rows = max(entries // (heads * frames), 1)
        items = max(rows // frames, 1)
        parts = zip(*(x.split(items) for x in (query, key, value)), strict=True)
        outputs, statistics = zip(
            *(self._attend_items(*part, rows) for part in parts), strict=True
        )
        return torch.cat(outputs), torch.cat(statistics)

    def _attend_items(self, query, key, value, rows):
        frames, scale = query.shape[-2], query.shape[-1] ** -0.5
        key = key.mT * scale
        outputs, norms, highs, lows = [], [], [], []
        for part in query.split(rows, dim=-2):
            attention = (part @ key).softmax(-1)
            outputs.append(attention @ value)
            # The mean of a softmax row is 1/T by construction.
            centred = attention - 1 / frames
            norms.append(torch.linalg.vector_norm(centred, dim=(-1, -2)))
            highs.append(attention.detach().amax(-1))
            lows.append(attention.detach().amin(-1))
        # Rows of the extremes, made anew: their gradients touch no others.
        peak = torch.cat(highs, dim=-1).argmax(-1)
        pit = torch.cat(lows, dim=-1).argmin(-1)
        chosen = torch.stack((peak, pit), dim=-1)[..., None]  # (n, H, 2, 1)
        chosen = query.take_along_dim(chosen, dim=-2)
        high, low = (chosen @ key).softmax(-1).unbind(-2)
        # A map of one entry has no spread, and sqrt no gradient there.
        variance = torch.stack(norms).square().sum(0) / frames**2
        mean = torch.full_like(variance, 1 / frames)
        spread = (variance + 1e-12).sqrt()
        statistics = (mean, spread, high.amax(-1), low.amin(-1))
        return torch.cat(outputs, dim=-2), torch.stack(statistics, dim=-1)

    def forward(self, statistics):
        """Map (K, B, H, 8) to lambda (K, B, H)."""
        return torch.sigmoid(
            self.output(torch.relu(self.hidden(statistics)))
        ).squeeze(-1)
