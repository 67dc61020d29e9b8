"""Metric discriminator: guesses the PESQ of an estimate.

Sources: MetricGAN (Fu et al., 2019, arXiv:1905.04874); its form is that of
CMGAN (Cao et al., 2022, arXiv:2203.15149), section 2.2.

compressed magnitudes of clean and estimate     (B, 2, T, F)
  -> 4 x [convolution of stride 2, norm, PReLU] (B, 8 C, T / 16, F / 16)
  -> maximum over time and frequency            (B, 8 C)
  -> two linear layers, sigmoid                 (B,)
"""

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


class MetricDiscriminator(nn.Module):
    """Scores estimates from 0 to 1; training only.

    The norm is InstanceNorm, which looks at no other item of the batch and so
    needs no talk between ranks, on CPU or GPU. All weights have a spectral
    norm of one. A ValueError tells of spectra too short for four halvings.

    Arguments
    ---------
    num_channels : int
        C, of the first convolution; each next one has twice as many.

    Example
    -------
    >>> discriminator = MetricDiscriminator(num_channels=4)
    >>> magnitudes = torch.rand(2, 60, 257)
    >>> discriminator(magnitudes, 0.5 * magnitudes).shape
    torch.Size([2])
    """

    def __init__(self, num_channels=16):
        super().__init__()
        widths = [2] + [num_channels * 2**i for i in range(4)]
        layers = []
        for given, made in zip(widths, widths[1:], strict=False):
            convolution = nn.Conv2d(given, made, 4, 2, 1, bias=False)
            layers += [
                spectral_norm(convolution),
                nn.InstanceNorm2d(made, affine=True),
                nn.PReLU(made),
            ]
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(
            spectral_norm(nn.Linear(widths[4], widths[3])),
            nn.Dropout(0.3),
            nn.PReLU(widths[3]),
            spectral_norm(nn.Linear(widths[3], 1)),
        )
        # The last layer cannot grow, so the sigmoid has a learned slope.
        self.slope = nn.Parameter(torch.ones(()))

    def forward(self, clean, estimate):
        """Map compressed magnitudes (B, T, F) to scores (B,) from 0 to 1."""
        if min(clean.shape[1:]) < 32:
            raise ValueError(
                f"magnitudes have {clean.shape[1]} frames and "
                f"{clean.shape[2]} bins, expected at least 32 of each; train "
                f"the metric discriminator on longer crops"
            )
        x = torch.stack([clean, estimate], dim=1)  # (B, 2, T, F)
        x = self.convolutions(x).amax((-2, -1))  # (B, 8 C)
        return torch.sigmoid(self.slope * self.head(x).squeeze(-1))
