"""The data of the DNS Challenge, and the recipe on them to its end."""

import json
from collections import Counter
from functools import partial

import numpy as np
import pytest
import soundfile as sf
from dns_prepare import prepare_dns

from dbtransform_lobes.data.recordings import read_recordings
from tests.corpora import CLEAN, NOISE, ROOMS, dns_tree, heard
from tests.recipes.test_recipe import run_recipe
from tests.signals import speech_like, times, write_wav


def prepare(data, save, **options):
    return prepare_dns(data, save, valid_hours=2 / 3600, **options)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dns")
    tree = dns_tree(folder / "tree")
    return tree, folder / "save", prepare(tree, folder / "save")


def test_recordings_are_found_sorted_out_and_split(prepared):
    """Test speakers of VoiceBank are left out; no voice is in two splits."""
    _, save, record = prepared
    found = {name: entry["files"] for name, entry in record["found"].items()}
    assert found == {
        "noise noise": len(NOISE),
        "rir SLR26": 1,
        "rir SLR28": 1,  # the two noises of SLR28 are none
        "speech french_speech": 1,
        "speech german_speech": 2,
        "speech read_speech": 3,
        "speech vctk_wav48_silence_trimmed": 1,
    }
    read_speech = record["found"]["speech read_speech"]
    assert read_speech["speakers"] == 2 and read_speech["rates"] == [16000]
    german = record["found"]["speech german_speech"]
    assert german["speakers"] == 1  # two books of one reader
    assert german["hours"] == pytest.approx(2.5 / 3600, abs=2e-4)
    refused = [path.split("/")[-1] for path in record["refused"]]
    assert refused == ["p232_001_mic1.wav", "p257_001_mic2.wav"]
    kinds = Counter(r.kind for r in read_recordings(save / "manifest.csv"))
    assert kinds["rir"] == len(ROOMS) and kinds["speech"] == len(CLEAN) - 2
    speakers, paths = (heard(save, key) for key in ("speaker", "path"))
    for kind, parts in (("speech", speakers), ("noise", paths)):
        train, valid = parts["train", kind], parts["valid", kind]
        assert train and valid and not train & valid
    known = speakers["train", "speech"] | speakers["valid", "speech"]
    assert "p225" in known and not {"p232", "p257"} & known


def test_validation_and_test_pairs(prepared):
    _, save, record = prepared
    assert record["test_sets"] == {"no_reverb": 2, "with_reverb": 2}
    for name in ("valid", "test_no_reverb", "test_with_reverb"):
        entries = json.loads((save / f"{name}.json").read_text())
        assert entries
        for key, entry in entries.items():
            clean, rate = sf.read(entry["clean_wav"])
            noisy, _ = sf.read(entry["noisy_wav"])
            assert rate == 16000 and len(clean) == len(noisy)
            assert entry["length"] == len(clean) / 16000
            # Each clean file resembles its own noisy file.
            assert np.corrcoef(clean, noisy)[0, 1] > 0.4
            if name != "valid":
                assert entry["clean_wav"].endswith(f"/clean_{key}.wav")


def test_second_call_does_nothing_and_new_files_are_seen(prepared, tmp_path):
    tree = dns_tree(tmp_path / "tree")
    save = tmp_path / "save"
    first = prepare(tree, save)
    before = times(save)
    assert prepare(tree, save) == first
    assert times(save) == before
    (save / "manifest.csv").unlink()
    assert prepare(tree, save) == first and (save / "manifest.csv").is_file()
    new = tree / "datasets/clean/spanish_speech/a_1.wav"
    write_wav(new, speech_like(1.2, 77))
    assert "speech spanish_speech" in prepare(tree, save)["found"]
    assert prepare(tree, save, skip_prep=True) == {}


BAD = {
    "text.wav": ("unreadable", None, 16000),
    "empty.wav": ("unreadable", np.zeros(0), 16000),
    "nan.wav": ("unreadable", np.full(20000, np.nan), 16000),
    "short.wav": ("too short", np.full(800, 0.1), 16000),
    "silent.wav": ("silent", np.zeros(20000), 16000),
    "clipped.wav": ("clipped", np.clip(9 * speech_like(1.2, 1), -1, 1), 16000),
    "stereo.wav": ("channels", np.full((20000, 2), 0.1), 16000),
    "narrow.wav": ("rate", np.full(20000, 0.1), 8000),
}
LOUD = speech_like(1.2, 1) / np.abs(speech_like(1.2, 1)).max()


