"""Table and plot of a benchmark."""

import pandas as pd
from tabulate import tabulate

from benchmark.measure import INFERENCE, MACS, MEMORY, STREAMING, TRAINING
from dbtransform_lobes.plotting import LINES, save_figure, style, tidy

# How what is measured is written.
FORMATS = {MACS: ",.1f", MEMORY: ",.1f", TRAINING: ".2f"}
FORMATS |= {INFERENCE: ".4f", STREAMING: ".4f"}
SETTINGS = {"length": "{:g} s", "frames": "frames a call: {}"}
SETTINGS["threads"] = "threads: {}"


def table(results):
    """Return results of ``benchmark`` as text, a column for each model."""
    rows = {}
    for name, model in results["models"].items():
        for part, count in model["parameters"].items():
            title = "parameters" + f" of {part}" * (part != "total")
            rows.setdefault(title, {})[name] = f"{count:,}"
    for case in results["cases"]:
        if case["value"] is not None:
            setting = (
                text.format(case[key])
                for key, text in SETTINGS.items()
                if case.get(key)
            )
            title = ", ".join([case["measure"], *setting])
            text = format(case["value"], FORMATS.get(case["measure"], ".3f"))
            rows.setdefault(title, {})[case["model"]] = text
    names = list(results["models"])
    return tabulate(
        [[t, *(cells.get(n, "-") for n in names)] for t, cells in rows.items()],
        ["", *names],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", *["right"] * len(names)),
    )


def plot_cost(results, path):
    """Plot the real-time factors of ``benchmark`` against the length."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    cases = pd.DataFrame(results["cases"])
    cases = cases[cases["measure"] == INFERENCE]
    numbers = {name: n for n, name in enumerate(results["models"])}
    for index, (threads, some) in enumerate(cases.groupby("threads")):
        for name, points in some.groupby("model", sort=False):
            axes.plot(
                points["length"],
                points["value"],
                **style(numbers[name]),
                markersize=5,
                linestyle=LINES[index % len(LINES)],
                label=f"{name}, threads: {threads:g}",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    lengths = sorted(cases["length"].unique())
    axes.set_xticks(lengths, [f"{length:g}" for length in lengths])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_yticks([], minor=True)
    axes.set_xlabel("Length of the signal (s)")
    axes.set_ylabel("Seconds of computing per second of audio")
    axes.set_title(results["machine"]["cpu"], loc="left", fontsize="medium")
    tidy(axes)
    figure.legend(loc="outside right center", frameon=False)
    save_figure(figure, path)
