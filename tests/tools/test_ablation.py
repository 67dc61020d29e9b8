"""Tests of the ablation runner, its table and its plot."""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

import pytest
import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml
from scipy.stats import ttest_1samp

from ablate import LOG, train_runs
from ablation.plan import list_runs, parse_settings, read_plan
from tests.runs import write_hyperparams
from tests.signals import voicebank_tree
from tests.training_runs import ROOT, arguments

HPARAMS = ROOT / "hparams"
BASELINES = {"bsrnn": "BSRNN", "cmgan": "CMGAN"}
NARROW = "architecture={num_channels: 16}"  # of the full models
FILES = ("a", "b", "NA")
GRAPH, CLASS = (
    "dbtransform_lobes.models.harmonic_graph",
    "HarmonicGraphAttention",
)
PESQ = {
    ("full", 1): (1.5, 2.0, 2.5),
    ("full", 2): (1.75, 2.0, 2.25),
    ("plain", 1): (1.25, 2.0, 2.0),
    ("plain", 2): (1.5, 1.75, 2.5),
    ("plain", 3): (9.0, 9.0, 9.0),  # the reference has no seed 3
}
# Trains nothing; says what it was given, fails for one row, or waits.
SCRIPT = """\
import json, pathlib, sys, time
flags = dict(each[2:].split("=", 1) for each in sys.argv[2:])
folder = pathlib.Path(flags["output_folder"])
runs = folder / "times_started"
runs.write_text(runs.read_text() + "+" if runs.exists() else "+")
if flags.get("num_layers") == "0":
    sys.exit("no layers")
(folder / "given.json").write_text(json.dumps(flags))
(folder / "test").mkdir()
(folder / "test" / "scores.json").write_text("{}")
"""
PLAN = """\
script: train.py
recipe: recipe.yaml
seeds: [1, 2]
reference: full
overrides: {lr: 0.1, num_layers: 2, fusion_windows: [[8, 16], [4, 8]]}
rows:
  full: {}
  plain: {num_layers: 1, model_hparams: !include:models/bsrnn.yaml }
"""


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "recipe.yaml").write_text("lr: 1")
    own = f"from {GRAPH} import {CLASS} as Own\n"
    (tmp_path / "my_graphs.py").write_text(own)
    (tmp_path / "plan.yaml").write_text(PLAN)
    return read_plan(tmp_path / "plan.yaml")


def scored(folder, plan):
    """Write scores, logs and settings, as training leaves them."""
    for run in list_runs(plan, folder, seeds=(1, 2, 3)):
        if (run.row, run.seed) not in PESQ:
            continue
        scores = dict(zip(FILES, PESQ[run.row, run.seed], strict=True))
        (run.folder / "test").mkdir(parents=True)
        write_hyperparams(run.folder, batch_size=4, steps_per_epoch=45)
        path = run.folder / "hyperparams.yaml"
        text = path.read_text().replace(f"{GRAPH}.{CLASS}", "my_graphs.Own")
        path.write_text(text)
        lines = [f"{n},scored,{p},{p / 4},{4 * p}," for n, p in scores.items()]
        lines += ["broken,failed,,,,NaN"] * (run.seed == 1)
        text = "\n".join(["file,status,pesq,estoi,si_sdr,reason", *lines])
        (run.folder / "test/scores.csv").write_text(text)
        (run.folder / "test/scores.json").write_text("{}")
        (run.folder / "ablation_settings.json").write_text('{"lr": "0.1"}')
        (run.folder / "train_log.txt").write_text(
            "epoch: 1, lr: 0 - train audio_s_per_s: 1.00 - valid pesq: 1\n"
            "epoch: 2, lr: 0 - train audio_s_per_s: 2.00 - valid pesq: 1\n"
        )


def test_runs_come_seed_by_seed_and_rows_win(plan, tmp_path):
    runs = list_runs(plan, tmp_path, {"num_layers": 9, "lr": 0.2})
    assert [run.row for run in runs] == ["full", "plain"] * 2
    assert [run.seed for run in runs] == [1, 1, 2, 2]
    assert runs[0].settings["num_layers"] == "9"  # over the plan's 2
    assert runs[1].settings["num_layers"] == "1"  # the row's own
    assert runs[1].settings["lr"] == "0.2"
    plan = plan._replace(overrides=None)  # an empty key, and words twice
    [one] = list_runs(plan, tmp_path, seeds=[7, 7], rows=["plain"] * 2)
    assert one.folder == tmp_path / "plain" / "7"
    with pytest.raises(ValueError, match="no such row: none"):
        list_runs(plan, tmp_path, rows=["none"])


