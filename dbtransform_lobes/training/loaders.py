"""Data of a training run: crops to train on, whole files to validate on."""

import random

import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import (
    DynamicItemDataset,
    FilteredSortedDynamicItemDataset,
)
from speechbrain.utils.data_pipeline import provides, takes
from speechbrain.utils.distributed import run_on_main

from dbtransform_lobes.data.audio import read_audio
from dbtransform_lobes.data.crops import EpochSampler, TrainingCrops
from dbtransform_lobes.data.sources import Pairs, read_pairs
from dbtransform_lobes.training.ranks import rank_and_count, rank_batch_size
from dbtransform_lobes.training.run_folder import warn_of_other_files


def training_loader(hparams, accumulation=1):
    """Return a loader of the training crops of this rank.

    An epoch has ``steps_per_epoch`` steps of ``batch_size`` crops on all ranks
    together, each in ``accumulation`` batches.
    """
    batch_size = rank_batch_size(hparams["batch_size"], accumulation)
    if hparams["recordings"]:  # mixed on the fly
        source = hparams["recordings_source"](hparams["recordings"])
    else:
        source = Pairs(
            hparams["train_annotation"],
            hparams["data_folder"],
            hparams["sample_rate"],
            hparams["snr_db"],
        )
    given = [hparams["output_folder"], getattr(source, "files", [])]
    run_on_main(warn_of_other_files, given)
    crops = TrainingCrops(
        source,
        hparams["steps_per_epoch"] * hparams["batch_size"],
        hparams["crop_seconds"],
        hparams["seed"],
        hparams["level_dbfs"],
        hparams["sample_rate"],
    )
    return torch.utils.data.DataLoader(
        crops,
        batch_size,
        sampler=EpochSampler(len(crops), *rank_and_count()),
        collate_fn=PaddedBatch,
        **hparams["train_loader"],
    )


def whole_files(hparams, manifest, count=None):
    """Return this rank's share of the files of a manifest, read whole.

    The seed chooses ``count`` of them, None takes all.
    """
    entries = read_pairs(manifest, hparams["data_folder"])
    names = sorted(entries)
    if count is not None and count < len(names):
        names = sorted(random.Random(hparams["seed"]).sample(names, count))
    rank, size = rank_and_count()

    @takes("noisy_wav", "clean_wav")
    @provides("noisy", "clean")
    def read(*paths):
        """Yield the signals of both files."""
        for path in paths:
            signal = read_audio(path, sample_rate=hparams["sample_rate"])
            yield torch.from_numpy(signal).float()

    everything = DynamicItemDataset(entries, [read], ["id", "noisy", "clean"])
    # With more ranks than files some get none, which only this class allows.
    return FilteredSortedDynamicItemDataset(everything, names[rank::size])
