"""Training crops, each a function of (seed, epoch, position) alone."""

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from dbtransform_lobes.data.levels import check_range, rms


class EpochSampler(Sampler):
    """Yield (epoch, position), the keys of the examples of one rank.

    Rank r takes the positions r, r + ranks, r + 2 ranks and so on of the
    ``length`` examples of an epoch, a multiple of ``ranks`` (else ValueError).

    Example
    -------
    >>> sampler = EpochSampler(4, rank=1, ranks=2)
    >>> sampler.set_epoch(7)
    >>> list(sampler)
    [(7, 1), (7, 3)]
    """

    def __init__(self, length, rank=0, ranks=1):
        if length % ranks:
            raise ValueError(
                f"length is {length}, expected a multiple of the {ranks} "
                "ranks, so that all of them take as many steps"
            )
        self.length, self.rank, self.ranks = length, rank, ranks
        self.epoch, self.done = 1, 0

    def set_epoch(self, epoch):
        """Set the epoch; the Brain calls it at its start."""
        self.epoch = epoch

    def skip(self, done):
        """Leave out the first examples (of all ranks) of the next epoch."""
        self.done = done

    def __len__(self):
        return self.length // self.ranks

    def __iter__(self):
        first, self.done = self.done + self.rank, 0
        keys = range(first, self.length, self.ranks)
        return iter([(self.epoch, position) for position in keys])


class TrainingCrops(Dataset):
    """Draw examples of a source and set their level, by (epoch, position).

    The files of a source, Recordings or Pairs, are visited in passes, each in
    an order of its own, that run on from epoch to epoch: however long an epoch
    of ``examples`` is, no file is visited twice before all have been visited
    once. The level of the mixture is drawn from the range ``level_dbfs`` in dB;
    ``sample_rate`` is in Hz, and the ``seed`` that of all examples.

    Example
    -------
    >>> class Tone:
    ...     def __len__(self):
    ...         return 3
    ...     def order(self, rng):
    ...         return rng.permutation(3)
    ...     def draw(self, index, length, rng):
    ...         return "tone", np.ones(length), rng.standard_normal(length)
    >>> crops = TrainingCrops(Tone(), examples=8, crop_seconds=0.1)
    >>> example = crops[1, 0]  # (epoch, position)
    >>> example["noisy"].shape, example["id"]
    (torch.Size([1600]), 'tone@1.0')
    """

    def __init__(
        self,
        source,
        examples,
        crop_seconds=2.0,
        seed=0,
        level_dbfs=(-38.0, -18.0),
        sample_rate=16000,
    ):
        check_range("level_dbfs", level_dbfs)
        self.source, self.examples, self.seed = source, examples, seed
        self.length = round(crop_seconds * sample_rate)
        self.level_dbfs = level_dbfs
        self._pass = None, None  # its number and order, made once

    def __len__(self):
        return self.examples

    def __getitem__(self, key):
        epoch, position = key
        so_far = (epoch - 1) * self.examples + position
        number, place = divmod(so_far, len(self.source))
        if self._pass[0] != number:
            rng = np.random.default_rng([self.seed, number])
            self._pass = number, self.source.order(rng)
        index = int(self._pass[1][place])
        rng = np.random.default_rng([self.seed, epoch, position + 1])
        name, *signals = self.source.draw(index, self.length, rng)
        clean, noisy = self._set_level(*signals, rng)
        return {
            "id": f"{name}@{epoch}.{position}",
            "noisy": torch.from_numpy(noisy.astype(np.float32)),
            "clean": torch.from_numpy(clean.astype(np.float32)),
        }

    def _set_level(self, clean, noisy, rng):
        level = rms(noisy)
        if level == 0:
            return clean, noisy
        gain = 10 ** (rng.uniform(*self.level_dbfs) / 20) / level
        gain = min(gain, 0.99 / np.abs(noisy).max())
        return clean * gain, noisy * gain
