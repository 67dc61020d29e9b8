"""How fast training examples are made: the loader alone, without a model."""

import time

from torch.utils.data import DataLoader

from dbtransform_lobes.data.crops import EpochSampler, TrainingCrops
from dbtransform_lobes.data.degraded import DegradedRecordings
from dbtransform_lobes.data.recordings import read_recordings
from dbtransform_lobes.data.sources import Recordings

NO_AUGMENTATION = {
    "babble": 0.0,
    "clatter": 0.0,
    "second_noise": 0.0,
    "speech_filter": 0.0,
    "noise_filter": 0.0,
    "room": 0.0,
}


def sources(recordings):
    """The ways to make examples that are compared.

    Arguments
    ---------
    recordings : str
        A manifest, shards or a folder, see ``read_recordings``.

    Returns
    -------
    dict
        ``plain``: speech and noise mixed; ``augmented``: with the default
        augmentation of ``Recordings``; ``degraded``: with the defaults of
        ``DegradedRecordings``, without rooms where there are none.
    """
    rooms = any(item.kind == "rir" for item in read_recordings(recordings))
    return {
        "plain": Recordings(recordings, **NO_AUGMENTATION),
        "augmented": Recordings(recordings),
        "degraded": DegradedRecordings(
            recordings, reverberation=0.5 if rooms else 0.0
        ),
    }


def loading_speed(
    source, workers=0, batches=50, batch_size=8, crop_seconds=2.0, seed=0
):
    """Seconds of training audio made in a second.

    Arguments
    ---------
    source : Recordings | DegradedRecordings
        Draws speech and noise.
    workers : int
        Of the data loader; 0 makes the examples in this process.
    batches : int
        Batches that are timed, after two that warm up each worker.
    batch_size : int
        Crops in a batch.
    crop_seconds : float
        Length of a crop, in s.
    seed : int
        Seed of the examples.

    Returns
    -------
    float
        Of all workers together; noisy and clean count once.
    """
    warm_up = 2 * max(workers, 1)
    examples = (warm_up + batches) * batch_size
    loader = DataLoader(
        TrainingCrops(source, examples, crop_seconds, seed),
        batch_size,
        sampler=EpochSampler(examples),
        num_workers=workers,
    )
    for number, _ in enumerate(loader, start=1):
        if number == warm_up:
            start = time.perf_counter()
    elapsed = time.perf_counter() - start
    return batches * batch_size * crop_seconds / elapsed
