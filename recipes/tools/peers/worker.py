"""One system in a process of its own: enhances files, timed, one thread.

Run by ``run_systems`` as a module, with a request as JSON on its standard
input. It imports only what its system needs, since its memory is measured.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmark.peak import peak_bytes
from dbtransform_lobes.data.audio import read_audio, write_audio
from dbtransform_lobes.data.files import write_json
from peers.adapters import PEERS, SAMPLE_RATE

TIMING = "timing.json"
WARM_UP = 2 * SAMPLE_RATE  # samples that are enhanced before, not timed


def work(request):
    """Enhance all files of a request of ``run_systems``, write their times.

    It goes on after a file that fails; if all do, that is a ValueError.
    """
    begin, latency_ms = load(request["system"])
    pairs, failed, totals = request["pairs"], {}, np.zeros(3)
    noise = 0.05 * np.random.default_rng(0).standard_normal(WARM_UP)
    begin()(noise.astype(np.float32))
    for noisy, estimate in pairs:
        try:
            totals += _enhance(begin(), noisy, estimate)
        except Exception as error:
            Path(estimate).unlink(missing_ok=True)  # that of an earlier run
            failed[noisy] = str(error)
    if len(failed) == len(pairs):
        noisy, reason = next(iter(failed.items()))
        raise ValueError(f"every file failed, the first is {noisy}: {reason}")
    audio, wall, cpu = totals.tolist()
    timing = {
        **{key: request[key] for key in ("system", "sources")},
        "failed": failed,
        "audio_seconds": audio,
        "real_time_factor": wall / audio,
        "cpu_factor": cpu / audio,
        "peak_bytes": peak_bytes(),
        "latency_ms": latency_ms,
    }
    write_json(Path(request["folder"], TIMING), timing)


def load(system):
    """Return ``begin`` and the latency in ms, see ``Peer``, of a system."""
    source = system["model"]
    if source is None:
        peer = PEERS[system["peer"]]
        begin = peer.load()
        return lambda: partial(peer.enhance, begin()), peer.latency_ms
    from dbtransform_lobes.inference.backend import load_enhancer

    backend = "onnx" if source.endswith(".onnx") else "torch"
    model = load_enhancer(source, backend, threads=1)
    latency_ms = model.stream().latency_ms if model.causal else None
    process = partial(model.enhance_array, sample_rate=SAMPLE_RATE)
    return lambda: process, latency_ms


def _enhance(process, noisy, estimate):
    """Enhance a file; return seconds of audio, of time and of the CPU."""
    signal = read_audio(noisy)
    wall, cpu = time.perf_counter(), time.process_time()
    enhanced = process(signal)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if enhanced.shape != signal.shape or not np.isfinite(enhanced).all():
        raise ValueError(
            f"the estimate has shape {enhanced.shape}, expected "
            f"{signal.shape} and finite samples"
        )
    os.makedirs(os.path.dirname(estimate), exist_ok=True)
    write_audio(estimate, enhanced.clip(-1, 1))
    return np.array([len(signal) / SAMPLE_RATE, wall, cpu])


if __name__ == "__main__":
    try:
        work(json.load(sys.stdin))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