def test_unfit_files_are_left_out_and_listed(tmp_path):
    tree = dns_tree(tmp_path / "tree")
    folder = tree / "datasets/clean/bad"
    folder.mkdir()
    for name, (_, signal, rate) in BAD.items():
        if signal is None:
            (folder / name).write_text("no audio")
        else:
            sf.write(folder / name, signal, rate, subtype="FLOAT")
    sf.write(folder / "loud.wav", LOUD, 16000)  # which is not clipped
    record = prepare(tree, tmp_path / "save")
    problems = record["problems"].items()
    reasons = {p.split("/")[-1]: told.split(":")[0] for p, told in problems}
    assert reasons == {name: reason for name, (reason, *_) in BAD.items()}
    assert record["unfit"]["unreadable"] == 3
    kept = read_recordings(tmp_path / "save/manifest.csv")
    kept = [item.path for item in kept if "/bad/" in item.path]
    assert [path.split("/")[-1] for path in kept] == ["loud.wav"]


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        prepare(tmp_path / "nowhere", tmp_path / "save")
    write_wav(tmp_path / "tree/datasets/clean/a/b_1.wav", speech_like(1.1))
    with pytest.raises(ValueError, match="noise: no audio below noise or"):
        prepare(tmp_path / "tree", tmp_path / "save")
    write_wav(tmp_path / "tree/datasets/noise/n.wav", speech_like(1.1))
    with pytest.raises(ValueError, match="two names or more"):
        prepare(tmp_path / "tree", tmp_path / "save")
    assert not (tmp_path / "save").exists()


def test_incomplete_test_set_is_refused(tmp_path):
    tree = dns_tree(tmp_path / "tree")
    test = tree / "datasets/test_set/synthetic/no_reverb"
    stereo = np.full((16000, 2), 0.1)
    clean = [test / f"clean/clean_fileid_{number}.wav" for number in (0, 1)]
    write_wav(clean[0], stereo)
    write_wav(clean[1], np.full(16000, 0.1))
    with pytest.raises(ValueError, match=r"\(2\)") as error:
        prepare(tree, tmp_path / "save")
    for words in ("0.wav: 2 channels", "samples at 16000 Hz, expected 16000"):
        assert words in str(error.value)
    clean[1].unlink()
    write_wav(test / "noisy/nameless.wav", speech_like(1.2))
    with pytest.raises(ValueError, match=r"\(2\)") as error:
        prepare(tree, tmp_path / "save")
    for words in ("fileid_1.wav: not in both", "nameless.wav: expected one"):
        assert words in str(error.value)
    assert not (tmp_path / "save").exists()


FLAGS = "--valid_hours=0.0005 --codec=0.5 --clipping=0.5 --number_of_epochs=1"


def test_recipe_runs_from_files_of_48_khz_and_from_shards(tmp_path, run):
    tree = dns_tree(tmp_path / "tree", 48000, suffix="_fullband")
    train = partial(run_recipe, tree, recipe=("DNS", "db_transform_dns"))
    train(tmp_path / "files", *FLAGS.split())
    save = tmp_path / "files/save"
    record = json.loads((save / "dns_prepare.json").read_text())
    assert record["found"]["speech read_speech"]["rates"] == [48000]
    for name in ("test_no_reverb", "test_with_reverb"):
        scores = json.loads((save.parent / name / "scores.json").read_text())
        assert scores["num_compared"] == 2
        entries = json.loads((save / f"{name}.json").read_text())
        for key, entry in entries.items():
            for part in ("clean", "enhanced"):
                info = sf.info(save.parent / name / f"{part}/{key}.wav")
                assert info.samplerate == 16000
                assert info.duration == entry["length"] == 1.2
    shards = tmp_path / "shards"
    run("shards", save / "manifest.csv", "--output", shards)
    languages = "--languages=[read_speech,french_speech]"
    given = f"--recordings={shards}/manifest.csv", languages
    train(tmp_path / "shards_run", *FLAGS.split(), *given)
    log = (tmp_path / "shards_run/train_log.txt").read_text()
    assert "valid pesq" in log and log.count("test: test_") == 2
