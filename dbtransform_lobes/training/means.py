"""Means over an epoch that outlive an interruption."""

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)


@register_checkpoint_hooks
class RunningMeans:
    """Average numbers by name; a checkpoint holds what has been added.

    Example
    -------
    >>> means = RunningMeans()
    >>> means.add({"loss": torch.tensor(2.0)})
    >>> means.add({"loss": torch.tensor(4.0), "other": torch.tensor(1.0)})
    >>> means.result()
    {'loss': 3.0, 'other': 1.0}
    """

    def __init__(self):
        self.clear()

    def clear(self):
        """Begin anew."""
        self.sums, self.counts = {}, {}

    def add(self, numbers):
        """Add a tensor of one number, or several with equal weight, by name."""
        for name, number in numbers.items():
            total = self.sums.get(name, 0.0)
            self.sums[name] = total + number.detach().mean()
            self.counts[name] = self.counts.get(name, 0) + 1

    def result(self):
        """Return the means, a dict of float."""
        return {
            name: float(total) / self.counts[name]
            for name, total in self.sums.items()
        }

    @mark_as_saver
    def _save(self, path):
        sums = {name: float(total) for name, total in self.sums.items()}
        torch.save((sums, self.counts), path)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        self.sums, self.counts = torch.load(path, weights_only=True)
