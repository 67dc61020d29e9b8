"""``benchmark_models.py``: size, cost and speed of models, side by side."""

import sys
from pathlib import Path

import torch

from benchmark.candidates import load_candidate
from benchmark.measure import benchmark
from benchmark.report import plot_cost, table
from command import start
from dbtransform_lobes.data.files import check_parent, write_json
from dbtransform_lobes.plotting import check_plot

HELP = "Measure models side by side: size, cost, speed, memory."
EXAMPLES = """\
  benchmark_models.py --models db_transform bsrnn --lengths 4 10 30
  benchmark_models.py --models db_transform bsrnn cmgan literal \\
      --json benchmark.json --plot benchmark.png

Times are those of an idle machine only if nothing else runs on it.
"""


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "--models",
        nargs="+",
        required=True,
        help="names of hparams/models/NAME.yaml, or paths of such files; "
        "literal: db_transform_proposal with the proposal's loops over bands",
    )
    parser.add_argument(
        "--lengths",
        nargs="+",
        type=float,
        default=[4.0, 10.0, 30.0, 120.0],
        help="of signals, in s (default: 4 10 30 120)",
    )
    parser.add_argument(
        "--threads",
        nargs="+",
        type=int,
        default=[1, 2],
        help="numbers of threads (default: 1 2)",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="timed runs of each model (default: 5)",
    )
    parser.add_argument(
        "--no-training",
        action="store_true",
        help="leave out the speed of training",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="also print where the time of a pass of the first length goes",
    )
    parser.add_argument("--json", help="file for all results")
    parser.add_argument(
        "--plot", help="plot of cost against length, .png or .pdf"
    )


def run(args):
    """Measure, print the table, write what was asked for; return 0."""
    for path in filter(None, (args.json, args.plot)):
        check_parent(Path(path))
    if args.plot:
        check_plot(args.plot)
    results = benchmark(
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
