"""``benchmark_models.py``: size, cost and speed of models, side by side."""

import json
import sys
from pathlib import Path

from command import start

HELP = "Measure models side by side: size, cost, speed, memory."
EXAMPLES = """\
  benchmark_models.py --models db_transform bsrnn --lengths 4 10 30
  benchmark_models.py --models db_transform bsrnn cmgan --literal \\
      --json benchmark.json --plot benchmark.png

Times are those of an idle machine only if nothing else runs on it.
"""


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "--models",
        metavar="NAME",
        nargs="+",
        required=True,
        help="names of hparams/models/NAME.yaml, or paths of such files",
    )
    parser.add_argument(
        "--literal",
        action="store_true",
        help="also the proposal's loops over the bands (db_transform_proposal)",
    )
    parser.add_argument(
        "--lengths",
        metavar="SECONDS",
        nargs="+",
        type=float,
        default=[4.0, 10.0, 30.0, 120.0],
        help="lengths of the signals (default: 4 10 30 120)",
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        nargs="+",
        type=int,
        default=[1, 2],
        help="numbers of threads (default: 1 2)",
    )
    parser.add_argument(
        "--repeats",
        metavar="N",
        type=int,
        default=5,
        help="timed runs of each model (default: 5)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="of weights and signals (default: 0)",
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
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write all results there (replacing older ones)",
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="plot cost against length, .png or .pdf (replacing an older one)",
    )


def run(args):
    """Measure, print the table, write what was asked for; return 0."""
    from benchmark.plot import plot_cost
    from dbtransform_lobes.plotting import check_plot

    for path in filter(None, (args.json, args.plot)):
        if not Path(path).parent.is_dir():
            raise ValueError(
                f"there is no folder {Path(path).parent} for {path}: make it "
                f"first"
            )
    if args.plot:
        check_plot(args.plot)

    from benchmark.measure import benchmark
    from dbtransform_lobes.data.files import write_text

    names = list(args.models)
    if args.literal and "literal" not in names:
        names.append("literal")
    results = benchmark(
        names,
        lengths=args.lengths,
        threads=args.threads,
        repeats=args.repeats,
        training=not args.no_training,
        seed=args.seed,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if args.json:
        write_text(args.json, json.dumps(results, indent=2) + "\n")
    print(table(results))
    if args.plot:
        plot_cost(results, args.plot)
    if args.profile:
        _print_profiles(names, args)
    return 0


def _print_profiles(names, args):
    from benchmark.candidates import load_candidate
    from benchmark.profile import profile_pass

    for name in names:
        candidate = load_candidate(name, args.seed)
        length, threads = min(args.lengths), max(args.threads)
        print(profile_pass(candidate, length, threads, seed=args.seed))


def table(results):
    """The results as text: a column for each model, a row for each number."""
    names = results["settings"]["models"]
    rows = [
        *_parameter_rows(results),
        *_operation_rows(results),
        *_time_rows(results),
        *_streaming_rows(results),
        *_memory_rows(results),
    ]
    first = max(len(title) for title, _ in rows)
    widths = [max(len(name), 12) for name in names]
    lines = [f"{'':{first}}" + _columns(names, widths)]
    for title, cells in rows:
        texts = [cells.get(name, "-") for name in names] if cells else []
        lines.append(f"{title:{first}}" + _columns(texts, widths))
    return "\n".join(line.rstrip() for line in lines)


def _columns(texts, widths):
    pairs = zip(texts, widths, strict=False)
    return "".join(f"  {text:>{width}}" for text, width in pairs)


def _parameter_rows(results):
    """Parameters in all and of every component that some model has."""
    sizes = {
        name: model["parameters"] for name, model in results["models"].items()
    }
    parts = dict.fromkeys(part for size in sizes.values() for part in size)
    for part in parts:
        title = "parameters" if part == "total" else f"  {part}"
        yield (
            title,
            {
                name: f"{size[part]:,}"
                for name, size in sizes.items()
                if part in size
            },
        )


def _operation_rows(results):
    yield "MMAC per second of audio", {}
    for length in results["settings"]["lengths"]:
        yield (
            f"  {length:g} s",
            {
                case["model"]: f"{case['macs_per_second']['total'] / 1e6:,.1f}"
                for case in results["macs"]
                if case["length"] == length
            },
        )


def _time_rows(results):
    """Real-time factors and speed of training, then ratios of times."""
    settings, groups = results["settings"], []
    for count in settings["threads"]:
        for length in settings["lengths"]:
            cases = [
                case
                for case in results["inference"]
                if (case["length"], case["threads"]) == (length, count)
            ]
            groups.append((f"  {length:g} s, threads: {count}", cases))
    yield "real-time factor", {}
    for title, cases in groups:
        yield (
            title,
            {
                case["model"]: f"{case['real_time_factor']:.4f}"
                for case in cases
            },
        )
    if results["training"]:
        title = f"  training, threads: {results['training'][0]['threads']}"
        groups.append((title, results["training"]))
        yield "seconds of audio trained on per second", {}
        speed = "audio_seconds_per_second"
        yield (
            title,
            {
                case["model"]: f"{case[speed]:.2f}"
                for case in results["training"]
            },
        )
    yield from _ratio_rows(groups)


def _streaming_rows(results):
    """Real-time factors of live streams, where a model is causal."""
    cases = {}
    for case in results["streaming"]:
        frames = (
            "1 frame" if case["frames"] == 1 else f"{case['frames']} frames"
        )
        title = f"  {frames} a call, threads: {case['threads']}"
        cell = f"{case['real_time_factor']:.4f}"
        cases.setdefault(title, {})[case["model"]] = cell
    if cases:
        yield "real-time factor of a live stream", {}
        yield from cases.items()


def _ratio_rows(groups):
    references = dict.fromkeys(
        reference
        for _, cases in groups
        for case in cases
        for reference in case["time_ratios"]
    )
    for reference in references:
        yield f"time over that of {reference}", {}
        for title, cases in groups:
            yield (
                title,
                {
                    case["model"]: f"{case['time_ratios'][reference]:.3f}"
                    for case in cases
                    if reference in case["time_ratios"]
                },
            )


def _memory_rows(results):
    yield "peak memory of a pass, MB", {}
    for length in results["settings"]["lengths"]:
        yield (
            f"  {length:g} s",
            {
                case["model"]: f"{case['peak_bytes'] / 1e6:,.1f}"
                for case in results["memory"]
                if case["length"] == length and case["peak_bytes"] is not None
            },
        )


if __name__ == "__main__":
    start(__file__)
