"""Figure of the fusion weights of every band, against their prior."""

import numpy as np

from dbtransform_lobes.analysis.graph import MissingPart
from dbtransform_lobes.models.multi_scale_fusion import MultiScaleFusion
from dbtransform_lobes.plotting import COLOURS, legend_below, tidy

# Of the short, middle and long window: the last is the darkest in print.
LOOKS = (
    (COLOURS[4], "o", ":"),
    (COLOURS[2], "s", "--"),
    (COLOURS[0], "^", "-"),
)
NAMES = ("short", "middle", "long")


def fusion_weights(model):
    """Draw how much of each window every band takes, and took at first.

    The figure has a panel for each layer; a model without multi-scale fusion
    is a MissingPart.
    """
    from matplotlib.figure import Figure

    fusions = [
        part for part in model.modules() if isinstance(part, MultiScaleFusion)
    ]
    if not fusions:
        raise MissingPart(
            f"this {type(model).__name__} has no multi-scale fusion"
        )
    figure = Figure(
        figsize=(10, 2.3 * len(fusions) + 0.8), layout="constrained"
    )
    panels = figure.subplots(len(fusions), 1, squeeze=False, sharex=True)[:, 0]
    for number, (panel, fusion) in enumerate(
        zip(panels, fusions, strict=True), start=1
    ):
        _draw(panel, fusion)
        panel.set_title(f"Layer {number}", loc="left", fontsize="medium")
        panel.set_ylabel("weight")
    _band_axis(panels[-1], model.layout)
    handles, _ = panels[0].get_legend_handles_labels()
    legend_below(figure, handles, 6)
    return figure


def _draw(panel, fusion):
    weights = fusion.fusion_weights().detach().cpu().numpy()  # (K, 3)
    prior = fusion.prior().numpy()
    bands = np.arange(len(weights))
    for scale, (colour, marker, line) in enumerate(LOOKS):
        name = NAMES[scale]
        panel.stairs(
            prior[:, scale],
            np.arange(len(bands) + 1) - 0.5,
            baseline=None,
            color=colour,
            linestyle=line,
            linewidth=1.2,
            alpha=0.7,
            label=f"prior, {name}",
        )
        panel.plot(
            bands,
            weights[:, scale],
            marker=marker,
            linestyle="none",
            color=colour,
            markeredgecolor="black",
            markeredgewidth=0.5,
            label=f"{name} window",
        )
    tidy(panel)
    top = 1.12 * max(weights.max(), prior.max())
    panel.set_ylim(0, 1.25 * top)
    for group, windows in zip(fusion.groups, fusion.windows, strict=True):
        if group.start == group.stop:
            continue
        if group.start:
            panel.axvline(group.start - 0.5, color="0.3", linewidth=0.8)
        panel.text(
            (group.start + group.stop - 1) / 2,
            top,
            "/".join(map(str, windows)) + "\nframes",
            ha="center",
            va="bottom",
            fontsize="small",
        )


def _band_axis(panel, layout):
    shown = range(0, layout.num_bands, max(layout.num_bands // 10, 1))
    labels = [f"{band}\n{layout.centres[band]:.0f}" for band in shown]
    panel.set_xticks(list(shown), labels)
    panel.set_xlim(-0.6, layout.num_bands - 0.4)
    panel.set_xlabel("band, and its centre frequency in Hz")
