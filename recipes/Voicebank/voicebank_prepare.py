"""Manifests of VoiceBank-DEMAND, or of a data set with its layout.

C. Valentini-Botinhao, "Noisy speech database for training speech enhancement
algorithms and TTS models", University of Edinburgh, 2017,
https://doi.org/10.7488/ds/2117. There are no transcripts and no download: get
the four archives from https://datashare.ed.ac.uk/handle/10283/2791; README.md
says how they lie in ``data_folder``.
"""

import os
from pathlib import Path

from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from dbtransform_lobes.data import files
from dbtransform_lobes.data.audio import audio_info, read_audio
from dbtransform_lobes.data.prepare import copy_at_rate, flaw

TRAIN, VALID, TEST = "trainset_28spk_wav", "validset_wav", "testset_wav"
SUFFIXES = ("_16k", "")
MANIFESTS = ("train", "valid", "test")
RECORD_NAME = "voicebank_prepare.json"
TITLE = (
    "{} is not a complete data set of the VoiceBank-DEMAND layout; unpack its "
    "archives there again, or make one with 'dbtransform mix'"
)

logger = get_logger(__name__)


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
    if skip_prep:
        return
    save_folder = Path(save_folder)
    data_folder = files.existing_folder(
        data_folder,
        f"clean_{TRAIN}, noisy_{TRAIN}, clean_{TEST} and noisy_{TEST}",
    )
    if isinstance(valid_speakers, str):
        valid_speakers = [valid_speakers]
    sets = _find_pairs(data_folder)
    paths = [path for pairs in sets.values() for pair in pairs for path in pair]
    settings = {
        "data_folder": str(data_folder),
        "valid_speakers": list(valid_speakers),
        "sample_rate": sample_rate,
        "files_sha256": files.fingerprint(data_folder / path for path in paths),
    }
    record = save_folder / RECORD_NAME
    manifests = [save_folder / f"{name}.json" for name in MANIFESTS]
    if all(path.is_file() for path in manifests):
        if files.read_record(record) == settings:
            return
    splits = _split(sets, valid_speakers, data_folder)
    formats = _check_pairs(data_folder, sets, paths)
    root = "{data_root}"
    if any(rate != sample_rate for _, rate in formats.values()):
        root = (save_folder / f"voicebank_{sample_rate}").resolve()
        _resample(data_folder, root, sample_rate, formats)
    for manifest, pairs in zip(manifests, splits, strict=True):
        entries = [_entry(root, *pair, *formats[pair[1]]) for pair in pairs]
        files.write_json(manifest, dict(entries))
    files.write_json(record, settings)


def _entry(root, noisy, clean, frames, rate):
    """Return the name of a pair and its entry in a manifest."""
    paths = {"noisy_wav": f"{root}/{noisy}", "clean_wav": f"{root}/{clean}"}
    return Path(clean).stem, {**paths, "length": frames / rate}


def _find_pairs(data_folder):
    """Map each set to its sorted (noisy, clean) relative paths."""
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
        noisy, clean = found.values()
        alone = sorted(noisy.keys() ^ clean.keys())
        paths = noisy | clean
        problems += [f"{paths[file]}: not in both folders" for file in alone]
        both = sorted(noisy.keys() & clean.keys())
        if not both:
            problems.append(f"{' and '.join(kinds)}: no pair of .wav files")
        sets[name] = [(noisy[file], clean[file]) for file in both]
    files.raise_problems(TITLE.format(data_folder), problems)
    return sets


def _wav_files(data_folder, name):
    """Return relative paths by file name, None if there is no such folder."""
    found = (data_folder / (name + suffix) for suffix in SUFFIXES)
    folder = next((folder for folder in found if folder.is_dir()), None)
    return folder and {
        path.name: f"{folder.name}/{path.name}"
        for path in folder.iterdir()
        if path.suffix.lower() == ".wav" and not path.name.startswith(".")
    }


def _check_pairs(data_folder, sets, paths):
    """Map each path to (frames, rate); one error for all bad files."""
    formats, problems, odd = {}, [], []
    for path in tqdm(paths, desc="checking", unit="file"):
        try:
            info = audio_info(data_folder / path)
            signal = read_audio(data_folder / path, sample_rate=info.samplerate)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        if info.channels != 1:
            problems.append(f"{path}: {info.channels} channels, expected 1")
        formats[path] = info.frames, info.samplerate
        if path.startswith("clean") and (oddity := flaw(signal)):
            odd.append(f"{path}: {oddity}")
    for noisy, clean in (pair for pairs in sets.values() for pair in pairs):
        one, other = formats.get(noisy), formats.get(clean)
        if one and other and one != other:
            given, expected = (
                f"{frames / rate:.4f} s at {rate} Hz"
                for frames, rate in (one, other)
            )
            problems.append(f"{noisy}: {given}, expected {expected} as {clean}")
    files.raise_problems(TITLE.format(data_folder), problems)
    if odd:
        listed = "; ".join(odd[: files.MAX_LISTED])
        logger.warning("%d odd clean files: %s", len(odd), listed)
    return formats


def _split(sets, valid_speakers, data_folder):
    """Return the pairs of the training, validation and test set."""
    if VALID in sets:
        return sets[TRAIN], sets[VALID], sets[TEST]
    speakers = {}
    for pair in sets[TRAIN]:
        speaker = Path(pair[1]).stem.rsplit("_", 1)[0]
        speakers.setdefault(speaker, []).append(pair)
    if not valid_speakers or not set(valid_speakers) < set(speakers):
        raise ValueError(
            f"valid_speakers are {', '.join(valid_speakers) or 'none'}, "
            f"expected one or more, but not all, of the training speakers in "
            f"{data_folder}: {', '.join(sorted(speakers))}"
        )
    train, valid = [], []
    for speaker, pairs in speakers.items():
        (valid if speaker in valid_speakers else train).extend(pairs)
    return train, valid, sets[TEST]


def _resample(data_folder, root, sample_rate, formats):
    """Write copies of other files at a rate, which have the times of these."""
    for path in tqdm(formats, desc="resampling", unit="file"):
        copy, written = root / path, (data_folder / path).stat().st_mtime_ns
        if not copy.exists() or copy.stat().st_mtime_ns != written:
            copy_at_rate(data_folder / path, copy, sample_rate)
            os.utime(copy, ns=(written, written))
        info = audio_info(copy)
        formats[path] = info.frames, info.samplerate
