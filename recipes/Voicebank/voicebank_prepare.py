"""Manifests of VoiceBank-DEMAND, or of a data set with its layout.

C. Valentini-Botinhao, "Noisy speech database for training speech enhancement
algorithms and TTS models", University of Edinburgh, 2017,
https://doi.org/10.7488/ds/2117. There are no transcripts and no download: get
the four archives from https://datashare.ed.ac.uk/handle/10283/2791; README.md
says how they lie in ``data_folder``.
"""

from pathlib import Path

from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from dbtransform_lobes.data.audio import audio_info, read_audio
from dbtransform_lobes.data.files import (
    existing_folder,
    fingerprint,
    raise_problems,
    read_record,
    write_json,
)
from dbtransform_lobes.data.prepare import copy_at_rate, flaw

TRAIN, VALID, TEST = "trainset_28spk_wav", "validset_wav", "testset_wav"
SUFFIXES = ("_16k", "")
MANIFESTS = ("train", "valid", "test")
RECORD_NAME = "voicebank_prepare.json"
MAX_WARNED = 20
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
    data_folder = existing_folder(
        data_folder,
        f"clean_{TRAIN}, noisy_{TRAIN}, clean_{TEST} and noisy_{TEST}",
    )
    if isinstance(valid_speakers, str):
        valid_speakers = [valid_speakers]
    files = _find_pairs(data_folder)
    settings = {
        "data_folder": str(data_folder),
        "valid_speakers": list(valid_speakers),
        "sample_rate": sample_rate,
        "files_sha256": fingerprint(data_folder / p for p in _paths(files)),
    }
    manifests = [save_folder / f"{name}.json" for name in MANIFESTS]
    unchanged = read_record(save_folder / RECORD_NAME) == settings
    if unchanged and all(path.is_file() for path in manifests):
        return
    splits = _split(files, settings["valid_speakers"], data_folder)
    infos = _check_pairs(data_folder, files)
    root = "{data_root}"
    if any(rate != sample_rate for _, rate in infos.values()):
        root = (save_folder / f"voicebank_{sample_rate}").resolve()
        _resample(data_folder, root, files, settings, infos)
    save_folder.mkdir(parents=True, exist_ok=True)
    for path, pairs in zip(manifests, splits, strict=True):
        write_json(path, _entries(root, pairs, infos))
    write_json(save_folder / RECORD_NAME, settings)


def _find_pairs(data_folder):
    """Map each set to its sorted (noisy, clean) relative paths."""
    problems, files = [], {}
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
        alone = noisy.keys() ^ clean.keys()
        problems += [
            f"{(noisy | clean)[file]}: not in both folders"
            for file in sorted(alone)
        ]
        both = sorted(noisy.keys() & clean.keys())
        if not both:
            problems.append(f"{' and '.join(kinds)}: no pair of .wav files")
        files[name] = [(noisy[file], clean[file]) for file in both]
    raise_problems(TITLE.format(data_folder), problems)
    return files


def _wav_files(data_folder, name):
    """Return relative paths by file name, None if there is no such folder."""
    found = (data_folder / (name + suffix) for suffix in SUFFIXES)
    folder = next((folder for folder in found if folder.is_dir()), None)
    return folder and {
        path.name: f"{folder.name}/{path.name}"
        for path in folder.iterdir()
        if path.suffix.lower() == ".wav" and not path.name.startswith(".")
    }


def _paths(files):
    return [path for pairs in files.values() for pair in pairs for path in pair]


def _check_pairs(data_folder, files):
    """Map each path to (seconds, rate); one error for all bad files."""
    infos, problems, odd = {}, [], []
    for path in tqdm(_paths(files), desc="checking", unit="file"):
        try:
            info = audio_info(data_folder / path)
            signal = read_audio(data_folder / path, sample_rate=info.samplerate)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        if info.channels != 1:
            problems.append(f"{path}: {info.channels} channels, expected 1")
        infos[path] = (info.frames / info.samplerate, info.samplerate)
        if path.startswith("clean") and (oddity := flaw(signal)):
            odd.append(f"{path}: {oddity}")
    for pairs in files.values():
        for noisy, clean in pairs:
            if {noisy, clean} <= set(infos) and infos[noisy] != infos[clean]:
                problems.append(
                    f"{noisy}: {infos[noisy][0]:.4f} s at {infos[noisy][1]} "
                    f"Hz, expected {infos[clean][0]:.4f} s at "
                    f"{infos[clean][1]} Hz as {clean}"
                )
    raise_problems(TITLE.format(data_folder), problems)
    if odd:
        listed = "; ".join(odd[:MAX_WARNED])
        logger.warning("%d odd clean files: %s", len(odd), listed)
    return infos


def _split(files, valid_speakers, data_folder):
    """Return the pairs of the training, validation and test set."""
    train = files[TRAIN]
    if VALID in files:
        return train, files[VALID], files[TEST]
    speakers = [Path(clean).stem.rsplit("_", 1)[0] for _, clean in train]
    if not valid_speakers or not set(valid_speakers) < set(speakers):
        raise ValueError(
            f"valid_speakers are {', '.join(valid_speakers) or 'none'}, "
            f"expected one or more, but not all, of the training speakers in "
            f"{data_folder}: {', '.join(sorted(set(speakers)))}"
        )
    kept, valid = [], []
    for speaker, pair in zip(speakers, train, strict=True):
        (valid if speaker in valid_speakers else kept).append(pair)
    return kept, valid, files[TEST]


def _resample(data_folder, root, files, settings, infos):
    """Write copies at the wanted rate; those of an earlier run stay."""
    rate = settings["sample_rate"]
    stamp = root / "source.json"
    source = {key: settings[key] for key in ("data_folder", "files_sha256")}
    root.mkdir(parents=True, exist_ok=True)
    if read_record(stamp) != source:
        for copy in root.glob("*_wav*/*.wav"):
            copy.unlink()
        write_json(stamp, source)
    for path in tqdm(_paths(files), desc="resampling", unit="file"):
        if not (root / path).exists():
            copy_at_rate(data_folder / path, root / path, rate)
        info = audio_info(root / path)
        infos[path] = (info.frames / info.samplerate, info.samplerate)


def _entries(root, pairs, infos):
    return {
        Path(clean).stem: {
            "noisy_wav": f"{root}/{noisy}",
            "clean_wav": f"{root}/{clean}",
            "length": infos[clean][0],
        }
        for noisy, clean in pairs
    }
