"""Figure of the fusion weights of every band, against their prior."""

import numpy as np

from dbtransform_lobes.analysis.graph import parts_of
from dbtransform_lobes.models.multi_scale_fusion import MultiScaleFusion
from dbtransform_lobes.plotting import COLOURS, legend_below, new_figure, tidy

# Of the short, middle and long window: the last is the darkest in print.
LOOKS = (
    ("short", COLOURS[4], "o", ":"),
    ("middle", COLOURS[2], "s", "--"),
    ("long", COLOURS[0], "^", "-"),
)


def fusion_weights(model):
    """Draw how much of each window every band takes, and took at first."""
    fusions = parts_of(model, MultiScaleFusion, "multi-scale fusion")
    size = (10, 2.3 * len(fusions) + 0.8)
    figure, panels = new_figure(size, len(fusions), sharex=True)
    for number, panel in enumerate(panels[:, 0], start=1):
        _draw(panel, fusions[number - 1])
        panel.set_title(f"Layer {number}", loc="left", fontsize="medium")
        panel.set_ylabel("weight")
    band_axis(panels[-1, 0], model.layout)
    legend_below(figure, panels[0, 0].get_legend_handles_labels()[0], 6)
    return figure


def band_axis(panel, layout):
    """Name some ten bands and their centre frequencies below a panel."""
    shown = range(0, layout.num_bands, max(layout.num_bands // 10, 1))
    labels = [f"{band}\n{layout.centres[band]:.0f}" for band in shown]
    panel.set_xticks(list(shown), labels)
    panel.set_xlim(-0.6, layout.num_bands - 0.4)
    panel.set_xlabel("band, and its centre frequency in Hz")


def _draw(panel, fusion):
    weights = fusion.fusion_weights().detach().cpu().numpy()  # (K, 3)
    prior = fusion.prior().numpy()
    edges = np.arange(len(weights) + 1) - 0.5
    for scale, (name, colour, marker, line) in enumerate(LOOKS):
        look = {"color": colour, "linestyle": line, "linewidth": 1.2}
        look |= {"alpha": 0.7, "label": f"prior, {name}"}
        panel.stairs(prior[:, scale], edges, baseline=None, **look)
        look = {"color": colour, "marker": marker, "linestyle": "none"}
        look |= {"markeredgecolor": "black", "label": f"{name} window"}
        panel.plot(weights[:, scale], markeredgewidth=0.5, **look)
    tidy(panel)
    top = 1.12 * max(weights.max(), prior.max())
    panel.set_ylim(0, 1.25 * top)
    for group, windows in zip(fusion.groups, fusion.windows, strict=True):
        if group.start < group.stop:
            panel.axvline(group.start - 0.5, color="0.3", linewidth=0.8)
            place = (group.start + group.stop - 1) / 2, top
            text = "/".join(map(str, windows)) + "\nframes"
            look = {"ha": "center", "va": "bottom", "fontsize": "small"}
            panel.text(*place, text, **look)
