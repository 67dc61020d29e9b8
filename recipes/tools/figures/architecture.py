"""Diagram of a network, drawn from the network itself."""

import itertools
import re
import textwrap
from dataclasses import dataclass

from torch import nn

from dbtransform_lobes.models.bsrnn import BSRNN
from dbtransform_lobes.models.db_transform import DBTransform, Residual
from dbtransform_lobes.models.mask_decoder import NUM_TAPS

# In inches.
LINE, PAD, GAP, WIDTH, LEFT = 0.19, 0.09, 0.27, 5.2, 1.3
MIDDLE = LEFT + WIDTH / 2
LINE_CHARACTERS, NO_BREAK = 75, "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Stage:
    """One box of the diagram; ``output`` is the shape of what it hands on."""

    title: str
    lines: tuple = ()
    parameters: int = 0
    output: str = ""


def stages(model):
    """Return how often each group of boxes is repeated, and the group."""
    if isinstance(model, DBTransform):
        first = dict(zip(model.block_names, model.blocks, strict=False))
        settings = model.settings
        layer = [describe(first[name], settings[name]) for name in first]
        repeated = [(model.num_layers, layer)]
    elif isinstance(model, BSRNN):
        pair = [describe(model.time_layers[0]), describe(model.band_layers[0])]
        in_turn = model.order == "interleaved"
        groups = [pair] if in_turn else [[each] for each in pair]
        repeated = [(len(model.time_layers), group) for group in groups]
    else:
        return [_child(*child) for child in model.named_children()]
    shapes = {
        "band_split": f"({model.layout.num_bands}, B, T, C)",
        "mask_decoder": f"taps (B, T, {model.layout.num_bins}, {NUM_TAPS})",
    }
    settings = getattr(model, "settings", {})
    first, last = (
        (1, [describe(getattr(model, name), settings.get(name), shape)])
        for name, shape in shapes.items()
    )
    return [first, *repeated, last]


def _child(name, module):
    """Return a part of any network; the same ones in a list count as one."""
    parts = list(module) if isinstance(module, nn.ModuleList) else [module]
    alike = len(parts) > 0 and len({str(part) for part in parts}) == 1
    shown = parts[0] if alike else module
    title = name.replace("_", " ").capitalize()
    stage = Stage(title, (type(shown).__name__,), _count(shown))
    return (len(parts) if alike else 1), [stage]


def describe(module, settings=None, output=""):
    """Return the box of a part: its class and what the YAML says of it."""
    inner = module.block if isinstance(module, Residual) else module
    texts = (
        f"{name}: {getattr(x, '__name__', x)}"
        for name, x in (settings or {}).items()
    )
    lines = textwrap.wrap(
        ", ".join(text.replace(" ", NO_BREAK) for text in texts),
        LINE_CHARACTERS,
    )
    if isinstance(module, Residual):
        norm = getattr(module.norm, "kind", type(module.norm).__name__)
        norm += " norm"
        order = {"pre": f"z + f({norm}(z))", "post": f"{norm}(z + f(z))"}
        lines.append(order[module.order])
    title = re.sub("(?<=[a-z])(?=[A-Z])", " ", type(inner).__name__)
    return Stage(title, tuple(lines), _count(module), output)


def _count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def architecture(model, compute_stft):
    """Draw the blocks of a network behind an STFT, their sizes, its bands."""
    from matplotlib.figure import Figure

    groups = [*_front(compute_stft), *stages(model), *_back(model)]
    boxes = sum(_height(stage) + GAP for _, group in groups for stage in group)
    layout = getattr(model, "layout", None)
    strip = 1.25 if layout else 0.1
    width, total = LEFT + WIDTH + 1.9, boxes + 0.5 + strip
    figure = Figure(figsize=(width, total))
    panel = figure.add_axes((0, strip / total, 1, 1 - strip / total))
    panel.set_xlim(0, width)
    panel.set_ylim(total - strip, 0)
    panel.axis("off")
    title = f"{type(model).__name__}: {_count(model):,} parameters"
    _write(panel, MIDDLE, 0.22, title, 12, weight="bold")
    _draw_groups(panel, groups)
    if layout:
        place = (LEFT / width, 0.5 / total, (WIDTH + 1) / width, 0.3 / total)
        _draw_bands(figure.add_axes(place), layout)
    return figure


