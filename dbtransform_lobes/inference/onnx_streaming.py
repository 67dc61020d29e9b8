"""A causal model as a graph of one call of a live stream.

frames and states in, frames and states out; all shapes are fixed, states
begin with zeros. Rows are bands times frames of the call, (K N, C), so that
every map of channels is one Gemm. What a trained model does not change is
folded: kernels of the fusion, edges of the graph, the band embedding and the
scale of the queries.

Keys and values lie in rings of window + N slots, (K, heads, slots, d), as the
attention wants them: a call writes its slots and copies nothing else. Rotary
angles are those of the frame count in float64, as in PyTorch; an int64 count
and float64 angles lose nothing in years.
"""

import math

import numpy as np
import torch

from dbtransform_lobes.inference.onnx_graph import Graph
from dbtransform_lobes.inference.onnx_offline import fourier_rows
from dbtransform_lobes.models.differential_attention import (
    DifferentialBandAttention,
)
from dbtransform_lobes.models.feed_forward import FeedForward
from dbtransform_lobes.models.mask_decoder import NUM_TAPS
from dbtransform_lobes.models.multi_scale_fusion import MultiScaleFusion

HIDDEN = np.float32(-1e9)


@torch.no_grad()
def streaming_model(model, frames=1, stft=None):
    """Write the graph of one call.

    Arguments
    ---------
    model : DBTransform
        A causal one.
    frames : int
        N, frames of a call.
    stft : tuple, optional
        Window (n_fft,) and hop length, half of n_fft, for a graph of
        samples, one hop a call; without it the graph is one of spectra.

    Returns
    -------
    onnx.ModelProto
        Inputs: ``spec`` (1, N, F, 2), or ``noisy`` (1, hop); ``frames``,
        int64, how many the stream had; ``past_spec`` and the states of the
        blocks. Outputs: ``estimate`` or ``enhanced``, and all states with
        ``next_`` before their names.

    Raises
    ------
    ValueError
        If the model is not causal, N < 1, or a STFT inside has other hops
        than n_fft / 2 or more than one frame a call.

    Example
    -------
    >>> from dbtransform_lobes.models.bands import BandLayout
    >>> from dbtransform_lobes.models.db_transform import DBTransform
    >>> from dbtransform_lobes.models.multi_scale_fusion import (
    ...     MultiScaleFusion,
    ... )
    >>> blocks = {"fusion": MultiScaleFusion}
    >>> model = DBTransform(BandLayout(), 8, blocks, causal=True)
    >>> proto = streaming_model(model)
    >>> [value.name for value in proto.graph.input]
    ['spec', 'frames', 'past_0', 'past_spec']
    """
    _check(model, frames, stft)
    writer = _Writer(model, frames)
    if stft is None:
        shape = (1, frames, model.layout.num_bins, 2)
        spec = writer.graph.input("spec", shape)
        writer.clock()
        writer.estimate(spec, "estimate")
        writer.graph.output("estimate", shape)
    else:
        transform = _Transform(writer.graph, *stft)
        spec = transform.forward()
        writer.clock()
        transform.inverse(writer.estimate(spec, None))
    return writer.graph.model()


def _check(model, frames, stft):
    if not model.causal:
        raise ValueError(
            "this model sees the future, so it has no streaming form: leave "
            "out --streaming, or export a model made with causal: True"
        )
    if frames < 1:
        raise ValueError(f"frames is {frames}, expected at least 1")
    if stft is not None and (2 * stft[1] != len(stft[0]) or frames > 1):
        raise ValueError(
            f"the hop is {stft[1]} samples, n_fft {len(stft[0])} and a call "
            f"{frames} frames, expected half of n_fft and one frame for a "
            "STFT inside a stream: export with --stft outside"
        )


def _array(tensor):
    return tensor.detach().cpu().float().numpy()


def _scaled(weight, bias, rows, scale):
    """Scale the first rows of an affine map (..., out, in)."""
    weight, bias = weight.clone(), bias.clone()
    weight[..., :rows, :] *= scale
    bias[..., :rows] *= scale
    return weight, bias


