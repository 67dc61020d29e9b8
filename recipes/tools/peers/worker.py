"""One system in a process of its own: enhances files, timed, one thread.

Run by ``compare_peers.py`` with a request as JSON on its standard input. It
imports only what its system needs, since its memory is measured.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmark.peak import peak_bytes
from dbtransform_lobes.data.audio import read_audio, write_audio
from dbtransform_lobes.data.files import write_json
from peers.adapters import PEERS, SAMPLE_RATE

WARM_UP = 2 * SAMPLE_RATE  # samples that are enhanced before, not timed


def work(name, model, pairs, trust_code):
    """Enhance the first files of pairs to the second ones; return the times.

    It goes on after a file that fails; if all do, that is a ValueError.
    """
    begin, latency_ms = load(name, model, trust_code)
    failed, totals = {}, np.zeros(3)
    noise = 0.05 * np.random.default_rng(0).standard_normal(WARM_UP)
    begin()(noise.astype(np.float32))
    for noisy, estimate in pairs:
        Path(estimate).unlink(missing_ok=True)  # that of an earlier run
        try:
            totals += _enhance(begin(), noisy, estimate)
        except Exception as error:
            failed[noisy] = str(error)
    if len(failed) == len(pairs):
        noisy, reason = next(iter(failed.items()))
        raise ValueError(f"every file failed, the first is {noisy}: {reason}")
    audio, wall, cpu = totals.tolist()
    return {
        "failed": failed,
        "audio_seconds": audio,
        "real_time_factor": wall / audio,
        "cpu_factor": cpu / audio,
        "peak_mb": peak_bytes() / 1e6,
        "latency_ms": latency_ms,
    }


def load(name, source, trust_code):
    """Return ``begin`` and the latency in ms, see ``Peer``, of a system."""
    if source is None:
        peer = PEERS[name]
        begin = peer.load()
        return lambda: partial(peer.enhance, begin()), peer.latency_ms
    from dbtransform_lobes.inference.backend import load_enhancer

    model = load_enhancer(source, threads=1, trust_code=trust_code)
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
    write_audio(estimate, enhanced.clip(-1, 1))
    return np.array([len(signal) / SAMPLE_RATE, wall, cpu])


if __name__ == "__main__":
    try:
        write_json(sys.argv[1], work(**json.load(sys.stdin)))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
