"""Time streaming ONNX graphs in turns, one thread, one call at a time.

The graphs of other projects are welcome if their shapes are fixed and the
states come back in their order.

examples:
  benchmark_onnx.py stream.onnx
  benchmark_onnx.py stream.onnx gtcrn_simple.onnx --rounds 200
"""

import json
import time
from functools import partial
from statistics import median

import numpy as np

from benchmark.measure import interleaved
from command import start
from dbtransform_lobes.inference import onnx_model
from dbtransform_lobes.inference.onnx_stream import GraphStream

CALLS = 20


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument("paths", nargs="+", help="streaming graphs, .onnx")
    turns = "turns of 20 calls of each graph (default 50)"
    parser.add_argument("--rounds", type=int, default=50, help=turns)
    hop = "audio of a call in ms, for the real-time factor (default 16)"
    parser.add_argument("--hop", type=float, default=16.0, help=hop)


def run(args):
    """Print the times; return the exit code."""
    for name, value in (("rounds", args.rounds), ("hop", args.hop)):
        if value <= 0:
            raise ValueError(f"--{name} is {value}, expected more than 0")
    for path, each in time_streams(args.paths, args.rounds).items():
        middle, least = 1000 * median(each), 1000 * min(each)
        print(
            f"{path}: median {middle:.3f} ms, least {least:.3f} ms a call, "
            f"real-time factor {middle / args.hop:.4f}"
        )
    return 0


def time_streams(paths, rounds=50):
    """Return the seconds of a call in each round by path of the graph."""
    runs = {str(path): partial(_time_calls, _caller(path)) for path in paths}
    return interleaved(runs, rounds)


def _time_calls(call):
    """Return the seconds of the processor of a call, the mean of 20."""
    call()  # brings the graph back into the caches
    start = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - start) / CALLS


def _caller(path):
    """Return a function that calls a graph and keeps its states."""
    onnx_model.import_onnxruntime()  # its error says how to get it
    try:
        session = onnx_model.open_session(path, 1, whole=False)
        about = session.get_modelmeta().custom_metadata_map
        about = json.loads(about.get(onnx_model.METADATA, "{}"))
        stream = GraphStream(session, about.get("in_place", ()))
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
