"""Band split: F complex bins to K bands of C channels.

Source: Band-Split RNN (Luo & Yu, 2023, arXiv:2209.15174), section III-A;
compression as in Braun & Tashev (2021, arXiv:2009.12286).
"""

import torch
from torch import nn

from dbtransform_lobes.models.band_linear import BandLinear, BandNorm
from dbtransform_lobes.models.compose import check_choice


def compress(spec, exponent, eps=1e-12):
    """Compress magnitudes by a power law: `X |X|^(exponent - 1)`.

    X are real and imaginary parts (..., 2), fp32; ``eps`` is added to
    `|X|^2`, so that the gradient at silence is finite.

    Example
    -------
    >>> compress(torch.tensor([3.0, 4.0]), 0.5).norm() ** 2
    tensor(5.0000)
    """
    if exponent == 1.0:
        return spec
    power = spec.square().sum(-1) + eps
    return spec * power.pow((exponent - 1) / 2).unsqueeze(-1)


def check_compression(exponent):
    """Raise a ValueError for an exponent that does not compress."""
    if not 0 < exponent <= 1:
        raise ValueError(
            f"compression is {exponent}, expected 0 < compression <= 1"
        )


class BandSplit(nn.Module):
    """Cuts a spectrum into bands and gives every band C channels.

    Per band: real and imaginary parts of its w_k bins, an optional norm over
    all frames, Linear(2 w_k, C). Bands of one width are one batched product.
    A ValueError tells of an unknown norm and of compression outside (0, 1].

    Arguments
    ---------
    layout : BandLayout
        The bands.
    num_channels : int
        C.
    compression : float
        Exponent of the magnitudes, 1.0 = none.
    norm : str
        "none" or "group"; a norm of each frame would erase the level
        differences between frames, so there is no such choice.
    magnitude : bool
        Whether the magnitude of each bin is given beside its real and
        imaginary part, 3 w_k numbers a frame, as CMGAN does (Cao et al.,
        2022, arXiv:2203.15149): no linear map can find it.

    Example
    -------
    >>> from dbtransform_lobes.models.bands import BandLayout
    >>> BandSplit(BandLayout(), 8)(torch.randn(2, 10, 257, 2)).shape
    torch.Size([31, 2, 10, 8])
    """

    def __init__(
        self,
        layout,
        num_channels,
        compression=0.3,
        norm="none",
        magnitude=False,
    ):
        super().__init__()
        check_choice("split norm", norm, ("none", "group"))
        check_compression(compression)
        self.layout, self.compression = layout, compression
        self.magnitude = magnitude
        self.norms = nn.ModuleList()
        self.linears = nn.ModuleList()
        for run in layout.runs:
            size = (3 if magnitude else 2) * run.width
            self.norms.append(
                BandNorm(size, "group", run.num_bands, per_band=True)
                if norm == "group"
                else nn.Identity()
            )
            self.linears.append(BandLinear(size, num_channels, run.num_bands))

    def forward(self, bins):
        """Map real and imaginary parts (B, T, F, 2) to (K, B, T, C)."""
        bins = compress(bins, self.compression)
        if self.magnitude:
            magnitude = (bins.square().sum(-1) + 1e-12).sqrt()
            bins = torch.cat((bins, magnitude.unsqueeze(-1)), dim=-1)
        batch, frames = bins.shape[:2]
        bands = []
        for run, norm, linear in zip(
            self.layout.runs, self.norms, self.linears, strict=True
        ):
            x = bins[:, :, run.bins].unflatten(2, (run.num_bands, -1))
            x = norm(x.flatten(3).permute(2, 0, 1, 3))  # (n, B, T, 2 w or 3 w)
            bands.append(linear(x.flatten(1, 2)))
        return torch.cat(bands).unflatten(1, (batch, frames))
