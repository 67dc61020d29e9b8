"""Training crops: a function of seed, epoch and position; their levels."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dbtransform_lobes.data.crops import EpochSampler, TrainingCrops
from dbtransform_lobes.data.levels import rms


class Hiss:
    """Files of noise at known levels; remembers what it drew."""

    def __init__(self, files=5, clean=0.2, noise=0.1):
        self.files, self.levels, self.drawn = files, (clean, noise), []

    def __len__(self):
        return self.files

    def order(self, rng):
        return rng.permutation(self.files)

    def draw(self, index, length, rng):
        self.drawn.append(index)
        clean, noise = rng.uniform(-1, 1, (2, length)) * math.sqrt(3)
        clean, noise = clean * self.levels[0], noise * self.levels[1]
        return f"file{index}", clean, clean + noise


def same(first, second):
    return first["id"] == second["id"] and all(
        torch.equal(first[key], second[key]) for key in ("noisy", "clean")
    )


def test_examples_are_a_function_of_seed_epoch_and_position():
    def crops(seed):
        return TrainingCrops(Hiss(), 4, 0.2, seed=seed)

    first = crops(seed=3)[2, 1]
    assert first["noisy"].shape == first["clean"].shape == (3200,)
    assert first["noisy"].dtype == torch.float32
    used = crops(seed=3)
    for key in ((1, 0), (2, 0), (2, 3)):
        used[key]
    assert same(first, used[2, 1])
    for seed, key in ((3, (1, 1)), (3, (2, 2)), (3, (3, 1)), (4, (2, 1))):
        other = crops(seed)[key]
        assert not torch.equal(first["noisy"], other["noisy"])


def test_workers_do_not_change_the_examples():
    crops = TrainingCrops(Hiss(), 5, 0.2, seed=3)
    assert len(crops) == 5
    sampler = EpochSampler(len(crops))
    given = {}
    for workers in (0, 2):
        loader = DataLoader(crops, 2, sampler=sampler, num_workers=workers)
        for epoch in (1, 2):
            sampler.set_epoch(epoch)
            given[workers, epoch] = list(loader)
    for epoch in (1, 2):
        assert len(given[0, epoch]) == 3
        for pair in zip(given[0, epoch], given[2, epoch], strict=True):
            assert same(*pair)
    assert not same(given[0, 1][0], given[0, 2][0])


def test_ranks_share_the_samples_of_one():
    """Rank r takes i mod ranks; a step of all ranks is a step of one."""
    alone = EpochSampler(12)
    for ranks in (2, 3, 4):
        samplers = [EpochSampler(12, rank, ranks) for rank in range(ranks)]
        for sampler in (alone, *samplers):
            sampler.set_epoch(5)
        shares = [list(sampler) for sampler in samplers]
        assert [len(s) for s in samplers] == [12 // ranks] * ranks
        assert [list(keys) for keys in zip(*shares, strict=True)] == [
            list(alone)[i : i + ranks] for i in range(0, 12, ranks)
        ]
        # Resumed after six examples, whatever the ranks were until then.
        if 6 % ranks == 0:
            samplers[1].skip(6)
            assert list(samplers[1]) == shares[1][6 // ranks :]
            assert list(samplers[1]) == shares[1]  # the next epoch is whole
    with pytest.raises(ValueError, match="multiple of the 5 ranks"):
        EpochSampler(12, 0, 5)


def test_levels_lie_in_their_range_and_leave_the_snr():
    crops = TrainingCrops(Hiss(), 60, 0.1, level_dbfs=(-30.0, -20.0))
    levels = []
    for position in range(60):
        example = crops[1, position]
        clean, noisy = example["clean"].double(), example["noisy"].double()
        assert rms(clean) / rms(noisy - clean) == pytest.approx(2, rel=0.1)
        levels.append(20 * math.log10(rms(noisy)))
    assert -30.001 < min(levels) < -28 and -22 < max(levels) < -19.999


def test_no_mixture_clips():
    crops = TrainingCrops(Hiss(), 20, 0.1, level_dbfs=(-18.0, 0.0))
    peaks = [float(crops[1, i]["noisy"].abs().max()) for i in range(20)]
    assert max(peaks) == pytest.approx(0.99, abs=1e-6)
    assert 0.1 < min(peaks) < 0.9


@pytest.mark.parametrize("levels", [(0.0, 0.1), (0.1, 0.0), (0.0, 0.0)])
def test_silence_is_kept(levels):
    example = TrainingCrops(Hiss(5, *levels), 5, 0.1)[1, 0]
    clean, noisy = example["clean"], example["noisy"]
    assert torch.isfinite(noisy).all()
    assert bool(clean.any()) == (levels[0] > 0)
    assert bool((noisy - clean).any()) == (levels[1] > 0)


@pytest.mark.parametrize("examples", [3, 5, 7])
def test_passes_visit_every_file_once(examples):
    source = Hiss(files=5)
    crops = TrainingCrops(source, examples, 0.01)
    for epoch in range(1, 11):
        for position in range(examples):
            crops[epoch, position]
    passes = np.reshape(source.drawn, (-1, 5))
    assert len(passes) == 2 * examples
    assert (np.sort(passes) == np.arange(5)).all()
    assert len({tuple(files) for files in passes}) > 1
