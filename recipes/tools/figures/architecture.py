"""Diagram of a DB-Transform, drawn from the model itself."""

import itertools
import re
import textwrap
from dataclasses import dataclass

from dbtransform_lobes.analysis.graph import parts_of
from dbtransform_lobes.models.db_transform import DBTransform, Residual
from dbtransform_lobes.models.mask_decoder import NUM_TAPS
from dbtransform_lobes.plotting import new_figure

WIDTH, LEFT, RIGHT = 5.2, 1.3, 1.9  # of boxes and beside them, in inches
MIDDLE, HEIGHT = LEFT + WIDTH / 2, 0.95
LINE_CHARACTERS, NO_BREAK = 75, "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Stage:
    """One box of the diagram; ``output`` is the shape of what it hands on."""

    title: str
    lines: tuple = ()
    parameters: int = 0
    output: str = ""


def stages(model):
    """Return how often each group of boxes is repeated, and the group.

    MissingPart of a model that is not made of blocks.
    """
    parts_of(model, DBTransform, "blocks that its YAML names")
    blocks = dict(zip(model.block_names, model.blocks, strict=False))
    settings, layout = model.settings, model.layout
    split = f"({layout.num_bands}, B, T, C)"
    split = describe(model.band_split, settings.get("band_split"), split)
    taps = f"taps (B, T, {layout.num_bins}, {NUM_TAPS})"
    taps = describe(model.mask_decoder, settings.get("mask_decoder"), taps)
    layer = [describe(blocks[name], settings[name]) for name in blocks]
    return [(1, [split]), (model.num_layers, layer), (1, [taps])]


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
    """Draw the blocks of a model behind an STFT, their sizes, its bands."""
    groups = [_front(compute_stft), *stages(model), _back(model)]
    count = sum(len(group) for _, group in groups)
    width, ratios = LEFT + WIDTH + RIGHT, [count + 0.5, 0.4]
    size = width, HEIGHT * sum(ratios) + 1.2
    figure, panels = new_figure(size, 2, height_ratios=ratios)
    panel = panels[0, 0]
    panel.axis("off")
    panel.set(xlim=(0, width), ylim=(count - 0.3, -1))
    title = f"{type(model).__name__}: {_count(model):,} parameters"
    _write(panel, MIDDLE, -0.75, title, 12, weight="bold")
    first = 0
    for times, group in groups:
        for y, stage in enumerate(group, start=first):
            _draw_stage(panel, y, stage, times)
        if times > 1:
            _draw_frame(panel, first, len(group), times)
        first += len(group)
    # The noisy spectrum goes around the network, to the filter.
    x, bottom = LEFT / 3, count - 2
    panel.plot([LEFT, x, x], [0, 0, bottom], color="black", linewidth=1)
    _arrow(panel, (x, bottom), (LEFT, bottom))
    _write(panel, x - 0.14, bottom / 2, "noisy spectrum", rotation=90)
    _draw_bands(panels[1, 0], model.layout)
    return figure


def _front(stft):
    rate, bins = stft.sample_rate, stft.n_fft // 2 + 1
    window, hop = (1000 * n / rate for n in (stft.win_length, stft.hop_length))
    line = f"{rate / 1000:g} kHz, window {window:g} ms, hop {hop:g} ms, "
    line += f"n_fft {stft.n_fft}"
    return 1, [Stage("STFT", (line,), 0, f"(B, {bins}, T) complex")]


def _back(model):
    """Return what is done with the filter."""
    taps = "t-2, t-1, t" if model.causal else "t-1, t, t+1"
    filtering = Stage("Filter", (f"sum over the noisy frames {taps}",))
    return 1, [filtering, Stage("Inverse STFT", (), 0, "(B, L)")]


def _write(panel, x, y, text, size=8.5, ha="center", **options):
    panel.text(x, y, text, fontsize=size, ha=ha, va="center", **options)


def _arrow(panel, start, end):
    style = {"arrowstyle": "->", "shrinkA": 0, "shrinkB": 0}
    panel.annotate("", end, start, arrowprops=style)


def _draw_stage(panel, y, stage, times):
    """Draw a box with its text, its parameters, and the arrow out of it."""
    look = {"color": "0.93" if stage.parameters else "white"}
    panel.barh(y, WIDTH, 0.76, LEFT, edgecolor="black", **look)
    half = 0.08 * len(stage.lines)
    _write(panel, MIDDLE, y - half, stage.title, 10, weight="bold")
    _write(panel, MIDDLE, y + 0.1, "\n".join(stage.lines))
    if stage.parameters:
        text = rf"{times} $\times$ " * (times > 1)
        text += f"{stage.parameters:,}\nparameters"
        _write(panel, LEFT + WIDTH + 0.2, y, text, ha="left")
    _arrow(panel, (MIDDLE, y + 0.38), (MIDDLE, y + 0.62))
    place = MIDDLE + 0.12, y + 0.5
    _write(panel, *place, stage.output, 8, "left", style="italic")


def _draw_frame(panel, first, count, times):
    """Draw a frame around the boxes that are repeated."""
    middle = first + (count - 1) / 2
    look = {"fill": False, "linestyle": "--", "linewidth": 1.2}
    panel.barh(middle, WIDTH + 0.2, count - 0.14, LEFT - 0.1, **look)
    place = LEFT - 0.2, middle
    _write(panel, *place, rf"{times} $\times$", 13, "right", weight="bold")


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
    labels = {"yticks": [], "xlabel": "frequency in kHz"}
    panel.set(xlim=(0, edges[-1]), **labels)
