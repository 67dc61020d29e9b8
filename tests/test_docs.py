"""The documentation site builds, and its worked examples run."""

import subprocess
import sys

import numpy as np
import pytest

from tests.pages import ROOT, files, make_clone, python, run_commands
from tests.signals import voicebank_tree


def test_site_builds_without_a_warning_and_its_notebook_runs(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "--fail-on-warning"]
        + [ROOT / "docs", tmp_path],
        check=True,
        timeout=300,
    )
    tutorial = (tmp_path / "tutorial.html").read_text(encoding="utf-8")
    assert tutorial.count("<audio") == 2 and tutorial.count("<img") >= 2
    assert (tmp_path / "api/dbtransform_lobes.models.html").is_file()
    commands = (tmp_path / "api/dbtransform_lobes.cli.html").read_text("utf-8")
    assert "<pre><span></span>dbtransform enhance noisy.wav" in commands


@pytest.mark.parametrize("page", ["enhance", "stream", "onnx"])
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(make_clone(tmp_path))
    names = {}
    exec(python(f"docs/{page}.md"), names)
    assert all(np.isfinite(np.asarray(x)).all() for x in names["enhanced"])


BLOCK = {
    "hyperparams.yaml": "my_blocks.BandGate",
    "train_log.txt": "valid pesq",
}


@pytest.mark.parametrize(
    "page, folder, written",
    [
        ("add_block", "my_model", BLOCK),
        ("add_loss", "my_loss", {"train_log.txt": "loss_low"}),
        ("add_data", "my_corpus", {"test/scores.csv": "a,"}),
        ("fine_tune", "tuned", {"log.txt": "db_transform_small"}),
    ],
)
def test_what_a_page_trains(page, folder, written, tmp_path, monkeypatch):
    """A new block, loss and data set; the bundled weights further on."""
    clone, page = make_clone(tmp_path), f"docs/{page}.md"
    voicebank_tree(clone / "DIR", 16000, utterances=1, seconds=1.0)
    for path, text in files(page).items():
        (clone / path).write_text(text, encoding="utf-8")
    monkeypatch.chdir(clone)
    monkeypatch.syspath_prepend(clone / "recipes/Voicebank")
    run_commands(page, clone)
    results = clone / "recipes/Voicebank/results" / folder
    for name, text in written.items():
        assert text in (results / name).read_text()
