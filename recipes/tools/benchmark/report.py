"""Table and plot of a benchmark."""

from tabulate import tabulate

from dbtransform_lobes.plotting import LINES, save_figure, style, tidy


def table(results):
    """Return results of ``benchmark`` as text, a column for each model."""
    rows = {}

    def add(title, case, text):
        rows.setdefault(title, {})[case["model"]] = text

    for name, model in results["models"].items():
        for part, count in model["parameters"].items():
            title = "parameters"
            title += "" if part == "total" else f" of {part}"
            add(title, {"model": name}, f"{count:,}")
    for case in results["macs"]:
        macs = case["macs_per_second"]["total"] / 1e6
        title = f"MMAC per second of audio, {case['length']:g} s"
        add(title, case, f"{macs:,.1f}")
    for case in results["inference"]:
        factor = f"{case['real_time_factor']:.4f}"
        add(f"real-time factor, {_setting(case)}", case, factor)
    for case in results["training"]:
        speed = f"{case['audio_seconds_per_second']:.2f}"
        title = f"seconds of audio trained on per second, {_setting(case)}"
        add(title, case, speed)
    for kind in ("inference", "training"):
        for case in results[kind]:
            for other, ratio in case["time_ratios"].items():
                title = f"time over that of {other}, {_setting(case)}"
                add(title, case, f"{ratio:.3f}")
    for case in results["streaming"]:
        title = f"real-time factor of a live stream, {_setting(case)}"
        add(title, case, f"{case['real_time_factor']:.4f}")
    for case in results["memory"]:
        if case["peak_bytes"] is not None:
            title = f"peak memory of a pass, MB, {case['length']:g} s"
            add(title, case, f"{case['peak_bytes'] / 1e6:,.1f}")
    names = results["settings"]["models"]
    return tabulate(
        [[t, *(cells.get(n, "-") for n in names)] for t, cells in rows.items()],
        ["", *names],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", *["right"] * len(names)),
    )


def _setting(case):
    """Return what differs between the cases of a kind."""
    if "length" in case:
        what = f"{case['length']:g} s"
    elif "frames" in case:
        what = f"frames a call: {case['frames']}"
    else:
        what = "training"
    return f"{what}, threads: {case['threads']}"


def plot_cost(results, path):
    """Plot the real-time factors of ``benchmark`` against the length.

    The path is that of a PNG or PDF; an older file is replaced.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes, settings = figure.add_subplot(), results["settings"]
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
    figure.legend(loc="outside right center", frameon=False)
    save_figure(figure, path)
