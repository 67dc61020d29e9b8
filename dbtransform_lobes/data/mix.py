"""Data sets of the VoiceBank layout, mixed from speech and noise recordings.

`mix_dataset` draws mixtures at random, `mix_testset` builds a given list of
mixtures; both are behind ``dbtransform mix``. Everything is planned and tried
before the first file is written, and the plan (``mixtures.csv``) identifies a
data set: a run goes on only in a folder that holds the same plan.
"""

import csv
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dbtransform_lobes.data.mixing import (
    LEVEL_DBFS,
    PEAK,
    mix,
    rms,
    scale_to_dbfs,
    wrap_noise,
)
from dbtransform_lobes.data.recordings import (
    SPLITS,
    audio_info,
    raise_problems,
    read_audio,
    read_recordings,
    recordings_root,
    write_audio,
    write_text,
)
from dbtransform_lobes.versions import package_versions

SAMPLE_RATE = 16000
SET_NAMES = {
    "train": "trainset_28spk_wav",
    "valid": "validset_wav",
    "test": "testset_wav",
}
# Several noises (babble) share one csv field, with this between them.
SEPARATOR = "|"
BABBLE_TALKERS = (4, 10)
MIN_OTHER_SPEAKERS = 3
# A noise excerpt this much below its recording is drawn again: scaling a gap
# between two barks to 0 dB SNR would blow up the recorder's hiss.
MAX_DROP_DB = 30.0
MAX_DRAWS = 50

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
    depends on (seed, split, i) alone: the same call makes the same files,
    more hours only add files.

    Arguments
    ---------
    recordings : str
        A manifest csv or a folder, see `read_recordings`.
    output : str
        Folder of the data set; made when missing.
    hours, valid_hours, test_hours : float
        Length of the splits, in hours; 0 leaves a split out.
    snrs : sequence of float
        SNRs of training and validation, in dB.
    test_snrs : sequence of float
        SNRs of the test, in dB.
    seed : int
        Seed of all random choices.
    babble : float
        Probability that the noise is made of 4 to 10 other talkers.
    force : bool
        Replace what an earlier run with other settings wrote in ``output``.

    Returns
    -------
    dict
        What ``dataset.json`` holds: arguments, versions, files and hours per
        split, sources and licences.

    Raises
    ------
    FileNotFoundError
        If recordings are missing.
    ValueError
        If an argument is out of range, a recording cannot be mixed, a split
        has too few recordings, or ``output`` holds another data set. Nothing
        is written then.

    Example
    -------
    >>> mix_dataset("recordings", "mixed", hours=0.5)  # doctest: +SKIP
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
    read = _cached_reader(root)
    mixtures = _draw_all(available, root, arguments, read)
    used = {path for item in mixtures for path in (item.speech, *item.noise)}
    recipe = {
        "arguments": arguments,
        **_collection_summary(
            [r for r in available if _relative(r.path, root) in used]
        ),
    }
    return _write_dataset(mixtures, Path(output), "", recipe, root, force)


def mix_testset(mixtures, recordings, output, force=False):
    """Build the test set that a csv of mixtures prescribes.

    Arguments
    ---------
    mixtures : str
        A csv with the columns id, speech, noise, noise_offset_s, snr_db;
        its paths are relative to the recordings.
    recordings : str
        The manifest csv of the recordings, or their folder.
    output : str
        Folder that gets ``clean_testset_wav`` and ``noisy_testset_wav``.
    force : bool
        Replace another such test set in ``output``.

    Returns
    -------
    dict
        What ``test_dataset.json`` holds.

    Raises
    ------
    FileNotFoundError
        If the csv is missing.
    ValueError
        If a row is wrong, a recording cannot be mixed, or ``output`` holds
        another test set. Nothing is written then.

    Example
    -------
    >>> mix_testset("test.csv", "manifest.csv", "out")  # doctest: +SKIP
    """
    root = recordings_root(recordings)
    items = read_test_mixtures(mixtures)
    read = _cached_reader(root)
    problems = []
    for item in tqdm(items, desc="checking", unit="file"):
        _collect(problems, render, item, read)
    raise_problems("mixtures that cannot be made", problems)
    arguments = {"mixtures": str(mixtures), "recordings": str(recordings)}
    recipe = {"arguments": arguments}
    return _write_dataset(items, Path(output), "test_", recipe, root, force)


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
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such csv of mixtures")
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        rows = list(reader)
    missing = [name for name in TEST_COLUMNS if name not in columns]
    if missing or not rows:
        raise ValueError(
            f"{path}: expected the columns {', '.join(TEST_COLUMNS)} and at "
            f"least one row, given {', '.join(columns)} and {len(rows)} rows"
        )
    problems, items = [], []
    for line, row in enumerate(rows, start=2):
        _collect(problems, _test_mixture, row, items, line=line)
    names = Counter(item.file for item in items)
    problems += [f"{name}: twice" for name, n in names.items() if n > 1]
    raise_problems(f"{path}: wrong rows", problems)
    return items


def _test_mixture(row, items):
    name = row["id"] or ""
    if _safe(name) != name:
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


