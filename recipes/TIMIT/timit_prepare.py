"""TIMIT in noise: training speech, and a test set that a csv prescribes.

J. S. Garofolo et al., "TIMIT Acoustic-Phonetic Continuous Speech Corpus",
LDC93S1, 1993. There are no transcripts and no download: TIMIT comes from the
Linguistic Data Consortium, noises are any recordings, a folder or file for
each type.

The tree is ``TRAIN/DR1/FCJF0/SX37.WAV`` and so on (in capitals or not, in a
folder TIMIT or not), NIST SPHERE or WAV. The folder of the manifests gets
``manifest.csv``, ``valid.json``, ``test_mixtures.csv`` (its paths relative to
the folders), ``test.json`` and, with what is unfit, ``timit_prepare.json``.
"""

import math
from itertools import product
from pathlib import Path

import numpy as np

from dbtransform_lobes.data import files, mixtures, prepare
from dbtransform_lobes.data.audio import AUDIO_SUFFIXES, find_audio
from dbtransform_lobes.data.dataset import mix_testset
from dbtransform_lobes.data.mixtures import SAMPLE_RATE, TEST_COLUMNS

SUFFIXES = (*AUDIO_SUFFIXES, ".sph")
SPLITS = {"TRAIN": "train", "TEST": "test"}
VALID_NOISES = 0.1  # share of the types that are not of the test
# Two men and a woman of each dialect region (testset.doc of the corpus).
CORE_SPEAKERS = (
    *("MDAB0", "MWBT0", "FELC0", "MTAS1", "MWEW0", "FPAS0"),
    *("MJMP0", "MLNT0", "FPKT0", "MLLL0", "MTLS0", "FJLM0"),
    *("MBPM0", "MKLT0", "FNLP0", "MCMJ0", "MJDH0", "FMGD0"),
    *("MGRT0", "MNJM0", "FDHC0", "MJLN0", "MPAM0", "FMLD0"),
)
RECORD_NAME = "timit_prepare.json"


def prepare_timit(
    data_folder,
    noise_folder,
    save_folder,
    test_noises,
    test_set="core",
    snrs=(-5.0, 0.0, 5.0, 10.0, 15.0),
    test_mixtures=None,
    valid_fraction=0.05,
    valid_hours=0.1,
    jobs=1,
    seed=0,
    skip_prep=False,
):
    """Write the manifests of training, validation and test, see the module.

    A second call with the same arguments and the same data does nothing.
    Returned is what ``timit_prepare.json`` holds; ``skip_prep`` does nothing
    and returns {}. FileNotFoundError if a folder is missing; ValueError if it
    is no such corpus, a file of the test is unfit, or noises are unknown.

    Arguments
    ---------
    data_folder, noise_folder, save_folder : str
        Folder of TIMIT, of a folder (or file) for each type of noise, of the
        manifests.
    test_noises : list of str
        Types of noise kept for the test.
    test_set : str
        "core" (192 sentences of 24 speakers) or "full" (1344 of 168).
    snrs : sequence of float
        Every test sentence is mixed once at each, in dB.
    test_mixtures : str | None
        A csv of test mixtures, to be used in place of a drawn one.
    valid_fraction, valid_hours : float
        Share of the speakers of TRAIN held out; length of the validation set.
    jobs, seed : int
        Processes that read the files; seed of validation and test mixtures.
    """
    return prepare.prepare_once(RECORD_NAME, locals(), _find, _write_all)


def _find(settings):
    """Return the rows of all recordings, and the paths that count."""
    _check_choices(*(settings[n] for n in ("test_set", "test_noises", "snrs")))
    rows = find_speech(settings["data_folder"], settings["test_set"])
    rows += _find_noises(settings["noise_folder"], settings["test_noises"])
    paths, given = [row["path"] for row in rows], settings["test_mixtures"]
    return rows, [*paths, given] if given else paths


def _write_all(rows, settings, save_folder, jobs):
    """Write the manifests; return what was found and left out."""
    kept, problems = prepare.measure(rows, jobs)
    _check_test(rows, problems, settings)
    shares = {"speech": settings["valid_fraction"], "noise": VALID_NOISES}
    for kind, share in shares.items():
        key = kind, "train"
        train = [row for row in kept if (row["kind"], row["split"]) == key]
        prepare.hold_out(train, "speaker", share)
    drawn = (settings[key] for key in ("valid_hours", "snrs", "seed"))
    prepare.write_training(save_folder, kept, *drawn)
    if settings["test_mixtures"]:
        plan = files.read_table(settings["test_mixtures"], TEST_COLUMNS)
    else:
        plan = _draw_plan(kept, settings)
    files.write_table(save_folder / "test_mixtures.csv", TEST_COLUMNS, plan)
    data, noises = (settings[f"{kind}_folder"] for kind in ("data", "noise"))
    for row in plan:  # with whole paths
        row["speech"] = Path(data, row["speech"])
        row["noise"] = Path(noises, row["noise"])
    whole, folder = save_folder / "test_plan.csv", save_folder / "test"
    files.write_table(whole, TEST_COLUMNS, plan)
    mix_testset(whole, save_folder / "manifest.csv", folder, force=True)
    prepare.write_pairs(save_folder / "test.json", folder, "testset_wav")
    return {**prepare.summary(kept, problems), "problems": problems}


