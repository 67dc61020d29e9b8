"""What all plots share: colours, the check before work, and saving."""

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


def style(number):
    """Colour and marker of the n-th curve, as arguments of ``plot``.

    Example
    -------
    >>> style(0)
    {'color': '#0072B2', 'marker': 'o'}
    """
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def tidy(axes):
    """Give axes a light grid and no box."""
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure, path):
    """Write a figure under a temporary name, then rename it.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        What to save.
    path : str | pathlib.Path
        PNG (150 dpi) or PDF by its suffix; an older file is replaced.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp{path.suffix}")
    try:
        figure.savefig(temporary, dpi=150)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
