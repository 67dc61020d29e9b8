"""Score folders of enhanced files, with clean files or without (DNSMOS).

A file that cannot be scored never stops the rest: silent clean files are
counted and named apart, all others are failures with their reason.
"""

import csv
import io
import json
from functools import partial
from pathlib import Path

import soundfile
from tqdm import tqdm

from dbtransform_lobes.data.audio import find_audio
from dbtransform_lobes.data.files import write_text
from dbtransform_lobes.evaluation.dnsmos import check_installed, dnsmos
from dbtransform_lobes.evaluation.metrics import (
    METRICS,
    SilentFileError,
    score,
)
from dbtransform_lobes.evaluation.statistics import mean_interval
from dbtransform_lobes.parallel import run_isolated
from dbtransform_lobes.versions import package_versions

SUFFIXES = (".wav", ".flac")
NO_METRICS = ("system", "file", "snr_db", "noise", "status", "reason")
SCORED, SILENT, FAILED = "scored", "silent", "failed"


def list_audio(folder):
    """Return the audio files of a folder by their names without suffix.

    Arguments
    ---------
    folder : str or Path
        A folder; it is searched to any depth.

    Returns
    -------
    files : dict
        Path of each .wav and .flac file, sorted by its path in the folder
        without suffix (``"a"``, ``"speaker/a"``), which is the key.

    Raises
    ------
    ValueError
        If the folder does not exist, has no audio file, or has two files
        of one name.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.wav").write_bytes(b"")
    ...     assert list(list_audio(folder)) == ["a"]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give a folder of audio files")
    files = {}
    for path in find_audio(folder, SUFFIXES):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise ValueError(
                f"{folder} holds {files[name].name} and {path.name}, "
                "expected one file a name; remove one of them"
            )
        files[name] = path
    if not files:
        raise ValueError(
            f"{folder} holds no {' or '.join(SUFFIXES)} file; "
            "give the folder that holds the files"
        )
    return dict(sorted(files.items()))


def pair_files(clean_folder, estimate_folder):
    """Pair the files of two folders by their names without suffix.

    Arguments
    ---------
    clean_folder : str or Path
        Folder of clean speech.
    estimate_folder : str or Path
        Folder of noisy or enhanced speech.

    Returns
    -------
    pairs : list of tuple
        (name, clean path, estimate path), sorted by name.

    Raises
    ------
    ValueError
        If a file has no partner; all such files are named.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.wav").write_bytes(b"")
    ...     assert pair_files(folder, folder)[0][0] == "a"
    """
    clean, estimate = list_audio(clean_folder), list_audio(estimate_folder)
    no_estimate = [clean[name].name for name in clean if name not in estimate]
    no_clean = [estimate[name].name for name in estimate if name not in clean]
    problems = []
    if no_estimate:
        problems.append(f"only in {clean_folder}: {', '.join(no_estimate)}")
    if no_clean:
        problems.append(f"only in {estimate_folder}: {', '.join(no_clean)}")
    if problems:
        raise ValueError(
            "every file needs a partner of the same name (the suffix may "
            f"differ); {'; '.join(problems)}; add or remove these files"
        )
    return [(name, clean[name], estimate[name]) for name in sorted(clean)]


def _read_mono(path):
    """Return the samples (L,) and the rate of a file with one channel."""
    signal, sample_rate = soundfile.read(path, always_2d=True)  # (L, channels)
    if signal.shape[1] != 1:
        raise ValueError(
            f"{path.name} has {signal.shape[1]} channels, expected 1; "
            "score each channel as its own file"
        )
    return signal[:, 0], sample_rate


def _read_pair(clean_path, estimate_path):
    """Return clean, estimate and their common sample rate."""
    clean, clean_rate = _read_mono(clean_path)
    estimate, estimate_rate = _read_mono(estimate_path)
    if clean_rate != estimate_rate:
        raise ValueError(
            f"clean is at {clean_rate} Hz and estimate at {estimate_rate} "
            "Hz, expected one rate; resample one of them"
        )
    return clean, estimate, clean_rate


def score_file(name, clean_path, estimate_path, with_dnsmos=False):
    """Score one pair of files; whatever is wrong with it stands in the row.

    Arguments
    ---------
    name : str
        The name that the row is to carry.
    clean_path : Path
        File of clean speech, one channel, 16 kHz.
    estimate_path : Path
        File of noisy or enhanced speech.
    with_dnsmos : bool
        Whether to predict the DNSMOS of the estimate as well.

    Returns
    -------
    row : dict
        ``file``, ``status`` ("scored", "silent" or "failed"), ``reason``
        (empty if scored) and, if scored, one float for each metric.

    Example
    -------
    >>> row = score_file("a", Path("no_such.wav"), Path("no_such.wav"))
    >>> assert row["status"] == "failed" and "no_such" in row["reason"]
    """
    row = {"file": name, "status": SCORED, "reason": ""}
    try:
        clean, estimate, sample_rate = _read_pair(clean_path, estimate_path)
        row.update(score(clean, estimate, sample_rate))
        if with_dnsmos:
            row.update(_dnsmos_columns(estimate, sample_rate))
    except SilentFileError as error:
        row.update(status=SILENT, reason=str(error))
    except (ValueError, OSError, RuntimeError) as error:
        # soundfile and pesq raise subclasses of RuntimeError
        row.update(status=FAILED, reason=f"{error}")
    return row


def _dnsmos_columns(signal, sample_rate):
    found = dnsmos(signal, sample_rate)
    return {f"dnsmos_{key.lower()}": found[key] for key in found}


def score_blind(name, path):
    """Predict the DNSMOS of one file without clean speech.

    Arguments
    ---------
    name : str
        The name that the row is to carry.
    path : Path
        File of one channel, 16 kHz.

    Returns
    -------
    row : dict
        As ``score_file`` returns it.
    """
    row = {"file": name, "status": SCORED, "reason": ""}
    try:
        row.update(_dnsmos_columns(*_read_mono(path)))
    except (ValueError, OSError, RuntimeError) as error:
        row.update(status=FAILED, reason=f"{error}")
    return row


def score_pairs(pairs, jobs=1, progress=True, with_dnsmos=False):
    """Score pairs of files in worker processes.

    Arguments
    ---------
    pairs : list of tuple
        Arguments of ``score_file``.
    jobs : int
        Number of processes.
    progress : bool
        Whether to show a progress bar on the standard error output.
    with_dnsmos : bool
        Whether to predict DNSMOS as well.

    Returns
    -------
    rows : list of dict
        Rows as ``score_file`` returns them, in the order of the pairs. A
        pair that crashes its process has "failed" like any other.

    Raises
    ------
    ValueError
        If ``jobs`` is below 1, or DNSMOS is wanted and not installed.

    Example
    -------
    >>> rows = score_pairs([("a", Path("a.wav"), Path("a.wav"))])
    >>> assert rows[0]["status"] == "failed"
    """
    if with_dnsmos:
        check_installed()
    function = partial(score_file, with_dnsmos=with_dnsmos)
    return _score_all(function, pairs, jobs, progress)


def _score_all(function, items, jobs, progress):
    """Return the rows of a function of (name, ...), in the order of items."""
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, expected a number of at least 1")
    rows = {}
    for item, row, reason in tqdm(
        run_isolated(function, items, min(jobs, max(1, len(items)))),
        total=len(items),
        unit="file",
        disable=not progress,
    ):
        failure = {"file": item[0], "status": FAILED, "reason": reason}
        rows[item] = failure if row is None else row
    return [rows[item] for item in items]


def summarise(rows):
    """Return the means over the scored files and the names of all others.

    Arguments
    ---------
    rows : list of dict
        Rows as ``score_file`` returns them.

    Returns
    -------
    summary : dict
        ``num_files``, ``num_scored``, ``means`` (metric to float; None if
        no file was scored), ``silent`` (names) and ``failed`` (name to
        reason).

    Example
    -------
    >>> rows = [{"file": "a", "status": "silent", "reason": "no speech"}]
    >>> summary = summarise(rows)
    >>> assert summary["silent"] == ["a"] and summary["num_scored"] == 0
    """
    scored = [row for row in rows if row["status"] == SCORED]
    means = {
        metric: mean_interval([row[metric] for row in scored])["mean"]
        for metric in metric_names(rows)
    }
    return {
        "num_files": len(rows),
        "num_scored": len(scored),
        "means": means,
        "silent": [row["file"] for row in rows if row["status"] == SILENT],
        "failed": {
            row["file"]: row["reason"]
            for row in rows
            if row["status"] == FAILED
        },
    }


def metric_names(rows):
    """Return the metrics that rows hold, ``METRICS`` if none was scored.

    Arguments
    ---------
    rows : list of dict
        Rows as ``score_file`` returns them.

    Returns
    -------
    names : tuple of str
        In the order of the rows' keys.

    Example
    -------
    >>> assert metric_names([{"file": "a", "status": "silent"}]) == METRICS
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    return tuple(key for key in keys if key not in NO_METRICS) or METRICS


