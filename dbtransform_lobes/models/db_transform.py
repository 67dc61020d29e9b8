"""DB-Transform: band-split transformer with a learnable harmonic graph.

noisy spectrum (B, F, T)
  -> Detrend                            (optional)
  -> RunningLevel
  -> BandSplit                          (K, B, T, C)
  -> num_layers x [ the blocks, such as
                    DifferentialBandAttention   over time
                    MultiScaleFusion            over time, by band
                    FeedForward
                    HarmonicGraphAttention      over bands
                    FeedForward ]
  -> MaskDecoder                        (B, F, T, 3)
  -> filtered spectrum (B, F, T)

The parts are composed in YAML, see hparams/models/db_transform.yaml.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import nn

from dbtransform_lobes.models.band_linear import BandNorm
from dbtransform_lobes.models.band_split import BandSplit
from dbtransform_lobes.models.chunks import (
    TimeBlock,
    fork,
    with_context,
)
from dbtransform_lobes.models.compose import build
from dbtransform_lobes.models.detrend import Detrend
from dbtransform_lobes.models.level import RunningLevel
from dbtransform_lobes.models.mask_decoder import (
    NUM_TAPS,
    MaskDecoder,
    apply_filter,
)
from dbtransform_lobes.models.spectrum import check_spectrum

# Frames of a chunk when nothing is to be learned: the tensors of more would
# miss the caches of the processor.
CHUNK_FRAMES = 250


@dataclass
class StreamState:
    """What a causal model remembers between two calls of ``step``.

    Arguments
    ---------
    caches : list of tuple of torch.Tensor
        What the level and each block have seen of the last frames; empty if
        one looks at one.
    spec : torch.Tensor
        The last two frames that the mask was applied to, complex (B, F, 2).
    frames : int
        Frames of the stream so far.
    """

    caches: list
    spec: torch.Tensor
    frames: int = 0


class Residual(nn.Module):
    """A block with its residual: post-norm norm(z + f(z)) or pre-norm.

    Arguments
    ---------
    block : torch.nn.Module
        f; a ``TimeBlock`` or one that maps every frame by itself.
    norm : torch.nn.Module
        Maps every frame by itself, unless only whole signals pass.
    order : str
        "post": norm(z + f(z)); "pre": z + f(norm(z)).
    """

    def __init__(self, block, norm, order="pre"):
        super().__init__()
        if order not in ("pre", "post"):
            raise ValueError(
                f"norm_order is {order!r}, expected 'pre' or 'post'"
            )
        self.block, self.norm, self.order = block, norm, order

    def _enter(self, z):
        return self.norm(z) if self.order == "pre" else z

    def _leave(self, z, y):
        return z + y if self.order == "pre" else self.norm(z + y)

    def forward(self, z):
        """Map (K, B, T, C) to (K, B, T, C)."""
        return self._leave(z, self.block(self._enter(z)))

    def stream(self, chunks):
        """Map chunks (K, B, T, C) of one signal, each as soon as it can be."""
        if not isinstance(self.block, TimeBlock):
            return map(self, chunks)
        # The block may ask for later chunks before it maps the first.
        chunks, residuals = fork(chunks)
        ys = self.block.stream(map(self._enter, chunks))
        return map(self._leave, residuals, ys)

    def cache_shapes(self, batch, frames=0):
        """Return the shapes of the cache of ``step``."""
        if isinstance(self.block, TimeBlock):
            return self.block.cache_shapes(batch, frames)
        return ()

    def step(self, z, cache, first):
        """Map the next frames of a live stream; also returns its cache."""
        if not isinstance(self.block, TimeBlock):
            return self(z), ()
        y, cache = self.block.step(self._enter(z), cache, first)
        return self._leave(z, y), cache


class DBTransform(nn.Module):
    """Enhances a noisy complex spectrum; a drop-in for BSRNN.

    The parts are given as factories (``!name:`` in YAML). Each is called
    with those of the following that its signature names and that were not
    given yet: num_channels, layout, num_bands, centres, edges_hz, causal,
    for blocks layer (from 0), for the mask decoder norm.

    Arguments
    ---------
    layout : BandLayout
        The bands.
    num_channels : int
        C.
    blocks : dict
        Name to factory of a block (K, B, T, C) -> (K, B, T, C), in the order
        of a layer; None leaves a block out.
    num_layers : int
        Times that the blocks are repeated, each with weights of its own.
    norm : callable
        Factory of the norms of the blocks and of the mask decoder.
    norm_order : str
        "pre" or "post", see ``Residual``.
    band_split, mask_decoder : callable
        Factories, see ``BandSplit`` and ``MaskDecoder``.
    causal : bool
        Whether no output frame depends on a later input frame; then
        ``step`` enhances a stream.
    level : int
        Frames that ``RunningLevel`` looks back: the band split sees the
        spectrum over its level, so that the gain of the signal does not
        matter.
    detrend : callable | None
        Window of the STFT, such as ``torch.hann_window``: maps n_fft to
        (n_fft,). DC and rumble are then removed, see ``Detrend``. None keeps
        them.

    Raises
    ------
    ValueError
        For a combination that cannot be, saying what was expected.

    Example
    -------
    >>> from functools import partial
    >>> from dbtransform_lobes.models.bands import BandLayout
    >>> from dbtransform_lobes.models.harmonic_graph import (
    ...     HarmonicGraphAttention,
    ... )
    >>> graph = partial(HarmonicGraphAttention, num_heads=2)
    >>> model = DBTransform(BandLayout(), 16, {"graph": graph})
    >>> noisy = torch.randn(2, 257, 10, dtype=torch.complex64)
    >>> model(noisy).shape
    torch.Size([2, 257, 10])
    >>> estimate, analysis = model(noisy, return_analysis=True)
    >>> analysis["adjacency"].shape  # layers, bands, bands
    torch.Size([1, 31, 31])
    """

    def __init__(
        self,
        layout,
        num_channels,
        blocks,
        num_layers=1,
        norm=BandNorm,
        norm_order="pre",
        band_split=BandSplit,
        mask_decoder=MaskDecoder,
        causal=False,
        level=124,
        detrend=None,
    ):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}, expected at least 1")
        self.layout, self.causal = layout, causal
        common = {
            "num_channels": num_channels,
            "layout": layout,
            "num_bands": layout.num_bands,
            "centres": layout.centres,
            "edges_hz": layout.edges_hz,
            "causal": causal,
        }
        n_fft = 2 * (layout.num_bins - 1)
        self.detrend = Detrend(detrend(n_fft)) if detrend else None
        self.level = RunningLevel(level)
        self.band_split = build(band_split, **common)
        blocks = {k: v for k, v in blocks.items() if v is not None}
        self.block_names, self.num_layers = tuple(blocks), num_layers
        self.blocks = nn.ModuleList(
            Residual(
                build(factory, layer=layer, **common),
                build(norm, **common),
                norm_order,
            )
            for layer in range(num_layers)
            for factory in blocks.values()
        )
        self.mask_decoder = build(mask_decoder, norm=norm, **common)
        looks = {
            name: part.ahead
            for name, part in self.named_modules()
            if hasattr(part, "ahead")
        }
        # Whether a frame depends on a limited number of others.
        self.in_chunks = None not in looks.values()
        if causal and any(ahead != 0 for ahead in looks.values()):
            names = [name for name, ahead in looks.items() if ahead != 0]
            raise ValueError(
                f"a causal model cannot look ahead, but {', '.join(names)} "
                "do; give a norm of kind 'frame', band_split norm 'none' and "
                "a graph without input_conditioned"
            )

    def forward(self, spec, return_analysis=False, band=None):
        """Enhance a spectrum.

        Arguments
        ---------
        spec : torch.Tensor
            Complex (B, F, T), any T >= 1.
        return_analysis : bool
            Whether to return what the model has learned as well; the
            gradients of the estimate are the same with it.
        band : int, optional
            Band whose attention maps are analysed too.

        Returns
        -------
        estimate : torch.Tensor
            Complex (B, F, T).
        analysis : dict
            Only if asked for, see ``analyse``; without gradients.

        Raises
        ------
        ValueError
            If the rank, type, bin count or length is wrong, or there is no
            such band.
        """
        check_spectrum(spec, self.layout.num_bins)
        self._check_band(spec, band)
        noisy = spec
        if self._to_be_cut(spec):
            chunks = spec.split(CHUNK_FRAMES, dim=-1)
            estimate = torch.cat(list(self.stream(chunks)), dim=-1)
        else:
            estimate = self._whole(spec)
        if not return_analysis:
            return estimate
        return estimate, self.analyse(noisy, band)

    def _whole(self, spec):
        spec = self._without_trends(spec)
        seen = torch.view_as_complex(self.level(_bins(spec)).transpose(1, 2))
        z = self.band_split(seen)  # (K, B, T, C)
        for block in self.blocks:
            z = block(z)
        mask = self.mask_decoder(z)  # (B, F, T, 3)
        return apply_filter(mask, spec, self.causal)

    def _without_trends(self, spec):
        return spec if self.detrend is None else self.detrend(spec)

    def split(self, bins):
        """Give the bands of bins (B, T, F, 2) over their level C channels."""
        return self.band_split.split(self.level(bins))  # (K, B, T, C)

    def _to_be_cut(self, spec):
        """Training wants all frames at once, as does torch.compile."""
        whole = torch.is_grad_enabled() or torch.compiler.is_compiling()
        return self.in_chunks and not whole and spec.shape[-1] > CHUNK_FRAMES

    def stream(self, specs):
        """Enhance the chunks of a long spectrum, one after the other.

        Memory does not grow with the number of chunks; a chunk comes out
        when those that it depends on have been asked for.

        Arguments
        ---------
        specs : iterable of torch.Tensor
            Complex (B, F, T), any T >= 1 each.

        Yields
        ------
        torch.Tensor
            Complex (B, F, T), together what ``forward`` gives for the whole.

        Raises
        ------
        ValueError
            If a frame of this model depends on all others.

        Example
        -------
        >>> from functools import partial
        >>> from dbtransform_lobes.models.bands import BandLayout
        >>> from dbtransform_lobes.models.multi_scale_fusion import (
        ...     MultiScaleFusion,
        ... )
        >>> model = DBTransform(BandLayout(), 16, {"fusion": MultiScaleFusion})
        >>> noisy = torch.randn(1, 257, 30, dtype=torch.complex64)
        >>> with torch.no_grad():
        ...     chunks = list(model.stream(noisy.split(20, dim=-1)))
        ...     whole = model(noisy)
        >>> torch.allclose(torch.cat(chunks, dim=-1), whole, atol=1e-4)
        True
        """
        if not self.in_chunks:
            raise ValueError(
                "a frame of this model depends on all others, so it cannot "
                "enhance chunks: give it a window, lambda_form 'token' or "
                "'vector', no fusion 'adaptive', no input_conditioned graph "
                "and no norm 'group'"
            )
        specs, again = fork(map(self._without_trends, specs))
        bins = self.level.stream(map(_bins, specs))  # (B, T, F, 2)
        zs = map(self.band_split.split, bins)  # (K, B, T, C)
        for block in self.blocks:
            zs = block.stream(zs)
        ahead = 0 if self.causal else NUM_TAPS // 2
        shared = ((None, (spec.unsqueeze(-1),)) for spec in again)
        around = with_context(shared, NUM_TAPS - 1 - ahead, ahead)
        masks = map(self.mask_decoder, zs)
        for mask, (_, (spec,), first) in zip(masks, around, strict=True):
            yield apply_filter(mask, spec.squeeze(-1), self.causal, first)

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
        like = next(self.parameters())
        caches = [
            tuple(like.new_zeros(shape) for shape in shapes)
            for shapes in self.cache_shapes(batch)
        ]
        shape = (batch, self.layout.num_bins, NUM_TAPS - 1)
        dtype = torch.promote_types(like.dtype, torch.float32).to_complex()
        return StreamState(caches, like.new_zeros(shape, dtype=dtype))

    def cache_shapes(self, batch, frames=0):
        """Return the shapes of all caches, see ``TimeBlock``."""
        parts = [self.level, *self.blocks]
        return [part.cache_shapes(batch, frames) for part in parts]

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
        >>> from functools import partial
        >>> from dbtransform_lobes.models.bands import BandLayout
        >>> from dbtransform_lobes.models.multi_scale_fusion import (
        ...     MultiScaleFusion,
        ... )
        >>> blocks = {"fusion": MultiScaleFusion}
        >>> model = DBTransform(BandLayout(), 16, blocks, causal=True)
        >>> state = model.initial_state(batch=1)
        >>> noisy = torch.randn(1, 257, 1, dtype=torch.complex64)
        >>> estimate, state = model.step(noisy, state)
        >>> estimate.shape
        torch.Size([1, 257, 1])
        """
        self._check_causal()
        check_spectrum(frames, self.layout.num_bins)
        self._check_state(frames, state)
        frames = self._without_trends(frames)
        z, caches = self.step_bands(_bins(frames), state.caches, state.frames)
        mask = self.mask_decoder(z)  # (B, F, T, 3)
        seen = torch.cat((state.spec, frames), dim=-1)
        estimate = apply_filter(mask, seen, causal=True, first=NUM_TAPS - 1)
        # A copy: a view would hold on to all of a long chunk.
        last = seen[..., 1 - NUM_TAPS :].clone()
        count = state.frames + frames.shape[-1]
        return estimate, StreamState(caches, last, count)

    def step_bands(self, bins, caches, first):
        """Give the next bins (B, T, F, 2) of a stream their features.

        Arguments
        ---------
        bins : torch.Tensor
            (B, T, F, 2), without trends.
        caches : list of tuple of torch.Tensor
            See ``StreamState``.
        first : int | torch.Tensor
            Number of the first frame, see ``TimeBlock.step``.

        Returns
        -------
        torch.Tensor
            What the mask decoder takes, (K, B, T, C).
        list of tuple of torch.Tensor
            The next caches.
        """
        bins, cache = self.level.step(bins, caches[0], first)
        following = [cache]
        z = self.band_split.split(bins)  # (K, B, T, C)
        for block, cache in zip(self.blocks, caches[1:], strict=True):
            z, cache = block.step(z, cache, first)
            following.append(cache)
        return z, following

    def _check_causal(self):
        if not self.causal:
            raise ValueError(
                "this model sees the future, so it has no state: make it "
                "with causal=True"
            )

    def _check_state(self, frames, state):
        expected = 1 + len(self.blocks)
        if len(state.caches) != expected:
            raise ValueError(
                f"the state has {len(state.caches)} caches, expected "
                f"{expected}: make it with this model's initial_state"
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
        expected = self.cache_shapes(batch)
        for shapes, cache in zip(expected, state.caches, strict=True):
            given = tuple(tuple(each.shape) for each in cache)
            if given != shapes:
                raise ValueError(
                    f"the state has a cache of shape {given}, expected "
                    f"{shapes}: it is that of another configuration; make "
                    f"one with initial_state(batch)"
                )

    @torch.no_grad()
    def analyse(self, spec=None, band=None):
        """Gather what the blocks report of themselves.

        In training and out of it alike; nothing of it has a gradient. A block
        may have ``learned()``, a dict of what its weights say, and
        ``observed(x, band)``, one of what it does with an input.

        Arguments
        ---------
        spec : torch.Tensor, optional
            Complex (B, F, T).
        band : int, optional
            Band, from 0 to K - 1, whose attention maps are returned; all
            T x T pairs of frames are held, so give a short spectrum.

        Returns
        -------
        dict
            What any block reports, a list by layer or, where the shapes agree,
            one tensor (layers, ...). The blocks of this package report
            ``adjacency`` and ``harmonic_pairs`` (the graph),
            ``fusion_weights`` (the fusion), with a spectrum ``lambda`` and
            with a band ``maps`` (the attention).

        Raises
        ------
        ValueError
            If there is no such band, or a band and no spectrum.

        Example
        -------
        >>> from functools import partial
        >>> from dbtransform_lobes.models.bands import BandLayout
        >>> from dbtransform_lobes.models.differential_attention import (
        ...     DifferentialBandAttention,
        ... )
        >>> attention = partial(DifferentialBandAttention, num_heads=2)
        >>> model = DBTransform(BandLayout(), 16, {"attention": attention}, 2)
        >>> noisy = torch.randn(3, 257, 10, dtype=torch.complex64)
        >>> analysis = model.analyse(noisy, band=4)
        >>> analysis["lambda"][0].shape, analysis["maps"].shape
        (torch.Size([31, 3, 10, 2]), torch.Size([2, 3, 3, 2, 10, 10]))
        """
        self._check_band(spec, band)
        found, hooks = defaultdict(list), []

        def note(report):
            """Keep what a block reports."""
            for name, value in report.items():
                found[name].append(value)

        for block in (residual.block for residual in self.blocks):
            if hasattr(block, "learned"):
                note(block.learned())
            if spec is not None and hasattr(block, "observed"):
                hooks.append(
                    block.register_forward_pre_hook(
                        lambda part, inputs: note(part.observed(*inputs, band))
                    )
                )
        if spec is not None:
            self._whole(spec)
        for hook in hooks:
            hook.remove()
        return {name: _stack(values) for name, values in found.items()}

    def _check_band(self, spec, band):
        if band is None:
            return
        if spec is None:
            raise ValueError(
                f"band is {band} without a spectrum, expected the spectrum "
                "whose attention maps are to be returned"
            )
        if not 0 <= band < self.layout.num_bands:
            raise ValueError(
                f"band is {band}, expected 0 to {self.layout.num_bands - 1}"
            )


def _bins(spec):
    """Real and imaginary parts (B, T, F, 2) of (B, F, T)."""
    return torch.view_as_real(spec).transpose(1, 2)


def _stack(values):
    """One tensor of tensors of one shape; else as given."""
    shapes = {getattr(value, "shape", None) for value in values}
    return (
        torch.stack(values) if shapes - {None} and len(shapes) == 1 else values
    )