def _collect(problems, function, *arguments, line=None):
    """Call; keep the message of an error that the user can mend."""
    try:
        return function(*arguments)
    except (ValueError, TypeError, OSError) as error:
        text = str(error) if line is None else f"line {line}: {error}"
        if text not in problems:
            problems.append(text)
        return None


def _cached_reader(root):
    @lru_cache(maxsize=128)
    def read(path):
        return read_audio(root / path, sample_rate=SAMPLE_RATE)

    return read


def _relative(path, root):
    return Path(os.path.relpath(path, root)).as_posix()


def _safe(label):
    """Make a label fit for a file name."""
    return re.sub(r"[^\w.-]+", "-", label).lstrip(".") or "x"


def _check_arguments(arguments):
    problems = []
    for name in ("hours", "valid_hours", "test_hours"):
        value = arguments[name]
        if not (math.isfinite(value) and value >= 0):
            problems.append(f"{name} is {value}, expected 0 or more")
    if sum(arguments[name] for name in ("hours", "valid_hours")) <= 0:
        if arguments["test_hours"] <= 0:
            problems.append("all hours are 0, expected one above 0")
    for name in ("snrs", "test_snrs"):
        values = arguments[name]
        if not values or not all(map(math.isfinite, values)):
            problems.append(f"{name} are {values}, expected finite numbers")
    if arguments["seed"] < 0:
        problems.append(f"seed is {arguments['seed']}, expected 0 or more")
    if not 0 <= arguments["babble"] <= 1:
        problems.append(f"babble is {arguments['babble']}, expected 0 to 1")
    raise_problems("wrong arguments of mix", problems)


def _draw_all(available, root, arguments, read):
    """Plan and try every mixture of every split."""
    lengths = (
        arguments["hours"],
        arguments["valid_hours"],
        arguments["test_hours"],
    )
    mixtures, problems = [], []
    for split, hours in zip(SPLITS, lengths, strict=True):
        if hours:
            drawer = _collect(
                problems, _Drawer, available, root, split, arguments
            )
            if drawer:
                mixtures += drawer.draw(hours, read, problems)
    raise_problems("the recordings cannot be mixed", problems)
    return mixtures


class _Drawer:
    """Draws the mixtures of one split."""

    def __init__(self, available, root, split, arguments):
        self.root = root
        self.split = split
        self.seed = arguments["seed"]
        self.babble = arguments["babble"]
        test = split == "test"
        self.snrs = arguments["test_snrs" if test else "snrs"]
        members = [r for r in available if r.split == split]
        self.speech = [r for r in members if r.kind == "speech"]
        self.noises = [r for r in members if r.kind == "noise"]
        seconds = np.array([item.seconds for item in self.noises])
        self.shares = seconds / np.sum(seconds)
        self.talkers = {}
        for item in self.speech:
            self.talkers.setdefault(item.speaker, []).append(item)
        self._check()

    def _check(self):
        option = "--hours" if self.split == "train" else f"--{self.split}_hours"
        if not self.speech or (not self.noises and self.babble < 1):
            raise ValueError(
                f"split {self.split} has {len(self.speech)} speech and "
                f"{len(self.noises)} noise recordings, expected at least one "
                f"of each; add recordings or give {option} 0"
            )
        if self.babble and len(self.talkers) <= MIN_OTHER_SPEAKERS:
            raise ValueError(
                f"split {self.split} has {len(self.talkers)} speakers, "
                f"expected {MIN_OTHER_SPEAKERS + 1} or more for babble; add "
                "speakers or give --babble 0"
            )

    def draw(self, hours, read, problems):
        """Draw and try mixtures until they fill the hours."""
        mixtures, seconds, index = [], 0.0, 0
        speeches = self._speech()
        with tqdm(desc=f"planning {self.split}", unit="file") as bar:
            while seconds < hours * 3600:
                speech = next(speeches)
                item = _collect(problems, self._item, index, speech, read)
                if item:
                    _collect(problems, render, item, read)
                    mixtures.append(item)
                seconds += speech.seconds
                index += 1
                bar.update()
        return mixtures

    def _seed(self, index):
        return [self.seed, SPLITS.index(self.split), index]

    def _speech(self):
        """Yield an endless row of shuffled passes over the speech."""
        for turn in itertools.count():
            # The last 1 keeps the stream apart from those of the items.
            rng = np.random.default_rng([*self._seed(turn), 1])
            for place in rng.permutation(len(self.speech)):
                yield self.speech[place]

    def _item(self, index, speech, read):
        seed = self._seed(index)
        rng = np.random.default_rng(seed)
        snr = float(self.snrs[rng.integers(len(self.snrs))])
        if rng.random() < self.babble:
            sources = self._others(rng, speech.speaker)
        else:
            sources = [rng.choice(self.noises, p=self.shares)]
        paths = [_relative(item.path, self.root) for item in sources]
        length = len(read(_relative(speech.path, self.root)))
        offsets = [_draw_offset(rng, read(path), length) for path in paths]
        return Mixture(
            file=f"{_safe(speech.speaker)}_{index:03d}.wav",
            split=self.split,
            speech=_relative(speech.path, self.root),
            noise=tuple(paths),
            offset=tuple(offsets),
            snr_db=snr,
            seed=" ".join(map(str, seed)),
        )

    def _others(self, rng, speaker):
        """Utterances of 4 to 10 other talkers; a talker serves again only
        where there are too few."""
        others = [name for name in self.talkers if name != speaker]
        low, high = BABBLE_TALKERS
        count = int(rng.integers(low, high + 1))
        count = max(low, min(count, len(others)))
        order = rng.permutation(len(others))
        talkers = [others[order[k % len(others)]] for k in range(count)]
        return [
            self.talkers[name][rng.integers(len(self.talkers[name]))]
            for name in talkers
        ]


