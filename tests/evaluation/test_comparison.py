"""Tests of comparing systems: intervals, conditions, tables, plots, CLI."""

import json
import os
import re
import shutil
from itertools import product
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from scipy.stats import ttest_1samp

from dbtransform_lobes.evaluation import plots, tables
from dbtransform_lobes.evaluation.compare import (
    _read_clean,
    _summarise_systems,
    compare_systems,
)
from dbtransform_lobes.evaluation.conditions import read_conditions
from dbtransform_lobes.evaluation.metrics import METRICS, si_sdr
from dbtransform_lobes.evaluation.statistics import intervals
from tests.evaluation.test_evaluation import RATE, noisy_pair, write
from tests.signals import contents, rows_of

SNRS = {"speaker/a": 0.0, "speaker/b": 5.0, "c": 0.0, "d": 5.0}
NOISES = {"speaker/a": "bus", "speaker/b": "bus", "c": "cafe", "d": "cafe"}
GAINS = {"noisy": 1.0, "good": 0.3, "poor": 0.8}  # of the noise


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Four clean files, three systems: less noise, better system."""
    root = tmp_path_factory.mktemp("systems")
    for seed, (name, snr) in enumerate(SNRS.items()):
        clean, noisy = noisy_pair(snr, seed=seed)
        write(root / "clean" / f"{name}.wav", clean)
        for system, gain in GAINS.items():
            suffix = "flac" if system == "good" else "wav"
            signal = clean + gain * (noisy - clean)
            write(root / system / f"{name}.{suffix}", signal)
    lines = ["id,speech,noise,noise_offset_s,snr_db"]
    for name, snr in SNRS.items():
        lines.append(f"{name},s.flac,noise/{NOISES[name]}_00.flac,0.5,{snr}")
    (root / "mixtures.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def compared(folders, tmp_path_factory):
    """The comparison of all three systems, and its folder."""
    output = tmp_path_factory.mktemp("comparison") / "new"
    report = compare_systems(
        folders / "clean",
        {system: folders / system for system in GAINS},
        output,
        conditions=folders / "mixtures.csv",
    )
    return report, output


def interval(values):
    """The limits of the t-test of scipy."""
    found = ttest_1samp(values, 0).confidence_interval()
    return found.low, found.high


@pytest.mark.parametrize("count", [2, 5, 40])
def test_interval_is_that_of_the_t_test(count):
    values = 3 + np.random.default_rng(count).standard_normal(count)
    estimate = intervals(pd.DataFrame({"pesq": values}))["pesq"]
    for end, limit in zip(("low", "high"), interval(values), strict=True):
        assert abs(estimate[end] - limit) < 1e-10 * max(1, abs(limit))


def test_interval_of_few_or_equal_values():
    for values, expected in (
        ([], [None, None, None]),
        ([2.0], [2.0, None, None]),
        ([2.0] * 3, [2.0, 2.0, 2.0]),
    ):
        estimate = intervals(pd.DataFrame({"pesq": values}))["pesq"]
        assert list(estimate.values()) == expected


def test_conditions_of_the_mix_command_and_of_voicebank(folders, tmp_path):
    conditions = read_conditions(folders / "mixtures.csv")
    assert {n: c["snr_db"] for n, c in conditions.items()} == SNRS
    assert {n: c["noise"] for n, c in conditions.items()} == NOISES
    log = tmp_path / "log_testset.txt"
    log.write_text("p232_001 bus 17.5\n\np257_002 living 2.5\n")
    assert read_conditions(log) == {
        "p232_001": {"noise": "bus", "snr_db": 17.5},
        "p257_002": {"noise": "living", "snr_db": 2.5},
    }


def test_conditions_are_of_the_set_that_is_scored(tmp_path):
    """A speaker of all sets has files of one name in them."""
    write(tmp_path / "clean_testset_wav/me_000.wav", np.zeros(RATE))
    plan = tmp_path / "mixtures.csv"
    plan.write_text("file,split,snr_db\nme_000.wav,train,1\nme_000.wav,test,2")
    _, known, _ = _read_clean(tmp_path / "clean_testset_wav", plan, {})
    assert known == {"me_000": {"snr_db": 2.0}}
    with pytest.raises(ValueError, match="me_000 is there already"):
        read_conditions(plan, "clean")


def test_noises_go_by_their_type(tmp_path):
    types = {
        "living room": "living room",
        "noise/cafe__coffee_00.flac": "cafe",
        "DEMAND/TBUS/ch01.WAV": "TBUS",
        "youtube/_x.wav": "youtube",
        "rain.wav": "rain",
        "speech/a.wav|speech/b.wav": "babble",
    }
    path = tmp_path / "conditions.csv"
    lines = [f"snr_{n}.5,{noise}" for n, noise in enumerate(types)]
    path.write_text("\n".join(["id,noise", *lines]))
    found = read_conditions(path)
    assert list(found) == [f"snr_{n}.5" for n in range(len(types))]
    assert list(found.values()) == [{"noise": kind} for kind in types.values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line of a file"),
        ("name,snr_db\na,1\n", "expected a column id or file"),
        ("id,snr_db\na,loud\n", "line 2: .*loud"),
        ("id,snr_db\na,nan\n", "line 2: the SNR is not finite"),
        ("id,snr_db\na,1\na.wav,2\n", "line 3: a is there already"),
        ("id,snr_db\n,1\n", "line 2: the name of the file is empty"),
        ("a bus 1\nb bus\n", "line 2: expected a csv"),
    ],
)
def test_wrong_conditions_are_refused(text, message, tmp_path):
    path = tmp_path / "conditions.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_conditions(path)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(30, {-2.5: 10, 2.5: 10, 7.5: 10}), (3, {-5.0: 1, -4.5: 1, -4.0: 1})],
)
def test_many_snrs_are_grouped_in_ranges(count, expected):
    scores = dict.fromkeys(METRICS, 1.0)
    row = {"system": "a", "status": "scored", "reason": "", **scores}
    rows = [{**row, "file": i, "snr_db": i / 2 - 5} for i in range(count)]
    summary = _summarise_systems(rows, "a")
    sizes = {g["snr_db"]: g["num_compared"] for g in summary["by_snr"]}
    assert sizes == expected and summary["snr_ranges"] == (count == 30)
    first = "-5 to 0 dB" if count == 30 else "-5 dB"
    assert tables.group_labels(summary, "by_snr")[0] == first


def test_means_and_differences_are_those_of_the_files(folders, compared):
    report, output = compared
    assert report["num_compared"] == report["num_files"] == 4
    assert report["reference"] == "noisy" and report["left_out"] == {}
    rows = {(row["system"], row["file"]): row for row in report["rows"]}
    for (system, name), row in rows.items():
        file = f"{name}.{'flac' if system == 'good' else 'wav'}"
        clean, _ = sf.read(folders / "clean" / f"{name}.wav")
        expected = si_sdr(clean, sf.read(folders / system / file)[0])
        assert abs(row["si_sdr"] - expected) < 1e-10
    for metric in METRICS:
        values = {}
        for system in GAINS:
            values[system] = [rows[system, name][metric] for name in SNRS]
            mean = report["means"][system][metric]["mean"]
            assert abs(mean - sum(values[system]) / 4) < 1e-10
        pairs = zip(values["good"], values["noisy"], strict=True)
        low, high = interval([good - noisy for good, noisy in pairs])
        given = report["differences"]["good"][metric]
        assert abs(given["low"] - low) < 1e-8
        assert abs(given["high"] - high) < 1e-8
    for kind, key, known in (
        ("by_snr", "snr_db", SNRS),
        ("by_noise", "noise", NOISES),
    ):
        groups = report[kind]
        assert [g[key] for g in groups] == sorted(set(known.values()))
        for group, system in product(groups, GAINS):
            names = [name for name in SNRS if known[name] == group[key]]
            assert group["num_compared"] == len(names) == 2
            values = [rows[system, name]["estoi"] for name in names]
            mean = group["means"][system]["estoi"]["mean"]
            assert abs(mean - sum(values) / 2) < 1e-10
    # pairing matters: the interval of the means is wider
    spread = report["means"]["good"]["si_sdr"]
    paired = report["differences"]["good"]["si_sdr"]
    width = paired["high"] - paired["low"]
    assert width < 0.5 * (spread["high"] - spread["low"])
    assert "noisy" not in report["differences"]
    written = rows_of(output / "scores.csv")
    names = [(row["system"], row["file"]) for row in written]
    assert len(names) == 12 and names[0][0] == "noisy"
    row = written[names.index(("poor", "speaker/b"))]
    assert abs(float(row["pesq"]) - rows["poor", "speaker/b"]["pesq"]) < 1e-6
    assert (row["snr_db"], row["noise"]) == ("5.0", "bus")


def test_everything_is_written_beside_versions(folders, compared):
    report, output = compared
    names = {"scores.csv", "scores.json", "scores.md"}
    assert {path.name for path in output.iterdir()} == names
    written = json.loads((output / "scores.json").read_text())
    assert written == {k: v for k, v in report.items() if k != "rows"}
    assert written["configuration"]["systems"]["good"] == str(folders / "good")
    assert set(written["versions"]) >= {"pesq", "pystoi", "dbtransform_lobes"}
    assert "Student t" in written["interval"]
    text = (output / "scores.md").read_text()
    assert text == tables.comparison_text(report)
    mean = report["means"]["good"]["pesq"]["mean"]
    low = report["differences"]["good"]["pesq"]["low"]
    assert f"{mean:.3f}" in text and f"[{low:+.3f}, " in text
    for title in ("## Means", "## Differences to noisy", "5 dB", "cafe"):
        assert title in text


def test_files_that_one_system_lacks_are_left_out_of_all(folders, tmp_path):
    lacking = tmp_path / "lacking"
    for name in ("speaker/a", "speaker/b", "c", "extra"):
        source = "c" if name == "extra" else name
        signal, _ = sf.read(folders / "poor" / f"{source}.wav")
        write(lacking / f"{name}.wav", signal[: -7 if name == "c" else None])
    systems = {"noisy": folders / "noisy", "lacking": lacking}
    report = compare_systems(folders / "clean", systems)
    assert report["num_compared"] == 2 and report["num_files"] == 4
    assert "no such file" in report["left_out"]["d"]["lacking"]
    assert "equal lengths" in report["left_out"]["c"]["lacking"]
    assert report["without_clean"] == {"noisy": [], "lacking": ["extra"]}
    rows = {(row["system"], row["file"]): row for row in report["rows"]}
    kept = [rows["noisy", f"speaker/{name}"]["pesq"] for name in "ab"]
    mean = report["means"]["noisy"]["pesq"]["mean"]
    assert abs(mean - sum(kept) / 2) < 1e-10
    status = [rows["lacking", name]["status"] for name in "dc"]
    assert status == ["failed", "failed"]
    assert report["by_snr"] == report["by_noise"] == []


@pytest.mark.parametrize(
    ("suffix", "wrong", "message"),
    [
        (
            ".csv",
            ["id,clean\n3,\n", "id,clean\n3,{root}/c.wav\n"],
            "no paths of clean files",
        ),
        (".json", ["[1]"], "expected JSON of the form"),
    ],
)
def test_a_manifest_knows_other_names(
    folders, tmp_path, suffix, wrong, message
):
    """As of the DNS test set: id, clean and noisy have different names."""
    systems = {name: tmp_path / name for name in ("noisy", "good")}
    noisy = "noisy/book_snr5_fileid_3.wav"
    for old, new in (("noisy/c.wav", noisy), ("good/c.flac", "good/3.flac")):
        (tmp_path / new).parent.mkdir()
        shutil.copy(folders / old, tmp_path / new)
    clean = os.path.relpath(folders / "clean/c.wav", tmp_path)
    manifest = (tmp_path / "test").with_suffix(suffix)
    manifest.write_text(f"id,clean,noisy,snr\n3,{clean},{noisy},5\n")
    if suffix == ".json":
        entry = {"clean_wav": clean, "noisy_wav": noisy, "snr_db": 5}
        manifest.write_text(json.dumps({"3": {**entry, "length": 1.5}}))
    report = compare_systems(manifest, systems)
    assert report["num_compared"] == 1 and report["left_out"] == {}
    assert report["by_snr"][0]["snr_db"] == 5.0
    assert report["without_clean"] == {"noisy": [], "good": []}
    assert report["differences"]["good"]["pesq"]["mean"] > 0
    del systems["good"]
    report = compare_systems(manifest, systems)
    assert report["differences"] == {}
    assert "Differences" not in tables.comparison_text(report)
    for text in wrong:
        manifest.write_text(text)
        with pytest.raises(ValueError, match=message):
            compare_systems(manifest, systems)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": {}}, "expected at least one"),
        ({"reference": "best"}, "expected one of the systems noisy"),
        ({"systems": {"noisy": "none"}}, "is no folder"),
        ({"systems": {"other": "other"}}, "it has z, expected c"),
        ({"conditions": "bad.csv"}, "(?s)without a line.*speaker/a"),
        ({"plots": ["svg"]}, "expected a name in .png or .pdf"),
    ],
)
def test_impossible_comparisons_are_refused(
    folders, tmp_path, monkeypatch, changes, message
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "other" / "z.wav", np.zeros(RATE))
    (tmp_path / "bad.csv").write_text("id,snr_db\nc,1\nd,2\n")
    arguments = {"systems": {"noisy": folders / "noisy"}, **changes}
    with pytest.raises(ValueError, match=message):
        compare_systems(folders / "clean", **arguments)


def test_failed_writes_keep_files(folders, compared, monkeypatch):
    clean, poor = folders / "clean", folders / "poor"
    before = contents(compared[1])
    fail = Mock(side_effect=OSError("disk is full"))
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        compare_systems(clean, {"poor": poor}, compared[1])
    assert contents(compared[1]) == before


def test_markdown_cells_keep_their_bars():
    text = tables.markdown_table(["a|b", "n"], [["x", 1]]).strip()
    assert text == "| a\\|b   |   n |\n|:-------|----:|\n| x      |   1 |"


def test_plots_show_the_means_and_differences(compared, tmp_path):
    report, _ = compared
    for suffix, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        plots.plot_comparison(report, tmp_path, suffix)
        for name in ("differences", "by_snr", "by_noise"):
            assert (tmp_path / f"{name}.{suffix}").read_bytes()[:4] == start
    assert len(list(tmp_path.iterdir())) == 6
    panel = plots._by_snr(report).axes[0]
    assert panel.get_title() == "PESQ-WB"
    for curve, system in zip(panel.containers, GAINS, strict=True):
        means = [g["means"][system]["pesq"]["mean"] for g in report["by_snr"]]
        assert curve.lines[0].get_ydata().tolist() == means
    panel = plots._differences(report).axes[3]
    [line] = panel.containers[0].lines[2]  # the bar of the interval
    given = report["differences"]["good"]["si_sdr"]
    ends = [given["low"], given["high"]]
    assert line.get_segments()[0][:, 0].tolist() == pytest.approx(ends)


def test_plot_of_more_noises_and_systems_than_fit(compared, tmp_path):
    report, _ = compared
    group = report["by_noise"][0]
    noises = [{"noise": f"n{i}", "num_compared": i} for i in range(12)]
    report = {**report, "by_noise": [{**group, **each} for each in noises]}
    figure = plots._by_noise(report)
    assert "10 of 12 noises" in figure.get_suptitle()
    labels = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    assert labels == [f"n{i}" for i in range(2, 12)]
    looks = [tuple(plots.style(number).values()) for number in range(20)]
    assert len(set(looks)) == 20


def test_command_compares_and_lists_what_is_left_out(folders, tmp_path, run):
    output = tmp_path / "comparison"
    command = "evaluate", folders / "clean", "--reference", "noisy"
    systems = "--systems", f"ours={folders / 'good'}", folders / "noisy"
    written = "--plot", "pdf", "--output", output, "--jobs", 2
    text = run(*command, *written, *systems).out
    assert text == (output / "scores.md").read_text()
    assert "4 of 4 files" in text and "Differences to noisy" in text
    assert (output / "differences.pdf").is_file()
    assert not (output / "by_snr.pdf").exists()
    (tmp_path / "bad").mkdir()
    for name in ("c", "d"):
        (tmp_path / "bad" / f"{name}.wav").write_bytes(b"no audio")
    captured = run(*command, *systems, f"bad={tmp_path / 'bad'}", code=1)
    assert "0 of 4 files" in captured.out
    assert re.search(r"^\| bad +\| +0 \| +- \|", captured.out, re.M)
    assert f"left out: c: bad: {tmp_path}/bad/c.wav: exp" in captured.err
    assert "left out: speaker/a: bad: there is no such file" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "or --dnsmos, which needs no clean speech"),
        (["--dnsmos"], "clean is no folder; give"),
        (["noisy", "--systems", "a=b"], "given besides --systems"),
        (["--systems", "=b"], "expected NAME=FOLDER"),
        (["--systems", "x/a", "y/a"], "two of the name a"),
        (["--systems", "a", "--plot", "png"], "without --output"),
        (["noisy", "--output", __file__], "is a file, expected a folder"),
    ],
)
def test_command_refuses(arguments, message, run):
    assert message in run("evaluate", "clean", *arguments, code=1).err
