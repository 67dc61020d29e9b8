"""The generator of CMGAN (TSCNet), a baseline.

Sources: CMGAN (Cao et al., 2022, arXiv:2203.15149), section 2.1; Abdulatif et
al. (2024, arXiv:2209.11112); sub-pixel convolution of Shi et al. (2016,
arXiv:1609.05158).

::

  noisy spectrum (B, F, T)
    -> over the RMS of the signal
    -> X |X|^(0.3 - 1): magnitude, real and imaginary part   (B, 3, T, F)
    -> DenseEncoder                              (B, C, T, F'), F' = (F + 1) / 2
    -> num_blocks x TwoStageBlock                (B, C, T, F')
    -> mask decoder, complex decoder             (B, 1, T, F), (B, 2, T, F)
    -> mask * X + complex part, uncompressed     (B, F, T)
    -> times the RMS
"""

import torch
from torch import nn

from dbtransform_lobes.models.band_split import check_compression, compress
from dbtransform_lobes.models.compose import check_positive
from dbtransform_lobes.models.conformer import Conformer
from dbtransform_lobes.models.level import over_signal_level
from dbtransform_lobes.models.spectrum import check_spectrum


def _norm_prelu(num_channels):
    """Return what follows a convolution, with a slope for each channel."""
    return [
        nn.InstanceNorm2d(num_channels, affine=True),
        nn.PReLU(num_channels),
    ]


class DilatedDenseBlock(nn.Module):
    """Four convolutions that each see the outputs of all before them.

    Layer i (from 0) looks 2^i frames back and one bin to either side; the
    newest output comes first in the channels of the next layer's input.

    Example
    -------
    >>> DilatedDenseBlock(num_channels=8)(torch.randn(2, 8, 5, 9)).shape
    torch.Size([2, 8, 5, 9])
    """

    def __init__(self, num_channels):
        super().__init__()
        c = num_channels
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.ZeroPad2d((1, 1, 2**i, 0)),
                nn.Conv2d((i + 1) * c, c, (2, 3), dilation=(2**i, 1)),
                *_norm_prelu(c),
            )
            for i in range(4)
        )

    def forward(self, x):
        """Map (B, C, T, F) to (B, C, T, F)."""
        for layer in self.layers[:-1]:
            x = torch.cat([layer(x), x], dim=1)  # (B, (i + 1) C, T, F)
        return self.layers[-1](x)


class DenseEncoder(nn.Module):
    """1x1 convolution, dense block, convolution that halves the bins.

    Example
    -------
    >>> DenseEncoder(num_channels=8)(torch.randn(2, 3, 5, 9)).shape
    torch.Size([2, 8, 5, 5])
    """

    def __init__(self, num_channels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, num_channels, 1),
            *_norm_prelu(num_channels),
            DilatedDenseBlock(num_channels),
            nn.Conv2d(num_channels, num_channels, (1, 3), (1, 2), (0, 1)),
            *_norm_prelu(num_channels),
        )

    def forward(self, x):
        """Map (B, 3, T, F) to (B, C, T, F')."""
        return self.layers(x)


class TwoStageBlock(nn.Module):
    """A ``Conformer`` over time, then one over bins, each with a residual.

    Example
    -------
    >>> TwoStageBlock(8, num_heads=2)(torch.randn(2, 8, 4, 5)).shape
    torch.Size([2, 8, 4, 5])
    """

    def __init__(self, num_channels, num_heads=4, kernel_size=31, dropout=0.2):
        super().__init__()
        settings = num_channels, num_heads, kernel_size, dropout
        self.time = Conformer(*settings)
        self.bins = Conformer(*settings)

    def forward(self, x):
        """Map (B, C, T, F') to (B, C, T, F')."""
        batch = len(x)
        x = x.permute(0, 3, 2, 1).flatten(0, 1)  # (B F', T, C)
        x = x + self.time(x)
        x = x.unflatten(0, (batch, -1)).transpose(1, 2)  # (B, T, F', C)
        x = x.flatten(0, 1)  # (B T, F', C)
        x = x + self.bins(x)
        x = x.unflatten(0, (batch, -1))  # (B, T, F', C)
        return x.permute(0, 3, 1, 2)  # (B, C, T, F')


class SubPixelConv(nn.Module):
    """Twice the bins: a convolution gives even and odd ones as channels.

    Example
    -------
    >>> SubPixelConv(num_channels=8)(torch.randn(2, 8, 4, 5)).shape
    torch.Size([2, 8, 4, 10])
    """

    def __init__(self, num_channels):
        super().__init__()
        self.convolution = nn.Conv2d(
            num_channels, 2 * num_channels, (1, 3), padding=(0, 1)
        )

    def forward(self, x):
        """Map (B, C, T, F') to (B, C, T, 2 F')."""
        even_odd = self.convolution(x).chunk(2, dim=1)
        return torch.stack(even_odd, dim=-1).flatten(-2)  # (B, C, T, 2 F')


