"""Exponential moving average of the weights, used to validate and export."""

import torch
from torch.optim.swa_utils import AveragedModel


def weight_ema(model, decay=0.999):
    """Return an averaged copy of a model, torch's AveragedModel.

    Call ``update_parameters(model)`` after every step. An update keeps a
    share ``decay`` of the average, in [0, 1), which starts low: it is
    min(decay, (1 + n) / (10 + n)) after n updates, so that the random start
    is soon forgotten. ``.module`` is the averaged model, in evaluation mode.

    Example
    -------
    >>> model = torch.nn.Linear(1, 1)
    >>> ema = weight_ema(model)
    >>> ema.update_parameters(model)
    >>> torch.equal(ema.module.weight, model.weight)
    True
    """
    if not 0 <= decay < 1:
        raise ValueError(f"ema_decay is {decay}, expected 0 <= decay < 1")

    def average(averages, currents, count):
        """Move averages towards the current weights."""
        warm = (1 + float(count)) / (10 + float(count))
        torch._foreach_lerp_(averages, currents, 1 - min(decay, warm))

    return AveragedModel(model, multi_avg_fn=average).eval()
