"""Manifests of VoiceBank-DEMAND, or of a data set with its layout.

C. Valentini-Botinhao, "Noisy speech database for training speech enhancement
algorithms and TTS models", University of Edinburgh, 2017,
https://doi.org/10.7488/ds/2117. There are no transcripts and no download: get
the four archives from https://datashare.ed.ac.uk/handle/10283/2791; README.md
says how they lie in ``data_folder``.
"""

import os
from pathlib import Path

from tqdm import tqdm

from dbtransform_lobes.data import files, prepare
from dbtransform_lobes.data.audio import read_audio, write_audio

TRAIN, VALID, TEST = "trainset_28spk_wav", "validset_wav", "testset_wav"
SUFFIXES = ("_16k", "")
MANIFESTS = ("train.json", "valid.json", "test.json")
RECORD_NAME = "voicebank_prepare.json"
TITLE = (
    "{} is not a complete data set of the VoiceBank-DEMAND layout; unpack its "
    "archives there again, or make one with 'dbtransform mix'"
)


def prepare_voicebank(
    data_folder,
    save_folder,
    valid_speakers=("p226", "p287"),
    sample_rate=16000,
    skip_prep=False,
):
    """Write train.json, valid.json and test.json of VoiceBank-DEMAND.

    An entry is ``{"noisy_wav": "{data_root}/...", "clean_wav": ..., "length":
    seconds}``. If any file has another rate than ``sample_rate``, copies of all
    files at that rate are written once into ``save_folder``, and the entries
    have their whole paths. A second call with the same arguments and data, or
    with ``skip_prep``, does nothing. FileNotFoundError if ``data_folder`` is
    missing; ValueError if folders are missing, files are unfit or unpaired, or
    ``valid_speakers`` are not in the training set.

    Arguments
    ---------
    data_folder, save_folder : str
        Folder of the data set, what ``{data_root}`` stands for, and folder of
        the manifests, of copies and of a record of the arguments.
    valid_speakers : sequence of str
        Training speakers held out, where the data set has no validation set.
    sample_rate : int
        Rate of the data, in Hz.
    """
    if isinstance(valid_speakers, str):
        valid_speakers = [valid_speakers]
    given = RECORD_NAME, locals(), _find_pairs, _write_all
    return prepare.prepare_once(*given, MANIFESTS)


def _write_all(sets, settings, save_folder, jobs):
    """Write copies, where files have another rate, and the manifests."""
    data_folder, rate = Path(settings["data_folder"]), settings["sample_rate"]
    splits = _split(sets, settings["valid_speakers"], data_folder)
    pairs = [pair for members in sets.values() for pair in members]
    rates = prepare.check_pairs(pairs, TITLE.format(data_folder))
    root, copies = data_folder, save_folder / f"voicebank_{rate}"
    if rates != {rate}:
        root = None
        splits = [
            _resample(pairs, data_folder, copies, rate) for pairs in splits
        ]
    for manifest, pairs in zip(MANIFESTS, splits, strict=True):
        named = {
            pair[1].stem: prepare.pair_entry(*pair, root) for pair in pairs
        }
        files.write_json(save_folder / manifest, named)
    return {}


def _find_pairs(settings):
    """Map each set to its sorted pairs (noisy path, clean path)."""
    expected = f"clean_{TRAIN}, noisy_{TRAIN}, clean_{TEST} and noisy_{TEST}"
    data_folder = files.existing_folder(settings["data_folder"], expected)
    problems, sets = [], {}
    for name in (TRAIN, VALID, TEST):
        kinds = f"noisy_{name}", f"clean_{name}"
        found = {kind: _wav_files(data_folder, kind) for kind in kinds}
        missing = [kind for kind in kinds if found[kind] is None]
        if name == VALID and len(missing) == 2:
            continue
        problems += [f"{kind}: missing folder" for kind in missing]
        if missing:
            continue
        sets[name] = [*prepare.match_files(*found.values(), problems).values()]
        if not sets[name]:
            problems.append(f"{' and '.join(kinds)}: no pair of .wav files")
    files.raise_problems(TITLE.format(data_folder), problems)
    paths = [path for pairs in sets.values() for pair in pairs for path in pair]
    return sets, paths


def _wav_files(data_folder, name):
    """Return paths by file name, None if there is no such folder."""
    found = (data_folder / (name + suffix) for suffix in SUFFIXES)
    folder = next((folder for folder in found if folder.is_dir()), None)
    return folder and {
        path.name: path
        for path in folder.iterdir()
        if path.suffix.lower() == ".wav" and not path.name.startswith(".")
    }


def _split(sets, valid_speakers, data_folder):
    """Return the pairs of the training, validation and test set."""
    if VALID in sets:
        return sets[TRAIN], sets[VALID], sets[TEST]
    speakers = [clean.stem.rsplit("_", 1)[0] for _, clean in sets[TRAIN]]
    if not valid_speakers or not set(valid_speakers) < set(speakers):
        raise ValueError(
            f"valid_speakers are {', '.join(valid_speakers) or 'none'}, "
            f"expected one or more, but not all, of the training speakers in "
            f"{data_folder}: {', '.join(sorted(set(speakers)))}"
        )
    train, valid = [], []
    for speaker, pair in zip(speakers, sets[TRAIN], strict=True):
        (valid if speaker in valid_speakers else train).append(pair)
    return train, valid, sets[TEST]


def _resample(pairs, data_folder, copies, sample_rate):
    """Return copies at another rate, which have the times of the files."""
    resampled = []
    for pair in tqdm(pairs, desc="resampling", unit="pair"):
        names = [path.relative_to(data_folder) for path in pair]
        resampled.append([copies / name for name in names])
        for path, copy in zip(pair, resampled[-1], strict=True):
            written = path.stat().st_mtime_ns
            if not copy.exists() or copy.stat().st_mtime_ns != written:
                signal = read_audio(path, sample_rate=sample_rate)
                write_audio(copy, signal, sample_rate)
                os.utime(copy, ns=(written, written))
    return resampled
