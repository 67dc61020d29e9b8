"""A model in a process of its own, as its users run it.

What other models leave behind in the allocator of a shared process changes
the times of large tensors by half.
"""

import multiprocessing
import resource
import signal
import sys
import time
from contextlib import contextmanager
from functools import lru_cache

import torch
from pebble import ProcessExpired, ProcessPool

from benchmark.candidates import load_candidate
from benchmark.peak import kilobytes, peak_bytes, reset_peak

TRAINING = {"crop_seconds": 2.0, "batch_size": 4, "optimizer": "AdamW"}
loaded = None  # in a worker: candidate and seed


class Worker:
    """Measure one model in its process, with a context manager's end.

    Arguments
    ---------
    name : str
        See ``find_configuration``.
    seed : int
        Of weights and signals.
    """

    def __init__(self, name, seed=0):
        self.name = name
        self.pool = ProcessPool(
            1,
            context=multiprocessing.get_context("spawn"),
            initializer=_load,
            initargs=(name, seed),
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pool.stop()
        self.pool.join()

    def run(self, task, threads, *arguments):
        """Run a task once.

        Arguments
        ---------
        task : str
            Of ``TASKS``.
        threads : int
            Number of threads.
        arguments
            Length in s for "inference" and "memory"; frames of a call and of
            the stream for "streaming".

        Returns
        -------
        float | list of float | int | None
            Seconds, of "streaming" those of every call, of "memory" bytes;
            None if the memory does not suffice.

        Raises
        ------
        RuntimeError
            If the process has ended, for another reason than memory.
        """
        work = self.pool.schedule(_run, (task, threads, *arguments))
        try:
            return work.result()
        except ProcessExpired as error:
            if error.exitcode == -signal.SIGKILL:  # out of memory
                return None
            raise RuntimeError(
                f"the process that measures {self.name} ended with code "
                f"{error.exitcode}: see its message above; scripts need "
                f"'if __name__ == \"__main__\":'"
            ) from None


def peak_memory(name, length, threads=1, seed=0):
    """Return the bytes of one pass in a fresh process, above those before.

    They are None if the memory of the machine does not suffice; the length
    is in seconds, the name that of ``find_configuration``.
    """
    with Worker(name, seed) as worker:
        return worker.run("memory", threads, length)


def _load(name, seed):
    global loaded
    loaded = load_candidate(name, seed), seed


@lru_cache
def _prepare(task, *arguments):
    return TASKS[task](*loaded, *arguments)


def _run(task, threads, *arguments):
    """Run a task in the worker; None if an allocation failed."""
    torch.set_num_threads(threads)
    try:
        with memory_limit():
            return _prepare(task, *arguments)()
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "alloc" not in str(error):
            raise
        return None


@contextmanager
def memory_limit():
    """Let allocations fail that would make the machine kill processes."""
    if sys.platform != "linux":
        yield
        return
    available = kilobytes("/proc/meminfo", "MemAvailable")
    mapped = kilobytes("/proc/self/status", "VmSize")
    limit = int((mapped + 0.9 * available) * 1024)
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def _timed(function):
    """Return a function that returns the seconds another one takes."""

    def run():
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return run


def _pass(candidate, seed, length):
    """Prepare the whole path from waveform to waveform."""
    noisy = candidate.noise(length, seed=seed)

    def run():
        candidate.model.eval()
        with torch.inference_mode():
            candidate.enhance(noisy)

    return run


def _memory(candidate, seed, length):
    """Prepare a pass whose peak of memory is returned."""
    run = _pass(candidate, seed, length)

    def measure():
        reset_peak()
        before = peak_bytes()
        run()
        return peak_bytes() - before

    return measure


def _training_step(candidate, seed):
    """Prepare forward, backward, AdamW, with the squared error as loss.

    So the models cost and no loss does.
    """
    crop, batch = TRAINING["crop_seconds"], TRAINING["batch_size"]
    noisy = candidate.noise(crop, batch, seed)
    clean = candidate.noise(crop, batch, seed + 1)
    optimizer = torch.optim.AdamW(candidate.model.parameters(), lr=1e-4)

    def run():
        candidate.model.train()
        optimizer.zero_grad()
        (candidate.enhance(noisy) - clean).square().mean().backward()
        optimizer.step()

    return _timed(run)


def _live_stream(candidate, seed, frames, total):
    """Prepare the calls of ``step`` on a stream, timed one by one."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, candidate.model.layout.num_bins, total)
    spec = torch.randn(shape, generator=generator, dtype=torch.complex64)

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
    "inference": lambda *arguments: _timed(_pass(*arguments)),
    "training": _training_step,
    "streaming": _live_stream,
    "memory": _memory,
}