def test_each_run_is_given_its_settings_once(plan, tmp_path):
    runs = list_runs(plan, tmp_path / "out", {"data_folder": "DIR"})
    assert train_runs(runs, ["cpu", "cpu"]) == {}
    for run in runs:
        given = json.loads((run.folder / "given.json").read_text())
        assert given.pop("output_folder") == str(run.folder)
        assert given.pop("seed") == str(run.seed)
        assert given.pop("device") == "cpu"
        assert given == run.settings
        assert given["fusion_windows"] == "[[8, 16], [4, 8]]"
        assert given["data_folder"] == "DIR"
    assert train_runs(runs, ["cpu"]) == {}
    started = [(run.folder / "times_started").read_text() for run in runs]
    assert started == ["+"] * 4
    changed = {"data_folder": "DIR", "lr": 0.5}
    with pytest.raises(ValueError, match="lr: 0.1 before, 0.5 now"):
        train_runs(list_runs(plan, tmp_path / "out", changed))


def test_others_go_on_when_a_run_fails_and_it_is_tried_again(plan, tmp_path):
    runs = list_runs(plan, tmp_path / "out", {"num_layers": 0}, seeds=[1])
    for attempts in ("+", "++"):
        failed = train_runs(runs, ["cpu"])
        [reason] = failed.values()
        assert list(failed) == [str(tmp_path / "out/full/1")]
        assert "exit code 1, no layers" in reason
        assert runs[1].finished and not runs[0].finished
        assert (runs[0].folder / "times_started").read_text() == attempts
    assert "no layers" in (runs[0].folder / LOG).read_text()
    # What never finished may be given other settings.
    assert train_runs(list_runs(plan, tmp_path / "out", seeds=[1])) == {}


def test_an_interrupt_stops_the_runs_and_they_go_on(plan, tmp_path):
    script = plan.script.read_text()
    wait = f"import pathlib, time\nPATH = pathlib.Path({str(tmp_path)!r})\n"
    wait += "(PATH / 'waiting').touch()\nwhile True: time.sleep(0.1)\n"
    plan.script.write_text(wait)
    command = [sys.executable, ROOT / "recipes/tools/ablate.py"]
    command += [tmp_path / "plan.yaml", "--output", tmp_path / "out"]
    command += ["--seeds", "1"]
    process = subprocess.Popen(command, start_new_session=True)
    while not (tmp_path / "waiting").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # to the command, not to its run
    assert process.wait(timeout=60) == 130
    with pytest.raises(ProcessLookupError):  # nothing of it is left
        os.killpg(process.pid, 0)
    plan.script.write_text(script)
    runs = list_runs(plan, tmp_path / "out", seeds=[1])
    assert not any(run.finished for run in runs)
    assert train_runs(runs) == {}
    assert all(run.finished for run in runs)


def test_table_and_plot_are_of_what_there_is(plan, tmp_path, run, monkeypatch):
    """Means and intervals are those of the literal twin.

    The models have a block of one's own, in a module beside the script.
    """
    monkeypatch.setattr(sys, "path", sys.path[:])  # the tool adds to it
    output = tmp_path / "out"
    command = "ablate", tmp_path / "plan.yaml", "--seeds", 1, 2, 3
    command += "--output", output, "--report-only"
    assert "train some of them first" in run(*command, code=1).err
    scored(output, plan)
    text = run(*command).out
    assert text.endswith((output / "ablation.md").read_text())
    assert "| plain |       3 |" in text
    for suffix, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        assert (output / f"ablation.{suffix}").read_bytes().startswith(start)
    report = json.loads((output / "ablation.json").read_text())
    assert report["num_files"] == 3
    assert report["missing"] == [str(output / "full/3")]
    pesq = report["rows"]["full"]["scores"]["pesq"]
    assert pesq["mean"] == pytest.approx(2.0) and pesq["difference"] is None
    plain = report["rows"]["plain"]
    pesq = plain["scores"]["pesq"]
    means = [sum(PESQ["plain", seed]) / 3 for seed in (1, 2, 3)]
    assert pesq["by_seed"] == pytest.approx(means)
    assert pesq["std"] == pytest.approx(statistics.stdev(means))
    by_file, by_seed = [0.0] * 3, []
    for seed in (1, 2):
        pairs = zip(PESQ["plain", seed], PESQ["full", seed], strict=True)
        gaps = [ours - theirs for ours, theirs in pairs]
        by_seed.append(sum(gaps) / 3)
        for place, gap in enumerate(gaps):
            by_file[place] += gap / 2
    for kind, values in (("over_files", by_file), ("over_seeds", by_seed)):
        limits = ttest_1samp(values, 0).confidence_interval()
        expected = statistics.fmean(values), limits.low, limits.high
        given = pesq["difference"][kind]
        found = [given[key] for key in ("mean", "low", "high")]
        assert found == pytest.approx(expected)
    # 45 steps of 4 crops of 2 s are 360 s of audio an epoch
    assert plain["training_hours"] == pytest.approx((360 + 180) / 3600)
    assert plain["parameters"] > 0 and plain["mmacs_per_second"] > 0
    assert plain["settings"] == {"lr": "0.1"}
    for test in output.glob("*/*/test"):  # sets as of the DNS Challenge
        shutil.copytree(test, test.with_name("test_room"))
    run(*command)
    report = json.loads((output / "ablation.json").read_text())
    assert report["num_files"] == 6