class _Transform:
    """STFT and inverse STFT of a stream, hops of half a window."""

    def __init__(self, graph, window, hop):
        self.graph, self.hop = graph, hop
        # (2 F, n_fft), real and imaginary parts of a bin side by side
        self.rows, inverse = (
            rows.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
            for rows in fourier_rows(window, len(window))
        )
        weight = window.square().unflatten(0, (2, hop)).sum(0)
        self.inverse_rows = inverse / weight.repeat(2)

    def forward(self):
        """The spectrum (1, 1, F, 2) of the last two hops."""
        graph, hop = self.graph, self.hop
        noisy = graph.input("noisy", (1, hop))
        past = graph.input("past_noisy", (1, hop))
        graph.op("Identity", noisy, name="next_past_noisy")
        graph.output("next_past_noisy", (1, hop))
        both = graph.op("Concat", past, noisy, axis=1)
        spec = graph.op("MatMul", both, _array(self.rows.T))
        return graph.reshape(spec, 1, 1, -1, 2)

    def inverse(self, spec):
        """The hop that is complete, the one before the last."""
        graph, hop = self.graph, self.hop
        both = graph.op(
            "MatMul", graph.reshape(spec, 1, -1), _array(self.inverse_rows)
        )
        first = graph.slice(both, 0, hop, 1)
        graph.slice(both, hop, 2 * hop, 1, "next_past_overlap")
        graph.output("next_past_overlap", (1, hop))
        overlap = graph.input("past_overlap", (1, hop))
        graph.op("Add", first, overlap, name="enhanced")
        graph.output("enhanced", (1, hop))


