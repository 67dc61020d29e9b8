"""``benchmark_onnx.py``: speed of streaming graphs, side by side."""

import json
import time
from functools import partial
from statistics import median

import numpy as np

from benchmark.measure import interleaved
from command import start
from dbtransform_lobes.inference.onnx_model import METADATA, import_onnxruntime
from dbtransform_lobes.inference.onnx_stream import GraphStream
from peers.adapters import open_graph

HELP = "Time streaming ONNX graphs in turns, one thread, one call at a time."
EXAMPLES = """\
  benchmark_onnx.py stream.onnx
  benchmark_onnx.py stream.onnx gtcrn_simple.onnx --rounds 200

The graphs of other projects are welcome if their shapes are fixed and the
states come back in their order.
"""

CALLS = 20


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument("paths", nargs="+", help="streaming graphs, .onnx")
    parser.add_argument(
        "--rounds",
        type=int,
        default=50,
        help="turns of 20 calls of each graph (default 50)",
    )
    parser.add_argument(
        "--hop",
        type=float,
        default=16.0,
        help="audio of a call in ms, for the real-time factor (default 16)",
    )


def run(args):
    """Print the times; return the exit code."""
    for name, value in (("rounds", args.rounds), ("hop", args.hop)):
        if value <= 0:
            raise ValueError(f"--{name} is {value}, expected more than 0")
    print(describe(time_streams(args.paths, args.rounds), args.hop / 1000))
    return 0


def time_streams(paths, rounds=50):
    """Return the seconds of a call in each round by path of the graph.

    Graphs are such as ``GraphStream`` takes, called in turns on one thread. A
    ValueError tells of one that cannot be loaded or called.
    """
    runs = {str(path): partial(_time_calls, _caller(path)) for path in paths}
    return interleaved(runs, rounds)


def _time_calls(call):
    """Return the seconds of the processor of a call, the mean of 20."""
    call()  # brings the graph back into the caches
    start = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - start) / CALLS


def describe(times, hop_seconds):
    """Return times of ``time_streams`` as lines: median, least, factor.

    Example
    -------
    >>> print(describe({"a.onnx": [0.002, 0.001, 0.003]}, 0.016))
    a.onnx: median 2.000 ms, least 1.000 ms a call, real-time factor 0.1250
    """
    return "\n".join(
        f"{path}: median {1e3 * median(each):.3f} ms, least "
        f"{1e3 * min(each):.3f} ms a call, real-time factor "
        f"{median(each) / hop_seconds:.4f}"
        for path, each in times.items()
    )


def _caller(path):
    """Return a function that calls a graph and keeps its states."""
    import_onnxruntime()  # its error says how to get it
    try:
        session = open_graph(path)
        text = session.get_modelmeta().custom_metadata_map.get(METADATA, "{}")
        stream = GraphStream(session, json.loads(text).get("in_place", ()))
        shape = session.get_inputs()[0].shape
        noise = 0.1 * np.random.default_rng(0).standard_normal(shape)
        stream(noise)
    except Exception as error:
        # ONNX Runtime has a class of its own for every kind of error.
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path}: expected a streaming graph of fixed shapes with states "
            f"in and out ({reason}); export with --streaming"
        ) from error
    return partial(stream, noise)


if __name__ == "__main__":
    start(__file__)
