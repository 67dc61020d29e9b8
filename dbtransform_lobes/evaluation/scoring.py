"""Scores of many files, with clean speech or without (DNSMOS).

A file that cannot be scored never stops the rest: silent clean files are
counted and named apart, all others are failures with their reason.
"""

from functools import partial
from pathlib import Path

import numpy as np
import soxr
from tqdm import tqdm

from dbtransform_lobes.data.audio import (
    AUDIO_SUFFIXES,
    audio_info,
    find_audio,
    read_audio,
)
from dbtransform_lobes.evaluation.dnsmos import check_installed, dnsmos
from dbtransform_lobes.evaluation.metrics import (
    METRICS,
    SAMPLE_RATE,
    SilentFileError,
    score,
)
from dbtransform_lobes.parallel import run_isolated

NO_METRICS = ("system", "file", "snr_db", "noise", "status", "reason")
SCORED, SILENT, FAILED = "scored", "silent", "failed"


def list_audio(folder):
    """Return the audio files of a folder, sorted, by name.

    A name is the path without suffix (``"speaker/a"``); ValueError if it is
    there twice, or there are none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give a folder of audio files")
    files = {}
    for path in find_audio(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise ValueError(
                f"{folder} holds {files[name].name} and {path.name}, "
                "expected one file a name; remove one of them"
            )
        files[name] = path
    if not files:
        raise ValueError(
            f"{folder} holds no {' or '.join(AUDIO_SUFFIXES)} file; "
            "give the folder that holds the files"
        )
    return dict(sorted(files.items()))


def _read_mono(path):
    """Read a file of one channel at 16 kHz, which the measures are made for."""
    info = audio_info(path)
    if info.channels != 1 or info.samplerate < SAMPLE_RATE:
        raise ValueError(
            f"{path.name} has {info.channels} channels at {info.samplerate} "
            f"Hz, expected 1 at {SAMPLE_RATE} Hz or more; give each channel a "
            "file of its own, and recordings of the full band"
        )
    signal = read_audio(path, sample_rate=info.samplerate)
    if info.samplerate == SAMPLE_RATE:
        return signal
    limit = max(1, np.max(np.abs(signal)))  # that resampling may step over
    signal = soxr.resample(signal, info.samplerate, SAMPLE_RATE)
    return signal.clip(-limit, limit)


def _score_file(name, clean_path, estimate_path, with_dnsmos):
    """Return the row of a file; whatever is wrong with it stands in it."""
    row = {"file": name, "status": SCORED, "reason": ""}
    try:
        if estimate_path is None:
            raise ValueError("there is no such file")
        estimate = _read_mono(estimate_path)
        if clean_path is not None:
            row.update(score(_read_mono(clean_path), estimate))
        if with_dnsmos:
            scores = dnsmos(estimate, SAMPLE_RATE).items()
            row.update({f"dnsmos_{key.lower()}": mos for key, mos in scores})
    except SilentFileError as error:
        row.update(status=SILENT, reason=str(error))
    except (ValueError, OSError, RuntimeError) as error:
        # pesq raises subclasses of RuntimeError
        row.update(status=FAILED, reason=f"{error}")
    return row


def score_files(files, jobs=1, with_dnsmos=False):
    """Score files in ``jobs`` worker processes; return a row for each.

    Files are (name, clean path, path), of one channel; those above 16 kHz are
    resampled to it, as the measures want it, and others refused; without a
    clean path only DNSMOS is predicted, without a path it has failed. A row is
    a dict of ``file``, ``status`` ("scored", "silent" or "failed"), ``reason``
    and, if scored, one float for each metric. A file that crashes its process
    has failed like any other.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, expected a number of at least 1")
    if with_dnsmos:
        check_installed()
    function = partial(_score_file, with_dnsmos=with_dnsmos)
    found = run_isolated(function, files, min(jobs, max(1, len(files))))
    rows = {}
    for item, row, reason in tqdm(found, total=len(files), unit="file"):
        failure = {"file": item[0], "status": FAILED, "reason": reason}
        rows[item] = failure if row is None else row
    return [rows[item] for item in files]


def metric_names(rows):
    """Return the metrics that rows hold, ``METRICS`` if none was scored."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return tuple(key for key in keys if key not in NO_METRICS) or METRICS


def scores_text(rows):
    """Return rows as csv, one a file, six decimals, with a header."""
    import pandas as pd

    metrics = list(metric_names(rows))
    frame = pd.DataFrame(rows)
    given = [name for name in NO_METRICS[:-1] if name in frame]
    frame = frame.reindex(columns=[*given, *metrics, "reason"])
    frame[metrics] = frame[metrics].map("{:.6f}".format, na_action="ignore")
    return frame.to_csv(index=False, lineterminator="\n")
