"""DNSMOS P.835 by the networks of the package speechmos."""

import sys

import numpy as np
import pytest
import soundfile
from speechmos import dnsmos as package

from dbtransform_lobes.evaluation.dnsmos import dnsmos
from tests.signals import noise_like, rows_of, speech_like, write_wav


def test_scores_are_those_of_the_package_and_fall_with_noise():
    speech, noise = 0.4 * speech_like(3.0, 1), noise_like(3.0, 1)
    clean, noisy = dnsmos(speech, 16000), dnsmos(speech + noise, 16000)
    expected = package.run(speech + noise, 16000)
    assert list(noisy) == ["SIG", "BAK", "OVRL", "P808"]
    for name in noisy:
        assert noisy[name] == expected[f"{name.lower()}_mos"]
        assert 1 < noisy[name] < clean[name] < 5
    assert clean["BAK"] > noisy["BAK"] + 1


@pytest.mark.parametrize(
    "signal, rate, message",
    [
        (np.zeros(0), 16000, "L > 0"),
        (np.zeros((2, 8)), 16000, "expected"),
        (np.zeros(8), 48000, "expected 16000"),
        (np.full(8, np.nan), 16000, "not finite"),
        (np.full(8, 1.5), 16000, "lower its level"),
    ],
)
def test_bad_signals_are_refused(signal, rate, message):
    with pytest.raises(ValueError, match=message):
        dnsmos(signal, rate)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "speechmos", None)
    with pytest.raises(ValueError, match=r"pip install 'dbtransform\[dnsmos"):
        dnsmos(np.zeros(16000), 16000)


def test_evaluate_scores_folders_without_clean_speech(tmp_path, run):
    signal = 0.4 * speech_like(2.0, 1) + noise_like(2.0, 1)
    path = write_wav(tmp_path / "noisy/deep/a.wav", signal)
    (tmp_path / "noisy/bad.wav").write_bytes(b"no audio")
    command = "evaluate", tmp_path / "noisy", "--dnsmos", "--output"
    out, err = run(*command, tmp_path / "scores", code=1)
    assert "1 of 2 files" in out and "failed: bad" in err
    bad, row = rows_of(tmp_path / "scores/scores.csv")
    assert bad["status"] == "failed" and "pesq" not in bad
    score = dnsmos(soundfile.read(path)[0], 16000)["OVRL"]
    assert abs(float(row["dnsmos_ovrl"]) - score) < 1e-5
    assert f"{score:.3f}" in out


def test_evaluate_adds_columns_of_dnsmos(tmp_path, monkeypatch, run):
    clean = 0.4 * speech_like(1.5, 1)
    noisy = clean + noise_like(1.5, 1)
    for name, signal in (("clean", clean), ("noisy", noisy)):
        write_wav(tmp_path / name / "a.wav", signal)
    output = tmp_path / "scores"
    command = "evaluate", tmp_path / "clean", tmp_path / "noisy", "--dnsmos"
    assert "dnsmos_ovrl" in run(*command, "--output", output).out
    [row] = rows_of(output / "scores.csv")
    written, _ = soundfile.read(tmp_path / "noisy/a.wav")
    for name, value in dnsmos(written, 16000).items():
        assert abs(float(row[f"dnsmos_{name.lower()}"]) - value) < 1e-5
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "dbtransform[dnsmos]" in run(*command, code=1).err
