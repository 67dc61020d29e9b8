"""DB-Transform: band-split transformer with a learnable harmonic graph.

::

  noisy spectrum (B, F, T), as real and imaginary parts (B, T, F, 2)
    -> Detrend                            (optional)
    -> RunningLevel
    -> BandSplit                          (K, B, T, C)
    -> num_layers x [ the blocks, such as
                      DifferentialBandAttention   over time
                      MultiScaleFusion            over time, by band
                      FeedForward
                      HarmonicGraphAttention      over bands
                      FeedForward ]
    -> MaskDecoder                        (B, T, F, 3, 2)
    -> apply_filter to what Detrend gave  (B, T, F, 2)

The parts are composed in YAML, see hparams/models/db_transform.yaml.
"""

from collections import defaultdict
from dataclasses import dataclass
from operator import add

import torch
from torch import nn

from dbtransform_lobes.models.band_linear import BandNorm
from dbtransform_lobes.models.band_split import BandSplit
from dbtransform_lobes.models.chunks import Chunked, Live, TimeBlock, Whole
from dbtransform_lobes.models.compose import (
    build,
    check_choice,
    check_positive,
)
from dbtransform_lobes.models.detrend import Detrend
from dbtransform_lobes.models.level import RunningLevel
from dbtransform_lobes.models.mask_decoder import (
    MaskDecoder,
    Neighbours,
    apply_filter,
)
from dbtransform_lobes.models.spectrum import (
    check_spectrum,
    complex_spectrum,
    real_parts,
)

# Frames of a chunk when nothing is to be learned: the tensors of more would
# miss the caches of the processor.
CHUNK_FRAMES = 250


@dataclass
class StreamState:
    """What a causal model remembers between two calls of ``step``.

    Arguments
    ---------
    caches : list of tuple of torch.Tensor | None
        What each ``TimeBlock`` keeps of the last frames; None at the start.
    frames : int
        Frames of the stream so far.
    """

    caches: list | None = None
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
        check_choice("norm_order", order, ("pre", "post"))
        self.block, self.norm, self.order = block, norm, order

    def forward(self, z):
        """Map (K, B, T, C) to (K, B, T, C)."""
        return self.run(Whole(), z)

    def run(self, apply, z):
        """Pass the block and its norm, see ``models/chunks.py``."""
        z, residual = apply.fork(z)
        if self.order == "pre":
            return apply(add, residual, apply(self.block, apply(self.norm, z)))
        return apply(self.norm, apply(add, residual, apply(self.block, z)))


