"""``benchmark_data.py``: how fast training examples are made."""

import time

import torch
from torch.utils.data import DataLoader

from command import start
from dbtransform_lobes.data.crops import EpochSampler, TrainingCrops
from dbtransform_lobes.data.sources import Recordings

HELP = "Measure how fast training examples are mixed, without a model."
EXAMPLES = """\
  benchmark_data.py manifest.csv
  benchmark_data.py shards/manifest.csv --workers 0 2 4

Workers of 0 use one core only. The first run also reads the files from the
disk, later ones from its cache.
"""

# What is compared, see Recordings; degraded is as in the DNS recipe.
AUGMENTATION = "babble clatter second_noise speech_filter noise_filter room"
DEGRADATION = {"reverberation": 0.5, "early_ms": 50.0}
DEGRADATION |= {"band_limit": 0.1, "codec": 0.1, "clipping": 0.1}
SOURCES = {
    "plain": dict.fromkeys(AUGMENTATION.split(), 0.0),
    "augmented": {},
    "degraded": DEGRADATION,
}


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "recordings",
        metavar="MANIFEST",
        help="manifest.csv of recordings or of shards, or a folder",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=int,
        nargs="+",
        default=[0],
        help="numbers of worker processes; 0 = none (default: 0)",
    )
    parser.add_argument(
        "--batches",
        metavar="N",
        type=int,
        default=100,
        help="batches of 8 crops of 2 s that are timed (default: 100)",
    )


def run(args):
    """Measure and print a line for each case; return 0."""
    if args.batches < 1 or min(args.workers) < 0:
        raise ValueError(
            f"batches is {args.batches} and workers are {args.workers}, "
            "expected 1 or more and 0 or more"
        )
    torch.set_num_threads(1)
    print("seconds of audio made per second")
    print(f"{'examples':10}{'workers':>8}{'in all':>9}{'per worker':>12}")
    for name, options in SOURCES.items():
        source = Recordings(args.recordings, **options)
        for workers in args.workers:
            speed = loading_speed(source, workers, args.batches)
            each = speed / max(workers, 1)
            print(f"{name:10}{workers:8}{speed:9.0f}{each:12.0f}", flush=True)
    return 0


def loading_speed(
    source, workers=0, batches=50, batch_size=8, crop_seconds=2.0
):
    """Return the seconds of audio that all workers make in a second.

    Noisy and clean count once. Two batches before the timed ones warm up each
    worker; 0 workers make the examples in this process.
    """
    warm_up = 2 * max(workers, 1)
    examples = (warm_up + batches) * batch_size
    loader = DataLoader(
        TrainingCrops(source, examples, crop_seconds, seed=0),
        batch_size,
        sampler=EpochSampler(examples),
        num_workers=workers,
    )
    for number, _ in enumerate(loader, start=1):
        if number == warm_up:
            start = time.perf_counter()
    elapsed = time.perf_counter() - start
    return batches * batch_size * crop_seconds / elapsed


if __name__ == "__main__":
    start(__file__)
