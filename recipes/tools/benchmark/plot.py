"""Plot of a benchmark: cost of a second of audio against length."""

from dbtransform_lobes.plotting import (
    LINES,
    check_plot,
    save_figure,
    style,
    tidy,
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
    save_figure(figure, path)


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
                **style(number),
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
    tidy(axes)
    axes.figure.legend(loc="outside right center", frameon=False)
