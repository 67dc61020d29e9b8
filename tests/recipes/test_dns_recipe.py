"""The DNS recipe to its end on a tiny tree, from files and from shards."""

import json
import os
import subprocess
import sys

import pytest

from command import run_tool
from tests.corpora import dns_tree
from tests.recipes.test_recipe import ROOT, TINY


def train(recipe, hparams, data, output, *flags):
    """Run recipes/RECIPE/train.py for one tiny epoch; return its output."""
    command = [sys.executable, "train.py", f"hparams/{hparams}", *TINY]
    command += [f"--data_folder={data}", f"--output_folder={output}"]
    done = subprocess.run(
        [*command, "--number_of_epochs=1", *flags],
        cwd=ROOT / "recipes" / recipe,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return dns_tree(tmp_path_factory.mktemp("dns"), 48000, suffix="_fullband")


FLAGS = ["--valid_hours=0.0005", "--codec=0.5", "--clipping=0.5"]


def test_recipe_runs_from_files_and_from_shards(tree, tmp_path):
    hparams = "db_transform_dns.yaml"
    code, text = train("DNS", hparams, tree, tmp_path / "files", *FLAGS)
    assert code == 0, text
    for name in ("no_reverb", "with_reverb"):
        folder = tmp_path / "files" / f"test_{name}"
        scores = json.loads((folder / "scores.json").read_text())
        assert scores["num_scored"] == 2
    manifest = tmp_path / "files/save/manifest.csv"
    shards = tmp_path / "shards"
    command = [str(manifest), "--output", str(shards)]
    assert run_tool("shards", command) == 0
    code, text = train(
        "DNS",
        hparams,
        tree,
        tmp_path / "shards_run",
        *FLAGS,
        f"--recordings={shards}/manifest.csv",
        "--languages=[read_speech,french_speech]",
    )
    assert code == 0, text
    log = (tmp_path / "shards_run/train_log.txt").read_text()
    assert "valid pesq" in log and log.count("test: test_") == 2
