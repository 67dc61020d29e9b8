"""Plot of a benchmark: cost of a second of audio against length."""

import importlib.util
import os
from pathlib import Path

SUFFIXES = (".png", ".pdf")

# Told apart with any colour vision (Okabe & Ito, 2008).
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
MARKERS = "osD^vP*"
LINES = ("-", "--", ":", "-.")


def check_plot(path):
    """Refuse what could not be plotted, before anything is measured.

    Arguments
    ---------
    path : str | pathlib.Path
        The file to write.

    Raises
    ------
    ValueError
        If the suffix is unknown or matplotlib is not installed.

    Example
    -------
    >>> check_plot("cost.txt")
    Traceback (most recent call last):
    ...
    ValueError: the plot is cost.txt, expected a name in .png or .pdf
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        expected = " or ".join(SUFFIXES)
        raise ValueError(f"the plot is {path}, expected a name in {expected}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "plots need matplotlib, which is not installed: "
            "pip install 'dbtransform[plot]'"
        )


def plot_cost(results, path):
    """Plot the real-time factor against length, for models and threads.

    Arguments
    ---------
    results : dict
        Of ``benchmark``, or read from its JSON.
    path : str | pathlib.Path
        PNG or PDF by its suffix; an older file is replaced.

    Raises
    ------
    ValueError
        If the suffix is unknown or matplotlib is not installed.
    """
    check_plot(path)
    # Figures without pyplot open no window and touch no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    _draw(figure.add_subplot(), results)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp{path.suffix}")
    try:
        figure.savefig(temporary, dpi=150)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _draw(axes, results):
    from matplotlib.ticker import LogLocator

    settings = results["settings"]
    for number, name in enumerate(settings["models"]):
        for index, threads in enumerate(settings["threads"]):
            points = [
                (case["length"], case["real_time_factor"])
                for case in results["inference"]
                if (case["model"], case["threads"]) == (name, threads)
            ]
            if not points:
                continue
            unit = "thread" if threads == 1 else "threads"
            axes.plot(
                *zip(*points, strict=True),
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=5,
                linestyle=LINES[index % len(LINES)],
                label=f"{name}, {threads} {unit}",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    lengths = settings["lengths"]
    axes.set_xticks(lengths, [f"{length:g}" for length in lengths])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_yticks([], minor=True)
    axes.set_xlabel("Length of the signal (s)")
    axes.set_ylabel("Seconds of computing per second of audio")
    axes.set_title(results["machine"]["cpu"], loc="left", fontsize="medium")
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.figure.legend(loc="outside right center", frameon=False)
