"""TIMIT in noise: splits, the fixed test, and the recipe to its end."""

import json

import numpy as np
import pytest
import soundfile as sf
from timit_prepare import find_speech, prepare_timit

from tests.corpora import SPEAKERS, heard, noise_tree, timit_tree
from tests.data.test_dataset import KINDS, assert_mixed
from tests.recipes.test_recipe import run_recipe
from tests.signals import rows_of, speech_like, write_wav

SNRS = (-5.0, 15.0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timit")
    return timit_tree(folder / "TIMIT"), noise_tree(folder / "noise")


def prepare(corpus, save, **options):
    options = {"test_noises": ["factory"], "snrs": SNRS, **options}
    return prepare_timit(*corpus, save, valid_hours=2 / 3600, **options)


def plan(save):
    return rows_of(save / "test_mixtures.csv")


def test_splits_and_a_test_of_every_speaker(corpus, tmp_path):
    record = prepare(corpus, tmp_path)
    # SPHERE files, without the dialect sentences, core speakers in the test.
    assert record["found"]["speech TRAIN"]["files"] == 6
    assert record["found"]["speech TEST"]["files"] == 2
    speakers = heard(tmp_path)
    assert speakers["test", "speech"] == {"FELC0"}
    assert speakers["test", "noise"] == {"factory"}
    for kind in ("speech", "noise"):
        train, valid = speakers["train", kind], speakers["valid", kind]
        assert (len(train), len(valid)) == (2, 1) and not train & valid
    assert json.loads((tmp_path / "valid.json").read_text())
    speakers = {row["speaker"] for row in find_speech(corpus[0], "full")}
    assert speakers == {*SPEAKERS["TRAIN"], *SPEAKERS["TEST"]}
    record = prepare(corpus, tmp_path, test_set="full")
    assert record["found"]["speech TEST"]["files"] == 4
    assert len(plan(tmp_path)) == 4 * len(SNRS)


def test_the_plan_makes_the_test_set(corpus, tmp_path):
    """Every sentence at every SNR, as the csv says, sample by sample."""
    prepare(corpus, tmp_path)
    rows, offsets = plan(tmp_path), set()
    entries = json.loads((tmp_path / "test.json").read_text())
    assert set(entries) == {row["id"] for row in rows}
    assert rows[0]["id"] == "FELC0_SI648_factory_-5dB"
    assert rows[0]["speech"] == "TEST/DR1/FELC0/SI648.WAV"
    assert rows[0]["noise"] == "factory/factory.wav"
    for row in rows:
        speech, _ = sf.read(corpus[0] / row["speech"])
        noise, _ = sf.read(corpus[1] / row["noise"])
        offset = round(float(row["noise_offset_s"]) * 16000)
        paths = (entries[row["id"]][f"{kind}_wav"] for kind in KINDS)
        assert_mixed(paths, speech, noise, offset, float(row["snr_db"]))
        offsets.add(offset)
    assert len(offsets) == len(rows) == 4


def test_same_seed_same_plan_and_a_given_plan_is_kept(corpus, tmp_path):
    record = prepare(corpus, tmp_path / "a")
    assert prepare(corpus, tmp_path / "a") == record
    prepare(corpus, tmp_path / "b")
    assert plan(tmp_path / "a") == plan(tmp_path / "b")
    prepare(corpus, tmp_path / "b", seed=1)
    assert plan(tmp_path / "a") != plan(tmp_path / "b")
    given = tmp_path / "given.csv"
    lines = (tmp_path / "b/test_mixtures.csv").read_text().splitlines()
    given.write_text("\n".join(lines[:2]) + "\n")
    prepare(corpus, tmp_path / "c", test_mixtures=str(given))
    assert len(json.loads((tmp_path / "c/test.json").read_text())) == 1
    options = {"test_mixtures": str(given), "test_noises": ["car"]}
    with pytest.raises(ValueError, match="factory, which training may hear"):
        prepare(corpus, tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()
    options = {"test_mixtures": str(given), "test_noises": ["white"]}
    given.write_text(given.read_text().replace("factory/factory", "white"))
    prepare(corpus, tmp_path / "e", **options)
    assert {row["noise"] for row in plan(tmp_path / "e")} == {"white.wav"}


def test_wav_beside_sphere_is_taken_once(tmp_path):
    tree = timit_tree(tmp_path)
    again = tree / "TRAIN/DR1/FCJF0/SX37.WAV.wav"
    write_wav(again, speech_like(1.1))
    paths = [row["path"] for row in find_speech(tree)]
    assert str(again) in paths and len(paths) == 8


def test_bad_input_is_named(corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match="TRAIN/DR1/FCJF0"):
        prepare((tmp_path / "nowhere", corpus[1]), tmp_path / "s")
    with pytest.raises(ValueError, match="TEST: no sentences"):
        prepare((corpus[0] / "TRAIN", corpus[1]), tmp_path / "s")
    with pytest.raises(ValueError, match="babble, car, factory, white"):
        prepare(corpus, tmp_path / "s", test_noises=["drill"])
    with pytest.raises(ValueError, match="two others or more"):
        names = ["babble", "car", "white"]
        prepare(corpus, tmp_path / "s", test_noises=names)
    with pytest.raises(ValueError, match=r"\(2\)"):
        prepare(corpus, tmp_path / "s", test_set="all", test_noises=[])
    tree = timit_tree(tmp_path / "TIMIT")
    write_wav(tree / "TEST/DR1/FELC0/SX37.WAV", np.zeros(20000))
    with pytest.raises(ValueError, match="SX37.WAV: silent"):
        prepare((tree, corpus[1]), tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_recipe_runs_to_its_end(corpus, tmp_path):
    flags = f"--noise_folder={corpus[1]} --test_noises=[factory] --snrs=[0.0]"
    flags += " --valid_hours=0.0005 --number_of_epochs=1"
    recipe = "TIMIT", "db_transform_timit"
    run_recipe(corpus[0], tmp_path, *flags.split(), recipe=recipe)
    scores = json.loads((tmp_path / "test/scores.json").read_text())
    assert scores["num_compared"] == 2
