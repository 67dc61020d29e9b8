"""DB-Transform: band-split transformer with a learnable harmonic graph.

noisy spectrum (B, F, T)
  -> Detrend                                (optional)
  -> RunningLevel -> BandSplit              (K, B, T, C)
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

from dbtransform_lobes.models.band_split import BandSplit
from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.chunks import (
    cache_shapes_of,
    fork,
    step_through,
    through,
    with_context,
)
from dbtransform_lobes.models.detrend import Detrend
from dbtransform_lobes.models.differential_attention import (
    DifferentialBandAttention,
)
from dbtransform_lobes.models.feed_forward import FeedForward
from dbtransform_lobes.models.harmonic_graph import (
    HarmonicGraphAttention,
    harmonic_pairs,
)
from dbtransform_lobes.models.level import RunningLevel
from dbtransform_lobes.models.mask_decoder import (
    NUM_TAPS,
    MaskDecoder,
    apply_filter,
)
from dbtransform_lobes.models.multi_scale_fusion import MultiScaleFusion
from dbtransform_lobes.models.spectrum import check_spectrum
from dbtransform_lobes.models.window_norm import make_norm

# Frames of a chunk when nothing is to be learned: the tensors of more would
# miss the caches of the processor.
CHUNK_FRAMES = 250


@dataclass
class StreamState:
    """What a causal model remembers between two calls of ``step``.

    Arguments
    ---------
    caches : list of tuple of torch.Tensor
        What the level, if there is one, each block, and at last the mask
        decoder have seen of the last frames; empty if one looks at one.
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
        Of ``make_norm``.
    order : str
        "post": norm(z + f(z)); "pre": z + f(norm(z)).
    """

    def __init__(self, block, norm, order):
        super().__init__()
        self.block, self.norm, self.order = block, norm, order

    def enter(self, z):
        """What f sees."""
        return self.norm(z) if self.order == "pre" else z

    def forward(self, z):
        """Map (K, B, T, C) to (K, B, T, C)."""
        if self.order == "pre":
            return z + self.block(self.norm(z))
        return self.norm(z + self.block(z))

    def stream(self, chunks):
        """Map chunks (K, B, T, C) of one signal, each as soon as it can be."""
        # The parts may ask for later chunks before they map the first.
        chunks, residuals = fork(chunks)
        if self.order == "pre":
            chunks = through(self.norm, chunks)
        ys = map(torch.add, residuals, through(self.block, chunks))
        return ys if self.order == "pre" else through(self.norm, ys)

    def cache_shapes(self, batch):
        """Shapes of the cache of ``step``: the norm's, then the block's."""
        return cache_shapes_of(self.norm, batch) + cache_shapes_of(
            self.block, batch
        )

    def step(self, z, cache, first):
        """Map the next frames of a live stream; also returns its cache."""
        count = len(cache_shapes_of(self.norm, z.shape[1]))
        of_norm, of_block = cache[:count], cache[count:]
        x = z
        if self.order == "pre":
            x, of_norm = step_through(self.norm, z, of_norm, first)
        y, of_block = step_through(self.block, x, of_block, first)
        z = z + y
        if self.order == "post":
            z, of_norm = step_through(self.norm, z, of_norm, first)
        return z, of_norm + of_block


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
        Norm of the blocks and of the decoder: "window", "group",
        "spectrum" or "frame", see ``make_norm``.
    norm_window : int
        Frames on each side that the norm "window" sees.
    norm_order : str
        "pre" or "post".
    causal : bool
        Whether no output frame depends on a later input frame; then
        ``step`` enhances a stream.
    level : int | None
        Frames that ``RunningLevel`` looks back; the band split then sees the
        spectrum over its level, so that the gain of the signal does not
        matter. None leaves it out.
    detrend : callable | None
        Window of the STFT, such as ``torch.hann_window``: maps n_fft to
        (n_fft,). DC and rumble are then removed, see ``Detrend``. None keeps
        them.
    decoder_activation : str
        "tanh" or "silu", see ``MaskDecoder``.

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
        norm_window=62,
        norm_order="pre",
        causal=False,
        level=None,
        detrend=None,
        decoder_activation="tanh",
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

        self.detrend = Detrend(detrend(n_fft)) if detrend else None
        self.level = None if level is None else RunningLevel(level)
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
            Residual(
                block,
                make_norm(
                    num_channels,
                    norm,
                    bands,
                    own is not None,
                    norm_window,
                    causal,
                ),
                norm_order,
            )
            for block in blocks
        )
        self.mask_decoder = MaskDecoder(
            self.layout,
            num_channels,
            decoder_expansion,
            norm,
            causal,
            norm_window,
            decoder_activation,
        )
        # Whether a frame depends on a limited number of others.
        self.in_chunks = "group" not in (split_norm, norm) and not any(
            getattr(block, "ahead", 0) is None
            or getattr(block, "condition", None) is not None
            for block in blocks
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
            spec = self._without_trends(spec)
            z = self._features(spec)  # (K, B, T, C)
            for block in self.blocks:
                z = block(z)
            mask = self.mask_decoder(z)  # (B, F, T, 3)
            estimate = apply_filter(mask, spec, self.causal)
        if not return_analysis:
            return estimate
        return estimate, self.analyse(noisy, band)

    def _without_trends(self, spec):
        return spec if self.detrend is None else self.detrend(spec)

    def _features(self, spec):
        """Map complex (B, F, T) to (K, B, T, C)."""
        if self.level is not None:
            bins = self.level(_bins(spec))
            spec = torch.view_as_complex(bins.transpose(1, 2))
        return self.band_split(spec)

    def split(self, bins):
        """Give the bands of bins (B, T, F, 2) over their level C channels."""
        bins = bins if self.level is None else self.level(bins)
        return self.band_split.split(bins)  # (K, B, T, C)

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
        >>> model = DBTransform(num_channels=16, num_heads=2, window=8)
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
        bins = map(_bins, specs)  # (B, T, F, 2)
        if self.level is not None:
            bins = self.level.stream(bins)
        zs = map(self.band_split.split, bins)  # (K, B, T, C)
        for block in self.blocks:
            zs = block.stream(zs)
        ahead = 0 if self.causal else NUM_TAPS // 2
        shared = ((None, (spec,)) for spec in again)
        around = with_context(shared, NUM_TAPS - 1 - ahead, ahead)
        masks = self.mask_decoder.stream(zs)
        for mask, (_, (spec,), first) in zip(masks, around, strict=True):
            yield apply_filter(mask, spec, self.causal, first)

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
        like = self.mask_decoder.norm.weight
        caches = [
            tuple(like.new_zeros(shape) for shape in shapes)
            for shapes in self._cache_shapes(batch)
        ]
        shape = (batch, self.layout.num_bins, NUM_TAPS - 1)
        dtype = torch.promote_types(like.dtype, torch.float32).to_complex()
        return StreamState(caches, like.new_zeros(shape, dtype=dtype))

    def _cache_shapes(self, batch):
        parts = [*self.blocks, self.mask_decoder]
        if self.level is not None:
            parts.insert(0, self.level)
        return [part.cache_shapes(batch) for part in parts]

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
        frames = self._without_trends(frames)
        x, given, caches = _bins(frames), iter(state.caches), []
        if self.level is not None:
            x, cache = self.level.step(x, next(given), state.frames)
            caches.append(cache)
        x = self.band_split.split(x)  # (K, B, T, C)
        parts = [*self.blocks, self.mask_decoder]
        for part, cache in zip(parts, given, strict=True):
            x, cache = part.step(x, cache, state.frames)
            caches.append(cache)
        mask = x  # (B, F, T, 3)
        seen = torch.cat((state.spec, frames), dim=-1)
        estimate = apply_filter(mask, seen, causal=True, first=NUM_TAPS - 1)
        # A copy: a view would hold on to all of a long chunk.
        last = seen[..., 1 - NUM_TAPS :].clone()
        count = state.frames + frames.shape[-1]
        return estimate, StreamState(caches, last, count)

    def _check_causal(self):
        if not self.causal:
            raise ValueError(
                "this model sees the future, so it has no state: make it "
                "with causal=True"
            )

    def _check_state(self, frames, state):
        expected = 1 + len(self.blocks) + (self.level is not None)
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
        expected = self._cache_shapes(batch)
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
        """What the model has learned, and what it does with a spectrum.

        In training and out of it alike; nothing of it has a gradient.

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
            adjacency : torch.Tensor
                (layers, K, K), 1 where two bands are joined; (0, K, K)
                without a graph. Of a graph that follows the signal it is
                that of the band embeddings alone.
            harmonic_pairs : list of list of (int, int, int)
                For each layer the edges near a multiple, see
                ``harmonic_pairs``.
            fusion_weights : torch.Tensor
                (layers, K, 3), the static blend of the short, middle and long
                windows; (0, K, 3) without a fusion.
            lambda : list of torch.Tensor
                With a spectrum, for each layer: (K, B, T, H) for "token",
                (K, B, 1, H) for "statistics", (K or 1, 1, 1, 1) for
                "vector".
            maps : torch.Tensor
                With a band: A1, A2 and A1 - lambda A2, in this order,
                (layers, 3, B, H, T, T).

        Raises
        ------
        ValueError
            If there is no such band, or a band and no spectrum.

        Example
        -------
        >>> model = DBTransform(num_channels=16, num_layers=2, num_heads=2)
        >>> noisy = torch.randn(3, 257, 10, dtype=torch.complex64)
        >>> analysis = model.analyse(noisy, band=4)
        >>> analysis["lambda"][0].shape, analysis["maps"].shape
        (torch.Size([31, 3, 10, 2]), torch.Size([2, 3, 3, 2, 10, 10]))
        """
        self._check_band(spec, band)
        parts = [residual.block for residual in self.blocks]
        graphs = [p for p in parts if isinstance(p, HarmonicGraphAttention)]
        fusions = [p for p in parts if isinstance(p, MultiScaleFusion)]
        bands = self.layout.num_bands
        edges = [graph.adjacency() for graph in graphs]
        weights = [fusion.fusion_weights() for fusion in fusions]
        analysis = {
            "adjacency": _stack(edges, (bands, bands)),
            "harmonic_pairs": [
                harmonic_pairs(each, self.layout.centres) for each in edges
            ],
            "fusion_weights": _stack(weights, (bands, 3)),
        }
        if spec is not None:
            analysis.update(self._analyse_attention(spec, band))
        return analysis

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

    def _analyse_attention(self, spec, band):
        """lambda of every layer, and the maps of a band."""
        z, lambdas, maps = self._features(self._without_trends(spec)), [], []
        for residual in self.blocks:
            if isinstance(residual.block, DifferentialBandAttention):
                x = residual.enter(z)
                lambdas.append(residual.block.lambda_of(x))
                if band is not None:
                    maps.append(residual.block.maps_of(x, band))
            z = residual(z)
        found = {"lambda": lambdas}
        return found if band is None else {**found, "maps": torch.stack(maps)}


def _bins(spec):
    """Real and imaginary parts (B, T, F, 2) of (B, F, T)."""
    return torch.view_as_real(spec).transpose(1, 2)


def _stack(tensors, shape):
    return torch.stack(tensors) if tensors else torch.empty(0, *shape)


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
    if norm == "group":
        problems.append(
            "norm is 'group', expected 'window', 'spectrum' or 'frame'"
        )
    if input_conditioned:
        problems.append("input_conditioned is True, expected False")
    if problems:
        raise ValueError(
            f"a causal model cannot look ahead: {'; '.join(problems)}"
        )
