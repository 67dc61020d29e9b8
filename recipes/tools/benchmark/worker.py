"""A model in a process of its own, as its users run it.

What other models leave behind in the allocator of a shared process changes
the times of large tensors by half.
"""

import sys
import time
from functools import lru_cache
from statistics import median

import torch

from benchmark.candidates import load_candidate
from benchmark.peak import peak_bytes, reset_peak
from dbtransform_lobes.parallel import WorkerDied, Workers

CROP_SECONDS, BATCH_SIZE = 2.0, 4  # of a training step
STREAM_SECONDS = 8.0


class Worker(Workers):
    """Measure one model, see ``find_configuration``, in its process."""

    def __init__(self, source):
        self.source = source
        super().__init__(jobs=1)

    def run(self, task, threads, *arguments):
        """Run one of the tasks below, on a number of threads.

        None if it fails, as for want of memory; why is said.
        """
        work = self.submit(_run, self.source, task, threads, *arguments)
        try:
            result, reason = work.result()
        except WorkerDied as error:
            code = error.process.exitcode  # -9 if it was killed, as for memory
            result, reason = None, f"its process ended with code {code}"
        if reason:
            left_out = f"{self.source} of {task.__name__} {arguments}: {reason}"
            print(f"left out: {left_out}", file=sys.stderr)
        return result


_load = lru_cache(load_candidate)


def _run(source, task, threads, *arguments):
    """Run a task in the worker."""
    torch.set_num_threads(threads)
    return task(_load(source), *arguments)


def peak_memory(source, length, threads=1):
    """Return the most bytes that a pass of a length in s adds, or None.

    It is measured in a process of its own, see ``Worker.run``.
    """
    with Worker(source) as worker:
        found = worker.run(pass_cost, threads, length)
    return found and found[1]


def pass_cost(candidate, length):
    """Return the seconds for a second of audio, and the bytes, of a pass."""
    noisy = candidate.noise(length)
    candidate.model.eval()
    reset_peak()
    before, start = peak_bytes(), time.perf_counter()
    with torch.inference_mode():
        candidate.enhance(noisy)
    seconds = time.perf_counter() - start
    return seconds / length, peak_bytes() - before


def time_pass(candidate, length):
    """Return the seconds for a second of audio of ``pass_cost``."""
    return pass_cost(candidate, length)[0]


@lru_cache
def _optimizer(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-4)


def time_training(candidate):
    """Return those of forward, backward and AdamW; the error costs nothing."""
    crops = CROP_SECONDS, BATCH_SIZE
    noisy, clean = (candidate.noise(*crops, seed) for seed in (0, 1))
    optimizer = _optimizer(candidate.model)
    candidate.model.train()
    start = time.perf_counter()
    optimizer.zero_grad()
    (candidate.enhance(noisy) - clean).square().mean().backward()
    optimizer.step()
    return (time.perf_counter() - start) / (CROP_SECONDS * BATCH_SIZE)


@torch.inference_mode()
def time_stream(candidate, frames):
    """Return the seconds for a second of audio of a stream, None without one.

    That is the median of the calls of ``step``; the first quarter of the
    stream fills the state and is not timed.
    """
    if not getattr(candidate.model, "causal", False):
        return None
    hop = candidate.compute_stft.hop_length / candidate.sample_rate
    torch.manual_seed(0)
    shape = 1, candidate.model.layout.num_bins, round(STREAM_SECONDS / hop)
    spec = torch.randn(shape, dtype=torch.complex64)
    state, times = candidate.model.initial_state(), []
    for chunk in spec.split(frames, dim=-1):
        start = time.perf_counter()
        _, state = candidate.model.step(chunk, state)
        times.append(time.perf_counter() - start)
    return median(times[len(times) // 4 :]) / (frames * hop)
