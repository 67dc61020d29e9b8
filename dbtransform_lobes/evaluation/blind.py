"""DNSMOS of recordings that have no clean speech, folder by folder."""

import csv
import io
from pathlib import Path

import soundfile
from tqdm import tqdm

from dbtransform_lobes.data.recordings import write_text
from dbtransform_lobes.evaluation.dnsmos import (
    SAMPLE_RATE,
    check_installed,
    dnsmos,
)
from dbtransform_lobes.evaluation.evaluate import list_audio
from dbtransform_lobes.evaluation.parallel import run_isolated


def score_blind(path):
    """DNSMOS of a file, see ``dnsmos``.

    Arguments
    ---------
    path : Path
        One channel, 16 kHz.

    Returns
    -------
    dict
        ``sig``, ``bak``, ``ovrl``, ``p808``.

    Raises
    ------
    ValueError
        If it is not such a file.
    """
    signal, sample_rate = soundfile.read(path, always_2d=True)
    if signal.shape[1] != 1 or sample_rate != SAMPLE_RATE:
        raise ValueError(
            f"{path} has {signal.shape[1]} channels at {sample_rate} Hz, "
            f"expected one at {SAMPLE_RATE} Hz: convert it"
        )
    scores = dnsmos(signal[:, 0], sample_rate)
    return {name.lower(): score for name, score in scores.items()}


def evaluate_blind(folder, output_folder=None, jobs=1, progress=True):
    """DNSMOS of every file of a folder.

    Arguments
    ---------
    folder : str or Path
        With .wav or .flac files at any depth.
    output_folder : str or Path, optional
        Where dnsmos.csv is written.
    jobs : int
        Number of processes.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    dict
        ``num_files``, ``num_scored``, ``means`` (score to float, empty if no
        file was scored), ``failed`` (name to reason).

    Raises
    ------
    FileNotFoundError
        If there is no such folder or no audio in it.
    ValueError
        If the package speechmos is missing.
    """
    files = list_audio(Path(folder))
    check_installed()
    names = {path: name for name, path in files.items()}
    scores, failed = {}, {}
    for (path,), found, reason in tqdm(
        run_isolated(score_blind, [(path,) for path in names], jobs),
        total=len(names),
        unit="file",
        disable=not progress,
    ):
        if found is None:
            failed[names[path]] = reason
        else:
            scores[names[path]] = found
    if output_folder is not None:
        Path(output_folder).mkdir(parents=True, exist_ok=True)
        write_text(Path(output_folder, "dnsmos.csv"), _csv(scores))
    sums = {}
    for found in scores.values():
        for key, value in found.items():
            sums[key] = sums.get(key, 0.0) + value
    return {
        "num_files": len(files),
        "num_scored": len(scores),
        "means": {key: value / len(scores) for key, value in sums.items()},
        "failed": dict(sorted(failed.items())),
    }


def _csv(scores):
    """A row for each file."""
    stream = io.StringIO()
    columns = ["file", "sig", "bak", "ovrl", "p808"]
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for name, found in sorted(scores.items()):
        texts = {key: f"{value:.6f}" for key, value in found.items()}
        writer.writerow({"file": name, **texts})
    return stream.getvalue()
