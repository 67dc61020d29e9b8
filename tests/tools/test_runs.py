"""Tests of training curves and of means over seeds."""

import json
import shutil

import pytest
from matplotlib.figure import Figure
from speechbrain.utils.train_logger import FileTrainLogger

import curves
from runs import find_runs, read_train_log
from tests.runs import scores_of

PESQ = {("a", 1): 1.5, ("a", 2): 1.7, ("a", 10): 1.9, ("b", 1): 2.0}


def log(run, epochs, offset=0.0):
    """Let SpeechBrain write the log of a run, with its test."""
    run.mkdir(parents=True, exist_ok=True)
    logger = FileTrainLogger(str(run / "train_log.txt"))
    for epoch in epochs:
        loss, si_sdr = 9.0 - epoch, -8.25 - epoch
        pesq = 1.25 + offset + 0.25 * (epoch % 3)
        valid = {"loss": loss + 0.5, "loss_si_sdr": si_sdr - 0.25}
        logger.log_stats(
            {"epoch": epoch, "lr": 1e-3},
            {"loss": loss, "loss_si_sdr": si_sdr},
            {**valid, "pesq": pesq, "silent_files": 0},
        )
    logger.log_stats({"test": "best"}, test_stats={"pesq": 1.5})


@pytest.fixture
def results(tmp_path):
    """results/NAME/SEED of two configurations."""
    for (name, seed), pesq in PESQ.items():
        run = tmp_path / name / str(seed)
        log(run, (1, 2, 3, 4), offset=(seed - 1) / 4)
        text = json.dumps(scores_of(2, pesq=pesq))
        (run / "test").mkdir()
        (run / "test/scores.json").write_text(text)
    return tmp_path


def test_log_is_read_as_it_was_written(tmp_path):
    log(tmp_path, (1, 2, 3))
    log(tmp_path, (3, 4), offset=0.5)  # resumed: epoch 3 again
    with open(tmp_path / "train_log.txt", "a") as stream:
        stream.write("epoch: 5, lr: 1.00e-03 - train loss: 1.")  # killed
    epochs = read_train_log(tmp_path).to_dict("index")
    assert list(epochs) == [1, 2, 3, 4]
    assert epochs[2] == {
        "lr": 1e-3,
        "train loss": 7.0,
        "train loss_si_sdr": -10.2,  # three digits, as SpeechBrain writes it
        "valid loss": 7.5,
        "valid loss_si_sdr": -10.5,
        "valid pesq": 1.75,
        "valid silent_files": 0.0,
    }
    assert epochs[3]["valid pesq"] == 1.75


def test_runs_without_a_log_are_refused(tmp_path):
    with pytest.raises(ValueError, match="its first epoch has not ended"):
        read_train_log(tmp_path)
    (tmp_path / "train_log.txt").write_text("nothing\n")
    with pytest.raises(ValueError, match="no line of an epoch"):
        read_train_log(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("none", "empty"):
        with pytest.raises(ValueError, match="has none right below it"):
            find_runs([tmp_path / name])


def test_runs_are_found_in_the_order_of_their_seeds(results):
    a, b = results / "a", results / "b"
    seeds = {str(a): [a / "1", a / "2", a / "10"], str(b / "1"): [b / "1"]}
    assert find_runs([a, b / "1", a]) == seeds


def test_curves_show_mean_and_range_of_the_seeds(results, tmp_path):
    log(results / "a" / "1", (5,))  # a seed that is an epoch ahead
    groups = {
        name: curves._seeds(name, [read_train_log(run) for run in runs])
        for name, runs in find_runs([results / "a"]).items()
    }
    names = curves._panel_names(groups)
    assert names == ["loss", "loss_si_sdr", "pesq"]  # never 0 for all
    panel = Figure().add_subplot()
    curves._draw(panel, groups, "pesq")
    [valid] = panel.lines
    assert valid.get_xdata().tolist() == [1, 2, 3, 4]
    seeds = [[1.5, 1.75, 1.25, 1.5]]
    seeds += [[v + d for v in seeds[0]] for d in (0.25, 2.25)]
    means = [sum(values) / 3 for values in zip(*seeds, strict=True)]
    assert valid.get_ydata().tolist() == pytest.approx(means)
    edges = panel.collections[0].get_paths()[0].vertices[:, 1]
    assert edges.min() == 1.25 and edges.max() == 1.75 + 2.25
    curves._draw(panel, groups, "loss")
    _, *stages = panel.lines
    assert [line.get_linestyle() for line in stages] == ["--", "-"]


def test_curves_command(results, tmp_path, run):
    command = "curves", results / "a", results / "b/1", "--output"
    for suffix, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        path = tmp_path / "plots" / f"curves.{suffix}"
        path.parent.mkdir(exist_ok=True)
        run(*command, path)
        assert path.read_bytes()[:4] == start
        assert len(list(path.parent.iterdir())) <= 2
    (results / "a" / "2" / "train_log.txt").unlink()
    log(results / "a" / "2", (7,))
    for name, message in (
        ("curves.txt", "expected a name in .png or .pdf"),
        ("none/curves.png", "make it first"),
        ("curves.png", "no epoch in common"),
    ):
        assert message in run(*command, name, code=1).err


def test_seeds_have_mean_and_sample_deviation_without_bad_runs(
    results, run, monkeypatch
):
    monkeypatch.chdir(results)
    text = run("seeds", "a", "b").out
    assert "| a               |      3 | 1.700 ± 0.200 |" in text
    assert "| b               |      1 |         2.000 |" in text
    (results / "a" / "2" / "test/scores.json").write_text("{}")
    (results / "a" / "10" / "test/scores.json").unlink()
    out, err = run("seeds", "a", code=1)
    assert "| a               |      1 |     1.500 |" in out
    for seed in (2, 10):
        assert f"a/{seed}: there is no scores.json with scored files" in err
    # Test sets, as of the DNS Challenge, are rows of their own.
    (results / "b/1/test").rename(results / "b/1/test_hall")
    shutil.copytree(results / "b/1/test_hall", results / "b/1/test_room")
    text = run("seeds", "b").out
    for name in ("hall", "room"):
        assert f"| b: test_{name}    |      1 |     2.000 |" in text
