"""Plot of quality against cost, a point for each system."""

from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.plotting import save_figure, style, tidy

# Where a label may stand, in points from its point, the best first.
PLACES = [
    (x, y, align)
    for y in (0, 9, -9, 18, -18, 27, -27)
    for x, align in ((7, "left"), (-7, "right"))
]


def plot_peers(found, path):
    """Plot PESQ against the real-time factor, that of CPU time.

    It is the one of an idle core, and does not depend on what else runs.

    Arguments
    ---------
    found : dict
        Of ``compare_peers``, or read from its JSON.
    path : str | pathlib.Path
        PNG or PDF by its suffix; an older file is replaced. Nothing is
        written if no system has a score.
    """
    from matplotlib.figure import Figure

    rows = [row for row in found["systems"] if row["pesq"] is not None]
    if not rows:
        return
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    tidy(axes)
    axes.set_xscale("log")
    axes.set_xlabel(
        "CPU seconds for a second of audio, one thread (left: faster)"
    )
    axes.set_ylabel(f"{LABELS['pesq']} (up: better)")
    points = []
    for row in rows:
        if row["system"] == "noisy":
            axes.axhline(row["pesq"], color="0.5", linestyle="--", zorder=1)
            label = {"xy": (1, row["pesq"]), "xytext": (-2, 2)}
            axes.annotate(
                "noisy",
                **label,
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                fontsize="small",
            )
            continue
        point = (row["cpu_factor"], row["pesq"])
        axes.plot(*point, **style(len(points)), markersize=7, linestyle="none")
        points.append((row["system"], point))
    axes.margins(x=0.25, y=0.12)
    _label(axes, points)
    save_figure(figure, path)


def _label(axes, points):
    """Write each name beside its point, where no other text or point is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # places the axes
    renderer = canvas.get_renderer()
    drawn = (*axes.lines, *axes.texts)
    taken = [artist.get_window_extent(renderer) for artist in drawn]
    for name, point in points:
        text = axes.annotate(
            name,
            point,
            PLACES[0][:2],
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
        for x, y, align in PLACES:
            text.set_position((x, y))
            text.set_ha(align)
            box = text.get_window_extent(renderer)
            if not box.count_overlaps(taken):
                break
        taken.append(box)
