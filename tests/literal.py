"""The proposal as a straightforward author writes it: a reference for speed.

Source: DB-Transform proposal. It computes what ``DBTransform`` computes in
the configuration ``db_transform_proposal``, with one Python loop over the
bands in every part, modules of every band's own, attention maps of all pairs
of frames, one convolution for each scale and a masked map of all pairs of
bands. Between the parts a spectrum is a list of K tensors (B, T, C). Each
part is made from that of a DBTransform, with a copy of its weights.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.level import RunningLevel
from dbtransform_lobes.models.mask_decoder import NUM_TAPS
from dbtransform_lobes.models.multi_scale_fusion import RANGES_HZ
from dbtransform_lobes.models.spectrum import complex_spectrum, real_parts


def with_weights(module, weight, bias):
    """The module with a copy of these weights."""
    module.weight = nn.Parameter(weight.detach().clone())
    module.bias = nn.Parameter(bias.detach().clone())
    return module


def linear(weight, bias):
    """A map of the weight (out, in) and bias."""
    return with_weights(nn.Linear(*weight.mT.shape), weight, bias)


def linear_of(source, k=...):
    """The map of band k of a ``BandLinear``, or the one that all share."""
    return linear(source.weight[k], source.bias[k])


def norm_of(source, k):
    """The norm of band k of a ``BandNorm``."""
    gain, bias = source.weight[k].flatten(), source.bias[k].flatten()
    return with_weights(nn.GroupNorm(1, len(gain)), gain, bias)


def places(layout):
    """For each band the number of its run, and its place in that."""
    runs = enumerate(layout.runs)
    return [(n, i) for n, run in runs for i in range(run.num_bands)]


def heads(x, num_heads):
    """(..., N, C) to (..., H, N, d)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(-3, -2)


def normalise(norm, x):
    """GroupNorm over the channels and frames of one band, (B, T, C)."""
    return norm(x.transpose(1, 2)).transpose(1, 2)


def statistics(attention):
    """Mean, standard deviation, maximum and minimum of maps (..., T, T)."""
    maps = attention.flatten(-2)
    # A map of one entry has no spread, and sqrt no gradient there.
    spread = (maps.var(-1, correction=0) + 1e-12).sqrt()
    return maps.mean(-1), spread, maps.amax(-1), maps.amin(-1)


class LiteralBandSplit(nn.Module):
    """Per band: GroupNorm, Linear(2 w_k, C)."""

    def __init__(self, split):
        super().__init__()
        self.widths, bands = split.layout.widths, places(split.layout)
        norms = [norm_of(split.norms[n], i) for n, i in bands]
        linears = [linear_of(split.linears[n], i) for n, i in bands]
        self.norms, self.linears = map(nn.ModuleList, (norms, linears))

    def forward(self, spec):
        """Map complex (B, F, T) to K tensors (B, T, C)."""
        bands, bins = [], spec.split(self.widths, dim=1)
        for norm, linear, x in zip(self.norms, self.linears, bins, strict=True):
            x = torch.view_as_real(x).transpose(1, 2).flatten(2)  # (B, T, 2 w)
            bands.append(linear(normalise(norm, x)))
        return bands


class LiteralAttention(nn.Module):
    """Differential attention over the frames of band k."""

    def __init__(self, attention, k):
        super().__init__()
        self.num_heads, project = attention.num_heads, attention.project
        weights = project.weight[k].split(attention.sizes)
        biases = project.bias[k].split(attention.sizes)
        self.query, self.key, self.value = map(linear, weights, biases)
        self.output, mlp = linear_of(attention.output, k), attention.statistics
        first, last = linear_of(mlp.hidden, k), linear_of(mlp.output, k)
        self.mlp = nn.Sequential(first, nn.ReLU(), last, nn.Sigmoid())

    def forward(self, x):
        """Map (B, T, C) to (B, T, C)."""
        query1, query2 = self.query(x).chunk(2, dim=-1)
        key1, key2 = self.key(x).chunk(2, dim=-1)
        map1 = self._map(query1, key1)  # (B, H, T, T)
        map2 = self._map(query2, key2)
        numbers = torch.stack((*statistics(map1), *statistics(map2)), dim=-1)
        lam = self.mlp(numbers).unsqueeze(-1)  # (B, H, 1, 1)
        out = (map1 - lam * map2) @ heads(self.value(x), self.num_heads)
        return self.output(out.transpose(1, 2).flatten(2))

    def _map(self, query, key):
        query, key = (heads(x, self.num_heads) for x in (query, key))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        return scores.softmax(-1)