def _front(stft):
    rate, bins = stft.sample_rate, stft.n_fft // 2 + 1
    window, hop = (1000 * n / rate for n in (stft.win_length, stft.hop_length))
    line = f"{rate / 1000:g} kHz, window {window:g} ms, hop {hop:g} ms, "
    line += f"n_fft {stft.n_fft}"
    return [(1, [Stage("STFT", (line,), 0, f"(B, {bins}, T) complex")])]


def _back(model):
    """Return what is done with the filter; others return a spectrum."""
    stages = [Stage("Inverse STFT", (), 0, "(B, L)")]
    if isinstance(model, DBTransform | BSRNN):
        causal = getattr(model, "causal", False)
        taps = "t-2, t-1, t" if causal else "t-1, t, t+1"
        lines = (f"sum over the noisy frames {taps}",)
        stages.insert(0, Stage("Filter", lines))
    return [(1, stages)]


def _height(stage):
    return 2 * PAD + LINE * (1 + len(stage.lines))


def _write(panel, x, y, text, size, ha="center", **options):
    panel.text(x, y, text, fontsize=size, ha=ha, va="center", **options)


def _box(panel, x, y, width, height, rounding, **look):
    from matplotlib.patches import FancyBboxPatch

    shape = f"round,pad=0,rounding_size={rounding}"
    panel.add_patch(FancyBboxPatch((x, y), width, height, shape, **look))


def _arrow(panel, start, end):
    style = {"arrowstyle": "->", "shrinkA": 0, "shrinkB": 0}
    panel.annotate("", end, start, arrowprops=style)


def _draw_groups(panel, groups):
    """Draw boxes downwards, with a frame around those that are repeated."""
    y, middles = 0.5, {}
    for times, group in groups:
        first = y
        for stage in group:
            height = _height(stage)
            _draw_stage(panel, y, height, stage, times)
            middles[stage.title] = y + height / 2
            y += height + GAP
        if times > 1:
            height = y - GAP - first
            frame = (LEFT - 0.1, first - 0.06, WIDTH + 0.2, height + 0.12)
            look = {"fill": False, "linestyle": "--", "linewidth": 1.2}
            _box(panel, *frame, 0.08, **look)
            text, place = rf"{times} $\times$", first + height / 2
            _write(panel, LEFT - 0.2, place, text, 13, "right", weight="bold")
    if "Filter" in middles:  # the noisy spectrum goes around the network
        top, bottom, x = middles["STFT"], middles["Filter"], 0.35
        panel.plot([LEFT, x, x], [top, top, bottom], color="black", linewidth=1)
        _arrow(panel, (x, bottom), (LEFT, bottom))
        place = x - 0.08, (top + bottom) / 2
        _write(panel, *place, "noisy spectrum", 8.5, "right", rotation=90)


def _draw_stage(panel, y, height, stage, times):
    """Draw a box with its text, its parameters, and the arrow out of it."""
    colour = "0.93" if stage.parameters else "white"
    look = {"facecolor": colour, "edgecolor": "black"}
    _box(panel, LEFT, y, WIDTH, height, 0.05, **look)
    top = y + PAD + LINE / 2
    _write(panel, MIDDLE, top, stage.title, 10, weight="bold")
    for number, line in enumerate(stage.lines, start=1):
        _write(panel, MIDDLE, top + LINE * number, line, 8.5)
    if stage.parameters:
        text = rf"{times} $\times$ " * (times > 1)
        text += f"{stage.parameters:,}\nparameters"
        _write(panel, LEFT + WIDTH + 0.2, y + height / 2, text, 8.5, "left")
    bottom = y + height
    _arrow(panel, (MIDDLE, bottom), (MIDDLE, bottom + GAP))
    place = MIDDLE + 0.12, bottom + GAP / 2
    _write(panel, *place, stage.output, 8, "left", style="italic")


def _draw_bands(panel, layout):
    """Draw the bands on an axis of frequency."""
    edges = [edge / 1000 for edge in layout.edges_hz]
    for band, (low, high) in enumerate(itertools.pairwise(edges)):
        panel.axvspan(low, high, color="0.55" if band % 2 else "0.85")
    runs = ", ".join(
        rf"{run.num_bands} $\times$ " * (run.num_bands > 1) + f"{run.width}"
        for run in layout.runs
    )
    title = f"{layout.num_bands} bands of {runs} bins of {layout.bin_hz:g} Hz"
    panel.set_title(title, fontsize=9)
    panel.set_xlim(0, edges[-1])
    panel.set_yticks([])
    panel.tick_params(labelsize=8)
    panel.set_xlabel("frequency in kHz", fontsize=8.5)
