"""A model in a process of its own, as its users run it.

What other models leave behind in the allocator of a shared process changes
the times of large tensors by half.
"""

import multiprocessing
import signal
import time
from functools import lru_cache

import torch

from benchmark.candidates import load_candidate
from benchmark.memory import has_memory, memory_limit

TRAINING = {"crop_seconds": 2.0, "batch_size": 4, "optimizer": "AdamW"}


class Worker:
    """Times one model in its process.

    Arguments
    ---------
    name : str
        See ``find_configuration``.
    seed : int
        Of weights and signals.
    """

    def __init__(self, name, seed=0):
        spawn = multiprocessing.get_context("spawn")
        self.name = name
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(
            target=_serve, args=(theirs, name, seed), daemon=True
        )
        self.process.start()
        theirs.close()

    def time(self, task, threads, *arguments):
        """Run a task once.

        Arguments
        ---------
        task : str
            "inference", "training" or "streaming".
        threads : int
            Number of threads.
        arguments
            Length in s for "inference"; frames of a call and of the stream
            for "streaming".

        Returns
        -------
        float | list of float | None
            Seconds, of "streaming" those of every call; None if the memory
            does not suffice.

        Raises
        ------
        RuntimeError
            If the process has ended, for another reason than memory.
        """
        try:
            self.connection.send((task, threads, arguments))
            return self.connection.recv()
        except (EOFError, ConnectionError):  # a broken pipe or a reset
            self.process.join()
            if self.process.exitcode == -signal.SIGKILL:  # out of memory
                return None
            raise RuntimeError(
                f"the process that times {self.name} ended with code "
                f"{self.process.exitcode}: see its message above; scripts "
                f"need 'if __name__ == \"__main__\":'"
            ) from None

    def close(self):
        """End the process."""
        self.connection.close()
        self.process.join(timeout=5)
        self.process.kill()


def _serve(connection, name, seed):
    """What the process does until its connection is closed."""
    candidate = load_candidate(name, seed)
    tasks = {
        "inference": lru_cache(lambda *a: _pass(candidate, seed, *a)),
        "training": lru_cache(lambda *a: _training_step(candidate, seed, *a)),
        "streaming": lru_cache(lambda *a: _live_stream(candidate, seed, *a)),
    }
    while True:
        try:
            task, threads, arguments = connection.recv()
        except EOFError:
            return
        torch.set_num_threads(threads)
        with memory_limit():
            seconds = has_memory(tasks[task](*arguments))
        connection.send(seconds)


def timed(function):
    """A function that returns the seconds another one takes."""

    def run():
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return run


def _pass(candidate, seed, length):
    """The whole path from waveform to waveform."""
    noisy = candidate.noise(length, seed=seed)

    @timed
    def run():
        candidate.model.eval()
        with torch.inference_mode():
            candidate.enhance(noisy)

    return run


def _training_step(candidate, seed):
    """Forward, backward, AdamW; the loss is the squared error of waveforms.

    So the models cost and no loss does.
    """
    crop, batch = TRAINING["crop_seconds"], TRAINING["batch_size"]
    noisy = candidate.noise(crop, batch, seed)
    clean = candidate.noise(crop, batch, seed + 1)
    optimizer = torch.optim.AdamW(candidate.model.parameters(), lr=1e-4)

    @timed
    def run():
        candidate.model.train()
        optimizer.zero_grad()
        (candidate.enhance(noisy) - clean).square().mean().backward()
        optimizer.step()

    return run


def _live_stream(candidate, seed, frames, total):
    """The calls of ``step`` on a stream, timed one by one."""
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
