"""PESQ in other processes, so that training does not wait for it."""

import logging
import math
import os
import threading
from collections import Counter, deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

from dbtransform_lobes.evaluation.metrics import pesq_wide_band

logger = logging.getLogger(__name__)
MAX_DEATHS = 5


def pesq_target(clean, estimate):
    """What the discriminator is to guess: (PESQ - 1) / 3.5.

    Arguments
    ---------
    clean, estimate : numpy.ndarray
        At 16 kHz, (L,).

    Returns
    -------
    float
        From 0 to 1.04; NaN if PESQ cannot score the pair: silence, no
        utterance, or less than 0.25 s.

    Example
    -------
    >>> import numpy as np
    >>> pesq_target(np.zeros(8000), np.ones(8000))
    nan
    """
    if not (clean.any() and estimate.any()):
        return math.nan
    try:
        return (pesq_wide_band(clean, estimate) - 1) / 3.5
    except ValueError:
        return math.nan


def _end_with_parent():
    """Let a worker watch for its parent, which may be killed."""

    def watch():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class PesqWorkers:
    """Scores estimates in the background.

    Nothing here waits: ``submit`` leaves estimates to the workers and
    ``ready`` returns those that have a score by now. While more than a batch
    is waiting, ``submit`` does nothing, so that scores never lag far behind.
    Processes are started on the first use.

    ``counts`` says how many items were scored, failed (PESQ is not defined
    for them) and skipped (the workers were busy, or one died).

    Arguments
    ---------
    num_workers : int
        Processes.

    Raises
    ------
    ValueError
        If there is less than one worker.
    RuntimeError
        In ``ready``, if workers die again and again.

    Example
    -------
    >>> workers = PesqWorkers(2)
    >>> workers.ready()
    []
    """

    def __init__(self, num_workers=2):
        if num_workers < 1:
            raise ValueError(
                f"pesq_workers is {num_workers}, expected at least 1"
            )
        self.num_workers, self.pool = num_workers, None
        self.waiting, self.deaths = deque(), 0
        self.counts = Counter()

    def submit(self, clean, estimate):
        """Have the items of a batch scored.

        Arguments
        ---------
        clean, estimate : torch.Tensor
            Waveforms (B, L) at 16 kHz.
        """
        if len(self.waiting) > len(clean):
            self.counts["skipped"] += len(clean)
            return
        if self.pool is None:
            # Not a fork: the training process has threads and maybe a GPU.
            self.pool = ProcessPoolExecutor(
                self.num_workers, get_context("spawn"), _end_with_parent
            )
        pairs = zip(
            clean.detach().float().cpu(),
            estimate.detach().float().cpu(),
            strict=True,
        )
        try:
            for pair in pairs:
                arrays = [wave.numpy() for wave in pair]
                future = self.pool.submit(pesq_target, *arrays)
                self.waiting.append((future, *pair))
        except BrokenProcessPool:
            self._restart()

    def ready(self):
        """Take what has been scored; what could not be is left out.

        Returns
        -------
        list of tuple
            (clean, estimate, target): waveforms (L,) on the CPU and a float.
        """
        done = [item for item in self.waiting if item[0].done()]
        self.waiting = deque(i for i in self.waiting if not i[0].done())
        items = []
        for future, *pair in done:
            try:
                target = future.result()
            except BrokenProcessPool:
                self.counts["skipped"] += 1
                self._restart()
                continue
            self.deaths = 0
            if math.isnan(target):
                self.counts["failed"] += 1
            else:
                self.counts["scored"] += 1
                items.append((*pair, target))
        return items

    def _restart(self):
        """Forget workers of which one died; the next use starts others."""
        if self.pool is None:
            return
        self.close()
        self.deaths += 1
        if self.deaths >= MAX_DEATHS:
            raise RuntimeError(
                f"workers that compute PESQ died {MAX_DEATHS} times without "
                f"a score between: look for the memory they need, or set "
                f"pesq_workers lower or metric_weight to 0"
            )
        logger.warning("a worker that computes PESQ died, new ones are started")

    def close(self):
        """End the processes; what is waiting is forgotten."""
        self.counts["skipped"] += len(self.waiting)
        self.waiting.clear()
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)
            self.pool = None
