"""The proposal as a straightforward author writes it: a reference for speed.

Source: DB-Transform proposal. It computes what ``DBTransform`` computes in
the configuration ``db_transform_proposal``, with one Python loop over the
bands in every part, modules of every band's own, attention maps of all pairs
of frames, one convolution for each scale and a masked map of all pairs of
bands. Between the parts a spectrum is a list of K tensors (B, T, C).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.harmonic_graph import frequency_features
from dbtransform_lobes.models.level import RunningLevel
from dbtransform_lobes.models.mask_decoder import NUM_TAPS
from dbtransform_lobes.models.multi_scale_fusion import PRIORS, RANGES_HZ
from dbtransform_lobes.models.spectrum import (
    check_spectrum,
    complex_spectrum,
    real_parts,
)

WINDOWS = ((8, 16, 32), (4, 8, 16), (2, 4, 8))


def normalise(norm, x):
    """GroupNorm over the channels and frames of one band, (B, T, C)."""
    return norm(x.transpose(1, 2)).transpose(1, 2)


class LiteralBandSplit(nn.Module):
    """Per band: GroupNorm, Linear(2 w_k, C)."""

    def __init__(self, layout, num_channels):
        super().__init__()
        self.layout = layout
        sizes = [2 * width for width in layout.widths]
        self.norms = nn.ModuleList(nn.GroupNorm(1, size) for size in sizes)
        linears = [nn.Linear(size, num_channels) for size in sizes]
        self.linears = nn.ModuleList(linears)

    def forward(self, spec):
        """Map complex (B, F, T) to K tensors (B, T, C)."""
        bands, parts = [], zip(self.norms, self.linears, strict=True)
        for k, (norm, linear) in enumerate(parts):
            first, last = self.layout.edges[k : k + 2]
            x = torch.view_as_real(spec[:, first:last])  # (B, w, T, 2)
            x = x.permute(0, 2, 1, 3).flatten(2)  # (B, T, 2 w)
            bands.append(linear(normalise(norm, x)))
        return bands

    def load_from(self, split):
        """Copy the weights of a ``BandSplit``."""
        parts = self.layout.runs, split.norms, split.linears
        for run, norm, linear in zip(*parts, strict=True):
            for i, k in enumerate(range(run.bands.start, run.bands.stop)):
                _copy_norm(self.norms[k], norm, i)
                _copy(self.linears[k], linear.weight[i], linear.bias[i])


class LiteralAttention(nn.Module):
    """Differential attention over the frames of one band."""

    def __init__(self, num_channels, num_heads):
        super().__init__()
        self.num_heads = num_heads
        half = num_channels // 2
        self.query = nn.Linear(num_channels, num_channels)
        self.key = nn.Linear(num_channels, num_channels)
        self.value = nn.Linear(num_channels, half)
        self.output = nn.Linear(half, num_channels)
        first, last = nn.Linear(8, 16), nn.Linear(16, 1)
        self.mlp = nn.Sequential(first, nn.ReLU(), last, nn.Sigmoid())

    def forward(self, x):
        """Map (B, T, C) to (B, T, C)."""
        query1, query2 = self.query(x).chunk(2, dim=-1)
        key1, key2 = self.key(x).chunk(2, dim=-1)
        map1 = self._map(query1, key1)  # (B, H, T, T)
        map2 = self._map(query2, key2)
        statistics = *self._statistics(map1), *self._statistics(map2)
        statistics = torch.stack(statistics, dim=-1)
        lam = self.mlp(statistics).unsqueeze(-1)  # (B, H, 1, 1)
        out = (map1 - lam * map2) @ self._heads(self.value(x))
        return self.output(out.transpose(1, 2).flatten(2))

    def _heads(self, x):
        """(B, T, C / 2) to (B, H, T, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _map(self, query, key):
        query, key = self._heads(query), self._heads(key)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        return scores.softmax(-1)

    @staticmethod
    def _statistics(attention):
        # A map of one entry has no spread, and sqrt no gradient there.
        variance = attention.var(dim=(-1, -2), correction=0)
        return (
            attention.mean(dim=(-1, -2)),
            (variance + 1e-12).sqrt(),
            attention.amax(dim=(-1, -2)),
            attention.amin(dim=(-1, -2)),
        )

    def load_from(self, attention, k):
        """Copy the weights of band k of a ``DifferentialBandAttention``."""
        weights = attention.project.weight[k].split(attention.sizes)
        biases = attention.project.bias[k].split(attention.sizes)
        linears = (self.query, self.key, self.value)
        for linear, weight, bias in zip(linears, weights, biases, strict=True):
            _copy(linear, weight, bias)
        of_mlp = attention.statistics
        linears = (self.mlp[0], self.mlp[2], self.output)
        sources = (of_mlp.hidden, of_mlp.output, attention.output)
        for linear, source in zip(linears, sources, strict=True):
            _copy(linear, source.weight[k], source.bias[k])


class LiteralFusion(nn.Module):
    """Three convolutions a band, chosen by its frequency and blended."""

    def __init__(self, num_channels, centres, windows=WINDOWS):
        super().__init__()
        self.sizes, logits = [], []
        for centre in centres:
            group = sum(centre >= limit for limit in RANGES_HZ)
            self.sizes.append(windows[group])
            logits.append(nn.Parameter(torch.tensor(PRIORS[group]).log()))
        self.logits = nn.ParameterList(logits)
        self.convolutions = nn.ModuleDict(
            {
                str(size): nn.Conv1d(num_channels, num_channels, size)
                for size in sorted({s for sizes in self.sizes for s in sizes})
            }
        )

    def forward(self, x, k):
        """Map (B, T, C) of band k to (B, T, C)."""
        x, out = x.transpose(1, 2), 0
        blend = self.logits[k].softmax(-1)
        for size, weight in zip(self.sizes[k], blend, strict=True):
            padded = F.pad(x, (size // 2, size - 1 - size // 2))
            out = out + weight * self.convolutions[str(size)](padded)
        return out.transpose(1, 2)

    def load_from(self, fusion):
        """Copy the weights of a ``MultiScaleFusion``."""
        for size, convolution in self.convolutions.items():
            _copy(convolution, fusion.kernels[size], fusion.biases[size])
        for logits, source in zip(self.logits, fusion.logits, strict=True):
            logits.copy_(source)


class LiteralGraph(nn.Module):
    """Attention of a band to its neighbours: a mask over all pairs of bands.

    Its gradient reaches the similarity of chosen edges only.
    """

    def __init__(
        self,
        num_channels,
        num_heads,
        centres,
        num_neighbours=5,
        embedding_size=16,
        temperature=0.2,
    ):
        super().__init__()
        self.num_heads, self.num_neighbours = num_heads, num_neighbours
        self.temperature = temperature
        features = frequency_features(centres, embedding_size)
        self.embedding = nn.Parameter(features)
        self.query = nn.Linear(num_channels, num_channels)
        self.key = nn.Linear(num_channels, num_channels)
        self.value = nn.Linear(num_channels, num_channels)
        self.output = nn.Linear(num_channels, num_channels)

    def forward(self, bands):
        """Map K tensors (B, T, C) to K tensors (B, T, C)."""
        unit = F.normalize(self.embedding, dim=-1)
        similarity = unit @ unit.T / self.temperature
        itself = torch.eye(len(bands), dtype=torch.bool, device=unit.device)
        others = similarity.masked_fill(itself, -math.inf)
        chosen = others.topk(self.num_neighbours, dim=-1).indices
        edges = torch.zeros_like(itself).scatter(-1, chosen, True)
        edges = edges | edges.T | itself
        x = torch.stack(bands, dim=2)  # (B, T, K, C)
        query = self._heads(self.query(x))
        key = self._heads(self.key(x))
        logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        logits = logits + similarity  # (B, T, H, K, K)
        weights = logits.masked_fill(~edges, -math.inf).softmax(-1)
        out = weights @ self._heads(self.value(x))
        out = self.output(out.transpose(2, 3).flatten(3))
        return list(out.unbind(2))

    def _heads(self, x):
        """(B, T, K, C) to (B, T, H, K, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(2, 3)

    def load_from(self, graph):
        """Copy the weights of a ``HarmonicGraphAttention``."""
        self.temperature = graph.temperature
        self.embedding.copy_(graph.embedding)
        linears = (self.query, self.key, self.value)
        weights = graph.project.weight.chunk(3)
        biases = graph.project.bias.chunk(3)
        for linear, weight, bias in zip(linears, weights, biases, strict=True):
            _copy(linear, weight, bias)
        _copy(self.output, graph.output.weight, graph.output.bias)


class LiteralMaskDecoder(nn.Module):
    """Per band: norm, MLP, GLU, and the filter of three taps."""

    def __init__(self, layout, num_channels, expansion=4):
        super().__init__()
        self.layout = layout
        hidden = int(expansion * num_channels)
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(num_channels, hidden),
                nn.Tanh(),
                nn.Linear(hidden, 4 * NUM_TAPS * width),
                nn.GLU(),
            )
            for width in layout.widths
        )
        norms = [nn.GroupNorm(1, num_channels) for _ in layout.widths]
        self.norms = nn.ModuleList(norms)

    def forward(self, bands, spec):
        """Filter complex (B, F, T) with the masks of K tensors (B, T, C)."""
        frames, estimates = spec.shape[-1], []
        padded = F.pad(spec, (1, 1))
        for k, x in enumerate(bands):
            first, last = self.layout.edges[k : k + 2]
            mask = self.mlps[k](normalise(self.norms[k], x))
            mask = mask.unflatten(-1, (last - first, NUM_TAPS, 2))
            mask = torch.view_as_complex(mask).transpose(1, 2)  # (B, w, T, 3)
            estimate = 0
            for tap in range(NUM_TAPS):
                shifted = padded[:, first:last, tap : tap + frames]
                estimate = estimate + mask[..., tap] * shifted
            estimates.append(estimate)
        return torch.cat(estimates, dim=1)

    def load_from(self, decoder):
        """Copy the weights of a ``MaskDecoder``."""
        expand = decoder.expand
        for run, head in zip(self.layout.runs, decoder.heads, strict=True):
            for i, k in enumerate(range(run.bands.start, run.bands.stop)):
                _copy_norm(self.norms[k], decoder.norm, k)
                _copy(self.mlps[k][0], expand.weight[k], expand.bias[k])
                _copy(self.mlps[k][2], head.weight[i], head.bias[i])


class LiteralProposal(nn.Module):
    """``DBTransform`` as ``db_transform_proposal``, band by band."""

    def __init__(
        self,
        n_fft=512,
        sample_rate=16000,
        band_widths="bsrnn_16k",
        num_channels=128,
        num_heads=4,
        fusion_windows=WINDOWS,
        num_neighbours=5,
        decoder_expansion=4,
        level=124,
    ):
        super().__init__()
        self.layout = BandLayout(band_widths, n_fft, sample_rate)
        self.level = level  # which has a twin of its own
        bands, centres = self.layout.num_bands, self.layout.centres

        def with_norms(block):
            norms = [nn.GroupNorm(1, num_channels) for _ in range(bands)]
            norms = nn.ModuleList(norms)
            return nn.ModuleDict({"block": block, "norms": norms})

        self.band_split = LiteralBandSplit(self.layout, num_channels)
        sizes = num_channels, num_heads
        attention = [LiteralAttention(*sizes) for _ in range(bands)]
        self.attention = with_norms(nn.ModuleList(attention))
        fusion = LiteralFusion(num_channels, centres, fusion_windows)
        self.fusion = with_norms(fusion)
        self.graph = with_norms(LiteralGraph(*sizes, centres, num_neighbours))
        sizes = self.layout, num_channels, decoder_expansion
        self.mask_decoder = LiteralMaskDecoder(*sizes)

    def forward(self, spec):
        """Enhance a spectrum, complex (B, F, T) to (B, F, T)."""
        check_spectrum(spec, self.layout.num_bins)
        seen = complex_spectrum(RunningLevel(self.level)(real_parts(spec)))
        bands = self.band_split(seen)
        for k, attend in enumerate(self.attention["block"]):
            norm = self.attention["norms"][k]
            bands[k] = normalise(norm, bands[k] + attend(bands[k]))
        for k, norm in enumerate(self.fusion["norms"]):
            fused = self.fusion["block"](bands[k], k)
            bands[k] = normalise(norm, bands[k] + fused)
        messages = self.graph["block"](bands)
        for k, norm in enumerate(self.graph["norms"]):
            bands[k] = normalise(norm, bands[k] + messages[k])
        return self.mask_decoder(bands, spec)

    @torch.no_grad()
    def load_from(self, model):
        """Copy the weights of a DBTransform; the same function follows."""
        attention, fusion, graph = model.blocks
        parts = self.attention, self.fusion, self.graph
        for part, residual in zip(parts, model.blocks, strict=True):
            for k, norm in enumerate(part["norms"]):
                _copy_norm(norm, residual.norm, k)
        self.band_split.load_from(model.band_split)
        for k, band in enumerate(self.attention["block"]):
            band.load_from(attention.block, k)
        self.fusion["block"].load_from(fusion.block)
        self.graph["block"].load_from(graph.block)
        self.mask_decoder.load_from(model.mask_decoder)
        return self


def literal_twin(model):
    """Return the literal form of a proposal, with its sizes and weights.

    A ValueError tells of a DBTransform that is not as the proposal wrote it.
    """
    try:
        twin = _with_weights_of(model)
        shape = (1, model.layout.num_bins, 40, 2)
        spec = torch.randn(shape).to(twin.fusion["block"].logits[0])
        spec = torch.view_as_complex(spec)
        with torch.no_grad():
            right = torch.allclose(twin(spec), model(spec), rtol=0, atol=1e-4)
    except (AttributeError, RuntimeError, ValueError):  # it has other parts
        right = False
    if not right:
        raise ValueError(
            "the literal form is of the proposal only: given another "
            "configuration, expected hparams/models/db_transform_proposal.yaml"
        )
    return twin


def _with_weights_of(model):
    attention, fusion, graph = (residual.block for residual in model.blocks)
    layout, expand = model.layout, model.mask_decoder.expand.weight
    n_fft = 2 * (layout.num_bins - 1)
    twin = LiteralProposal(
        n_fft=n_fft,
        sample_rate=layout.bin_hz * n_fft,
        band_widths=layout.widths,
        num_channels=fusion.num_channels,
        num_heads=attention.num_heads,
        fusion_windows=fusion.windows,
        num_neighbours=graph.num_neighbours,
        decoder_expansion=expand.shape[1] / expand.shape[2],
        level=model.level.back,
    )
    return twin.to(expand.device, expand.dtype).load_from(model)


def _copy(module, weight, bias):
    module.weight.copy_(weight)
    module.bias.copy_(bias)


def _copy_norm(norm, source, k):
    """The gain and bias that a ``BandNorm`` has for its band k."""
    _copy(norm, source.weight[k].flatten(), source.bias[k].flatten())
