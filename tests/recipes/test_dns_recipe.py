"""The DNS recipe to its end on a tiny tree, from files and from shards."""

import json

from tests.corpora import dns_tree
from tests.recipes.test_recipe import run_recipe

FLAGS = ["--valid_hours=0.0005", "--codec=0.5", "--clipping=0.5"]
FLAGS += ["--number_of_epochs=1"]
DNS = ("DNS", "db_transform_dns")


def test_recipe_runs_from_files_and_from_shards(tmp_path, run):
    tree = dns_tree(tmp_path / "tree", 48000, suffix="_fullband")
    run_recipe(tree, tmp_path / "files", *FLAGS, recipe=DNS)
    for name in ("no_reverb", "with_reverb"):
        folder = tmp_path / "files" / f"test_{name}"
        scores = json.loads((folder / "scores.json").read_text())
        assert scores["num_scored"] == 2
    manifest, shards = tmp_path / "files/save/manifest.csv", tmp_path / "shards"
    run("shards", manifest, "--output", shards)
    languages = "--languages=[read_speech,french_speech]"
    given = f"--recordings={shards}/manifest.csv", languages
    run_recipe(tree, tmp_path / "shards_run", *FLAGS, *given, recipe=DNS)
    log = (tmp_path / "shards_run/train_log.txt").read_text()
    assert "valid pesq" in log and log.count("test: test_") == 2
