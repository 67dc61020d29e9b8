"""Plots of a comparison of systems."""

import itertools
from pathlib import Path

from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.evaluation.tables import snr_label
from dbtransform_lobes.plotting import (
    PANEL_COLUMNS,
    check_plot,
    panel_grid,
    save_figure,
    style,
)

MAX_NOISES = 10
BAR = {"capsize": 2, "elinewidth": 1, "markersize": 4.5, "linewidth": 1.2}


def plot_comparison(report, folder, suffix):
    """Plot the differences, and the means by SNR and by noise.

    Arguments
    ---------
    report : dict
        As ``compare_systems`` returns it, or read from its JSON.
    folder : str | pathlib.Path
        Where to write ``differences``, ``by_snr`` and ``by_noise``, those
        of which there is anything to draw; older ones are replaced.
    suffix : str
        "png" or "pdf".

    Raises
    ------
    ValueError
        If the suffix is unknown or matplotlib is not installed.
    """
    check_plot(f"plot.{suffix}")
    if not report["num_compared"]:
        return
    figures = {}
    if report["differences"]:
        figures["differences"] = _differences(report)
    if report["by_snr"]:
        figures["by_snr"] = _by_snr(report)
    if report["by_noise"]:
        figures["by_noise"] = _by_noise(report)
    for name, figure in figures.items():
        save_figure(figure, Path(folder) / f"{name}.{suffix}")


def _panels(report, row_height):
    """Return a figure and its axes by metric."""
    metrics = list(report["means"][report["reference"]])
    figure, panels = panel_grid(len(metrics), row_height)
    axes = dict(zip(metrics, panels, strict=True))
    for metric, panel in axes.items():
        panel.set_title(LABELS.get(metric, metric), fontsize="medium")
    return figure, axes


def _systems(report):
    """Systems with a style each, which is the same in all plots."""
    return {
        system: style(number) for number, system in enumerate(report["means"])
    }


def _errors(estimates):
    """Means, and distances to the limits of their intervals (2, n)."""
    means = [estimate["mean"] for estimate in estimates]
    limits = [
        [
            0.0 if estimate[key] is None else abs(estimate[key] - mean)
            for estimate, mean in zip(estimates, means, strict=True)
        ]
        for key in ("low", "high")
    ]
    return means, limits


def _differences(report):
    """One row a system: difference to the reference and its interval."""
    systems = _systems(report)
    others = list(report["differences"])
    figure, axes = _panels(report, 0.65 + 0.25 * len(others))
    for number, (metric, panel) in enumerate(axes.items()):
        panel.axvline(0, color="0.4", linewidth=0.8)
        for place, system in enumerate(others):
            estimate = report["differences"][system][metric]
            means, limits = _errors([estimate])
            panel.errorbar(
                means, [place], xerr=limits, **systems[system], **BAR
            )
        names = others if number % PANEL_COLUMNS == 0 else [""] * len(others)
        panel.set_yticks(range(len(others)), names)
        panel.set_ylim(len(others) - 0.5, -0.5)
        panel.locator_params(axis="x", nbins=4)
    _note(figure, report, f"Mean difference to {report['reference']}")
    return figure


def _by_snr(report):
    """One curve a system over the SNR."""
    groups = report["by_snr"]
    places = [group["snr_db"] for group in groups]
    labels = [snr_label(snr, report["snr_ranges"]) for snr in places]
    slant = {"rotation": 45, "ha": "right"} if report["snr_ranges"] else {}
    figure, axes = _panels(report, 2.0)
    _draw(axes, groups, places, 0.05, _systems(report), linestyle="-")
    for panel in axes.values():
        panel.set_xticks(places, labels, **slant)
    for panel in list(axes.values())[-PANEL_COLUMNS:]:
        panel.set_xlabel("SNR (dB)")
    _legend(figure, axes, report)
    return figure


def _by_noise(report):
    """One place a noise, of the noises with the most files."""
    groups = report["by_noise"]
    order = sorted(groups, key=lambda group: -group["num_compared"])
    kept = order[:MAX_NOISES]
    groups = [group for group in groups if group in kept]
    figure, axes = _panels(report, 2.1)
    places = range(len(groups))
    _draw(axes, groups, places, 0.12, _systems(report), linestyle="none")
    names = [group["noise"] for group in groups]
    slant = {"rotation": 45, "ha": "right"} if len(names) > 3 else {}
    bottom = list(axes.values())[-PANEL_COLUMNS:]
    for panel in axes.values():
        panel.set_xlim(-0.6, len(names) - 0.4)
        shown = names if panel in bottom else [""] * len(names)
        panel.set_xticks(range(len(names)), shown, **slant)
    share = ""
    if len(kept) < len(order):
        share = f"; {len(kept)} of {len(order)} noises, those of most files"
    _legend(figure, axes, report, share)
    return figure


def _draw(axes, groups, places, step, systems, **line):
    """Means with intervals, systems a little beside each other."""
    gaps = [after - place for place, after in itertools.pairwise(places)]
    step = min(step, 0.8 / len(systems)) * min(gaps, default=1.0)
    for metric, panel in axes.items():
        for number, (system, look) in enumerate(systems.items()):
            shift = step * (number - (len(systems) - 1) / 2)
            means, limits = _errors(
                [group["means"][system][metric] for group in groups]
            )
            panel.errorbar(
                [place + shift for place in places],
                means,
                yerr=limits,
                label=system,
                **look,
                **line,
                **BAR,
            )


def _legend(figure, axes, report, remark=""):
    handles, labels = next(iter(axes.values())).get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(PANEL_COLUMNS, len(labels)),
        frameon=False,
    )
    _note(figure, report, "Mean over the files", remark)


def _note(figure, report, what, remark=""):
    figure.suptitle(
        f"{what}, with 95 % confidence interval "
        f"({report['num_compared']} files{remark})",
        fontsize="medium",
    )