def scores_text(rows):
    """Return rows as csv, one a file, six decimals, with a header.

    Arguments
    ---------
    rows : list of dict
        Rows as ``score_file`` returns them; ``system``, ``snr_db`` and
        ``noise`` are columns if some row has them.

    Returns
    -------
    text : str
        The csv.

    Example
    -------
    >>> row = {"file": "a", "status": "silent", "reason": "no speech"}
    >>> scores_text([row]).splitlines()[1]
    'a,silent,,,,,,,,,no speech'
    """
    metrics = metric_names(rows)
    given = {key for row in rows for key in row} | {"file", "status"}
    columns = [key for key in NO_METRICS[:-1] if key in given]
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, [*columns, *metrics, "reason"], restval="", lineterminator="\n"
    )
    writer.writeheader()
    for row in rows:
        scores = {m: f"{row[m]:.6f}" for m in metrics if m in row}
        writer.writerow({**row, **scores})
    return stream.getvalue()


def write_scores(rows, report, output_folder):
    """Write ``scores.csv`` and ``scores.json``, each whole or not at all.

    Arguments
    ---------
    rows : list of dict
        Rows as ``score_file`` returns them.
    report : dict
        What the JSON file is to hold.
    output_folder : str or Path
        Made if missing; files of these two names are replaced.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_scores([], summarise([]), folder)
    ...     assert len(list(Path(folder).iterdir())) == 2
    """
    folder = Path(output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(folder / "scores.csv", scores_text(rows))
    write_text(folder / "scores.json", text + "\n")


def evaluate_folders(
    clean_folder,
    estimate_folder,
    output_folder=None,
    jobs=1,
    progress=True,
    with_dnsmos=False,
):
    """Score all files of a folder against their clean speech.

    Arguments
    ---------
    clean_folder : str or Path
        Folder of clean speech: .wav or .flac, 16 kHz, one channel.
    estimate_folder : str or Path
        Folder of noisy or enhanced speech with files of the same names.
    output_folder : str or Path, optional
        Where to write ``scores.csv`` and ``scores.json``, if at all.
    jobs : int
        Number of processes.
    progress : bool
        Whether to show a progress bar on the standard error output.
    with_dnsmos : bool
        Whether to predict DNSMOS as well.

    Returns
    -------
    report : dict
        All keys of ``scores.json``: those of ``summarise``, ``versions``
        and both folders; besides them ``rows``.

    Raises
    ------
    ValueError
        If a folder is missing or empty, a file has no partner, ``jobs`` is
        below 1, or DNSMOS is wanted and not installed. A file that cannot be
        scored does not raise.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(f"{folder}/a.wav", [0.0] * 16000, 16000)
    ...     report = evaluate_folders(folder, folder, progress=False)
    >>> assert report["silent"] == ["a"] and report["failed"] == {}
    """
    pairs = pair_files(clean_folder, estimate_folder)
    rows = score_pairs(pairs, jobs, progress, with_dnsmos)
    report = {
        **summarise(rows),
        "versions": package_versions(),
        "clean_folder": str(clean_folder),
        "estimate_folder": str(estimate_folder),
    }
    if output_folder is not None:
        write_scores(rows, report, output_folder)
    return {**report, "rows": rows}


def evaluate_blind(folder, output_folder=None, jobs=1, progress=True):
    """Predict the DNSMOS of all files of a folder, without clean speech.

    Arguments
    ---------
    folder : str or Path
        With .wav or .flac files at any depth: 16 kHz, one channel.
    output_folder : str or Path, optional
        Where to write ``scores.csv`` and ``scores.json``, if at all.
    jobs : int
        Number of processes.
    progress : bool
        Whether to show a progress bar on the standard error output.

    Returns
    -------
    report : dict
        As ``evaluate_folders`` returns it.

    Raises
    ------
    ValueError
        If the folder is missing or empty, ``jobs`` is below 1, or DNSMOS is
        not installed. A file that cannot be scored does not raise.
    """
    files = list_audio(folder)
    check_installed()
    rows = _score_all(score_blind, list(files.items()), jobs, progress)
    report = {
        **summarise(rows),
        "versions": package_versions(),
        "estimate_folder": str(folder),
    }
    if output_folder is not None:
        write_scores(rows, report, output_folder)
    return {**report, "rows": rows}
