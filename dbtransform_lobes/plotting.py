"""What all plots share: colours, the check before work, and saving."""

import importlib.util
from pathlib import Path

from dbtransform_lobes.data.files import check_parent, replacing

SUFFIXES = (".png", ".pdf")

# Told apart with any colour vision (Okabe & Ito, 2008).
COLOURS = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #000000".split()
MARKERS = "osD^vP*"
LINES = ("-", "--", ":", "-.")
PANEL_COLUMNS = 4


def check_plot(path):
    """Refuse a plot that cannot be: its name, its folder, or no matplotlib."""
    check_parent(Path(path))
    if Path(path).suffix.lower() not in SUFFIXES:
        expected = " or ".join(SUFFIXES)
        raise ValueError(f"the plot is {path}, expected a name in {expected}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "plots need matplotlib, which is not installed: "
            "pip install 'dbtransform[plot]'"
        )


def style(number):
    """Return colour and marker of the n-th curve, as arguments of ``plot``."""
    turn, place = divmod(number, len(COLOURS))
    marker = MARKERS[(place + turn) % len(MARKERS)]
    return {"color": COLOURS[place], "marker": marker}


def new_figure(size, num_rows=1, columns=1, **options):
    """Return a figure, unknown to pyplot, and its panels (num_rows, columns).

    The size is in inches, options are those of ``Figure.subplots``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(num_rows, columns, squeeze=False, **options)


def panel_grid(count, row_height=2.0):
    """Return a figure and its panels, four in a row."""
    columns = min(PANEL_COLUMNS, count)
    num_rows = -(-count // columns)
    size = max(2.6 * columns, 5.2), row_height * num_rows + 0.6
    figure, panels = new_figure(size, num_rows, columns)
    axes = list(panels.flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    for panel in axes[:count]:
        tidy(panel)
    return figure, axes[:count]


def tidy(axes):
    """Give axes a light grid and no box."""
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure, handles, columns, **options):
    """Write the legend of a figure below its panels."""
    options |= {"loc": "outside lower center", "frameon": False}
    columns = min(columns, len(handles))
    figure.legend(handles=handles, ncols=columns, **options)


def save_costs(figure, axis, path):
    """Save a figure of costs with a legend at its right.

    The axis, a logarithmic one, gets ticks at 1, 2 and 5 of each decade.
    """
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.axes.minorticks_off()
    tidy(axis.axes)
    figure.legend(loc="outside right center", frameon=False)
    save_figure(figure, path)


def save_figure(figure, path):
    """Write a figure, PNG (150 dpi) or PDF by its suffix, whole or not."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix[1:], dpi=150)
