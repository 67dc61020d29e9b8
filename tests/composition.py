"""Tiny DB-Transforms from a flat list of options, composed as in YAML."""

import json
import re
from collections import defaultdict

from hyperpyyaml import load_hyperpyyaml

LOBES = "dbtransform_lobes.models."
WINDOW = "!name:torch.hann_window"
NAMES = {
    "attention": "differential_attention.DifferentialBandAttention",
    "fusion": "multi_scale_fusion.MultiScaleFusion",
    "feed_forward": "feed_forward.FeedForward",
    "graph": "harmonic_graph.HarmonicGraphAttention",
    "graph_feed_forward": "feed_forward.FeedForward",
}
# The options of these tests that go to a part; option:argument if it has
# another name there.
OPTIONS = {
    "attention": "num_heads lambda_form rope window differential",
    "fusion": "fusion:form fusion_windows:windows separable "
    "fusion_activation:activation",
    "graph": "num_heads graph:form num_neighbours input_conditioned",
    "feed_forward": "feed_forward:expansion",
    "graph_feed_forward": "feed_forward:expansion",
    "norm": "norm:kind",
    "band_split": "compression split_norm:norm magnitude",
    "mask_decoder": "decoder_expansion:expansion decoder_activation:activation",
    "layout": "band_widths:widths n_fft sample_rate",
}
PLACES = defaultdict(list)  # option to parts and arguments
for part, options in OPTIONS.items():
    for each in options.split():
        option, _, argument = each.partition(":")
        PLACES[option].append((part, argument or option))
ARCHITECTURE = "num_channels num_layers num_heads causal hop_length window_fn"
LEFT_OUT = {  # by "none" or 0
    "fusion": ("fusion",),
    "graph": ("graph", "graph_feed_forward"),
    "feed_forward": ("feed_forward", "graph_feed_forward"),
}
DEFAULTS = {"num_channels": 128, "num_heads": 4, "feed_forward": 0}


def model_yaml(**options):
    """Return the lines ``model: !new:...`` of these options."""
    parts, own, left_out = defaultdict(dict), {}, set()
    for option, value in {**DEFAULTS, **options}.items():
        if option == "band_weights":
            parts["attention"]["band_weights"] = value
            for name in ("feed_forward", "graph_feed_forward", "norm"):
                parts[name]["per_band"] = value == "per_band"
        elif value in (0, "none") and option in LEFT_OUT:
            left_out.update(LEFT_OUT[option])
        elif option in PLACES:
            for part, argument in PLACES[option]:
                parts[part][argument] = value
        else:
            own[option] = WINDOW if callable(value) else value

    def factory(name, path, tag="!name:"):
        return f"{name}: {tag}{LOBES}{path} {flow(parts[name])}"

    lines = [factory("layout", "bands.BandLayout", "!new:"), "blocks:"]
    lines += [
        f"    {factory(name, path)}"
        for name, path in NAMES.items()
        if name not in left_out
    ]
    lines.append(factory("norm", "band_linear.BandNorm"))
    lines.append(factory("band_split", "band_split.BandSplit"))
    lines.append(factory("mask_decoder", "mask_decoder.MaskDecoder"))
    lines += [f"{name}: {flow(value)}" for name, value in own.items()]
    head = f"model: !new:{LOBES}db_transform.DBTransform\n    "
    return head + "\n    ".join(lines) + "\n"


def front_end_yaml(n_fft=64, win_length=4, hop_length=2):
    """Return the lines of the rate and both transforms; lengths in ms."""
    lines = ["sample_rate: 16000"]
    for name in ("stft", "istft"):
        options = {"sample_rate": 16000, "n_fft": n_fft, "window_fn": WINDOW}
        options |= {"win_length": win_length, "hop_length": hop_length}
        tag = f"!new:speechbrain.processing.features.{name.upper()}"
        lines.append(f"compute_{name}: {tag} {flow(options)}")
    return "\n".join(lines) + "\n"


def recipe_overrides(**options):
    """Return overrides of a recipe; options of the model below architecture."""
    own, architecture = {}, {}
    for option, value in options.items():
        if option in ARCHITECTURE.split():
            architecture[option] = value
        elif value in (0, "none") and option in LEFT_OUT:
            blocks = architecture.setdefault("blocks", {})
            blocks.update(dict.fromkeys(LEFT_OUT[option]))
        elif option in PLACES:
            part, argument = PLACES[option][0]
            blocks = architecture.setdefault("blocks", {})
            blocks.setdefault(part, {})[argument] = value
        else:
            own[option] = value
    return {**own, **({"architecture": architecture} if architecture else {})}


def composed(**options):
    """Return a DBTransform of these options."""
    return load_hyperpyyaml(model_yaml(**options))["model"]


def flow(tree):
    """Return a nested mapping as YAML on one line."""
    return re.sub(r'"(![^"]+)"', r"\1 ", json.dumps(tree))
