"""Tiny models and blocks of every kind, for the tests of what all share."""

from functools import partial
from itertools import product

import pytest
import torch
import yaml

from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.bsrnn import BSRNN
from dbtransform_lobes.models.cmgan import CMGAN
from dbtransform_lobes.models.compose import build
from dbtransform_lobes.models.differential_attention import (
    BAND_WEIGHTS,
    LAMBDAS,
    DifferentialBandAttention,
)
from dbtransform_lobes.models.feed_forward import FeedForward
from dbtransform_lobes.models.harmonic_graph import HarmonicGraphAttention
from dbtransform_lobes.models.multi_scale_fusion import MultiScaleFusion
from tests.composition import composed

WIDTHS = [1, 1, 2, 2, 3, 4, 4]  # 7 bands, some in each frequency range
LAYOUT = BandLayout(WIDTHS, n_fft=32)
BANDS = {"n_fft": 32, "band_widths": WIDTHS}  # 17 bins
SIZES = {"num_channels": 8, "num_layers": 2, "num_heads": 2}
PROPOSAL = yaml.safe_load(
    "{num_layers: 1, band_weights: per_band, lambda_form: statistics, "
    "rope: False, separable: False, decoder_expansion: 4, split_norm: group, "
    "norm: group, norm_order: post}"
)
LEVEL = {"level": 4, "detrend": torch.hann_window, "decoder_activation": "silu"}
# Forms of DB-Transform that may be causal, and those that may not.
LOCAL = {
    "default": {},
    "recipe": {"window": 3, "fusion_activation": True, "feed_forward": 2},
    "vector": {"lambda_form": "vector"},
    "per_band": {"band_weights": "per_band", "feed_forward": 1},
    "plain": {"differential": False, "window": 3},
    "no_rope": {"rope": False},
    "uniform": {"fusion": "uniform"},
    "full": {"separable": False},
    "no_fusion": {"fusion": "none", "feed_forward": 1},
    "fixed": {"graph": "fixed"},
    "dense": {"graph": "dense"},
    "no_graph": {"graph": "none", "feed_forward": 1},
    "bare": {"fusion": "none", "graph": "none", "num_layers": 1},
    "post": {"norm_order": "post"},
    "magnitude": {"magnitude": True},
    "level": LEVEL,
    "window_of_one": {"window": 1, "num_layers": 3},
}
GLOBAL = {
    "group": {"norm": "group", "compression": 1.0},
    "proposal": PROPOSAL,
    "plain_statistics": {"differential": False, "lambda_form": "statistics"},
    "adaptive": {"fusion": "adaptive"},
    "conditioned": {"input_conditioned": True},
}
FORMS = {**LOCAL, **GLOBAL}
CAUSAL = {"window": 6, "causal": True}
bsrnn = partial(BSRNN, **BANDS, num_channels=4, num_layers=2)
cmgan = partial(CMGAN, n_fft=32, num_channels=4, num_blocks=2, num_heads=2)
BASELINES = {
    "sequential": bsrnn,
    "interleaved": partial(bsrnn, order="interleaved"),
    "cmgan": partial(cmgan, kernel_size=5),
}

each_causal_form = pytest.mark.parametrize("form", LOCAL)
each_model = pytest.mark.parametrize("name", [*FORMS, "causal", *BASELINES])


def tiny(form="default", causal=False, **changes):
    """Return a DBTransform of 17 bins and 7 bands."""
    torch.manual_seed(0)
    common = {**BANDS, **SIZES, "num_neighbours": 2}
    common |= CAUSAL if causal else {}
    return composed(**{**common, **FORMS[form], **changes})


def any_model(name):
    """Return a model of 17 bins: of a form, causal, or a baseline."""
    torch.manual_seed(0)
    if name in BASELINES:
        return BASELINES[name]()
    return tiny("vector", causal=True) if name == "causal" else tiny(name)


def each_of(part, **choices):
    """Return a factory for each combination of options, by name."""
    parts = {}
    for chosen in product(*choices.values()):
        each = dict(zip(choices, chosen, strict=True))
        name = " ".join(f"{name}={value}" for name, value in each.items())
        parts[name] = partial(part, **each)
    return parts


attention = partial(DifferentialBandAttention, num_heads=2)
fusion = partial(MultiScaleFusion, activation=True)
graph = partial(HarmonicGraphAttention, num_heads=2, num_neighbours=2)
BOTH = {"differential": (True, False)}
BLOCKS = {
    **each_of(attention, window=[4], lambda_form=LAMBDAS[:2], **BOTH),
    **each_of(
        attention, lambda_form=LAMBDAS, band_weights=BAND_WEIGHTS, **BOTH
    ),
    **each_of(
        fusion, form=["static", "adaptive", "uniform"], separable=(True, False)
    ),
    **each_of(graph, form=["learned", "fixed", "dense"]),
    "conditioned": partial(graph, input_conditioned=True),
    **each_of(FeedForward, per_band=(True, False)),
}


def block(part, **changes):
    """Return a block of 7 bands and 8 channels (K, B, T, C), or one by name."""
    torch.manual_seed(0)
    bands = {"centres": LAYOUT.centres, "edges_hz": LAYOUT.edges_hz}
    part = partial(BLOCKS.get(part, part), **changes)
    return build(part, num_channels=8, num_bands=7, **bands)
