"""DB-Transform: band-split transformer with a learnable harmonic graph.

noisy spectrum (B, F, T)
  -> BandSplit                              (K, B, T, C)
  -> num_layers x [ DifferentialBandAttention   over time
                    MultiScaleFusion            over time, by band
                    FeedForward                 (optional)
                    HarmonicGraphAttention      over bands
                    FeedForward ]               (optional)
  -> MaskDecoder                            (B, F, T, 3)
  -> filtered spectrum (B, F, T)
"""

import torch
from torch import nn

from dbtransform_lobes.models.band_linear import BandNorm
from dbtransform_lobes.models.band_split import BandSplit
from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.differential_attention import (
    DifferentialBandAttention,
)
from dbtransform_lobes.models.feed_forward import FeedForward
from dbtransform_lobes.models.harmonic_graph import (
    HarmonicGraphAttention,
    harmonic_pairs,
)
from dbtransform_lobes.models.mask_decoder import MaskDecoder, apply_filter
from dbtransform_lobes.models.multi_scale_fusion import MultiScaleFusion


class Residual(nn.Module):
    """A block with its residual: post-norm norm(z + f(z)) or pre-norm.

    Arguments
    ---------
    block : torch.nn.Module
        f.
    norm : BandNorm
        The norm.
    order : str
        "post": norm(z + f(z)); "pre": z + f(norm(z)).
    """

    def __init__(self, block, norm, order):
        super().__init__()
        self.block, self.norm, self.order = block, norm, order

    def forward(self, z):
        """Map (K, B, T, C) to (K, B, T, C)."""
        if self.order == "post":
            return self.norm(z + self.block(z))
        return z + self.block(self.norm(z))


