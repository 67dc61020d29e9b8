"""The figure of an ablation: differences to the reference, by row."""

from pathlib import Path

from ablation.report import METRICS
from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.plotting import COLOURS, panel_grid, save_figure

BAR = {"color": "0.8", "edgecolor": "0.4", "height": 0.6, "zorder": 1}


def plot_ablation(report, folder, suffixes=("png", "pdf")):
    """Draw a bar for the difference of each row, with both intervals.

    Thick lines are 95 % intervals over files, thin ones over seeds, circles
    the seeds.

    Arguments
    ---------
    report : dict
        As ``ablation_report`` returns it, or read from its JSON.
    folder : str or Path
        Where to write ``ablation.png`` and so on; older ones are replaced.
    suffixes : sequence of str
        Of "png" and "pdf".
    """
    rows = {
        name: row["scores"]
        for name, row in report["rows"].items()
        if row["scores"]["pesq"]["difference"] is not None
    }
    if not rows:
        return
    figure, panels = panel_grid(len(METRICS), 0.8 + 0.24 * len(rows))
    for number, (metric, panel) in enumerate(zip(METRICS, panels, strict=True)):
        panel.set_title(LABELS[metric], fontsize="medium")
        panel.axvline(0, color="0.3", linewidth=0.8)
        for place, scores in enumerate(rows.values()):
            _draw(panel, place, scores[metric]["difference"])
        names = list(rows) if number == 0 else [""] * len(rows)
        panel.set_yticks(range(len(rows)), names)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.locator_params(axis="x", nbins=4)
    figure.suptitle(
        f"Difference to {report['reference']}: thick lines 95 % interval over "
        f"{report['num_files']} files, thin lines over seeds, circles seeds",
        fontsize="small",
    )
    for suffix in suffixes:
        save_figure(figure, Path(folder) / f"ablation.{suffix}")


def _draw(panel, place, difference):
    files, seeds = difference["over_files"], difference["over_seeds"]
    panel.barh(place, files["mean"], **BAR)
    for estimate, width in ((seeds, 0.8), (files, 2.6)):
        if estimate["low"] is not None:
            limits = [estimate["low"], estimate["high"]]
            panel.plot(limits, [place, place], COLOURS[0], linewidth=width)
    panel.plot(
        difference["by_seed"],
        [place] * len(difference["by_seed"]),
        linestyle="none",
        marker="o",
        markersize=3.2,
        markerfacecolor="white",
        markeredgecolor=COLOURS[1],
        zorder=3,
    )
