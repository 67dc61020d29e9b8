"""``benchmark_corpus.py``: does a second core help a corpus?"""

from command import start

HELP = "Measure how much faster more workers of Ray enhance a corpus."
EXAMPLES = """\
  benchmark_corpus.py
  benchmark_corpus.py --jobs 1 2 4 8 --files 400 --repeats 3

The files are noise of a fixed seed. Times are only as good as the machine is
idle: its load is printed.
"""


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "--model", help="as for `dbtransform enhance` (default: the bundled)"
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        nargs="+",
        default=[1, 2],
        help="numbers of workers of one thread (default: 1 2)",
    )
    for name, default, text in (
        ("--files", 96, "files of 20 s"),
        ("--repeats", 1, "times that all is measured, in turns"),
    ):
        parser.add_argument(
            name,
            metavar="N",
            type=int,
            default=default,
            help=f"{text} (default: {default})",
        )


def run(args):
    """Measure and print a line for each number of workers; return 0."""
    import os

    from dbtransform_lobes.inference.ray_workers import check_ray

    if min(*args.jobs, args.repeats, args.files) < 1:
        raise ValueError(
            f"jobs are {args.jobs}, repeats {args.repeats} and files "
            f"{args.files}, expected 1 or more of each"
        )
    check_ray()
    from benchmark.corpus import corpus_speed

    print(
        "seconds of audio enhanced in a second; running: from the first "
        "file to the last; total: with the start of the workers"
    )
    print("workers  running    total    ratio  load before")
    for _ in range(args.repeats):
        base = None
        for jobs in args.jobs:
            load = os.getloadavg()[0]
            speed = corpus_speed(args.model, jobs, args.files)
            base = base or speed["running"]
            print(
                f"{jobs:7}{speed['running']:9.1f}{speed['total']:9.1f}"
                f"{speed['running'] / base:9.2f}{load:13.2f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    start(__file__)