class LiteralFusion(nn.Module):
    """Three convolutions a band, chosen by its frequency and blended."""

    def __init__(self, fusion, centres):
        super().__init__()
        groups = [sum(hz >= limit for limit in RANGES_HZ) for hz in centres]
        self.sizes = [fusion.windows[group] for group in groups]
        logits = [row.clone() for row in fusion.logits.detach()]
        self.logits = nn.ParameterList(logits)
        self.convolutions, channels = nn.ModuleDict(), fusion.num_channels
        for size, kernel in fusion.kernels.items():
            convolution = nn.Conv1d(channels, channels, int(size))
            with_weights(convolution, kernel, fusion.biases[size])
            self.convolutions[size] = convolution

    def forward(self, x, k):
        """Map (B, T, C) of band k to (B, T, C)."""
        x, out = x.transpose(1, 2), 0
        blend = self.logits[k].softmax(-1)
        for size, weight in zip(self.sizes[k], blend, strict=True):
            padded = F.pad(x, (size // 2, size - 1 - size // 2))
            out = out + weight * self.convolutions[str(size)](padded)
        return out.transpose(1, 2)


class LiteralGraph(nn.Module):
    """Attention of a band to its neighbours: a mask over all pairs of bands."""

    def __init__(self, graph):
        super().__init__()
        self.num_heads, self.temperature = graph.num_heads, graph.temperature
        self.num_neighbours = graph.num_neighbours
        self.embedding = nn.Parameter(graph.embedding.detach().clone())
        project = graph.project.weight.chunk(3), graph.project.bias.chunk(3)
        self.query, self.key, self.value = map(linear, *project)
        self.output = linear_of(graph.output)

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
        maps = self.query, self.key, self.value
        query, key, value = (heads(one(x), self.num_heads) for one in maps)
        logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        logits = logits + similarity  # (B, T, H, K, K)
        weights = logits.masked_fill(~edges, -math.inf).softmax(-1)
        out = self.output((weights @ value).transpose(2, 3).flatten(3))
        return list(out.unbind(2))


class LiteralMaskDecoder(nn.Module):
    """Per band: norm, MLP, GLU, and the filter of three taps."""

    def __init__(self, decoder):
        super().__init__()
        self.widths = decoder.layout.widths
        self.mlps, self.norms = nn.ModuleList(), nn.ModuleList()
        for k, (n, i) in enumerate(places(decoder.layout)):
            self.norms.append(norm_of(decoder.norm, k))
            first = linear_of(decoder.expand, k)
            last = linear_of(decoder.heads[n], i)
            self.mlps.append(nn.Sequential(first, nn.Tanh(), last, nn.GLU()))

    def forward(self, bands, spec):
        """Filter complex (B, F, T) with the masks of K tensors (B, T, C)."""
        frames, estimates = spec.shape[-1], []
        parts = F.pad(spec, (1, 1)).split(self.widths, dim=1)
        for k, (x, padded) in enumerate(zip(bands, parts, strict=True)):
            mask = self.mlps[k](normalise(self.norms[k], x))
            mask = mask.unflatten(-1, (-1, NUM_TAPS, 2))
            mask = torch.view_as_complex(mask).transpose(1, 2)  # (B, w, T, 3)
            estimate = 0
            for tap in range(NUM_TAPS):
                shifted = padded[..., tap : tap + frames]
                estimate = estimate + mask[..., tap] * shifted
            estimates.append(estimate)
        return torch.cat(estimates, dim=1)


def with_norms(block, norm):
    """A block and, of a ``BandNorm``, the norm of every band after it."""
    norms = [norm_of(norm, k) for k in range(len(norm.weight))]
    return nn.ModuleDict({"block": block, "norms": nn.ModuleList(norms)})


class LiteralProposal(nn.Module):
    """``DBTransform`` as ``db_transform_proposal``, band by band."""

    def __init__(self, model):
        super().__init__()
        (attend, fuse, join), layout = model.blocks, model.layout
        self.level = model.level.back
        bands = range(layout.num_bands)
        attention = [LiteralAttention(attend.block, k) for k in bands]
        fusion = LiteralFusion(fuse.block, layout.centres)
        self.band_split = LiteralBandSplit(model.band_split)
        self.attention = with_norms(nn.ModuleList(attention), attend.norm)
        self.fusion = with_norms(fusion, fuse.norm)
        self.graph = with_norms(LiteralGraph(join.block), join.norm)
        self.mask_decoder = LiteralMaskDecoder(model.mask_decoder)

    def forward(self, spec):
        """Enhance a spectrum, complex (B, F, T) to (B, F, T)."""
        # The level has a twin of its own.
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


def literal_twin(model):
    """Return the literal form, with its weights, of a proposal and no other."""
    try:
        twin = LiteralProposal(model)
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
