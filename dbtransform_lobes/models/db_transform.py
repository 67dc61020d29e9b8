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

from dataclasses import dataclass

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
from dbtransform_lobes.models.mask_decoder import (
    NUM_TAPS,
    MaskDecoder,
    apply_filter,
)
from dbtransform_lobes.models.multi_scale_fusion import MultiScaleFusion
from dbtransform_lobes.models.spectrum import check_spectrum

# Frames that are enhanced at once when nothing is to be learned: the tensors
# of longer input would miss the caches and fill the memory.
BLOCK_FRAMES = 1000


@dataclass
class StreamState:
    """What a causal model remembers between two calls of ``step``.

    Arguments
    ---------
    caches : list
        One for each block that looks back in time, else None.
    spec : torch.Tensor
        The last two noisy frames, complex (B, F, 2).
    """

    caches: list
    spec: torch.Tensor


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

    def initial_cache(self, batch):
        """The cache of a block that looks back in time, else None."""
        make = getattr(self.block, "initial_cache", None)
        return None if make is None else make(batch)

    def forward(self, z, cache=None):
        """Map (K, B, T, C) to (K, B, T, C); with a cache, also the next."""
        x = self.norm(z) if self.order == "pre" else z
        if cache is None:
            y = self.block(x)
        else:
            y, cache = self.block(x, cache)
        z = z + y
        if self.order == "post":
            z = self.norm(z)
        return z if cache is None else (z, cache)


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
    lambda_form, rope, window, differential
        See ``DifferentialBandAttention``.
    fusion : str
        "static", "adaptive" or "uniform", see ``MultiScaleFusion``; "none"
        leaves it out.
    fusion_windows, separable, fusion_activation
        See ``MultiScaleFusion``.
    graph : str
        "learned", "fixed" or "dense", see ``HarmonicGraphAttention``; "none"
        leaves it out.
    num_neighbours : int
        Neighbours of each band in the graph.
    input_conditioned : bool
        Whether the graph follows the signal.
    feed_forward : float
        Expansion of the feed-forward parts; 0 leaves them out.
    decoder_expansion : float
        Hidden channels of the mask decoder over C.
    compression : float
        Exponent of the magnitudes that the band split sees.
    split_norm : str
        Norm of the band split, "none" or "group".
    magnitude : bool
        Whether the band split sees magnitudes beside the complex bins.
    norm : str
        Norm of the blocks, "frame" or "group".
    norm_order : str
        "pre" or "post".
    causal : bool
        Whether no output frame depends on a later input frame; then
        ``step`` enhances a stream.

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
        differential=True,
        fusion="static",
        fusion_windows=((8, 16, 32), (4, 8, 16), (2, 4, 8)),
        separable=True,
        fusion_activation=False,
        graph="learned",
        num_neighbours=5,
        input_conditioned=False,
        feed_forward=0,
        decoder_expansion=2,
        compression=0.3,
        split_norm="none",
        magnitude=False,
        norm="frame",
        norm_order="pre",
        causal=False,
    ):
        super().__init__()
        _check_layers(num_layers, norm_order)
        if causal:
            _check_causal(split_norm, norm, input_conditioned)
        self.causal = causal
        self.layout = BandLayout(band_widths, n_fft, sample_rate)
        bands, centres = self.layout.num_bands, self.layout.centres
        own = bands if band_weights == "per_band" else None

        def attention(layer):
            return DifferentialBandAttention(
                num_channels,
                num_heads,
                bands,
                lambda_form,
                band_weights,
                rope,
                window,
                causal,
                differential,
                layer,
            )

        def multi_scale_fusion():
            return MultiScaleFusion(
                num_channels,
                centres,
                fusion,
                fusion_windows,
                separable,
                fusion_activation,
                causal,
            )

        def harmonic_graph():
            return HarmonicGraphAttention(
                num_channels,
                num_heads,
                self.layout.edges_hz,
                centres,
                graph,
                num_neighbours,
                input_conditioned,
            )

        self.band_split = BandSplit(
            self.layout, num_channels, compression, split_norm, magnitude
        )
        blocks = []
        for layer in range(num_layers):
            blocks.append(attention(layer))
            if fusion != "none":
                blocks.append(multi_scale_fusion())
            if feed_forward:
                blocks.append(FeedForward(num_channels, feed_forward, own))
            if graph != "none":
                blocks.append(harmonic_graph())
            if feed_forward and graph != "none":
                blocks.append(FeedForward(num_channels, feed_forward, own))
        self.blocks = nn.ModuleList(
            Residual(block, BandNorm(num_channels, norm, own), norm_order)
            for block in blocks
        )
        self.mask_decoder = MaskDecoder(
            self.layout, num_channels, decoder_expansion, norm, causal
        )
        self.reach = _reach(blocks, split_norm, norm)

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
        check_spectrum(spec, self.layout.num_bins)
        in_blocks = self.reach is not None and not torch.is_grad_enabled()
        if in_blocks and spec.shape[-1] > BLOCK_FRAMES + 2 * self.reach:
            estimate = self._enhance_blocks(spec)
        else:
            estimate = self._enhance(spec)
        return (estimate, self.analysis()) if return_analysis else estimate

    def _enhance(self, spec):
        z = self.band_split(spec)  # (K, B, T, C)
        for block in self.blocks:
            z = block(z)
        mask = self.mask_decoder(z)  # (B, F, T, 3)
        return apply_filter(mask, spec, self.causal)

    def _enhance_blocks(self, spec):
        """The same by blocks, each with the frames that its own depend on."""
        frames, estimates = spec.shape[-1], []
        for start in range(0, frames, BLOCK_FRAMES):
            stop = min(start + BLOCK_FRAMES, frames)
            first = max(start - self.reach, 0)
            part = spec[..., first : stop + self.reach]
            estimate = self._enhance(part)
            estimates.append(estimate[..., start - first : stop - first])
        return torch.cat(estimates, dim=-1)

    def initial_state(self, batch=1):
        """The state of a stream that has not begun.

        Arguments
        ---------
        batch : int
            Streams enhanced side by side.

        Returns
        -------
        StreamState

        Raises
        ------
        ValueError
            If the model is not causal.
        """
        self._check_causal()
        caches = [block.initial_cache(batch) for block in self.blocks]
        weight = self.mask_decoder.expand.weight
        shape = (batch, self.layout.num_bins, NUM_TAPS - 1)
        spec = torch.zeros(shape, device=weight.device, dtype=torch.complex64)
        return StreamState(caches, spec.to(torch.complex(weight, weight).dtype))

    def step(self, frames, state):
        """Enhance the next frames of a stream.

        Arguments
        ---------
        frames : torch.Tensor
            Complex (B, F, T), any T >= 1.
        state : StreamState
            Of ``initial_state`` or of the step before; it is not changed.

        Returns
        -------
        estimate : torch.Tensor
            Complex (B, F, T), what ``forward`` gives for these frames of the
            whole stream.
        state : StreamState
            For the next step; its size does not grow.

        Raises
        ------
        ValueError
            If the frames or the state do not fit the model.

        Example
        -------
        >>> model = DBTransform(
        ...     num_channels=16, num_heads=2, window=8, causal=True
        ... )
        >>> state = model.initial_state(batch=1)
        >>> noisy = torch.randn(1, 257, 1, dtype=torch.complex64)
        >>> estimate, state = model.step(noisy, state)
        >>> estimate.shape
        torch.Size([1, 257, 1])
        """
        self._check_causal()
        check_spectrum(frames, self.layout.num_bins)
        self._check_state(frames, state)
        z = self.band_split(frames)  # (K, B, T, C)
        caches = []
        for block, cache in zip(self.blocks, state.caches, strict=True):
            if cache is None:
                z = block(z)
            else:
                z, cache = block(z, cache)
            caches.append(cache)
        mask = self.mask_decoder(z)  # (B, F, T, 3)
        seen = torch.cat((state.spec, frames), dim=-1)
        estimate = apply_filter(mask, seen, causal=True)
        # A copy: a view would hold on to all of a long chunk.
        last = seen[..., 1 - NUM_TAPS :].clone()
        return estimate, StreamState(caches, last)

    def _check_causal(self):
        if not self.causal:
            raise ValueError(
                "this model sees the future, so it has no state: make it "
                "with causal=True"
            )

    def _check_state(self, frames, state):
        if len(state.caches) != len(self.blocks):
            raise ValueError(
                f"the state has {len(state.caches)} caches, expected "
                f"{len(self.blocks)}: make it with this model's initial_state"
            )
        batch, bins, _ = state.spec.shape
        if batch != frames.shape[0]:
            raise ValueError(
                f"the state is that of {batch} streams, given "
                f"{frames.shape[0]}: make one with initial_state(batch)"
            )
        if bins != frames.shape[1]:
            raise ValueError(
                f"the state is that of {bins} bins, expected "
                f"{frames.shape[1]}: make one with initial_state(batch)"
            )
        for block, cache in zip(self.blocks, state.caches, strict=True):
            fresh = block.initial_cache(batch)
            window = getattr(block.block, "window", None)
            given = _cache_kind(cache, window)
            expected = _cache_kind(fresh, window)
            if given != expected:
                raise ValueError(
                    f"the state has a cache of kind {given}, "
                    f"expected {expected}: it is that of another "
                    f"configuration; make one with initial_state(batch)"
                )

    @torch.no_grad()
    def analysis(self):
        """What the graph and the fusion have learned, see ``forward``."""
        parts = [residual.block for residual in self.blocks]
        graphs = [p for p in parts if isinstance(p, HarmonicGraphAttention)]
        fusions = [p for p in parts if isinstance(p, MultiScaleFusion)]
        bands = self.layout.num_bands
        edges = [graph.adjacency() for graph in graphs]
        weights = [fusion.fusion_weights() for fusion in fusions]
        return {
            "adjacency": _stack(edges, (bands, bands)),
            "harmonic_pairs": [
                harmonic_pairs(each, self.layout.centres) for each in edges
            ],
            "fusion_weights": _stack(weights, (bands, 3)),
        }


