"""A model in a process of its own, as its users run it.

What other models leave behind in the allocator of a shared process changes
the times of large tensors by half.
"""

import signal
import time
from functools import lru_cache

import torch

from benchmark.candidates import load_candidate
from benchmark.peak import peak_bytes, reset_peak
from dbtransform_lobes.parallel import WorkerDied, Workers

CROP_SECONDS, BATCH_SIZE = 2.0, 4  # of a training step


class Worker(Workers):
    """Measure one model, see ``find_configuration``, in its process."""

    def __init__(self, name):
        self.name = name
        super().__init__(jobs=1)

    def run(self, task, threads, *arguments):
        """Run a task of ``TASKS`` once, on a number of threads.

        It returns seconds, those of every call of a stream, or bytes of memory;
        None if the memory does not suffice.
        """
        work = self.submit(_run, self.name, task, threads, *arguments)
        try:
            result, reason = work.result()
        except WorkerDied as error:
            code = error.process.exitcode
            if code == -signal.SIGKILL:  # out of memory
                return None
            reason = (
                f"the process that measures {self.name} ended with code "
                f"{code}: see its message above; scripts need "
                f"'if __name__ == \"__main__\":'"
            )
        if reason:
            raise RuntimeError(reason)
        return result


def peak_memory(name, length, threads=1):
    """Return the most bytes that a pass of a length in s adds, or None.

    It is measured in a process of its own, see ``Worker.run``.
    """
    with Worker(name) as worker:
        return worker.run("memory", threads, length)


@lru_cache
def _prepare(name, task, *arguments):
    return TASKS[task](_load(name), *arguments)


@lru_cache
def _load(name):
    return load_candidate(name)


def _run(name, task, threads, *arguments):
    """Run a task in the worker; None if an allocation failed."""
    torch.set_num_threads(threads)
    try:
        work = _prepare(name, task, *arguments)
        reset_peak()
        before, start = peak_bytes(), time.perf_counter()
        times = work()
        seconds = time.perf_counter() - start
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "alloc" not in str(error):
            raise
        return None
    return peak_bytes() - before if task == "memory" else times or seconds


def _pass(candidate, length):
    """Prepare the whole path from waveform to waveform."""
    noisy = candidate.noise(length)

    def run():
        candidate.model.eval()
        with torch.inference_mode():
            candidate.enhance(noisy)

    return run


def _training_step(candidate):
    """Prepare forward, backward and AdamW; the squared error costs nothing."""
    noisy, clean = (
        candidate.noise(CROP_SECONDS, BATCH_SIZE, seed) for seed in (0, 1)
    )
    optimizer = torch.optim.AdamW(candidate.model.parameters(), lr=1e-4)

    def run():
        candidate.model.train()
        optimizer.zero_grad()
        (candidate.enhance(noisy) - clean).square().mean().backward()
        optimizer.step()

    return run


def _live_stream(candidate, frames, total):
    """Prepare the calls of ``step`` on a stream; it returns their times."""
    torch.manual_seed(0)
    shape = (1, candidate.model.layout.num_bins, total)
    spec = torch.randn(shape, dtype=torch.complex64)

    @torch.inference_mode()
    def run():
        state, times = candidate.model.initial_state(), []
        for chunk in spec.split(frames, dim=-1):
            start = time.perf_counter()
            _, state = candidate.model.step(chunk, state)
            times.append(time.perf_counter() - start)
        return times

    return run


TASKS = {
    "inference": _pass,
    "memory": _pass,
    "training": _training_step,
    "streaming": _live_stream,
}
