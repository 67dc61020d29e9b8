"""PESQ in other processes, so that training does not wait for it."""

import logging
import math
from collections import Counter, deque

from dbtransform_lobes.evaluation.metrics import pesq_wide_band
from dbtransform_lobes.parallel import Workers

logger = logging.getLogger(__name__)
MAX_DEATHS = 5


def _pesq_target(clean, estimate):
    """Return the discriminator's target, (PESQ - 1) / 3.5, NaN without PESQ."""
    if not (clean.any() and estimate.any()):
        return math.nan
    try:
        return (pesq_wide_band(clean, estimate) - 1) / 3.5
    except ValueError:
        return math.nan


class PesqWorkers:
    """Score estimates in the background.

    Nothing here waits: ``submit`` leaves estimates to the workers, or does
    nothing while more than a batch is waiting, and ``ready`` returns those that
    have a score by now. ``counts`` says how many items were scored, failed
    (PESQ is not defined for them) and skipped (the workers were busy, or one
    died). RuntimeError if workers die again and again.
    """

    def __init__(self, num_workers=2):
        if num_workers < 1:
            raise ValueError(
                f"pesq_workers is {num_workers}, expected at least 1"
            )
        self.num_workers, self.workers = num_workers, None
        self.waiting, self.deaths = deque(), 0
        self.counts = Counter()

    def submit(self, clean, estimate):
        """Have the items of waveforms (B, L) at 16 kHz scored."""
        if len(self.waiting) > len(clean):
            self.counts["skipped"] += len(clean)
            return
        if self.workers is None:
            self.workers = Workers(self.num_workers)
        both = (x.detach().float().cpu() for x in (clean, estimate))
        for pair in zip(*both, strict=True):
            arrays = (wave.numpy() for wave in pair)
            future = self.workers.submit(_pesq_target, *arrays)
            self.waiting.append((future, *pair))

    def ready(self):
        """Take what has been scored: clean, estimate (L,), and target."""
        items, waiting = [], self.waiting
        self.waiting = deque()
        for future, *pair in waiting:
            if not future.done():
                self.waiting.append((future, *pair))
                continue
            target = None if future.exception() else future.result()[0]
            self.deaths = self.deaths + 1 if target is None else 0
            if self.deaths >= MAX_DEATHS:
                raise RuntimeError(
                    f"workers that compute PESQ died {MAX_DEATHS} times "
                    "without a score between: look for the memory they need, "
                    "or set pesq_workers lower or metric_weight to 0"
                )
            if target is None:
                self.counts["skipped"] += 1
                logger.warning("a worker of PESQ died; there is another")
            elif math.isnan(target):
                self.counts["failed"] += 1
            else:
                self.counts["scored"] += 1
                items.append((*pair, target))
        return items

    def close(self):
        """End the processes; what is waiting is forgotten."""
        self.counts["skipped"] += len(self.waiting)
        self.waiting.clear()
        if self.workers is not None:
            self.workers.stop()
            self.workers = None