class MagnitudeMaskDecoder(nn.Module):
    """A real gain for every bin; the last PReLU has a slope for each bin.

    The slopes start at -1/4, as in the paper's code: no gain is negative then.

    Example
    -------
    >>> decoder = MagnitudeMaskDecoder(num_channels=8, num_bins=9)
    >>> decoder(torch.randn(2, 8, 4, 5)).shape
    torch.Size([2, 1, 4, 9])
    """

    def __init__(self, num_channels, num_bins):
        super().__init__()
        self.layers = nn.Sequential(
            DilatedDenseBlock(num_channels),
            SubPixelConv(num_channels),
            nn.Conv2d(num_channels, 1, (1, 2)),
            *_norm_prelu(1),
            nn.Conv2d(1, 1, 1),
        )
        self.slopes = nn.PReLU(num_bins, init=-0.25)

    def forward(self, x):
        """Map (B, C, T, F') to (B, 1, T, F)."""
        mask = self.layers(x).transpose(1, 3)  # (B, F, T, 1)
        return self.slopes(mask).transpose(1, 3)  # (B, 1, T, F)


class ComplexDecoder(nn.Module):
    """Real and imaginary part of what the mask alone cannot give.

    Example
    -------
    >>> ComplexDecoder(num_channels=8)(torch.randn(2, 8, 4, 5)).shape
    torch.Size([2, 2, 4, 9])
    """

    def __init__(self, num_channels):
        super().__init__()
        self.layers = nn.Sequential(
            DilatedDenseBlock(num_channels),
            SubPixelConv(num_channels),
            *_norm_prelu(num_channels),
            nn.Conv2d(num_channels, 2, (1, 2)),
        )

    def forward(self, x):
        """Map (B, C, T, F') to (B, 2, T, F)."""
        return self.layers(x)


class CMGAN(nn.Module):
    """Enhances a noisy complex spectrum with conformers over time and bins.

    The generator alone, without the metric discriminator of its training.
    With the paper's settings it has 1 834 833 parameters. It brings signals
    to unit RMS, as the paper does, which has a Hamming window of 400 and a
    hop of 100 samples at 16 kHz. Attention over time costs the square of T.
    A ValueError tells of a combination that cannot be.

    Arguments
    ---------
    n_fft : int
        FFT length of the input, a multiple of 4, so that
        F = n_fft // 2 + 1 is odd.
    num_channels : int
        C.
    num_blocks : int
        Two-stage blocks.
    num_heads : int
        Heads of every conformer.
    kernel_size : int
        Of the conformers' convolutions, odd, in frames and in pairs of bins.
    dropout : float
        Of the conformers, in training alone.
    compression : float
        Exponent of the magnitudes inside.

    Example
    -------
    >>> model = CMGAN(n_fft=512, num_channels=8, num_blocks=1, num_heads=2)
    >>> noisy = torch.randn(2, 257, 10, dtype=torch.complex64)
    >>> model(noisy).shape
    torch.Size([2, 257, 10])
    """

    def __init__(
        self,
        n_fft=400,
        num_channels=64,
        num_blocks=4,
        num_heads=4,
        kernel_size=31,
        dropout=0.2,
        compression=0.3,
    ):
        super().__init__()
        if n_fft < 4 or n_fft % 4:
            raise ValueError(
                f"n_fft is {n_fft}, expected a multiple of 4, so that "
                f"n_fft // 2 + 1 is odd; the paper has 400"
            )
        check_positive(num_channels=num_channels, num_blocks=num_blocks)
        check_compression(compression)
        self.num_bins, self.compression = n_fft // 2 + 1, compression
        self.encoder = DenseEncoder(num_channels)
        self.blocks = nn.ModuleList(
            TwoStageBlock(num_channels, num_heads, kernel_size, dropout)
            for _ in range(num_blocks)
        )
        self.mask_decoder = MagnitudeMaskDecoder(num_channels, self.num_bins)
        self.complex_decoder = ComplexDecoder(num_channels)

    def forward(self, spec):
        """Map complex (B, F, T), T >= 1, to such; see ``check_spectrum``."""
        check_spectrum(spec, self.num_bins)
        spec, level = over_signal_level(spec)
        noisy = compress(torch.view_as_real(spec), self.compression)
        noisy = noisy.permute(0, 3, 2, 1)  # (B, 2, T, F)
        magnitude = torch.linalg.vector_norm(noisy, dim=1, keepdim=True)
        x = self.encoder(torch.cat([magnitude, noisy], dim=1))
        for block in self.blocks:
            x = block(x)  # (B, C, T, F')
        # The mask scales the magnitude and keeps the phase.
        estimate = self.mask_decoder(x) * noisy + self.complex_decoder(x)
        estimate = estimate.permute(0, 3, 2, 1)  # (B, F, T, 2)
        estimate = compress(estimate.contiguous(), 1 / self.compression)
        return torch.view_as_complex(estimate) * level
