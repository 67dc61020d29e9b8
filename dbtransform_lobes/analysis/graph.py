"""Figure of the graph between the bands, learned and fixed."""

from itertools import combinations

import numpy as np

from dbtransform_lobes.models.harmonic_graph import HarmonicGraphAttention
from dbtransform_lobes.plotting import COLOURS, legend_below, new_figure, tidy

# (p, q) of p:q, with the look of their edges: colour, line, marker.
RATIOS = {
    (3, 2): (COLOURS[6], "-", "D"),
    (2, 1): (COLOURS[0], "-", "o"),
    (3, 1): (COLOURS[1], "--", "s"),
    (4, 1): (COLOURS[2], ":", "^"),
    (5, 1): (COLOURS[3], "-.", "v"),
}
OTHER = ("0.75", "-", ".")
TOLERANCE = 0.2  # that of harmonic_pairs
HIGHEST_RATIO = 8  # that is drawn


class MissingPart(ValueError):
    """The model has no such part, so there is nothing to draw."""


def parts_of(model, kind, name):
    """Return the modules of a class in a model; MissingPart if it has none."""
    parts = [part for part in model.modules() if isinstance(part, kind)]
    if not parts:
        raise MissingPart(f"this {type(model).__name__} has no {name}")
    return parts


def _near_ratio(low, high):
    """Return (p, q) of ``RATIOS`` with `|q high / low - p| < 0.2`, or None."""
    for p, q in RATIOS:
        if abs(q * high / low - p) < TOLERANCE:
            return p, q
    return None


def band_graph(model):
    """Draw which bands a DB-Transform joins, beside the fixed graph.

    For each layer and the fixed graph: left the bands on an axis of frequency
    and the edges as arcs; right every edge at the frequency of its lower band
    and the ratio of its bands. MissingPart of a model without a learned graph.
    """
    from matplotlib.lines import Line2D

    graphs = parts_of(model, HarmonicGraphAttention, "graph between its bands")
    if graphs[0].form != "learned":
        raise MissingPart(
            f"the graph of this model is {graphs[0].form!r}: its edges are "
            "not learned"
        )
    rows = [
        (f"Layer {number}: learned graph", edges)
        for number, edges in enumerate(model.analyse()["adjacency"], start=1)
    ]
    rows.append(("Fixed graph of harmonics", graphs[0].fixed_edges))
    size = 12, 2.5 * len(rows) + 0.5
    look = {"width_ratios": (1.5, 1), "sharex": "col"}
    figure, panels = new_figure(size, len(rows), 2, **look)
    for (arcs, ratios), (title, adjacency) in zip(panels, rows, strict=True):
        edges = adjacency.triu(1).nonzero().cpu().numpy()
        _draw_arcs(arcs, model.layout, edges)
        _draw_ratios(ratios, model.layout, edges)
        arcs.set_title(title, loc="left", fontsize="medium")
    panels[-1, 0].set_xlabel("frequency in Hz (logarithmic)")
    panels[-1, 1].set_xlabel("frequency of the lower band in Hz (logarithmic)")
    handles = []
    for (p, q), (colour, line, marker) in RATIOS.items():
        look = {"color": colour, "linestyle": line, "marker": marker}
        look |= {"markersize": 5, "label": f"near {p}:{q}"}
        handles.append(Line2D([], [], **look))
    handles.append(Line2D([], [], color="0.6", marker=".", label="other edges"))
    legend_below(figure, handles, len(handles), handlelength=3.5)
    return figure


def _place(layout, hertz):
    """Return where a frequency stands: low bands are many and narrow."""
    return np.log2(np.asarray(hertz) + layout.bin_hz)


def _look(layout, edge):
    """Return colour, line, marker of an edge, and if it is near a ratio."""
    ratio = _near_ratio(*(layout.centres[band] for band in edge))
    return *RATIOS.get(ratio, OTHER), ratio is not None


def _draw_arcs(panel, layout, edges):
    """Draw bands as bars, edges as arcs over them."""
    from matplotlib.patches import Arc

    bounds = _place(layout, layout.edges_hz)
    centres = (bounds[:-1] + bounds[1:]) / 2
    for band, span in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        panel.axvspan(*span, 0, 0.05, color="0.35" if band % 2 else "0.7")
    widest = 1.0
    for i, j in edges:
        colour, line, _, near = _look(layout, (i, j))
        width = centres[j] - centres[i]
        widest = max(widest, width)
        look = {"color": colour, "linestyle": line}
        look |= {"linewidth": 1.4 if near else 0.7, "zorder": 2 + near}
        middle = (centres[i] + centres[j]) / 2, 0
        panel.add_patch(Arc(middle, width, 2 * width, theta2=180, **look))
    panel.set_ylim(-0.08 * widest, 1.08 * widest)
    tidy(panel)
    panel.grid(False)
    panel.spines["left"].set_visible(False)
    panel.set_yticks([])
    _frequency_axis(panel, layout)


def _draw_ratios(panel, layout, edges):
    """Draw edges at their lower bands and the ratios of frequencies."""
    centres = np.asarray(layout.centres)
    places, (lower, higher) = _place(layout, centres), edges.T
    ratios = centres[higher] / centres[lower]
    for edge, ratio in zip(edges, ratios, strict=True):
        colour, _, marker, near = _look(layout, edge)
        look = {"color": colour if near else "0.6"}
        look["markersize"] = 4.5 if near else 3
        panel.plot(places[edge[0]], ratio, marker, **look)
    tidy(panel)
    panel.set_yscale("log", base=2)
    panel.set_ylim(1, HIGHEST_RATIO)
    ticks = {p / q: f"{p}:{q}" for p, q in RATIOS}
    panel.set_yticks([*ticks], [*ticks.values()])
    panel.minorticks_off()
    panel.grid(axis="y", color="0.6", linewidth=0.8)
    panel.set_ylabel("ratio")
    if beyond := sum(ratios > HIGHEST_RATIO):
        look = {"ha": "right", "va": "top", "fontsize": "small"}
        text = f"{beyond} above {HIGHEST_RATIO}:1 not shown"
        panel.text(0.98, 0.95, text, transform=panel.transAxes, **look)
    pairs = [*combinations(range(len(centres)), 2)]
    panel.set_title(
        f"near a ratio: {_share_near(layout, edges)} of {len(edges)} edges, "
        f"{_share_near(layout, pairs)} of all {len(pairs)} pairs",
        loc="left",
        fontsize="medium",
    )
    _frequency_axis(panel, layout)


def _share_near(layout, edges):
    near = sum(_look(layout, edge)[-1] for edge in edges)
    return f"{100 * near / len(edges):.0f} %"


def _frequency_axis(panel, layout):
    ticks = np.array([0, 125, 250, 500, 1000, 2000, 4000, 8000, 16000])
    ticks = ticks[ticks <= layout.edges_hz[-1]]
    panel.set_xticks(_place(layout, ticks), ticks)
    bounds = _place(layout, layout.edges_hz)
    panel.set_xlim(bounds[0], bounds[-1])
    panel.tick_params(labelbottom=True)