def _draw_offset(rng, noise, length):
    """Draw a first sample whose excerpt is not a gap in the recording."""
    floor = rms(noise) * 10 ** (-MAX_DROP_DB / 20)
    offset = 0
    for _ in range(MAX_DRAWS):
        offset = int(rng.integers(len(noise)))
        if rms(wrap_noise(noise, offset, length)) > floor:
            break
    return offset


def _collection_summary(recordings):
    """Count and hours of the recordings used, by source and licence."""
    groups = {}
    for item in recordings:
        key = (item.source or "unknown", item.licence or "unknown")
        count, seconds = groups.get(key, (0, 0.0))
        groups[key] = (count + 1, seconds + item.seconds)
    sources = [
        {
            "source": source,
            "licence": licence,
            "files": count,
            "hours": round(seconds / 3600, 4),
        }
        for (source, licence), (count, seconds) in sorted(groups.items())
    ]
    licences = sorted({entry["licence"] for entry in sources})
    return {"sources": sources, "licences": licences}


def _mixtures_text(mixtures):
    """Return the csv of a plan."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(MIXTURE_COLUMNS)
    for item in mixtures:
        noises = SEPARATOR.join(item.noise)
        offsets = SEPARATOR.join(map(str, item.offset))
        writer.writerow(
            (
                item.file,
                item.split,
                item.speech,
                noises,
                offsets,
                item.snr_db,
                item.seed,
            )
        )
    return stream.getvalue()


def _write_dataset(mixtures, output, prefix, recipe, root, force):
    """Write the records, then every file that is not there yet."""
    plan = _mixtures_text(mixtures)
    record_path = output / f"{prefix}dataset.json"
    splits = {item.split for item in mixtures}
    record = {
        "plan_sha256": hashlib.sha256(plan.encode()).hexdigest(),
        **recipe,
        "sample_rate": SAMPLE_RATE,
        "level_dbfs": LEVEL_DBFS,
        "peak": PEAK,
        "versions": package_versions(),
        "splits": {
            split: _split_summary(mixtures, split, root)
            for split in SPLITS
            if split in splits
        },
    }
    folders = _set_folders(output, splits)
    _clear_folder(output, record_path, record, folders, force)
    output.mkdir(parents=True, exist_ok=True)
    write_text(record_path, json.dumps(record, indent=2) + "\n")
    write_text(output / f"{prefix}mixtures.csv", plan)
    for folder in folders:
        folder.mkdir(exist_ok=True)
    read = _cached_reader(root)
    for item in tqdm(mixtures, desc="mixing", unit="file"):
        _write_mixture(item, output, read)
    return record


def _split_summary(mixtures, split, root):
    members = [item for item in mixtures if item.split == split]
    infos = [audio_info(root / item.speech) for item in members]
    seconds = sum(info.frames / info.samplerate for info in infos)
    hours = round(seconds / 3600, 4)
    return {"files": len(members), "hours": hours}


def _set_folders(output, splits):
    return [
        output / f"{kind}_{SET_NAMES[split]}"
        for split in splits
        for kind in ("clean", "noisy")
    ]


def _clear_folder(output, record_path, record, wanted, force):
    """Refuse a folder of other content, or empty it when forced."""
    old = _read_record(record_path)
    same = old.get("plan_sha256") == record["plan_sha256"]
    if old and not same:
        if not force:
            raise ValueError(
                f"{output} holds a data set of another configuration (see "
                f"{record_path.name}), expected an empty folder; choose "
                "another --output, or replace it with --force"
            )
        for folder in _set_folders(output, old["splits"]):
            shutil.rmtree(folder, ignore_errors=True)
    foreign = [folder.name for folder in wanted if folder.exists()]
    if foreign and not same:
        raise ValueError(
            f"{output} already has {', '.join(foreign)}, which this command "
            "did not write; choose another --output"
        )


def _read_record(path):
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {
            "plan_sha256": record["plan_sha256"],
            "splits": [name for name in record["splits"] if name in SPLITS],
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a record of this command; choose another --output"
        ) from error


def _write_mixture(item, output, read):
    """Write one pair, unless both files are there."""
    clean_path, noisy_path = (
        folder / item.file for folder in _set_folders(output, [item.split])
    )
    if clean_path.exists() and noisy_path.exists():
        return
    clean, noisy = render(item, read)
    write_audio(clean_path, clean, SAMPLE_RATE)
    write_audio(noisy_path, noisy, SAMPLE_RATE)
