"""Conformer block with relative positions, as the generator of CMGAN has it.

Sources: Conformer (Gulati et al., 2020, arXiv:2005.08100); relative positions
of Shaw et al. (2018, arXiv:1803.02155), equation 4, on the keys alone.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.compose import check_heads

# Attention logits held at a time; longer maps are computed by blocks of rows.
MAX_LOGITS = 2**23


class RelativeAttention(nn.Module):
    """Self-attention whose keys know how far they are from the query.

    logit_ij = q_i . (k_j + p_{i-j}) / sqrt(d); distances are clipped, the
    table p is shared by the heads. A ValueError tells of channels that cannot
    be shared among the heads.

    Arguments
    ---------
    num_channels : int
        C.
    num_heads : int
        H; a head has d = C / H channels.
    max_distance : int
        Steps; what is further away counts as this far.

    Example
    -------
    >>> RelativeAttention(8, num_heads=2)(torch.randn(3, 10, 8)).shape
    torch.Size([3, 10, 8])
    """

    def __init__(self, num_channels, num_heads=4, max_distance=512):
        super().__init__()
        check_heads(num_channels, num_heads)
        self.num_heads, self.max_distance = num_heads, max_distance
        head_size = num_channels // num_heads
        self.query = nn.Linear(num_channels, num_channels, bias=False)
        self.key_value = nn.Linear(num_channels, 2 * num_channels, bias=False)
        self.positions = nn.Embedding(2 * max_distance + 1, head_size)
        self.out = nn.Linear(num_channels, num_channels)

    def forward(self, x):
        """Map (N, L, C) to (N, L, C)."""
        query = self._heads(self.query(x))  # (N, H, L, d)
        key, value = map(self._heads, self.key_value(x).chunk(2, dim=-1))
        length = x.shape[1]
        rows = max(1, MAX_LOGITS // (len(x) * self.num_heads * length))
        blocks = [
            self._attend(query[:, :, i : i + rows], key, value, i)
            for i in range(0, length, rows)
        ]
        out = torch.cat(blocks, dim=2)  # (N, H, L, d)
        return self.out(out.transpose(1, 2).flatten(2))  # (N, L, C)

    def _heads(self, x):
        """Map (N, L, C) to (N, H, L, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _attend(self, query, key, value, first):
        """Attention of some rows of the queries, the first of them known."""
        steps = torch.arange(key.shape[2], device=key.device)
        rows = steps[first : first + query.shape[2]]
        distance = (rows[:, None] - steps).clamp(
            -self.max_distance, self.max_distance
        )
        table = self.positions(distance + self.max_distance)  # (I, L, d)
        bias = torch.einsum("nhid,ijd->nhij", query, table.to(query.dtype))
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias / query.shape[-1] ** 0.5
        )


class ConvolutionModule(nn.Module):
    """LayerNorm -> 1x1, GLU -> depthwise, BatchNorm -> SiLU -> 1x1.

    The kernel of the depthwise convolution has an odd number of steps.

    Example
    -------
    >>> ConvolutionModule(num_channels=8)(torch.randn(3, 10, 8)).shape
    torch.Size([3, 10, 8])
    """

    def __init__(self, num_channels, kernel_size=31):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size is {kernel_size}, expected an odd number, so "
                f"that the output is as long as the input"
            )
        hidden = 2 * num_channels
        self.norm = nn.LayerNorm(num_channels)
        self.expand = nn.Linear(num_channels, 2 * hidden)
        self.depthwise = nn.Conv1d(
            hidden, hidden, kernel_size, padding="same", groups=hidden
        )
        self.batch_norm = nn.BatchNorm1d(hidden)
        self.reduce = nn.Linear(hidden, num_channels)

    def forward(self, x):
        """Map (N, L, C) to (N, L, C)."""
        x = F.glu(self.expand(self.norm(x))).transpose(1, 2)  # (N, 2 C, L)
        x = F.silu(self.batch_norm(self.depthwise(x)))
        return self.reduce(x.transpose(1, 2))  # (N, L, C)


class Conformer(nn.Module):
    """Half-step feed-forward, attention, convolution, half-step feed-forward.

    All parts are residual and start with a LayerNorm; a last LayerNorm
    follows. In training the BatchNorm of the convolution sees all N sequences.

    Arguments
    ---------
    num_channels : int
        C.
    num_heads : int
        H.
    kernel_size : int
        Of the depthwise convolution, odd, in steps.
    dropout : float
        After the feed-forward parts' layers and after the attention.

    Example
    -------
    >>> x = torch.randn(3, 10, 8)  # (N, L, C)
    >>> Conformer(8, num_heads=2)(x).shape
    torch.Size([3, 10, 8])
    """

    def __init__(self, num_channels, num_heads=4, kernel_size=31, dropout=0.2):
        super().__init__()

        def feed_forward():
            """Make one of the two feed-forward modules."""
            hidden = 4 * num_channels
            return nn.Sequential(
                nn.LayerNorm(num_channels),
                nn.Linear(num_channels, hidden),
                nn.SiLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, num_channels),
                nn.Dropout(dropout),
            )

        self.first = feed_forward()
        self.attention = nn.Sequential(
            nn.LayerNorm(num_channels),
            RelativeAttention(num_channels, num_heads),
            nn.Dropout(dropout),
        )
        self.convolution = ConvolutionModule(num_channels, kernel_size)
        self.last = feed_forward()
        self.norm = nn.LayerNorm(num_channels)

    def forward(self, x):
        """Map (N, L, C) to (N, L, C)."""
        x = x + 0.5 * self.first(x)
        x = x + self.attention(x)
        x = x + self.convolution(x)
        x = x + 0.5 * self.last(x)
        return self.norm(x)