def test_wrong_plans_are_refused(plan, tmp_path):
    wrong, yaml = tmp_path / "wrong.yaml", ruamel.yaml.YAML()
    script = "none.py: there is no .* the script of .*wrong.yaml, a path rel"
    for key, value, message in (
        ("reference", "none", "the reference is none"),
        ("script", "none.py", script),
        ("epochs", 3, "unknown keys .'epochs'."),
        ("seeds", 3, "the seeds are 3, expected a list of whole numbers"),
        ("seeds", ["one"], "expected a list of whole numbers"),
        ("seeds", [], "expected a list of whole numbers"),
        ("rows", ["full"], ".'full'.* stands for what a row or all rows"),
        ("rows", {"full": 3}, "3 stands for what a row or all rows"),
        ("rows", {"full": None, 1: None}, "the rows full, 1, which are words"),
        ("rows", None, "the reference is full, expected one of the rows ,"),
        ("overrides", "lr: 1", "'lr: 1' stands for"),
    ):
        yaml.dump({**yaml.load(PLAN), key: value}, wrong)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read_plan(wrong)
    wrong.write_text("- full\n")
    with pytest.raises(ValueError, match="missing keys .'overrides'"):
        read_plan(wrong)
    for small in ("", "small: 3"):
        wrong.write_text(f"{PLAN}\n{small}")
        with pytest.raises(ValueError, match="no key small .* out --small"):
            read_plan(wrong, small=True)


def test_settings_of_the_command_line_are_checked(plan):
    given = parse_settings(["a=b=c", "--lr=1e-4", "z=null", "compile"])
    [run, _] = list_runs(plan, "out", given, seeds=[1])
    expected = {"a": "b=c", "lr": "1e-4", "z": "null", "compile": None}
    assert {key: run.settings[key] for key in expected} == expected
    assert "--compile" in run.command("cpu")
    for item, told in (("seed=3", "use --seeds"), ("a={b", "is not YAML")):
        with pytest.raises(ValueError, match=f"^{item}.*{told}"):
            parse_settings([item])


@pytest.mark.parametrize("small", [False, True])
def test_every_row_of_the_plan_is_a_model(small, tmp_path):
    plan = read_plan(HPARAMS / "ablation.yaml", small)
    runs = list_runs(plan, tmp_path, seeds=[1])
    assert len({str(run.settings) for run in runs}) == len(runs)
    for row in plan.rows:
        kind = BASELINES.get(row, "DBTransform")
        narrow = [] if small or row in BASELINES else [NARROW]
        given = parse_settings(narrow)
        (run,) = list_runs(plan, tmp_path, given, [1], [row])
        lines = [f"{key}: {text}" for key, text in run.settings.items()]
        lines += ["data_folder: none", f"output_folder: {run.folder}"]
        with open(plan.recipe) as file:
            hparams = load_hyperpyyaml(file, "\n".join(lines))
        assert type(hparams["modules"]["model"]).__name__ == kind


def test_a_run_of_the_recipe_itself(tmp_path, run):
    """What is passed on by the command line reaches the true train.py."""
    voicebank_tree(tmp_path / "data", 16000, utterances=1, seconds=1.5)
    short = {"number_of_epochs": 1, "steps_per_epoch": 1}
    _, *flags = arguments(tmp_path / "data", "out", **short)
    settings = [f[2:] for f in flags if not re.match("--(output|device)", f)]
    command = "ablate", HPARAMS / "ablation.yaml", "--small", "--seeds", 1
    command += "--rows", "full", "attention", "--output", tmp_path / "out"
    run(*command, "--set", *settings)
    report = json.loads((tmp_path / "out" / "ablation.json").read_text())
    sizes = {name: row["parameters"] for name, row in report["rows"].items()}
    assert sizes["attention"] < sizes["full"]
    changed = report["rows"]["attention"]["settings"]["architecture"]
    assert "graph: null" in changed
