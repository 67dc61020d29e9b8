"""``benchmark_onnx.py``: speed of streaming graphs, side by side."""

from command import start

HELP = "Time streaming ONNX graphs in turns, one thread, one call at a time."
EXAMPLES = """\
  benchmark_onnx.py stream.onnx
  benchmark_onnx.py stream.onnx gtcrn_simple.onnx --rounds 200

The graphs of other projects are welcome if their shapes are fixed and the
states x come back as next_x or x_out.
"""


def add_arguments(parser):
    """Add the arguments of ``benchmark-onnx`` to its parser."""
    parser.add_argument(
        "paths", metavar="GRAPH.onnx", nargs="+", help="streaming graphs"
    )
    parser.add_argument(
        "--rounds",
        metavar="N",
        type=int,
        default=50,
        help="turns of 20 calls of each graph (default 50)",
    )
    parser.add_argument(
        "--hop",
        metavar="MS",
        type=float,
        default=16.0,
        help="audio of a call in ms, for the real-time factor (default 16)",
    )


def run(args):
    """Print the times; return the exit code."""
    from benchmark.onnx_streams import (
        describe,
        time_streams,
    )

    for name, value in (("rounds", args.rounds), ("hop", args.hop)):
        if value <= 0:
            raise ValueError(f"--{name} is {value}, expected more than 0")
    print(describe(time_streams(args.paths, args.rounds), args.hop / 1000))
    return 0


if __name__ == "__main__":
    start(__file__)
