"""Shared parts of the prepare scripts of the recipes.

Corpora of hundreds of hours have broken files. They are left out of training,
never silently: the reasons stand in the report of the preparation.
"""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dbtransform_lobes.data.audio import (
    audio_info,
    find_audio,
    read_audio,
    write_audio,
)
from dbtransform_lobes.data.dataset import mix_dataset
from dbtransform_lobes.data.files import write_json
from dbtransform_lobes.parallel import parallel_map

MANIFEST_COLUMNS = "path kind speaker split source frames sample_rate".split()
# An impulse response may be short, speech and noise fill a good part of a crop.
MIN_SECONDS = {"speech": 1.0, "noise": 1.0, "rir": 0.01}
# Speech with more samples than this at full scale would teach to clip.
FULL_SCALE, MAX_CLIPPED = 0.999, 1e-3


def flaw(signal, speech=True):
    """Say what makes a recording unfit: silence, or clipping of speech.

    Example
    -------
    >>> flaw(np.zeros(8)), flaw(np.ones(8), speech=False)
    ('silent: all samples are zero', '')
    """
    if not np.any(signal):
        return "silent: all samples are zero"
    clipped = np.mean(np.abs(signal) >= FULL_SCALE)
    if speech and clipped > MAX_CLIPPED:
        return f"clipped: {100 * clipped:.2g} % of the samples at full scale"
    return ""


def check_file(path, kind, sample_rate):
    """Read a file and say what is wrong with it.

    Arguments
    ---------
    path : str
        Audio file.
    kind : str
        "speech", "noise" or "rir".
    sample_rate : int
        Lowest rate that is accepted, in Hz.

    Returns
    -------
    frames, rate : int
        Samples and rate in Hz of the file, 0 if it is unfit.
    problem : str
        "" if it is fit; otherwise what was expected and given.

    Example
    -------
    >>> check_file("nothing.wav", "speech", 16000)[2]
    'unreadable: nothing.wav: there is no such file'
    """
    shortest = MIN_SECONDS[kind]
    try:
        info = audio_info(path)
        frames, rate = info.frames, info.samplerate
        if rate < sample_rate:
            problem = f"rate: {rate} Hz, expected {sample_rate} or more"
        elif info.channels != 1:
            problem = f"channels: {info.channels}, expected 1"
        elif frames < shortest * rate:
            seconds = frames / rate
            problem = (
                f"too short: {seconds:.3f} s, expected {shortest:g} or more"
            )
        else:
            signal = read_audio(path, sample_rate=rate)
            problem = flaw(signal, kind == "speech")
    except (ValueError, OSError) as error:
        problem = f"unreadable: {error}"
    return (0, 0, problem) if problem else (frames, rate, "")


def _check_row(task):
    row, sample_rate = task
    return check_file(row["path"], row["kind"], sample_rate)


def measure(rows, sample_rate=16000, jobs=1):
    """Check all files of a corpus, in some processes.

    Arguments
    ---------
    rows : list of dict
        With ``path`` and ``kind``.
    sample_rate : int
        Lowest rate that is accepted, in Hz.
    jobs : int
        Processes.

    Returns
    -------
    fit : list of dict
        The rows of fit files, with ``frames`` and ``sample_rate``.
    problems : dict
        Path of each unfit file to the reason.
    """
    tasks = [(row, sample_rate) for row in rows]
    results = parallel_map(_check_row, tasks, jobs, chunksize=64)
    bar = tqdm(results, total=len(rows), desc="checking", unit="file")
    fit, problems = [], {}
    for row, (frames, rate, problem) in zip(rows, bar, strict=True):
        if problem:
            problems[row["path"]] = problem
        else:
            fit.append({**row, "frames": frames, "sample_rate": rate})
    return fit, problems


def held_out(names, fraction):
    """Choose a fraction of the names (0 to 1), at least one, by their hash.

    More names hardly change the choice. ValueError if there are fewer than
    two names.

    Example
    -------
    >>> len(held_out(["anna", "ben", "carl"], 0.01))
    1
    """
    names = sorted(set(names))
    if len(names) < 2 or not 0 < fraction < 1:
        raise ValueError(
            f"a fraction of {fraction} of {', '.join(names) or 'nothing'} is "
            "to be held out, expected two names or more and a fraction "
            "between 0 and 1"
        )
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    names.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return set(names[:count])


def summary(rows, problems):
    """Count files, speakers, hours and rates of each source, and reasons.

    Takes what ``measure`` returns, the rows with ``source`` and ``speaker``.

    Example
    -------
    >>> summary([], {"a.wav": "silent: all samples are zero"})["unfit"]
    {'silent': 1}
    """
    groups, found = {}, {}
    for row in rows:
        name = f"{row['kind']} {row['source']}"
        groups.setdefault(name, []).append(row)
    for name, members in sorted(groups.items()):
        seconds = sum(row["frames"] / row["sample_rate"] for row in members)
        found[name] = {
            "files": len(members),
            "hours": round(seconds / 3600, 4),
            "speakers": len({row["speaker"] for row in members}),
            "rates": sorted({row["sample_rate"] for row in members}),
        }
    reasons = Counter(reason.split(":")[0] for reason in problems.values())
    return {"found": found, "unfit": dict(reasons)}


# Pairs of noisy and clean files


def pair_entry(noisy, clean):
    """Return the entry of a pair in a manifest, its length in s."""
    info = audio_info(clean)
    return {
        "noisy_wav": str(noisy),
        "clean_wav": str(clean),
        "length": info.frames / info.samplerate,
    }


def copy_at_rate(path, copy, sample_rate):
    """Write a copy of a file at a sample rate."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    write_audio(copy, read_audio(path, sample_rate=sample_rate), sample_rate)


def write_pairs(path, folder, name):
    """Write the manifest of a set that ``dbtransform mix`` made in a folder.

    ``name`` is "validset_wav" or "testset_wav".
    """
    entries = {
        clean.stem: pair_entry(folder / f"noisy_{name}" / clean.name, clean)
        for clean in find_audio((folder / f"clean_{name}").resolve())
    }
    write_json(path, entries)


def mix_validation(save_folder, hours, snrs, seed):
    """Mix the split valid of ``manifest.csv`` once, into ``valid.json``."""
    folder = Path(save_folder, "valid").resolve()
    mix_dataset(
        Path(save_folder, "manifest.csv"),
        folder,
        hours=0.0,
        valid_hours=hours,
        test_hours=0.0,
        snrs=snrs,
        seed=seed,
        babble=0.0,
        force=True,
    )
    write_pairs(Path(save_folder, "valid.json"), folder, "validset_wav")
