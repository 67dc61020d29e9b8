"""Peak memory of a pass, and a limit that makes allocations fail."""

import multiprocessing
import resource
import signal
import sys
from contextlib import contextmanager
from functools import partial

import torch

from benchmark.candidates import load_candidate
from benchmark.peak import (
    kilobytes,
    peak_bytes,
    reset_peak,
)


def peak_memory(name, length, threads=1, seed=0):
    """Peak memory of one pass in a fresh process, over that after loading.

    Arguments
    ---------
    name : str
        See ``find_configuration``.
    length : float
        In seconds.
    threads : int
        Number of threads.
    seed : int
        Of weights and signal.

    Returns
    -------
    int | None
        In bytes; None if the memory of the machine does not suffice.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(
        target=_send_peak, args=(sender, name, length, threads, seed)
    )
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:  # out of memory
            return None
        raise RuntimeError(
            f"the process that measures the memory of {name} ended with code "
            f"{process.exitcode}: see its message above; scripts need "
            f"'if __name__ == \"__main__\":'"
        ) from None
    finally:
        process.join()


def _send_peak(sender, name, length, threads, seed):
    """What ``peak_memory`` runs in its process."""
    torch.set_num_threads(threads)
    candidate = load_candidate(name, seed)
    noisy = candidate.noise(length, seed=seed)
    reset_peak()
    before = peak_bytes()
    with memory_limit(), torch.inference_mode():
        enhanced = has_memory(partial(candidate.enhance, noisy))
    sender.send(None if enhanced is None else peak_bytes() - before)


def has_memory(function):
    """Call a function.

    Returns
    -------
    object
        What it returns; None if an allocation failed.
    """
    try:
        return function()
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
