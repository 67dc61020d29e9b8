"""BSRNN: band-split recurrent network, the baseline of DB-Transform.

Sources: Band-Split RNN (Luo & Yu, 2023, arXiv:2209.15174), section III; for
speech enhancement Yu & Luo (2022, arXiv:2212.00406).

noisy spectrum (B, F, T)
  -> BandSplit                              (K, B, T, C)
  -> num_layers x ResidualLSTM over time, num_layers x ResidualLSTM over bands
  -> MaskDecoder                            (B, F, T, 3)
  -> filtered spectrum (B, F, T)
"""

from functools import partial

import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.band_linear import BandNorm
from dbtransform_lobes.models.band_split import BandSplit
from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.compose import check_choice, check_positive
from dbtransform_lobes.models.level import over_signal_level
from dbtransform_lobes.models.mask_decoder import (
    NUM_TAPS,
    MaskDecoder,
    apply_filter,
)
from dbtransform_lobes.models.spectrum import (
    check_spectrum,
    complex_spectrum,
    real_parts,
)


class ResidualLSTM(nn.Module):
    """z + Linear(LSTM(norm(z))) along one axis, weights shared by the other.

    Over "time" the LSTM runs forwards, over "bands" both ways; either has 2 C
    hidden units in each direction.

    Example
    -------
    >>> import torch
    >>> z = torch.randn(31, 2, 10, 8)  # (K, B, T, C)
    >>> ResidualLSTM(num_channels=8, axis="time")(z).shape
    torch.Size([31, 2, 10, 8])
    """

    def __init__(self, num_channels, axis):
        super().__init__()
        check_choice("axis", axis, ("time", "bands"))
        self.over_time = axis == "time"
        hidden = 2 * num_channels
        # Over channels, frames and all bands, whose levels stay different.
        self.norm = nn.GroupNorm(1, num_channels)
        self.lstm = nn.LSTM(
            num_channels,
            hidden,
            batch_first=self.over_time,
            bidirectional=not self.over_time,
        )
        directions = 1 if self.over_time else 2
        self.linear = nn.Linear(directions * hidden, num_channels)

    def forward(self, z):
        """Map (K, B, T, C) to (K, B, T, C)."""
        out = self.norm(z.permute(1, 3, 0, 2)).permute(2, 0, 3, 1)
        # (K B, T, C) is a batch of bands, (K, B T, C) a sequence of them.
        out = out.flatten(*((0, 1) if self.over_time else (1, 2)))
        out, _ = self.lstm(out)
        return z + self.linear(out).view(z.shape)


class BSRNN(nn.Module):
    """Enhances a noisy complex spectrum with LSTMs over time and bands.

    With C = 64, 5 layers and the default bands it has 2 963 024 parameters,
    as the widely used public implementation, whose weights can be loaded, see
    ``convert_public_state_dict``. Its norms see the whole signal, so it is no
    streaming model although the LSTMs over time run forwards. A ValueError
    tells of a combination that cannot be.

    Arguments
    ---------
    n_fft : int
        FFT length of the input, F = n_fft // 2 + 1.
    sample_rate : int
        In Hz.
    band_widths : str | sequence of int
        Layout, see ``BandLayout``.
    num_channels : int
        C.
    num_layers : int
        LSTMs over time, and as many over bands.
    order : str
        "sequential": all layers over time, then all over bands (the public
        implementation); "interleaved": in turn (the paper).
    decoder_expansion : float
        Hidden channels of the mask decoder over C.

    Example
    -------
    >>> import torch
    >>> model = BSRNN(num_channels=8, num_layers=1)
    >>> noisy = torch.randn(2, 257, 10, dtype=torch.complex64)
    >>> model(noisy).shape
    torch.Size([2, 257, 10])
    """

    def __init__(
        self,
        n_fft=512,
        sample_rate=16000,
        band_widths="bsrnn_16k",
        num_channels=64,
        num_layers=5,
        order="sequential",
        decoder_expansion=4,
    ):
        super().__init__()
        check_positive(num_layers=num_layers, num_channels=num_channels)
        check_choice("order", order, ("sequential", "interleaved"))
        self.order = order
        self.layout = BandLayout(band_widths, n_fft, sample_rate)
        self.band_split = BandSplit(
            self.layout, num_channels, compression=1.0, norm="group"
        )
        self.time_layers = nn.ModuleList(
            ResidualLSTM(num_channels, "time") for _ in range(num_layers)
        )
        self.band_layers = nn.ModuleList(
            ResidualLSTM(num_channels, "bands") for _ in range(num_layers)
        )
        self.mask_decoder = MaskDecoder(
            self.layout,
            num_channels,
            decoder_expansion,
            norm=partial(BandNorm, kind="group"),
        )

    def layers(self):
        """The layers in the order in which they are computed."""
        if self.order == "sequential":
            return [*self.time_layers, *self.band_layers]
        pairs = zip(self.time_layers, self.band_layers, strict=True)
        return [layer for pair in pairs for layer in pair]

    def forward(self, spec):
        """Map complex (B, F, T), T >= 1, to such; see ``check_spectrum``."""
        check_spectrum(spec, self.layout.num_bins)
        # The epsilon of the norms is not to erase quiet signals.
        level = over_signal_level(spec)[0]
        z = self.band_split(real_parts(level))  # (K, B, T, C)
        for layer in self.layers():
            z = layer(z)
        around = (0, 0, 0, 0, NUM_TAPS // 2, NUM_TAPS // 2)
        bins = F.pad(real_parts(spec), around)  # (B, T + 2, F, 2)
        return complex_spectrum(apply_filter(self.mask_decoder(z), bins))