class _Writer:
    """Writes the parts of a model into a graph."""

    def __init__(self, model, frames):
        self.model, self.frames = model, frames
        self.bands = model.layout.num_bands
        self.channels = model.mask_decoder.norm.weight.shape[-1]
        self.graph = Graph()

    def clock(self):
        """Counts the frames of the stream."""
        graph = self.graph
        self.count = graph.input("frames", (1,), "int64")
        graph.op(
            "Add",
            self.count,
            np.array([self.frames], np.int64),
            name="next_frames",
        )
        graph.output("next_frames", (1,), "int64")
        self.numbers = graph.op("Add", self.count, np.arange(self.frames))
        self.shared = {}

    def estimate(self, spec, name):
        """From the noisy frames (1, N, F, 2) to the enhanced ones."""
        spec = self._without_trends(spec)
        planes = self.graph.op("Transpose", spec, perm=[3, 0, 1, 2])
        planes = self.graph.reshape(planes, 2, self.frames, -1)  # (2, N, F)
        z = self._split(self._over_level(planes))  # (K N, C)
        for number, residual in enumerate(self.model.blocks):
            x = z
            if residual.order == "pre":
                x = self._norm(residual.norm, z, number)
            z = self.graph.op("Add", z, self._block(residual.block, x, number))
            if residual.order == "post":
                z = self._norm(residual.norm, z, number)
        return self._filter(self._taps(z), planes, name)

    def _without_trends(self, spec):
        """See ``Detrend``; (1, N, F, 2)."""
        detrend, graph = self.model.detrend, self.graph
        if detrend is None:
            return spec
        flat = graph.reshape(spec, self.frames, -1)
        trend = graph.op("MatMul", flat, _array(detrend.analyse))
        trend = graph.op("MatMul", trend, _array(detrend.synthesise))
        flat = graph.op("Sub", flat, trend)
        return graph.reshape(flat, 1, self.frames, -1, 2)

    def _over_level(self, planes):
        """Divide (2, N, F) by the level of each frame, see RunningLevel."""
        level, graph, last = self.model.level, self.graph, np.array([-1])
        if level is None:
            return planes
        power = graph.op("ReduceSumSquare", planes, np.array([0, 2]))
        power = graph.op("Div", power, np.float32(self.model.layout.num_bins))
        seen = self._state("level", (1, level.back))
        seen = graph.op(
            "Concat", seen, graph.reshape(power, 1, self.frames), axis=1
        )
        end = self.frames + level.back
        graph.slice(seen, self.frames, end, 1, "next_level")
        window = np.arange(level.back + 1) + np.arange(self.frames)[:, None]
        seen = graph.op("Gather", seen, window, axis=1)  # (1, N, back + 1)
        small = np.float32(1e-30)
        top = graph.op("Max", graph.op("ReduceMax", seen, last), small)
        share = graph.op("Div", seen, top)
        total = graph.op("ReduceSum", share, last)
        total = graph.op("Max", total, np.float32(1))
        mean = graph.op("ReduceSumSquare", share, last)
        mean = graph.op("Mul", top, graph.op("Div", mean, total))
        root = graph.op("Sqrt", graph.op("Max", mean, small))  # (1, N, 1)
        return graph.op("Div", planes, root)

    def _block(self, block, x, number):
        if isinstance(block, DifferentialBandAttention):
            return self._attention(block, x, number)
        if isinstance(block, MultiScaleFusion):
            return self._fusion(block, x, number)
        if isinstance(block, FeedForward):
            return self._feed_forward(block, x)
        return self._harmonic_graph(block, x)

    def _state(self, name, shape):
        self.graph.output(f"next_{name}", shape)
        return self.graph.input(name, shape)

    # Maps of channels

    def _per_row(self, values):
        """Numbers of every band (K, ...) for the rows of all frames."""
        return _array(values.repeat_interleave(self.frames, dim=0))

    def _linear(self, x, weight, bias):
        """Map rows; weight (out, in) or (K, out, in), bias (.., out)."""
        if weight.dim() == 2:
            if bias.dim() == 2:
                bias = bias.repeat_interleave(self.frames, dim=0)
            return self.graph.op("Gemm", x, _array(weight.T), _array(bias))
        if self.frames > 1:
            bias = bias.unsqueeze(1)
        shape = (self.bands, self.frames, weight.shape[-1])
        y = self.graph.reshape(x, *shape)
        y = self.graph.op("MatMul", y, _array(weight.mT))
        if self.frames == 1:
            y = self.graph.reshape(y, self.bands, -1)
            return self.graph.op("Add", y, _array(bias))
        y = self.graph.op("Add", y, _array(bias))
        return self.graph.reshape(y, self.bands * self.frames, -1)

    def _band_linear(self, x, linear):
        return self._linear(x, linear.weight, linear.bias)

    def _norm(self, norm, x, number):
        gain, bias = norm.weight, norm.bias
        if norm.kind == "frame" and gain.dim() == 1:
            return self._layer_norm(x, norm.eps, _array(gain), _array(bias))
        if norm.kind == "frame":
            ones = np.ones(self.channels, np.float32)
            x = self._layer_norm(x, norm.eps, ones, 0 * ones)
        elif norm.kind == "spectrum":
            x = self._unit_spectrum(x, norm.eps)
        else:
            x = self._unit_window(x, norm.eps, norm.back, number)
        if gain.dim() > 1:
            gain, bias = (
                self._per_row(each.flatten(1)) for each in (gain, bias)
            )
        else:
            gain, bias = _array(gain), _array(bias)
        return self.graph.op("Add", self.graph.op("Mul", x, gain), bias)

    def _layer_norm(self, x, eps, gain, bias):
        return self.graph.op(
            "LayerNormalization", x, gain, bias, axis=-1, epsilon=eps
        )

    def _unit_spectrum(self, x, eps):
        """Rows (K N, C) at the mean and variance of all bands of a frame."""
        graph, bands, frames = self.graph, self.bands, self.frames
        if frames > 1:
            x = graph.reshape(x, bands, frames, self.channels)
            x = graph.op("Transpose", x, perm=[1, 0, 2])
        x = graph.reshape(x, frames, bands * self.channels)
        ones = np.ones(bands * self.channels, np.float32)
        x = self._layer_norm(x, eps, ones, 0 * ones)
        if frames > 1:
            x = graph.reshape(x, frames, bands, self.channels)
            x = graph.op("Transpose", x, perm=[1, 0, 2])
        return graph.reshape(x, bands * frames, self.channels)

    def _unit_window(self, x, eps, back, number):
        """Rows (K N, C) over their RMS since ``back`` frames before."""
        graph, frames = self.graph, self.frames
        power = graph.op("ReduceSumSquare", x, np.array([1], np.int64))
        seen = self._state(f"power_{number}", (self.bands, back))
        power = graph.reshape(power, self.bands, frames)
        seen = graph.op("Concat", seen, power, axis=1)  # (K, back + N)
        end = back + frames
        graph.slice(seen, frames, end, 1, f"next_power_{number}")
        power = graph.op("MatMul", seen, self._means(back))  # (K, N)
        root = graph.op("Sqrt", graph.op("Add", power, np.float32(eps)))
        if frames > 1:
            root = graph.reshape(root, self.bands * frames, 1)
        return graph.op("Div", x, root)

    def _means(self, back):
        """Map (back + N, N) from sums over channels to means of windows."""
        graph, place = self.graph, ("means", back)
        if place not in self.shared:
            frames = np.arange(self.frames)
            age = back + frames - np.arange(back + self.frames)[:, None]
            inside = (age >= 0) & (age <= back)
            inside = np.float32(inside / self.channels)
            count = graph.op("Min", self.numbers, np.array([back]))
            count = graph.op("Add", count, np.array([1]))
            count = graph.op("Cast", count, to=1)  # float32
            self.shared[place] = graph.op("Div", inside, count)
        return self.shared[place]

    def _silu(self, x):
        return self.graph.op("Mul", x, self.graph.op("Sigmoid", x))

    def _feed_forward(self, block, x):
        graph, hidden = self.graph, block.reduce.weight.shape[-1]
        x = self._band_linear(x, block.expand)
        gate, value = graph.split(x, (hidden, hidden), axis=1)
        x = graph.op("Mul", self._silu(gate), value)
        return self._band_linear(x, block.reduce)

    # Band split

    def _split(self, planes):
        graph, split = self.graph, self.model.band_split
        parts, axis = 2, np.array([0], np.int64)
        if split.compression != 1.0:
            power = graph.op("ReduceSumSquare", planes, axis)
            power = graph.op("Add", power, np.float32(1e-12))
            exponent = np.float32((split.compression - 1) / 2)
            scale = graph.op("Pow", power, exponent)
            planes = graph.op("Mul", planes, scale)
        if split.magnitude:
            power = graph.op("ReduceSumSquare", planes, axis)
            power = graph.op("Add", power, np.float32(1e-12))
            magnitude = graph.op("Sqrt", power)
            planes = graph.op("Concat", planes, magnitude, axis=0)
            parts = 3
        bins = graph.op("Transpose", planes, perm=[1, 2, 0])  # (N, F, parts)
        runs, bands = self.model.layout.runs, []
        sizes = [run.num_bands * run.width for run in runs]
        pieces = graph.split(bins, sizes, axis=1)
        for run, linear, x in zip(runs, split.linears, pieces, strict=True):
            x = self._to_bands(x, run.num_bands, run.width * parts)
            bands.append(graph.op("MatMul", x, _array(linear.weight.mT)))
        bias = torch.cat([linear.bias for linear in split.linears])
        z = graph.op("Concat", *bands, axis=0)  # (K, N, C)
        z = graph.reshape(z, self.bands * self.frames, -1)
        return graph.op("Add", z, self._per_row(bias))

    def _to_bands(self, x, bands, size):
        """(N, bins, parts) to (bands, N, size)."""
        if self.frames == 1:
            return self.graph.reshape(x, bands, 1, size)
        x = self.graph.reshape(x, self.frames, bands, size)
        return self.graph.op("Transpose", x, perm=[1, 0, 2])

    # Attention over time

    def _attention(self, block, x, number):
        graph, slots = self.graph, block.window + self.frames
        query, key, value, lam = self._project(block, x)
        heads = block.num_maps * block.num_heads
        size, value_size = block.sizes[0] // heads, block.sizes[2]
        value_size //= block.num_heads
        key = self._ring(f"key_{number}", key, heads, slots, size)
        value = self._ring(
            f"value_{number}", value, block.num_heads, slots, value_size
        )
        query = self._heads_first(query, heads, size)
        key = graph.op("Transpose", key, perm=[0, 1, 3, 2])
        logits = graph.op("MatMul", query, key)  # (K, heads, N, slots)
        logits = graph.op("Add", logits, self._visible(block.window))
        maps = graph.op("Softmax", logits, axis=-1)
        out = graph.op("MatMul", self._difference(block, maps, lam), value)
        if block.vector is not None:
            out = self._head_norm(block.vector, out)
        if self.frames > 1:
            out = graph.op("Transpose", out, perm=[0, 2, 1, 3])
        out = graph.reshape(out, self.bands * self.frames, block.sizes[2])
        return self._band_linear(out, block.output)

    def _project(self, block, x):
        """Turned queries and keys, values and lambda of the rows."""
        graph, channels = self.graph, block.sizes[0]
        heads = block.num_maps * block.num_heads
        size = channels // heads
        weight, bias = block.project.weight, block.project.bias
        if block.embedding is not None:
            bias = bias + block.embedding.flatten(1) @ weight.T  # (K, out)
        if block.offset is not None:
            bias = bias.clone()
            bias[:, -block.num_heads :] += block.offset.flatten(1)
        weight, bias = _scaled(weight, bias, channels, size**-0.5)
        sizes = [2 * channels, *block.sizes[2:]]
        if block.rope:
            # The halves of each head change places: a product of its own
            # costs less than to cut and join them.
            swap = torch.arange(2 * channels).view(-1, 2, size // 2)
            swap = swap.flip(1).flatten()
            weight = torch.cat((weight, weight[..., swap, :]), dim=-2)
            bias = torch.cat((bias, bias[..., swap]), dim=-1)
            sizes.append(2 * channels)
        both, value, *rest = graph.split(
            self._linear(x, weight, bias), sizes, axis=1
        )
        if block.rope:
            both = self._rotate(both, rest.pop(), 2 * heads, size)
        query, key = graph.split(both, (channels, channels), axis=1)
        lam = graph.op("Sigmoid", rest[0]) if rest else None
        return query, key, value, lam

    def _rotate(self, both, swapped, heads, size):
        """See ``rotate``; the angles are made once for all layers."""
        graph, place = self.graph, ("turn", heads, size)
        if place not in self.shared:
            speed = 10000.0 ** (-np.arange(size // 2) / (size // 2))
            # sin(-x) = -sin(x) gives the sign of the first half
            speed = np.tile(np.concatenate((-speed, speed)), heads)
            time = graph.op("Cast", self.numbers, to=11)  # float64
            time = graph.reshape(time, self.frames, 1)
            angle = graph.op("Mul", time, speed)
            turn = np.array([2 * math.pi])
            angle = graph.op("Mod", angle, turn, fmod=1)
            angle = graph.op("Cast", angle, to=1)  # float32
            pair = [graph.op(kind, angle) for kind in ("Cos", "Sin")]
            if self.frames > 1:
                all_bands = np.array((self.bands, 1), np.int64)
                pair = [graph.op("Tile", each, all_bands) for each in pair]
            self.shared[place] = pair
        cos, sin = self.shared[place]
        return graph.op(
            "Add", graph.op("Mul", both, cos), graph.op("Mul", swapped, sin)
        )

    def _ring(self, name, rows, heads, slots, size):
        """Write rows (K N, heads d) into the slots of their frames."""
        graph, place = self.graph, ("ring", heads, slots)
        if place not in self.shared:
            lead = np.indices((self.bands, self.frames, heads, 1))
            lead = np.concatenate((lead[0], lead[2], 0 * lead[0]), axis=-1)
            index = graph.op("Mod", self.numbers, np.array([slots]))
            index = graph.reshape(index, self.frames, 1, 1)
            index = graph.op("Mul", index, np.array([0, 0, 1]))
            self.shared[place] = graph.op("Add", lead, index)
        ring = self._state(name, (self.bands, heads, slots, size))
        rows = graph.reshape(rows, self.bands, self.frames, heads, size)
        index = self.shared[place]
        return graph.op("ScatterND", ring, index, rows, name=f"next_{name}")

    def _heads_first(self, x, heads, size):
        """(K N, heads d) to (K, heads, N, d)."""
        if self.frames == 1:
            return self.graph.reshape(x, self.bands, heads, 1, size)
        x = self.graph.reshape(x, self.bands, self.frames, heads, size)
        return self.graph.op("Transpose", x, perm=[0, 2, 1, 3])

    def _visible(self, window):
        """Additive mask (N, slots): not yet written, too old, or later."""
        graph, place = self.graph, ("visible", window)
        if place not in self.shared:
            slots = window + self.frames
            last = graph.reshape(self.numbers, self.frames, 1)
            # Frames between a query and what its slot holds, had all slots
            # been written; those of this call's later frames come out as old.
            age = graph.op("Sub", last, np.arange(slots))
            age = graph.op("Mod", age, np.array([slots]))
            oldest = graph.op("Min", last, np.array([window]))
            hidden = graph.op("Greater", age, oldest)
            self.shared[place] = graph.op(
                "Where", hidden, HIDDEN, np.float32(0)
            )
        return self.shared[place]

    def _difference(self, block, maps, lam):
        """A1 - lambda A2, (K, H, N, slots), or (1 - lambda) A."""
        graph = self.graph
        if lam is None:
            lam = _array(block.vector())
        else:
            lam = self._heads_first(lam, block.num_heads, 1)
        if block.num_maps == 1:
            rest = graph.op("Sub", np.float32(1), lam)
            return graph.op("Mul", maps, rest)
        first, second = graph.split(maps, [block.num_heads] * 2, axis=1)
        return graph.op("Sub", first, graph.op("Mul", lam, second))

    def _head_norm(self, vector, out):
        """RMSNorm of every head, see ``VectorLambda``."""
        graph, axis = self.graph, np.array([-1], np.int64)
        power = graph.op("ReduceMean", graph.op("Mul", out, out), axis)
        root = graph.op("Sqrt", graph.op("Add", power, np.float32(1e-5)))
        gain = _array(vector.norm.weight * (1 - vector.initial))
        return graph.op("Mul", graph.op("Div", out, root), gain)

    # Fusion over time

    def _fusion(self, block, x, number):
        graph, taps = self.graph, block.back + 1
        shape = (self.bands, block.back, self.channels)
        seen = self._state(f"past_{number}", shape)
        x = graph.reshape(x, self.bands, self.frames, self.channels)
        seen = graph.op("Concat", seen, x, axis=1)  # (K, back + N, C)
        end = block.back + self.frames
        graph.slice(seen, self.frames, end, 1, f"next_past_{number}")
        kernel, bias = self._kernels(block)
        outs = []
        for frame in range(self.frames):
            part = seen
            if self.frames > 1:
                part = graph.slice(seen, frame, frame + taps, 1)
            outs.append(self._convolve(block, part, kernel))
        y = outs[0]
        if self.frames > 1:
            y = graph.op("Concat", *outs, axis=1)  # (K, N, C)
        y = graph.reshape(y, self.bands * self.frames, self.channels)
        y = graph.op("Add", y, self._per_row(bias))
        if block.activation:
            y = self._silu(y)
        if block.pointwise is None:
            return y
        return self._band_linear(y, block.pointwise)

    def _kernels(self, block):
        """Folded kernels (K, taps, C) or (K, taps C, C), biases (K, C)."""
        taps, blend = block.back + 1, block.fusion_weights()
        fan_in = 1 if block.separable else self.channels
        kernels = torch.zeros(self.bands, self.channels, fan_in, taps)
        biases = torch.zeros(self.bands, self.channels)
        for bands, sizes in zip(block.groups, block.windows, strict=True):
            if bands.start < bands.stop:
                kernel, biases[bands] = block.fold(blend[bands], sizes)
                kernels[bands, :, :, taps - kernel.shape[-1] :] = kernel
        kernels = kernels.permute(0, 3, 2, 1)  # (K, taps, fan in, C)
        if block.separable:
            return kernels.squeeze(2), biases
        return kernels.flatten(1, 2), biases

    def _convolve(self, block, x, kernel):
        """One frame (K, 1, C) from the frames (K, taps, C) up to it."""
        graph = self.graph
        if block.separable:
            axis = np.array([1], np.int64)
            x = graph.op("Mul", x, _array(kernel))
            return graph.op("ReduceSum", x, axis)
        x = graph.reshape(x, self.bands, 1, -1)
        return graph.op("MatMul", x, _array(kernel))

    # Attention over bands

    def _harmonic_graph(self, block, x):
        graph, heads = self.graph, block.num_heads
        size = self.channels // heads
        similarity = block.similarity()
        hidden = block.adjacency(similarity) < 0.5
        bias = similarity.masked_fill(hidden, HIDDEN.item())
        weight, offset = _scaled(
            block.project.weight,
            block.project.bias,
            self.channels,
            size**-0.5,
        )
        x = self._linear(x, weight, offset)
        x = graph.reshape(x, self.bands, self.frames, 3 * heads, size)
        x = graph.op("Transpose", x, perm=[1, 2, 0, 3])  # (N, 3 H, K, d)
        query, key, value = graph.split(x, [heads] * 3, axis=1)
        key = graph.op("Transpose", key, perm=[0, 1, 3, 2])
        logits = graph.op("MatMul", query, key)
        maps = graph.op("Add", logits, _array(bias))
        maps = graph.op("Softmax", maps, axis=-1)
        out = graph.op("MatMul", maps, value)
        out = graph.op("Transpose", out, perm=[2, 0, 1, 3])  # (K, N, H, d)
        out = graph.reshape(out, self.bands * self.frames, self.channels)
        return self._band_linear(out, block.output)

    # Mask decoder

    def _taps(self, z):
        """Real and imaginary parts of the taps, (3, N, F) each."""
        graph, decoder = self.graph, self.model.mask_decoder
        runs, parts = self.model.layout.runs, []
        weight, bias = (
            torch.cat([getattr(each, name) for each in decoder.expands])
            for name in ("weight", "bias")
        )
        x = self._linear(self._norm(decoder.norm, z, "taps"), weight, bias)
        silu = decoder.activation == "silu"
        x = self._silu(x) if silu else graph.op("Tanh", x)
        x = graph.reshape(x, self.bands, self.frames, -1)
        pieces = graph.split(x, [run.num_bands for run in runs], axis=0)
        for run, head, x in zip(runs, decoder.heads, pieces, strict=True):
            weight = self._by_bin(head.weight, run.width)
            x = graph.op("MatMul", x, _array(weight.mT))  # (n, N, 12 w)
            if self.frames > 1:
                x = graph.op("Transpose", x, perm=[1, 0, 2])
            bins = run.num_bands * run.width
            parts.append(graph.reshape(x, self.frames, bins, -1))
        bias = torch.cat(
            [
                self._by_bin(head.bias, run.width).reshape(-1, 4 * NUM_TAPS)
                for run, head in zip(runs, decoder.heads, strict=True)
            ]
        )
        x = graph.op("Concat", *parts, axis=1)  # (N, F, 12)
        x = graph.op("Transpose", x, perm=[2, 0, 1])
        x = graph.op("Add", x, _array(bias.T.unsqueeze(1)))
        value, gate = graph.split(x, [2 * NUM_TAPS] * 2, axis=0)
        x = graph.op("Mul", value, graph.op("Sigmoid", gate))
        return graph.split(x, [NUM_TAPS] * 2, axis=0)

    @staticmethod
    def _by_bin(rows, width):
        """Bring the 12 rows of a bin together: values, then gates.

        From (n, 12 w, ..) of values and gates, bins, taps and parts; real
        parts then stand before imaginary ones.
        """
        rows = rows.unflatten(1, (2, width, NUM_TAPS, 2))
        return rows.movedim((2, 1, 4, 3), (1, 2, 3, 4)).flatten(1, 4)

    def _filter(self, taps, planes, name):
        """See ``apply_filter``; real parts (1, ..), then imaginary ones."""
        graph, back = self.graph, NUM_TAPS - 1
        bins = self.model.layout.num_bins
        seen = self._state("past_spec", (2, back, bins))
        seen = graph.op("Concat", seen, planes, axis=1)
        graph.slice(seen, self.frames, self.frames + back, 1, "next_past_spec")
        if self.frames > 1:
            windows = [
                graph.slice(seen, tap, tap + self.frames, 1)
                for tap in range(NUM_TAPS)
            ]
            seen = graph.op("Concat", *windows, axis=1)
        seen = graph.reshape(seen, 2, NUM_TAPS, self.frames, bins)
        real, imag = graph.split(seen, (1, 1), axis=0)
        turned = graph.op("Concat", graph.op("Neg", imag), real, axis=0)
        gain, turn = taps
        out = graph.op(
            "Add", graph.op("Mul", seen, gain), graph.op("Mul", turned, turn)
        )
        out = graph.op("ReduceSum", out, np.array([1], np.int64), keepdims=0)
        out = graph.op("Transpose", out, perm=[1, 2, 0])  # (N, F, 2)
        shape = np.array((1, self.frames, bins, 2), np.int64)
        return graph.op("Reshape", out, shape, name=name)
