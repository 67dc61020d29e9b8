"""The data of the Deep Noise Suppression Challenge, as it lies on the disk.

C. K. A. Reddy et al., "The INTERSPEECH 2020 Deep Noise Suppression
Challenge", 2020, arXiv:2005.13981, and its later editions. There are no
transcripts and no download: get the data with the scripts of
https://github.com/microsoft/DNS-Challenge. README.md says which folders are
looked for and what is written.
"""

import re
from itertools import product
from pathlib import Path

from dbtransform_lobes.data import files, prepare
from dbtransform_lobes.data.audio import find_audio

PARENTS = ("", "datasets", "datasets_fullband")
KIND_FOLDERS = {
    "speech": ("clean", "clean_fullband"),
    "noise": ("noise", "noise_fullband"),
    "rir": ("impulse_responses",),
}
TEST_SETS = ("no_reverb", "with_reverb")
# The test speakers of VoiceBank-DEMAND: who trains on them cannot test there.
REFUSED_SPEAKERS = {"p232", "p257"}
VALID_SNRS = (-5.0, 0.0, 5.0, 10.0, 15.0, 20.0)
RECORD_NAME = "dns_prepare.json"
# Who speaks, by the names of LibriVox, VCTK and CREMA-D.
SPEAKER_PATTERNS = (
    re.compile(r"(reader_\d+)"),
    re.compile(r"^(p\d{3}|s5)(?:_|$)"),
    re.compile(r"^(\d{4})_[A-Z]{3}_"),
)
FILE_ID = re.compile(r"_fileid_(\d+)$")
INCOMPLETE = "{} is not a complete test set"


def prepare_dns(
    data_folder,
    save_folder,
    valid_fraction=0.02,
    valid_hours=0.1,
    jobs=1,
    seed=0,
    skip_prep=False,
):
    """Write the manifests of training, validation and test, and a record.

    A second call with the same arguments and the same data does nothing.
    Returned is what ``dns_prepare.json`` holds; ``skip_prep`` does nothing and
    returns {}. FileNotFoundError if ``data_folder`` is missing; ValueError if
    there is no speech or no noise, or a test pair is incomplete.

    Arguments
    ---------
    data_folder, save_folder : str
        Folder of the challenge, and of the manifests.
    valid_fraction, valid_hours : float
        Share of speakers and noise files held out; length of their mixtures.
    jobs, seed : int
        Processes that read the files, and seed of the validation set.
    """
    return prepare.prepare_once(RECORD_NAME, locals(), _find, _write_all)


def _find(settings):
    """Return (rows of recordings, test pairs), and the paths of all."""
    folder = settings["data_folder"]
    rows, tests = _find_recordings(folder), find_test_pairs(folder)
    paths = [row["path"] for row in rows]
    for pairs in tests.values():
        paths += [path for pair in pairs.values() for path in pair]
    return (rows, tests), paths


def _write_all(found, settings, save_folder, jobs):
    """Write the manifests; return what was found and left out."""
    rows, tests = found
    for name, pairs in tests.items():
        prepare.check_pairs(pairs.values(), INCOMPLETE.format(name))
        entries = {key: prepare.pair_entry(*pairs[key]) for key in pairs}
        files.write_json(save_folder / f"test_{name}.json", entries)
    refused = [
        row["path"]
        for row in rows
        if row["kind"] == "speech"
        and {row["speaker"], Path(row["path"]).parent.name} & REFUSED_SPEAKERS
    ]
    rows = [row for row in rows if row["path"] not in refused]
    kept, problems = prepare.measure(rows, jobs)
    for kind, key in (("speech", "speaker"), ("noise", "path")):  # not rooms
        some = [row for row in kept if row["kind"] == kind]
        prepare.hold_out(some, key, settings["valid_fraction"])
    hours, seed = settings["valid_hours"], settings["seed"]
    prepare.write_training(save_folder, kept, hours, VALID_SNRS, seed)
    return {
        **prepare.summary(kept, problems),
        "refused": sorted(refused),
        "problems": problems,
        "test_sets": {name: len(pairs) for name, pairs in tests.items()},
    }


def _find_recordings(data_folder):
    """List speech, noise and impulse responses of a challenge folder."""
    data_folder = files.existing_folder(
        data_folder, "datasets/clean and datasets/noise of the DNS Challenge"
    )
    rows = []
    for kind, names in KIND_FOLDERS.items():
        for parent, name in product(PARENTS, names):
            rows += _list_kind(data_folder / parent / name, kind)
    missing = [
        f"{kind}: no audio below {' or '.join(KIND_FOLDERS[kind])}"
        for kind in ("speech", "noise")
        if not any(row["kind"] == kind for row in rows)
    ]
    files.raise_problems(
        f"{data_folder} is not a folder of the DNS Challenge: expected the "
        "folders below in it, or in datasets or datasets_fullband",
        missing,
    )
    return rows


def _list_kind(folder, kind):
    rows = []
    for path in find_audio(folder):
        inner = path.relative_to(folder)
        # SLR28 has noise recordings beside its impulse responses.
        noise = "noise" in path.stem or "pointsource_noises" in inner.parts
        if kind == "rir" and noise:
            continue
        source = inner.parts[0] if len(inner.parts) > 1 else folder.name
        speaker = _speaker(inner) if kind == "speech" else kind
        rows.append(prepare.recording(path.resolve(), kind, speaker, source))
    return rows


def _speaker(inner):
    """Name the speaker of a file, its path being relative to all speech.

    M-AILABS has ``.../female/NAME/BOOK/wavs/x.wav``. Where nothing is known,
    a folder is one speaker, or the first word of the name in a flat folder.
    """
    for pattern in SPEAKER_PATTERNS:
        if found := pattern.search(inner.stem):
            return found[1]
    folders = inner.parts[:-1]
    for gender in ("male", "female"):
        if gender in folders[:-1]:
            return folders[folders.index(gender) + 1]
    if len(folders) > 1:
        return "/".join(folders)
    return re.split(r"[_\-. ]", inner.stem)[0]


def find_test_pairs(data_folder):
    """Pair the files of the synthetic test sets by their file id.

    Returned are by name dicts of (noisy path, clean path) by that id.
    """
    sets = {}
    for parent, name in product(PARENTS, TEST_SETS):
        folder = Path(data_folder, parent, "test_set", "synthetic", name)
        if not folder.is_dir():
            continue
        problems = []
        found = (_by_id(folder / n, problems) for n in ("noisy", "clean"))
        sets[name] = prepare.match_files(*found, problems)
        if not sets[name]:
            problems.append("no pairs in clean/ and noisy/")
        files.raise_problems(INCOMPLETE.format(folder), problems)
    return sets


def _by_id(folder, problems):
    found = {}
    for path in find_audio(folder):
        match = FILE_ID.search(path.stem)
        key = match and f"fileid_{int(match[1])}"
        if not key or key in found:
            problems.append(f"{path}: expected one name ..._fileid_N.wav")
        else:
            found[key] = path.resolve()
    return found
