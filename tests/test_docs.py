"""The documentation site builds, and its worked examples run."""

import subprocess
import sys

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


@pytest.mark.parametrize("page", ["enhance", "stream", "onnx"])
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(make_clone(tmp_path))
    exec(python(f"docs/{page}.md"), {})


@pytest.fixture
def run_page(tmp_path, monkeypatch):
    """Return a function that writes and runs what stands on a page."""

    def run(page):
        clone = make_clone(tmp_path)
        voicebank_tree(clone / "DIR", 16000, utterances=1, seconds=1.0)
        for path, text in files(page).items():
            (clone / path).write_text(text, encoding="utf-8")
        monkeypatch.chdir(clone)
        monkeypatch.syspath_prepend(clone / "recipes/Voicebank")
        run_commands(page, clone)
        return clone / "recipes/Voicebank/results"

    return run


def test_a_new_block_trains(run_page):
    results = run_page("docs/add_block.md") / "my_model"
    assert "my_blocks.BandGate" in (results / "hyperparams.yaml").read_text()
    assert "valid pesq" in (results / "train_log.txt").read_text()


def test_a_new_loss_is_logged(run_page):
    results = run_page("docs/add_loss.md") / "my_loss"
    assert "loss_low" in (results / "train_log.txt").read_text()


def test_a_new_data_set_is_trained_on_and_scored(run_page):
    results = run_page("docs/add_data.md") / "my_corpus"
    assert "a," in (results / "test/scores.csv").read_text()


def test_fine_tuning_starts_from_the_bundled_weights(run_page):
    results = run_page("docs/fine_tune.md") / "tuned"
    log = (results / "log.txt").read_text()
    assert "db_transform_small" in log