def _reach(blocks, split_norm, norm):
    """Frames on each side that an output depends on, None for all."""
    if split_norm == "group" or norm == "group":
        return None
    reaches = [getattr(block, "reach", 0) for block in blocks]
    return None if None in reaches else sum(reaches) + NUM_TAPS - 1


def _stack(tensors, shape):
    return torch.stack(tensors) if tensors else torch.empty(0, *shape)


def _cache_kind(cache, window=None):
    """Shapes of a cache; keys and values may be up to ``window`` frames."""
    if not isinstance(cache, tuple):
        return None if cache is None else tuple(cache.shape)
    return [
        (*part.shape[:2], max(part.shape[2], window or 0), part.shape[3])
        for part in cache
    ]


def _check_layers(num_layers, norm_order):
    if num_layers < 1:
        raise ValueError(f"num_layers is {num_layers}, expected at least 1")
    if norm_order not in ("pre", "post"):
        raise ValueError(
            f"norm_order is {norm_order!r}, expected 'pre' or 'post'"
        )


def _check_causal(split_norm, norm, input_conditioned):
    """Refuse what sees the future; the blocks refuse what is theirs."""
    problems = []
    if split_norm != "none":
        problems.append(f"split_norm is {split_norm!r}, expected 'none'")
    if norm != "frame":
        problems.append(f"norm is {norm!r}, expected 'frame'")
    if input_conditioned:
        problems.append("input_conditioned is True, expected False")
    if problems:
        raise ValueError(
            f"a causal model cannot look ahead: {'; '.join(problems)}"
        )
