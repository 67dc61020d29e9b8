"""Training curves: loss terms and validation metrics against epochs."""

import math

from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.plotting import (
    PANEL_COLUMNS,
    check_plot,
    panel_grid,
    save_figure,
    style,
)
from runs.runs import group_runs, read_train_log

STAGES = {"train": "--", "valid": "-"}


def plot_curves(runs, path):
    """Plot what runs have logged, one panel for each term and metric.

    Runs that differ only by their seed (see ``group_runs``) are one curve,
    their mean, in a band from the lowest to the highest of them, over the
    epochs that all of them have.

    Arguments
    ---------
    runs : sequence of pathlib.Path
        Folders of runs with a ``train_log.txt``.
    path : str | pathlib.Path
        PNG or PDF by its suffix; an older file is replaced.

    Raises
    ------
    ValueError
        If the suffix is unknown, matplotlib is not installed, or a run has
        no epoch logged, or none in common with another seed.
    """
    check_plot(path)
    groups = {
        label: _common_epochs(label, [read_train_log(run) for run in members])
        for label, members in group_runs(runs).items()
    }
    names = _panel_names(groups)
    figure, panels = panel_grid(len(names))
    for panel, name in zip(panels, names, strict=True):
        _draw(panel, groups, name)
    for panel in panels[-PANEL_COLUMNS:]:
        panel.set_xlabel("epoch")
    _legend(figure, groups)
    save_figure(figure, path)


def _common_epochs(label, logs):
    """Keep the epochs that all seeds have."""
    epochs = set.intersection(*(set(log) for log in logs))
    if not epochs:
        raise ValueError(
            f"the seeds of {label} have no epoch in common; plot them one by "
            "one or leave one out"
        )
    return [{epoch: log[epoch] for epoch in sorted(epochs)} for log in logs]


def _panel_names(groups):
    """What is logged of a stage: losses first; without what is always 0."""
    names = {}
    for logs in groups.values():
        for log in logs:
            for numbers in log.values():
                for key, value in numbers.items():
                    stage, _, name = key.partition(" ")
                    if stage in STAGES and name:
                        names[name] = names.get(name, False) or value != 0
    shown = [name for name, is_shown in names.items() if is_shown]
    return sorted(shown, key=lambda name: not name.startswith("loss"))


def _draw(panel, groups, name):
    from matplotlib.ticker import MaxNLocator

    for number, logs in enumerate(groups.values()):
        for stage, line in STAGES.items():
            key = f"{stage} {name}"
            points = [
                (epoch, [log[epoch].get(key, math.nan) for log in logs])
                for epoch in logs[0]
            ]
            epochs, values = zip(*points, strict=True)
            look = style(number)
            is_marked = stage == "valid" or len(epochs) == 1
            if len(logs) > 1:
                panel.fill_between(
                    epochs,
                    [min(seeds) for seeds in values],
                    [max(seeds) for seeds in values],
                    color=look["color"],
                    alpha=0.2,
                    linewidth=0,
                )
            panel.plot(
                epochs,
                [sum(seeds) / len(seeds) for seeds in values],
                color=look["color"],
                marker=look["marker"] if is_marked else None,
                # of many epochs, mark some twenty
                markevery=max(1, len(epochs) // 20),
                markersize=3.5,
                linewidth=1.2,
                linestyle=line,
            )
    panel.set_title(_title(name), fontsize="medium")
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _title(name):
    if name.startswith("loss_"):
        return "loss: " + name.removeprefix("loss_").replace("_", " ")
    return LABELS.get(name, name.replace("_", " "))


def _legend(figure, groups):
    """Colours are configurations, lines are stages."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            **style(number),
            markersize=4.5,
            label=f"{label} ({len(logs)} seeds)" if len(logs) > 1 else label,
        )
        for number, (label, logs) in enumerate(groups.items())
    ]
    handles += [
        Line2D([], [], color="0.3", linestyle=line, label=stage)
        for stage, line in STAGES.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(4, len(handles)),
        frameon=False,
    )
