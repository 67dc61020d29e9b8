"""Data of a training run: crops to train on, whole files to validate on."""

import random

import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import (
    DynamicItemDataset,
    FilteredSortedDynamicItemDataset,
)
from speechbrain.utils.data_pipeline import provides, takes

from dbtransform_lobes.data.audio import read_audio
from dbtransform_lobes.data.crops import EpochSampler, TrainingCrops
from dbtransform_lobes.data.sources import read_pairs
from dbtransform_lobes.training.ranks import rank_and_count, rank_batch_size


def training_loader(source, steps, batch_size, accumulation, crops, **options):
    """Return a loader of the training crops of this rank.

    Arguments
    ---------
    source : object
        Of examples, see ``data/sources.py``.
    steps : int
        Of an epoch.
    batch_size, accumulation : int
        Crops of a step on all ranks together, and batches that they make.
    crops : dict
        For ``TrainingCrops``, beside the source and its length.
    **options
        For ``torch.utils.data.DataLoader``.
    """
    crops = TrainingCrops(source, steps * batch_size, **crops)
    return torch.utils.data.DataLoader(
        crops,
        rank_batch_size(batch_size, accumulation),
        sampler=EpochSampler(len(crops), *rank_and_count()),
        collate_fn=PaddedBatch,
        **options,
    )


def whole_files(manifest, data_root, sample_rate=16000, count=None, seed=0):
    """Return this rank's share of the files of a manifest, read whole.

    For the manifest and its root see ``read_pairs``. The seed chooses
    ``count`` of the files, None takes all.
    """
    entries = read_pairs(manifest, data_root)
    names = sorted(entries)
    if count is not None and count < len(names):
        names = sorted(random.Random(seed).sample(names, count))
    rank, size = rank_and_count()

    @takes("noisy_wav", "clean_wav")
    @provides("noisy", "clean")
    def read(*paths):
        """Yield the signals of both files."""
        for path in paths:
            signal = read_audio(path, sample_rate=sample_rate)
            yield torch.from_numpy(signal).float()

    everything = DynamicItemDataset(entries, [read], ["id", "noisy", "clean"])
    # With more ranks than files some get none, which only this class allows.
    return FilteredSortedDynamicItemDataset(everything, names[rank::size])
