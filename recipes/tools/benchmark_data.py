"""``benchmark_data.py``: how fast training examples are made."""

from command import start

HELP = "Measure how fast training examples are mixed, without a model."
EXAMPLES = """\
  benchmark_data.py manifest.csv
  benchmark_data.py shards/manifest.csv --workers 0 2 4

Workers of 0 use one core only. The first run also reads the files from the
disk, later ones from its cache.
"""


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "recordings",
        metavar="MANIFEST",
        help="manifest.csv of recordings or of shards, or a folder",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=int,
        nargs="+",
        default=[0],
        help="numbers of worker processes; 0 = none (default: 0)",
    )
    for name, default, text in (
        ("--batches", 100, "batches of 8 crops of 2 s that are timed"),
        ("--seed", 0, "of the examples"),
    ):
        parser.add_argument(
            name,
            metavar="N",
            type=int,
            default=default,
            help=f"{text} (default: {default})",
        )


def run(args):
    """Measure and print a line for each case; return 0."""
    if args.batches < 1 or min(args.workers) < 0:
        raise ValueError(
            f"batches is {args.batches} and workers are {args.workers}, "
            "expected 1 or more and 0 or more"
        )
    import torch

    from benchmark.data import loading_speed, sources

    torch.set_num_threads(1)
    print("seconds of audio made per second")
    print(f"{'examples':10}{'workers':>8}{'in all':>9}{'per worker':>12}")
    for name, source in sources(args.recordings).items():
        for workers in args.workers:
            speed = loading_speed(source, workers, args.batches, seed=args.seed)
            each = speed / max(workers, 1)
            print(f"{name:10}{workers:8}{speed:9.0f}{each:12.0f}", flush=True)
    return 0


if __name__ == "__main__":
    start(__file__)
