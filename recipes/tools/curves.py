"""Plot loss terms and validation metrics of runs against epochs.

Seeds of one configuration (results/NAME/1, results/NAME/2) are drawn as their
mean in a band from the lowest to the highest.

examples:
  curves.py results/db_transform/1 --output curves.png
  curves.py results/db_transform results/bsrnn --output curves.pdf
"""

import pandas as pd

from command import start
from dbtransform_lobes import plotting
from dbtransform_lobes.evaluation.metrics import LABELS
from runs import RUNS, find_runs, read_train_log

STAGES = {"train": "--", "valid": "-"}


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument("runs", nargs="+", help=RUNS)
    plot = "the plot, .png or .pdf"
    parser.add_argument("--output", required=True, help=plot)


def run(args):
    """Plot what runs have logged, a panel for each number; return 0.

    Seeds of one run are one curve, over the epochs that all of them have.
    """
    from matplotlib.lines import Line2D

    plotting.check_plot(args.output)
    groups = {
        label: _seeds(label, [read_train_log(run) for run in members])
        for label, members in find_runs(args.runs).items()
    }
    names = _panel_names(groups)
    figure, panels = plotting.panel_grid(len(names))
    for panel, name in zip(panels, names, strict=True):
        _draw(panel, groups, name)
    for panel in panels[-plotting.PANEL_COLUMNS :]:
        panel.set_xlabel("epoch")
    # Colours are configurations, lines are stages.
    handles = []
    for number, (label, table) in enumerate(groups.items()):
        count = table.columns.unique(1).size
        label += f" ({count} seeds)" if count > 1 else ""
        handles.append(Line2D([], [], **plotting.style(number), label=label))
    for stage, line in STAGES.items():
        look = {"color": "0.3", "linestyle": line, "label": stage}
        handles.append(Line2D([], [], **look))
    plotting.legend_below(figure, handles, 4)
    plotting.save_figure(figure, args.output)
    return 0


def _seeds(label, logs):
    """Return one table of columns (key, seed) of the epochs all seeds have."""
    table = pd.concat(dict(enumerate(logs)), axis=1, join="inner")
    if table.empty:
        raise ValueError(
            f"the seeds of {label} have no epoch in common; plot them one by "
            "one or leave one out"
        )
    return table.swaplevel(axis=1)


def _panel_names(groups):
    """Return what is logged of a stage, losses first, if it is not always 0."""
    names = {}
    for table in groups.values():
        for key in table.columns.unique(0):
            stage, _, name = key.partition(" ")
            if stage in STAGES and name and (table[key] != 0).any(axis=None):
                names[name] = None
    return sorted(names, key=lambda name: not name.startswith("loss"))


def _draw(panel, groups, name):
    from matplotlib.ticker import MaxNLocator

    for number, table in enumerate(groups.values()):
        for stage, line in STAGES.items():
            if f"{stage} {name}" not in table:
                continue
            seeds = table[f"{stage} {name}"]  # (epochs, seeds)
            span = seeds.min(axis=1), seeds.max(axis=1)
            look = {**plotting.style(number), "linestyle": line}
            look["markersize"] = 3.5
            look["markevery"] = max(1, len(seeds) // 20)  # of many epochs
            shade = {"color": look["color"], "alpha": 0.2, "linewidth": 0}
            panel.fill_between(seeds.index, *span, **shade)
            panel.plot(seeds.index, seeds.mean(axis=1), **look)
    title = LABELS.get(name, name.replace("_", " "))
    panel.set_title(title, fontsize="medium")
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))


if __name__ == "__main__":
    start(__file__)
