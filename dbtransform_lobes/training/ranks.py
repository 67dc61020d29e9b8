"""Exchange of numbers and lists between the ranks of a distributed run."""

from collections import Counter
from datetime import timedelta

import torch.distributed as dist
from speechbrain.utils.distributed import is_distributed_initialized


def rank_and_count():
    """Return the rank of this process and the number of ranks."""
    if not is_distributed_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def rank_batch_size(batch_size, accumulation=1):
    """Return the crops of one batch of one rank; ValueError if they differ.

    ``batch_size`` are the crops of a step, on all ranks, in ``accumulation``
    batches.

    Example
    -------
    >>> rank_batch_size(8, accumulation=2)
    4
    """
    ranks = rank_and_count()[1]
    if min(batch_size, accumulation) < 1 or batch_size % (ranks * accumulation):
        raise ValueError(
            f"batch_size is {batch_size}, the crops of one step, expected a "
            f"multiple of ranks x grad_accumulation_factor = {ranks} x "
            f"{accumulation}, so that all ranks and batches have as many"
        )
    return batch_size // (ranks * accumulation)


def gather_lists(values):
    """Join the lists of all ranks, which all must call this, in their order."""
    count = rank_and_count()[1]
    if count == 1:
        return list(values)
    parts = [None] * count
    dist.all_gather_object(parts, list(values))
    return [value for part in parts for value in part]


def mean_over_ranks(means, weight=1):
    """Average numbers by name over all ranks, which all must call this.

    A rank may lack some; ``weight`` is how much those of this rank count.
    """
    sums, totals = Counter(), Counter()
    for part, share in gather_lists([(means, weight)]):
        for name, value in part.items() if share else ():
            sums[name] += value * share
            totals[name] += share
    return {name: sums[name] / totals[name] for name in sums}


def prepare_on_main(function):
    """Call a function on the main process; the others wait as long as it takes.

    At SpeechBrain's barriers they wait for two hours at most.
    """
    rank, count = rank_and_count()
    if count > 1:
        patient = dist.new_group(backend="gloo", timeout=timedelta(days=30))
    if rank == 0:
        function()
    if count > 1:
        dist.barrier(patient)