def _check_choices(test_set, test_noises, snrs):
    problems, folders = [], "expected a list of folders of noise_folder"
    if test_set not in ("core", "full"):
        problems.append(f"test_set is {test_set!r}, expected core or full")
    if isinstance(test_noises, str) or not test_noises:
        problems.append(f"test_noises are {test_noises!r}, {folders}")
    if not snrs or not all(map(math.isfinite, snrs)):
        problems.append(f"snrs are {snrs}, expected finite numbers")
    files.raise_problems("wrong settings of TIMIT", problems)


def _check_test(rows, problems, settings):
    """Refuse unfit test files and test noises that training may hear."""
    test = {row["path"] for row in rows if row["split"] == "test"}
    files.raise_problems(
        "unfit files of the test, repair them",
        [f"{path}: {why}" for path, why in problems.items() if path in test],
    )
    if settings["test_mixtures"]:
        items = mixtures.read_test_mixtures(settings["test_mixtures"])
        noises = [Path(path) for item in items for path in item.noise]
        types = {noise.with_suffix("").parts[0] for noise in noises}
        if heard := sorted(types - set(settings["test_noises"])):
            raise ValueError(
                f"{settings['test_mixtures']} has the noises "
                f"{', '.join(heard)}, which training may hear; name them in "
                "test_noises"
            )


def find_speech(data_folder, test_set="core"):
    """List the sentences of a TIMIT tree, without the dialect sentences.

    Where a sentence is there twice (``SX37.WAV`` and, made of it,
    ``SX37.WAV.wav``), the latter is taken.
    """
    expected, found = "TRAIN/DR1/FCJF0/SX37.WAV and so on", {}
    data_folder = files.existing_folder(data_folder, expected)
    for path in find_audio(data_folder, SUFFIXES):
        folders = [part.upper() for part in path.relative_to(data_folder).parts]
        part = next((name for name in folders if name in SPLITS), None)
        sentence, speaker = _sentence(path), path.parent.name.upper()
        chosen = part == "TRAIN" or test_set == "full"
        chosen = chosen or speaker in CORE_SPEAKERS
        if part and chosen and not sentence.startswith("SA"):
            row = prepare.recording(path, "speech", speaker, part, SPLITS[part])
            found[speaker, sentence] = row
    parts = {row["source"] for row in found.values()}
    files.raise_problems(
        f"{data_folder} is no TIMIT, expected {expected}, and the speakers of "
        f"the {test_set} test",
        [f"{part}: no sentences" for part in SPLITS if part not in parts],
    )
    return list(found.values())


def _sentence(path):
    return Path(path).name.split(".")[0].upper()


def _find_noises(noise_folder, test_noises):
    """List noises, a type a folder, or a file as those of NOISEX-92."""
    expected, rows = "a folder or file for each type of noise", []
    noise_folder = files.existing_folder(noise_folder, expected)
    for path in find_audio(noise_folder, SUFFIXES):
        kind = path.relative_to(noise_folder).parts[0]
        kind = path.stem if kind == path.name else kind
        split = "test" if kind in test_noises else "train"
        rows.append(prepare.recording(path, "noise", kind, kind, split))
    types = {row["speaker"] for row in rows}
    absent = set(test_noises) - types
    if absent or len(types - set(test_noises)) < 2:
        raise ValueError(
            f"{noise_folder} has the types of noise "
            f"{', '.join(sorted(types)) or 'none'}; expected the test_noises "
            f"{', '.join(test_noises)} and two others or more, to train and "
            "to validate with"
        )
    return rows


def _draw_plan(rows, settings):
    """Plan every sentence of the test at every SNR, in one noise each time.

    A mixture depends on the seed, its sentence and its SNR alone.
    """
    test = [row for row in rows if row["split"] == "test"]
    types = {}
    for row in test:
        if row["kind"] == "noise":
            types.setdefault(row["speaker"], []).append(row["path"])
    read, plan = mixtures.cached_reader(), []
    speech = [row for row in test if row["kind"] == "speech"]
    for row, snr in product(speech, settings["snrs"]):
        speaker, sentence = row["speaker"], _sentence(row["path"])
        words = f"{settings['seed']} {speaker} {sentence} {snr:g}"
        rng = np.random.default_rng(list(words.encode()))
        kind = sorted(types)[rng.integers(len(types))]
        path = types[kind][rng.integers(len(types[kind]))]
        offset = mixtures.draw_offset(rng, read(path), row["frames"])
        values = (
            mixtures.safe_name(f"{speaker}_{sentence}_{kind}_{snr:g}dB"),
            mixtures.relative_path(row["path"], settings["data_folder"]),
            mixtures.relative_path(path, settings["noise_folder"]),
            f"{offset / SAMPLE_RATE:.6f}",
            snr,
        )
        plan.append(dict(zip(TEST_COLUMNS, values, strict=True)))
    return plan
