"""Shared parts of the prepare scripts of the recipes.

Corpora of hundreds of hours have broken files. They are left out of training,
never silently: the reasons stand in the report of the preparation.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from dbtransform_lobes.data import audio
from dbtransform_lobes.data.dataset import mix_dataset
from dbtransform_lobes.data.files import (
    MAX_LISTED,
    collect,
    fingerprint,
    raise_problems,
    read_record,
    write_json,
    write_table,
)
from dbtransform_lobes.data.mixtures import SAMPLE_RATE
from dbtransform_lobes.parallel import parallel_map

MANIFEST_COLUMNS = "path kind speaker split source frames sample_rate".split()
MANIFESTS = ("manifest.csv", "valid.json")
# Arguments of a preparation that its results do not depend on.
NO_SETTINGS = ("save_folder", "jobs", "skip_prep")
# An impulse response may be short, speech and noise fill a good part of a crop.
MIN_SECONDS = {"speech": 1.0, "noise": 1.0, "rir": 0.01}
# Speech with more samples than this at full scale would teach to clip.
FULL_SCALE, MAX_CLIPPED = 0.999, 1e-3

logger = get_logger(__name__)


def flaw(signal, speech=True):
    """Say what makes a recording unfit: silence, or clipping of speech."""
    if not np.any(signal):
        return "silent: all samples are zero"
    clipped = np.mean(np.abs(signal) >= FULL_SCALE)
    if speech and clipped > MAX_CLIPPED:
        return f"clipped: {100 * clipped:.2g} % of the samples at full scale"
    return ""


def _check_file(row):
    """Return the row of a file with frames and rate, and why it is unfit."""
    path, kind = row["path"], row["kind"]
    try:
        info = audio.audio_info(path)
        rate = info.samplerate
        row = {**row, "frames": info.frames, "sample_rate": rate}
        seconds, shortest = info.frames / rate, MIN_SECONDS[kind]
        if rate < SAMPLE_RATE:
            return row, f"rate: {rate} Hz, expected {SAMPLE_RATE} or more"
        if info.channels != 1:
            return row, f"channels: {info.channels}, expected 1"
        if seconds < shortest:
            problem = f"too short: {seconds:.3f} s, expected {shortest:g}"
            return row, f"{problem} or more"
        signal = audio.read_audio(path, sample_rate=rate)
    except (ValueError, OSError) as error:
        return row, f"unreadable: {error}"
    return row, flaw(signal, kind == "speech")


def recording(path, kind, speaker, source, split="train"):
    """Return the row of a file in a manifest, not measured."""
    values = str(path), kind, speaker, split, source
    return dict(zip(MANIFEST_COLUMNS, values, strict=False))


def measure(rows, jobs=1):
    """Check all files of a corpus, in some processes.

    Rows are dicts with ``path`` and ``kind``. Returned are the rows of fit
    files, with ``frames`` and ``sample_rate``, and a dict of unfit ones, such
    as those below 16 kHz, to what was expected and given.
    """
    results = parallel_map(_check_file, rows, jobs, chunksize=64)
    fit, problems = [], {}
    for row, problem in tqdm(results, "checking", len(rows), unit="file"):
        if problem:
            problems[row["path"]] = problem
        else:
            fit.append(row)
    return fit, problems


def hold_out(rows, key, fraction):
    """Set ``split`` of rows: valid for a fraction of their names, else train.

    Of the names of ``key``, such as "speaker", at least one is held out, by
    their hash, so that more names hardly change the choice.
    """
    names = sorted({row[key] for row in rows})
    if len(names) < 2 or not 0 < fraction < 1:
        raise ValueError(
            f"a fraction of {fraction} of {', '.join(names) or 'nothing'} is "
            f"to be held out for validation by {key}, expected two names or "
            "more of fit files and a fraction between 0 and 1"
        )
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    names.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    for row in rows:
        row["split"] = "valid" if row[key] in names[:count] else "train"


def summary(rows, problems):
    """Count files, speakers, hours, rates of each source, and the reasons."""
    table = pd.DataFrame(rows)
    table["hours"] = table["frames"] / table["sample_rate"] / 3600
    found = table.groupby(table["kind"] + " " + table["source"]).agg(
        files=("path", "size"),
        hours=("hours", "sum"),
        speakers=("speaker", "nunique"),
        rates=("sample_rate", lambda each: sorted(each.unique().tolist())),
    )
    found = found.round({"hours": 4}).to_dict("index")
    reasons = Counter(reason.split(":")[0] for reason in problems.values())
    return {"found": found, "unfit": dict(reasons)}


def prepare_once(name, arguments, find, write, names=MANIFESTS):
    """Prepare a corpus unless its arguments and its files are as before.

    The arguments are those of the recipe's function. ``find(settings)``, which
    are arguments without those of ``NO_SETTINGS`` and with whole folders,
    returns what it found and all paths; ``write(found, settings, folder,
    jobs)`` the rest of the record ``name``. That is returned, {} for
    ``skip_prep``. A lost file of the ``names`` is made anew.
    """
    if arguments["skip_prep"]:
        return {}
    folder = Path(arguments["save_folder"]).resolve()
    settings = {
        key: str(Path(value).resolve()) if key.endswith("_folder") else value
        for key, value in arguments.items()
        if key not in NO_SETTINGS
    }
    settings = json.loads(json.dumps(settings))  # as the record will hold them
    found, paths = find(settings)
    settings["files_sha256"] = fingerprint(paths)
    old = read_record(folder / name)
    same = all(old.get(key) == value for key, value in settings.items())
    if same and all((folder / name).is_file() for name in names):
        return old
    rest = write(found, settings, folder, arguments.get("jobs", 1))
    write_json(folder / name, {**settings, **rest})
    return {**settings, **rest}


def pair_entry(noisy, clean, data_root=None):
    """Return the entry of a pair in a manifest, its length in s.

    Paths are whole, or below ``{data_root}`` where that folder is given.
    """
    info, paths = audio.audio_info(clean), (noisy, clean)
    if data_root is not None:
        root = Path("{data_root}")
        paths = [root / path.relative_to(data_root) for path in paths]
    noisy, clean = map(str, paths)
    length = info.frames / info.samplerate
    return {"noisy_wav": noisy, "clean_wav": clean, "length": length}


def match_files(noisy, clean, problems):
    """Pair the paths of two dicts by their keys; problems get those alone."""
    known = noisy | clean
    problems += [
        f"{known[key]}: not in both folders"
        for key in sorted(noisy.keys() ^ clean.keys())
    ]
    both = sorted(noisy.keys() & clean.keys())
    return {key: (noisy[key], clean[key]) for key in both}


def check_pairs(pairs, title):
    """Read pairs (noisy path, clean path); return their rates in Hz, a set.

    ValueError lists, below a title, files that are unreadable, of several
    channels or unlike their partner. Silent or clipped clean files are named.
    """
    rates, problems, odd = set(), [], []
    for pair in tqdm(pairs, "checking", unit="pair"):
        noisy, clean = (collect(problems, _read_one, path) for path in pair)
        if noisy and clean:
            size, rate, oddity = clean
            if noisy[0] != size:
                told = f"{noisy[0]}, expected {size} as {pair[1]}"
                problems.append(f"{pair[0]}: {told}")
            rates.add(rate)
            odd += [f"{pair[1]}: {oddity}"] if oddity else []
    raise_problems(title, problems)
    if odd:
        listed = "; ".join(odd[:MAX_LISTED])
        logger.warning("%d odd clean files: %s", len(odd), listed)
    return rates


def _read_one(path):
    """Return length and rate as text, the rate, and the flaw of a file."""
    info = audio.audio_info(path)
    if info.channels != 1:
        raise ValueError(f"{path}: {info.channels} channels, expected 1")
    rate = info.samplerate
    size = f"{info.frames} samples at {rate} Hz"
    return size, rate, flaw(audio.read_audio(path, sample_rate=rate))


def write_pairs(path, folder, name):
    """Write the manifest of a set of ``dbtransform mix``, as "validset_wav"."""
    entries = {
        clean.stem: pair_entry(folder / f"noisy_{name}" / clean.name, clean)
        for clean in audio.find_audio(folder / f"clean_{name}")
    }
    write_json(path, entries)


def write_training(save_folder, rows, hours, snrs, seed):
    """Write ``manifest.csv`` and, of its split valid, ``valid.json``."""
    manifest = save_folder / "manifest.csv"
    write_table(manifest, MANIFEST_COLUMNS, rows)
    folder = save_folder / "valid"
    lengths = {"hours": 0.0, "valid_hours": hours, "test_hours": 0.0}
    options = {"snrs": snrs, "seed": seed, "babble": 0.0, "force": True}
    mix_dataset(manifest, folder, **lengths, **options)
    write_pairs(save_folder / "valid.json", folder, "validset_wav")
