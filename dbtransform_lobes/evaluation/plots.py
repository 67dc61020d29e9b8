"""Plots of a comparison of systems."""

from pathlib import Path

import numpy as np

from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.evaluation.tables import group_labels
from dbtransform_lobes.plotting import (
    PANEL_COLUMNS,
    legend_below,
    panel_grid,
    save_figure,
    style,
)

MAX_NOISES = 10
SLANT = {"rotation": 45, "ha": "right"}  # of long labels
BAR = {"capsize": 2, "elinewidth": 1, "markersize": 4.5, "linewidth": 1.2}


def plot_comparison(report, folder, suffix):
    """Write the plots of which a report of ``compare_systems`` has anything."""
    if not report["num_compared"]:
        return
    draw = {"differences": _differences, "by_snr": _by_snr}
    draw["by_noise"] = _by_noise
    for name, function in draw.items():
        if report[name]:
            save_figure(function(report), Path(folder) / f"{name}.{suffix}")


def _panels(report, row_height, what, remark=""):
    """Return a figure and its axes by metric."""
    metrics = list(report["means"][report["reference"]])
    figure, panels = panel_grid(len(metrics), row_height)
    for metric, panel in zip(metrics, panels, strict=True):
        panel.set_title(LABELS.get(metric, metric), fontsize="medium")
    figure.suptitle(
        f"{what}, with 95 % confidence interval "
        f"({report['num_compared']} files{remark})",
        fontsize="medium",
    )
    return figure, dict(zip(metrics, panels, strict=True))


def _errors(estimates):
    """Return means (n,), and distances to the limits of intervals (2, n)."""
    means, *limits = np.array(
        [[each[key] for key in ("mean", "low", "high")] for each in estimates],
        dtype=float,
    ).T
    return means, np.nan_to_num(np.abs(limits - means))


def _differences(report):
    others = list(report["differences"])
    places = list(report["means"])
    figure, axes = _panels(
        report,
        0.65 + 0.25 * len(others),
        f"Mean difference to {report['reference']}",
    )
    for number, (metric, panel) in enumerate(axes.items()):
        panel.axvline(0, color="0.4", linewidth=0.8)
        for place, system in enumerate(others):
            means, limits = _errors([report["differences"][system][metric]])
            look = {**style(places.index(system)), **BAR}
            panel.errorbar(means, [place], xerr=limits, **look)
        names = others if number % PANEL_COLUMNS == 0 else [""] * len(others)
        panel.set_yticks(range(len(others)), names)
        panel.set_ylim(len(others) - 0.5, -0.5)
        panel.locator_params(axis="x", nbins=4)
    return figure


def _by_snr(report):
    groups = report["by_snr"]
    places = [group["snr_db"] for group in groups]
    labels = [text[:-3] for text in group_labels(report, "by_snr")]
    slant = SLANT if report["snr_ranges"] else {}
    figure, axes = _panels(report, 2.0, "Mean over the files")
    _draw(figure, axes, groups, places, 0.05, linestyle="-")
    for panel in axes.values():
        panel.set_xticks(places, labels, **slant)
    for panel in list(axes.values())[-PANEL_COLUMNS:]:
        panel.set_xlabel("SNR (dB)")
    return figure


def _by_noise(report):
    """Draw a place for each noise, of the noises with the most files."""
    groups = report["by_noise"]
    order = sorted(groups, key=lambda group: -group["num_compared"])
    kept = order[:MAX_NOISES]
    groups = [group for group in groups if group in kept]
    share = ""
    if len(kept) < len(order):
        share = f"; {len(kept)} of {len(order)} noises, those of most files"
    figure, axes = _panels(report, 2.1, "Mean over the files", share)
    _draw(figure, axes, groups, range(len(groups)), 0.12, linestyle="none")
    names = [group["noise"] for group in groups]
    slant = SLANT if len(names) > 3 else {}
    bottom = list(axes.values())[-PANEL_COLUMNS:]
    for panel in axes.values():
        panel.set_xlim(-0.6, len(names) - 0.4)
        shown = names if panel in bottom else [""] * len(names)
        panel.set_xticks(range(len(names)), shown, **slant)
    return figure


def _draw(figure, axes, groups, places, step, **line):
    """Draw means with intervals, systems a little beside each other."""
    systems, places = list(groups[0]["means"]), np.asarray(places)
    step = min(step, 0.8 / len(systems)) * min(np.diff(places), default=1.0)
    for metric, panel in axes.items():
        for number, system in enumerate(systems):
            shift = step * (number - (len(systems) - 1) / 2)
            means, limits = _errors(
                [group["means"][system][metric] for group in groups]
            )
            look = {**style(number), **line, **BAR, "label": system}
            panel.errorbar(places + shift, means, yerr=limits, **look)
    handles, _ = panel.get_legend_handles_labels()
    legend_below(figure, handles, PANEL_COLUMNS)
