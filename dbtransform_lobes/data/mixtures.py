"""One mixture of speech and noise, and lists of them as csv."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dbtransform_lobes.data.audio import read_audio
from dbtransform_lobes.data.files import (
    collect,
    raise_problems,
    read_table,
    table_text,
)
from dbtransform_lobes.data.mixing import mix, scale_to_dbfs, wrap_noise

SAMPLE_RATE = 16000
# Several noises (babble) share one csv field, with this between them.
SEPARATOR = "|"
MIXTURE_COLUMNS = (
    "file",
    "split",
    "speech",
    "noise",
    "offset",
    "snr_db",
    "seed",
)
TEST_COLUMNS = ("id", "speech", "noise", "noise_offset_s", "snr_db")


@dataclass(frozen=True)
class Mixture:
    """One item of a data set; paths are relative to the recordings.

    Arguments
    ---------
    file : str
        Name of the clean and of the noisy file.
    split : str
        "train", "valid" or "test".
    speech : str
        Path of the speech.
    noise : tuple of str
        Path of the noise; two or more (babble) are levelled and summed.
    offset : tuple of int
        First sample of every noise, at 16 kHz.
    snr_db : float
        Signal-to-noise ratio, in dB.
    seed : str
        Seed it was drawn from, "" when it was given.
    """

    file: str
    split: str
    speech: str
    noise: tuple
    offset: tuple
    snr_db: float
    seed: str = ""


def render(mixture, read):
    """Return the clean and the noisy signal of one mixture.

    Arguments
    ---------
    mixture : Mixture
        What to mix.
    read : callable
        Gives the samples (L,) of a path.

    Returns
    -------
    clean : numpy.ndarray
        The target (L,), float64.
    noisy : numpy.ndarray
        The mixture (L,), float64.

    Raises
    ------
    ValueError
        If speech or noise is silent or unreadable.

    Example
    -------
    >>> import numpy as np
    >>> item = Mixture("a.wav", "test", "s", ("n",), (0,), 5.0)
    >>> clean, noisy = render(item, lambda path: np.ones(160))
    >>> noisy.shape
    (160,)
    """
    speech = read(mixture.speech)
    parts = [
        wrap_noise(read(path), offset, len(speech))
        for path, offset in zip(mixture.noise, mixture.offset, strict=True)
    ]
    try:
        if len(parts) > 1:
            parts = [scale_to_dbfs(part) for part in parts]
        return mix(speech, sum(parts), mixture.snr_db)
    except ValueError as error:
        names = f"{mixture.speech} with {SEPARATOR.join(mixture.noise)}"
        raise ValueError(f"{mixture.file}: {names}: {error}") from error


def read_test_mixtures(path):
    """Read a csv of fixed test mixtures.

    Arguments
    ---------
    path : str
        A csv with the columns id, speech, noise, noise_offset_s, snr_db.

    Returns
    -------
    list of Mixture
        In the order of the csv, its files named ``<id>.wav``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If columns are missing or values are wrong.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such csv of mixtures")
    rows = read_table(path, TEST_COLUMNS)
    problems, items = [], []
    for line, row in enumerate(rows, start=2):
        collect(problems, _test_mixture, row, items, line=line)
    names = Counter(item.file for item in items)
    problems += [f"{name}: twice" for name, n in names.items() if n > 1]
    raise_problems(f"{path}: wrong rows", problems)
    return items


def _test_mixture(row, items):
    name = row["id"] or ""
    if safe_name(name) != name:
        raise ValueError(
            f"id is {name!r}, expected letters, digits, '-', '_' and '.'"
        )
    offset, snr = float(row["noise_offset_s"]), float(row["snr_db"])
    if not (math.isfinite(offset) and math.isfinite(snr)) or offset < 0:
        raise ValueError(
            f"noise_offset_s is {offset} and snr_db is {snr}, expected "
            "finite numbers and an offset of 0 or more"
        )
    items.append(
        Mixture(
            file=f"{name}.wav",
            split="test",
            speech=row["speech"],
            noise=(row["noise"],),
            offset=(round(offset * SAMPLE_RATE),),
            snr_db=snr,
        )
    )


def mixtures_text(mixtures):
    """Return the csv of a plan."""
    rows = [
        {
            **vars(item),
            "noise": SEPARATOR.join(item.noise),
            "offset": SEPARATOR.join(map(str, item.offset)),
        }
        for item in mixtures
    ]
    return table_text(MIXTURE_COLUMNS, rows)


def cached_reader(root):
    """Return a reader of files below a folder that keeps the last 128."""

    @lru_cache(maxsize=128)
    def read(path):
        """Return the samples of a file."""
        return read_audio(root / path, sample_rate=SAMPLE_RATE)

    return read


def safe_name(label):
    """Make a label fit for a file name."""
    return re.sub(r"[^\w.-]+", "-", label).lstrip(".") or "x"
