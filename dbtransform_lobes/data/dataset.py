"""Data sets of the VoiceBank layout, mixed from speech and noise recordings.

The plan (``mixtures.csv``) identifies a data set: a run goes on only in a
folder that holds the same one.
"""

import hashlib
import math
from pathlib import Path

from tqdm import tqdm

from dbtransform_lobes.data import files
from dbtransform_lobes.data.audio import audio_info, write_audio
from dbtransform_lobes.data.levels import LEVEL_DBFS, PEAK
from dbtransform_lobes.data.mixtures import (
    SAMPLE_RATE,
    cached_reader,
    draw_mixtures,
    mixtures_text,
    read_test_mixtures,
    render,
)
from dbtransform_lobes.data.recordings import (
    SPLITS,
    read_recordings,
    recordings_root,
)
from dbtransform_lobes.versions import package_versions

SET_NAMES = {
    "train": "trainset_28spk_wav",
    "valid": "validset_wav",
    "test": "testset_wav",
}


def mix_dataset(
    recordings,
    output,
    hours=1.0,
    valid_hours=0.1,
    test_hours=0.1,
    snrs=(0.0, 5.0, 10.0, 15.0),
    test_snrs=(2.5, 7.5, 12.5, 17.5),
    seed=0,
    babble=0.25,
    force=False,
):
    """Draw mixtures of the recordings and write a data set of them.

    Every split takes its speech and noise from the same split of the
    recordings. All speech of a split is used once, in random order, before
    any is used again; a noise is drawn in proportion to its duration. Item i
    depends on (seed, split, i) alone: more hours only add files.

    ``recordings`` are as of `read_recordings`. Lengths are in hours, 0 leaves a
    split out; SNRs are in dB. ``babble`` is the probability that the noise is
    made of 4 to 10 other talkers. With ``force``, what a run of other settings
    wrote in ``output`` is replaced.

    Returned is what ``dataset.json`` holds. FileNotFoundError if recordings are
    missing; ValueError if an argument is out of range, a recording cannot be
    mixed, a split has too few recordings, or ``output`` holds another data
    set. Nothing is written then.
    """
    arguments = {
        "recordings": str(recordings),
        "hours": hours,
        "valid_hours": valid_hours,
        "test_hours": test_hours,
        "snrs": [float(snr) for snr in snrs],
        "test_snrs": [float(snr) for snr in test_snrs],
        "seed": seed,
        "babble": babble,
    }
    _check_arguments(arguments)
    root = recordings_root(recordings)
    available = read_recordings(recordings)
    mixtures = draw_mixtures(available, arguments)
    used = {path for item in mixtures for path in (item.speech, *item.noise)}
    used = [each for each in available if each.path in used]
    recipe = {"arguments": arguments, **_collection_summary(used)}
    return _write_dataset(mixtures, Path(output), "", recipe, root, force)


def mix_testset(mixtures, recordings, output, force=False):
    """Build the test set that a csv of mixtures prescribes.

    Its columns are ``TEST_COLUMNS``; the rest is as of `mix_dataset`, and so
    are errors. Returned is what ``test_dataset.json`` holds.
    """
    root = recordings_root(recordings)
    items = read_test_mixtures(mixtures, root)
    read, problems = cached_reader(), []
    for item in tqdm(items, desc="checking", unit="file"):
        files.collect(problems, render, item, read)
    files.raise_problems("mixtures that cannot be made", problems)
    arguments = {"mixtures": str(mixtures), "recordings": str(recordings)}
    recipe = {"arguments": arguments}
    return _write_dataset(items, Path(output), "test_", recipe, root, force)


def _check_arguments(arguments):
    hours = ("hours", "valid_hours", "test_hours")
    least = {name: 0 <= arguments[name] < math.inf for name in (*hours, "seed")}
    expected = {name: "0 or more" for name, holds in least.items() if not holds}
    if not 0 <= arguments["babble"] <= 1:
        expected["babble"] = "0 to 1"
    for name in ("snrs", "test_snrs"):
        if not arguments[name] or not all(map(math.isfinite, arguments[name])):
            expected[name] = "one or more finite numbers"
    problems = [
        f"{name} is {arguments[name]}, expected {wanted}"
        for name, wanted in expected.items()
    ]
    if not any(arguments[name] for name in hours):
        problems.append("all hours are 0, expected one above 0")
    files.raise_problems("wrong arguments of mix", problems)


def _collection_summary(recordings):
    groups = {}
    for item in recordings:
        key = (item.source or "unknown", item.licence or "unknown")
        groups.setdefault(key, []).append(item.seconds)
    sources = []
    for (source, licence), seconds in sorted(groups.items()):
        about = {"source": source, "licence": licence, "files": len(seconds)}
        sources.append({**about, "hours": round(sum(seconds) / 3600, 4)})
    licences = sorted({licence for _, licence in groups})
    return {"sources": sources, "licences": licences}


def _write_dataset(mixtures, output, prefix, recipe, root, force):
    """Write the records, then every file that is not there yet."""
    plan = mixtures_text(mixtures, root)
    record_path = output / f"{prefix}dataset.json"
    plan_path = output / f"{prefix}mixtures.csv"
    found = {item.split for item in mixtures}
    splits = [split for split in SPLITS if split in found]
    record = {
        "plan_sha256": hashlib.sha256(plan.encode()).hexdigest(),
        **recipe,
        "sample_rate": SAMPLE_RATE,
        "level_dbfs": LEVEL_DBFS,
        "peak": PEAK,
        "versions": package_versions(),
        "splits": {split: _split_summary(mixtures, split) for split in splits},
    }
    old = files.read_record(record_path).get("splits", ())
    own = _set_folders(output, [name for name in SPLITS if name in old])
    made = [plan_path, *_set_folders(output, splits)]
    files.claim(record_path, record, [plan_path, *own], made, force)
    files.write_text(plan_path, plan)
    read = cached_reader()
    for item in tqdm(mixtures, desc="mixing", unit="file"):
        folders = _set_folders(output, [item.split])
        paths = [folder / item.file for folder in folders]
        if not all(path.exists() for path in paths):
            for path, signal in zip(paths, render(item, read), strict=True):
                write_audio(path, signal, SAMPLE_RATE)
    return record


def _split_summary(mixtures, split):
    members = [item for item in mixtures if item.split == split]
    infos = [audio_info(item.speech) for item in members]
    seconds = sum(info.frames / info.samplerate for info in infos)
    return {"files": len(members), "hours": round(seconds / 3600, 4)}


def _set_folders(output, splits):
    return [
        output / f"{kind}_{SET_NAMES[split]}"
        for split in splits
        for kind in ("clean", "noisy")
    ]