class DBTransform(nn.Module):
    """Enhances a noisy complex spectrum; a drop-in for BSRNN.

    The parts are given as factories (``!name:`` in YAML). Each is called
    with those of the following that its signature names and that were not
    given yet: num_channels, layout, num_bands, centres, edges_hz, causal,
    for blocks layer (from 0), for the mask decoder norm. A ValueError tells of
    a combination that cannot be.

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
        check_positive(num_layers=num_layers)
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
        self.detrend = Detrend(detrend(n_fft)) if detrend else nn.Identity()
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
        ends = {"band_split": band_split, "mask_decoder": mask_decoder}
        self.settings = _settings({**blocks, **ends})
        self.neighbours = Neighbours(causal)
        looks = {
            name: part.ahead
            for name, part in self.named_modules()
            if hasattr(part, "ahead")
        }
        self.num_caches = sum(isinstance(m, TimeBlock) for m in self.modules())
        # Whether a frame depends on a limited number of others.
        self.in_chunks = None not in looks.values()
        names = [name for name, ahead in looks.items() if ahead != 0]
        if causal and names:
            raise ValueError(
                f"a causal model cannot look ahead, but {', '.join(names)} "
                "do; give a norm of kind 'frame', band_split norm 'none' and "
                "a graph without input_conditioned"
            )

    def forward(self, spec, return_analysis=False, band=None):
        """Enhance a spectrum, see ``check_spectrum``.

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
            Only if asked for, see ``analyse``.
        """
        check_spectrum(spec, self.layout.num_bins)
        if self._to_be_cut(spec):
            chunks = spec.split(CHUNK_FRAMES, dim=-1)
            estimate = torch.cat(list(self.stream(chunks)), dim=-1)
        else:
            estimate = complex_spectrum(self.run(Whole(), real_parts(spec)))
        if not return_analysis:
            return estimate
        return estimate, self.analyse(spec, band)

    def run(self, apply, bins):
        """Enhance real and imaginary parts (B, T, F, 2).

        ``apply`` is Whole, Chunked or Live of ``models/chunks.py``; ``bins``
        and the estimate are what it takes and gives: a signal, its chunks or
        the next frames.
        """
        bins, noisy = apply.fork(apply(self.detrend, bins))
        z = apply(self.band_split, apply(self.level, bins))  # (K, B, T, C)
        for block in self.blocks:
            z = apply(block, z)
        noisy = apply(self.neighbours, noisy)
        return apply(apply_filter, apply(self.mask_decoder, z), noisy)

    def _to_be_cut(self, spec):
        """Training wants all frames at once, as does torch.compile."""
        whole = torch.is_grad_enabled() or torch.compiler.is_compiling()
        return self.in_chunks and not whole and spec.shape[-1] > CHUNK_FRAMES

    def stream(self, specs):
        """Enhance the chunks of a long spectrum, one after the other.

        Memory does not grow with the number of chunks; a chunk comes out
        when those that it depends on have been asked for. A ValueError tells
        that a frame of this model depends on all others.

        Arguments
        ---------
        specs : iterable of torch.Tensor
            Complex (B, F, T), any T >= 1 each.

        Returns
        -------
        iterator of torch.Tensor
            Complex (B, F, T), together what ``forward`` gives for the whole.

        Example
        -------
        >>> from dbtransform_lobes.models.bands import BandLayout
        >>> model = DBTransform(BandLayout(), 16, blocks={})
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
        return map(
            complex_spectrum, self.run(Chunked(), map(real_parts, specs))
        )

    def reach(self):
        """Return how many frames before and after it a frame depends on."""
        parts = [part for part in self.modules() if hasattr(part, "ahead")]
        back = sum(getattr(part, "back", 0) for part in parts)
        return back, sum(part.ahead for part in parts)

    def initial_state(self):
        """Return the StreamState of streams that have not begun."""
        self._check_causal()
        return StreamState()

    def step(self, frames, state):
        """Enhance the next frames of a stream.

        A ValueError tells that the model is not causal, or that the frames or
        the state do not fit it.

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

        Example
        -------
        >>> from dbtransform_lobes.models.bands import BandLayout
        >>> model = DBTransform(BandLayout(), 16, blocks={}, causal=True)
        >>> state = model.initial_state()
        >>> noisy = torch.randn(1, 257, 1, dtype=torch.complex64)
        >>> estimate, state = model.step(noisy, state)
        >>> estimate.shape
        torch.Size([1, 257, 1])
        """
        self._check_causal()
        check_spectrum(frames, self.layout.num_bins)
        bins, caches = self.advance(
            real_parts(frames), state.caches, state.frames
        )
        state = StreamState(caches, state.frames + frames.shape[-1])
        return complex_spectrum(bins), state

    def advance(self, bins, caches, first):
        """Do a step on real and imaginary parts (B, T, F, 2).

        ``caches`` are those of ``StreamState``, ``first`` is the number of
        the first frame, see ``TimeBlock.step``. Returned are the estimate
        (B, T, F, 2) and the next caches.
        """
        if caches is None:
            caches = [None] * self.num_caches
        if len(caches) != self.num_caches:
            raise ValueError(
                f"the state has {len(caches)} caches, expected "
                f"{self.num_caches}: it is that of another model; begin with "
                "initial_state()"
            )
        apply = Live(caches, first)
        return self.run(apply, bins), apply.caches

    def _check_causal(self):
        if not self.causal:
            raise ValueError(
                "this model sees the future, so it has no state: make it "
                "with causal=True"
            )

    @torch.no_grad()
    def analyse(self, spec=None, band=None):
        """Gather what the blocks report of themselves, without gradients.

        A block may have ``learned()``, a dict of what its weights say, and
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
            self.run(Whole(), real_parts(spec))
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


def _settings(factories):
    """Return what YAML says of each part, for figures."""
    return {k: getattr(f, "keywords", {}) for k, f in factories.items()}


def _stack(values):
    """One tensor of tensors of one shape; else as given."""
    shapes = {getattr(value, "shape", None) for value in values}
    alike = len(shapes) == 1 and None not in shapes
    return torch.stack(values) if alike else values
