"""What a corpus holds: every file read once, unfit ones listed with reasons.

Corpora of hundreds of hours have broken files. They are left out of training,
never silently: the reasons stand in the report of the preparation.
"""

import hashlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from tqdm import tqdm

from dbtransform_lobes.data.audio import open_audio, read_audio

MANIFEST_COLUMNS = (
    "path",
    "kind",
    "speaker",
    "split",
    "source",
    "frames",
    "sample_rate",
)
# An impulse response may be short, speech and noise fill a good part of a crop.
MIN_SECONDS = {"speech": 1.0, "noise": 1.0, "rir": 0.01}
# Speech with more samples than this at full scale would teach to clip.
FULL_SCALE, MAX_CLIPPED = 0.999, 1e-3


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
    frames : int
        0 if the file is unfit.
    rate : int
        Rate of the file in Hz; 0 if the file is unfit.
    problem : str
        "" if it is fit; otherwise what was expected and given.

    Example
    -------
    >>> check_file("nothing.wav", "speech", 16000)[2]
    'unreadable: nothing.wav: there is no such file'
    """
    try:
        with open_audio(path) as file:
            frames, rate, channels = file.frames, file.samplerate, file.channels
        problem = _header_problem(frames, rate, channels, kind, sample_rate)
        if not problem:
            signal = read_audio(path, sample_rate=rate)
            problem = _signal_problem(signal, kind)
    except (ValueError, OSError) as error:
        problem = f"unreadable: {error}"
    return (0, 0, problem) if problem else (frames, rate, "")


def _header_problem(frames, rate, channels, kind, sample_rate):
    if rate < sample_rate:
        return f"rate: {rate} Hz, expected {sample_rate} or more"
    if channels != 1:
        return f"channels: {channels}, expected 1"
    if frames < MIN_SECONDS[kind] * rate:
        return (
            f"too short: {frames / rate:.3f} s, expected "
            f"{MIN_SECONDS[kind]:g} or more"
        )
    return ""


def _signal_problem(signal, kind):
    if not np.any(signal):
        return "silent: all samples are zero"
    clipped = np.mean(np.abs(signal) >= FULL_SCALE)
    if kind == "speech" and clipped > MAX_CLIPPED:
        return f"clipped: {100 * clipped:.2g} % of the samples at full scale"
    return ""


def _check_row(task):
    row, sample_rate = task
    return check_file(row["path"], row["kind"], sample_rate)


def measure(rows, sample_rate=16000, jobs=1):
    """Check all files of a corpus.

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


def parallel_map(function, tasks, jobs, chunksize=1):
    """Yield the results of all tasks in their order, from ``jobs`` processes.

    Raises
    ------
    OSError
        If a process dies.

    Example
    -------
    >>> list(parallel_map(abs, [-1, 2], jobs=1))
    [1, 2]
    """
    if jobs == 1:
        yield from map(function, tasks)
        return
    try:
        with ProcessPoolExecutor(jobs) as pool:
            yield from pool.map(function, tasks, chunksize=chunksize)
    except BrokenProcessPool as error:
        raise OSError(
            f"one of {jobs} processes died, perhaps for want of memory; start "
            "again with fewer jobs"
        ) from error


def held_out(names, fraction):
    """A fraction of the names, at least one, that more names hardly change.

    Arguments
    ---------
    names : iterable of str
        Speakers, or whatever may not be in two splits.
    fraction : float
        Above 0 and below 1.

    Returns
    -------
    set of str
        Those with the lowest hash.

    Raises
    ------
    ValueError
        If there are fewer than two names.

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
    """Files, speakers, hours and rates of each source; reasons counted.

    Arguments
    ---------
    rows : list of dict
        Of ``measure``, with ``kind``, ``source`` and ``speaker``.
    problems : dict
        Path to reason.

    Returns
    -------
    dict
        For JSON.

    Example
    -------
    >>> summary([], {"a.wav": "silent: all samples are zero"})["unfit"]
    {'silent': 1}
    """
    found = {}
    for row in rows:
        entry = found.setdefault(
            f"{row['kind']} {row['source']}",
            {"files": 0, "hours": 0.0, "speakers": set(), "rates": set()},
        )
        entry["files"] += 1
        entry["hours"] += row["frames"] / row["sample_rate"] / 3600
        entry["speakers"].add(row["speaker"])
        entry["rates"].add(row["sample_rate"])
    for entry in found.values():
        entry["hours"] = round(entry["hours"], 4)
        entry["speakers"] = len(entry["speakers"])
        entry["rates"] = sorted(entry["rates"])
    reasons = Counter(reason.split(":")[0] for reason in problems.values())
    return {"found": dict(sorted(found.items())), "unfit": dict(reasons)}
