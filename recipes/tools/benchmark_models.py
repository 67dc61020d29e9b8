"""Measure models side by side: size, cost, speed, memory.

Times are those of an idle machine only if nothing else runs on it.

examples:
  benchmark_models.py --models db_transform bsrnn --lengths 4 10 30
  benchmark_models.py --models db_transform bsrnn cmgan literal \\
      --json benchmark.json --plot benchmark.png
"""

import sys
from itertools import cycle
from pathlib import Path

import pandas as pd
import torch
from tabulate import tabulate

from benchmark import measure
from benchmark.candidates import load_candidate
from command import start
from dbtransform_lobes import plotting
from dbtransform_lobes.data.files import check_parent, write_json

# How what is measured is written.
FORMATS = {measure.MACS: ",.1f", measure.MEMORY: ",.1f"}
FORMATS |= {measure.INFERENCE: ".4f", measure.STREAMING: ".4f"}
FORMATS[measure.TRAINING] = ".2f"
SETTINGS = {"length": "{:g} s", "frames": "frames a call: {}"}
SETTINGS["threads"] = "threads: {}"
MODELS = """\
names of hparams/models/NAME.yaml, or paths of such files; literal:
db_transform_proposal with the proposal's loops over bands"""


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    add, several = parser.add_argument, {"nargs": "+"}
    add("--models", **several, required=True, help=MODELS)
    lengths = [4.0, 10.0, 30.0, 120.0]
    text = "of signals, in s (default 4 10 30 120)"
    add("--lengths", **several, type=float, default=lengths, help=text)
    text = "numbers of threads (default 1 2)"
    add("--threads", **several, type=int, default=[1, 2], help=text)
    add("--repeats", type=int, default=5, help="timed runs (default 5)")
    flag = {"action": "store_true"}
    add("--no-training", **flag, help="leave out the speed of training")
    add("--profile", **flag, help="print where the time of a pass goes")
    add("--json", help="file for all results")
    add("--plot", help="plot of cost against length, .png or .pdf")


def run(args):
    """Measure, print the table, write what was asked for; return 0."""
    if args.json:
        check_parent(Path(args.json))
    if args.plot:
        plotting.check_plot(args.plot)
    results = measure.benchmark(
        args.models,
        lengths=args.lengths,
        threads=args.threads,
        repeats=args.repeats,
        training=not args.no_training,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if args.json:
        write_json(args.json, results)
    print(table(results))
    if args.plot:
        plot_cost(results, args.plot)
    for name in args.models if args.profile else ():
        _profile(load_candidate(name), min(args.lengths), max(args.threads))
    return 0


def table(results):
    """Return results of ``benchmark`` as text, a column for each model."""
    rows = {}
    for name, model in results["models"].items():
        for part, count in model["parameters"].items():
            title = "parameters" + f" of {part}" * (part != "total")
            rows.setdefault(title, {})[name] = f"{count:,}"
    for case in results["cases"]:
        if case["value"] is not None:
            given = [(t, case.get(key)) for key, t in SETTINGS.items()]
            setting = (text.format(value) for text, value in given if value)
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
    figure, [[axes]] = plotting.new_figure((8, 4.5))
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="Length of the signal (s)",
        ylabel="Seconds of computing per second of audio",
    )
    cases = pd.DataFrame(results["cases"])
    cases = cases[cases["measure"] == measure.INFERENCE]
    numbers = {name: n for n, name in enumerate(results["models"])}
    groups = zip(cases.groupby("threads"), cycle(plotting.LINES))
    for (threads, some), line in groups:
        for name, points in some.groupby("model", sort=False):
            look = {"linestyle": line, "markersize": 5}
            look["label"] = f"{name}, threads: {threads:g}"
            look |= plotting.style(numbers[name])
            axes.plot(points["length"], points["value"], **look)
    lengths = sorted(cases["length"].unique())
    axes.set_xticks(lengths, [f"{length:g}" for length in lengths])
    axes.set_title(results["machine"]["cpu"], loc="left", fontsize="medium")
    plotting.save_costs(figure, axes.yaxis, path)


def _profile(candidate, length, threads):
    """Print the 12 operations that take most of the time of a pass."""
    print(f"{candidate.name}, {length:g} s, threads: {threads}")
    noisy = candidate.noise(length)
    torch.set_num_threads(threads)
    with torch.inference_mode():
        candidate.enhance(noisy)
        with torch.profiler.profile() as profiler:
            candidate.enhance(noisy)
    found = profiler.key_averages()
    print(found.table(sort_by="self_cpu_time_total", row_limit=12))


if __name__ == "__main__":
    start(__file__)