class DBTransform(nn.Module):
    """Enhances a noisy complex spectrum; a drop-in for BSRNN.

    Arguments
    ---------
    n_fft : int
        FFT length of the input, F = n_fft // 2 + 1.
    sample_rate : int
        In Hz; the bands' frequencies follow from it.
    band_widths : str | sequence of int
        Layout, see ``BandLayout``.
    num_channels : int
        C.
    num_layers : int
        Times that attention, fusion and graph are repeated.
    num_heads : int
        Heads of the attention over time and of the graph.
    band_weights : str
        "shared" or "per_band": weights of the attention and feed-forward.
    lambda_form, rope, window
        See ``DifferentialBandAttention``.
    fusion_windows, separable, fusion_activation
        See ``MultiScaleFusion``.
    num_neighbours : int
        Neighbours of each band in the graph.
    feed_forward : float
        Expansion of the feed-forward parts; 0 leaves them out.
    decoder_expansion : float
        Hidden channels of the mask decoder over C.
    compression : float
        Exponent of the magnitudes that the band split sees.
    split_norm : str
        Norm of the band split, "none" or "group".
    norm : str
        Norm of the blocks, "frame" or "group".
    norm_order : str
        "pre" or "post".

    Raises
    ------
    ValueError
        For a combination that cannot be, saying what was expected.

    Example
    -------
    >>> model = DBTransform(num_channels=16, num_layers=1, num_heads=2)
    >>> noisy = torch.randn(2, 257, 10, dtype=torch.complex64)
    >>> model(noisy).shape
    torch.Size([2, 257, 10])
    >>> estimate, analysis = model(noisy, return_analysis=True)
    >>> analysis["adjacency"].shape  # layers, bands, bands
    torch.Size([1, 31, 31])
    """

    def __init__(
        self,
        n_fft=512,
        sample_rate=16000,
        band_widths="bsrnn_16k",
        num_channels=128,
        num_layers=1,
        num_heads=4,
        band_weights="shared",
        lambda_form="token",
        rope=True,
        window=None,
        fusion_windows=((8, 16, 32), (4, 8, 16), (2, 4, 8)),
        separable=True,
        fusion_activation=False,
        num_neighbours=5,
        feed_forward=0,
        decoder_expansion=2,
        compression=0.3,
        split_norm="none",
        norm="frame",
        norm_order="pre",
    ):
        super().__init__()
        self._check(num_layers, band_weights, norm_order)
        self.layout = BandLayout(band_widths, n_fft, sample_rate)
        bands, centres = self.layout.num_bands, self.layout.centres
        own = bands if band_weights == "per_band" else None

        def residual(block):
            return Residual(
                block, BandNorm(num_channels, norm, own), norm_order
            )

        def feed_forward_part():
            if not feed_forward:
                return []
            return [residual(FeedForward(num_channels, feed_forward, own))]

        self.band_split = BandSplit(
            self.layout, num_channels, compression, split_norm
        )
        self.blocks = nn.ModuleList()
        for _ in range(num_layers):
            self.blocks += [
                residual(
                    DifferentialBandAttention(
                        num_channels,
                        num_heads,
                        bands,
                        lambda_form,
                        band_weights,
                        rope,
                        window,
                    )
                ),
                residual(
                    MultiScaleFusion(
                        num_channels,
                        centres,
                        fusion_windows,
                        separable,
                        fusion_activation,
                    )
                ),
                *feed_forward_part(),
                residual(
                    HarmonicGraphAttention(
                        num_channels, num_heads, centres, num_neighbours
                    )
                ),
                *feed_forward_part(),
            ]
        self.mask_decoder = MaskDecoder(
            self.layout, num_channels, decoder_expansion, norm
        )

    @staticmethod
    def _check(num_layers, band_weights, norm_order):
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}, expected at least 1")
        if band_weights not in ("shared", "per_band"):
            raise ValueError(
                f"band_weights is {band_weights!r}, expected 'shared' or "
                f"'per_band'"
            )
        if norm_order not in ("pre", "post"):
            raise ValueError(
                f"norm_order is {norm_order!r}, expected 'pre' or 'post'"
            )

    def _check_input(self, spec):
        bins = self.layout.num_bins
        if not torch.is_complex(spec):
            raise ValueError(
                f"spec is {spec.dtype}, expected a complex spectrum"
            )
        if spec.dim() != 3 or spec.shape[1] != bins or spec.shape[2] < 1:
            raise ValueError(
                f"spec has shape {tuple(spec.shape)}, expected "
                f"(batch, {bins} bins, at least 1 frame)"
            )

    def forward(self, spec, return_analysis=False):
        """Enhance a spectrum.

        Arguments
        ---------
        spec : torch.Tensor
            Complex (B, F, T), any T >= 1.
        return_analysis : bool
            Whether to return what the model has learned as well.

        Returns
        -------
        estimate : torch.Tensor
            Complex (B, F, T).
        analysis : dict
            Only if asked for: ``adjacency`` (layers, K, K),
            ``harmonic_pairs`` (a list for each layer),
            ``fusion_weights`` (layers, K, 3).

        Raises
        ------
        ValueError
            If the rank, type, bin count or length is wrong.
        """
        self._check_input(spec)
        z = self.band_split(spec)  # (K, B, T, C)
        for block in self.blocks:
            z = block(z)
        mask = self.mask_decoder(z)  # (B, F, T, 3)
        estimate = apply_filter(mask, spec)
        return (estimate, self.analysis()) if return_analysis else estimate

    @torch.no_grad()
    def analysis(self):
        """What the graph and the fusion have learned, see ``forward``."""
        parts = [residual.block for residual in self.blocks]
        graphs = [p for p in parts if isinstance(p, HarmonicGraphAttention)]
        fusions = [p for p in parts if isinstance(p, MultiScaleFusion)]
        adjacency = torch.stack([graph.adjacency() for graph in graphs])
        return {
            "adjacency": adjacency,
            "harmonic_pairs": [
                harmonic_pairs(edges, self.layout.centres)
                for edges in adjacency
            ],
            "fusion_weights": torch.stack(
                [fusion.fusion_weights() for fusion in fusions]
            ),
        }
