"""DNSMOS P.835 by the networks of the package speechmos."""

import sys
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
from speechmos import dnsmos as package

from dbtransform_lobes.evaluation.dnsmos import dnsmos
from tests.signals import noise_like, rows_of, speech_like, write_wav


def test_scores_are_those_of_the_package_and_fall_with_noise(monkeypatch):
    speech, noise = 0.4 * speech_like(3.0, 1), noise_like(3.0, 1)
    clean, expected = dnsmos(speech, 16000), package.run(speech + noise, 16000)
    again = Mock(return_value=expected)  # as it takes seconds
    monkeypatch.setattr(package, "run", again)
    noisy = dnsmos(speech + noise, 16000)
    assert np.array_equal(again.call_args.args[0], speech + noise)
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


def test_evaluate_with_and_without_clean_speech(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    clean = 0.4 * speech_like(2.0, 1)
    write_wav("clean/deep/a.wav", clean)
    noisy = write_wav("noisy/deep/a.wav", clean + noise_like(2.0, 1))
    scores = dnsmos(soundfile.read(noisy)[0], 16000)
    (tmp_path / "coded").mkdir()
    soundfile.write("coded/a.ogg", clean, 16000)
    assert "1 of 1 files" in run("evaluate", "coded", "--dnsmos").out
    for folders in (["noisy"], ["clean", "noisy"]):
        for name in folders:
            (tmp_path / name / "bad.wav").write_bytes(b"no audio")
        command = "evaluate", *folders, "--dnsmos", "--output", "scores"
        out, err = run(*command, code=1)
        assert "1 of 2 files" in out and "left out: bad" in err
        bad, row = rows_of("scores/scores.csv")
        assert bad["status"] == "failed"
        assert ("pesq" in row) == (len(folders) > 1)
        for name, value in scores.items():
            assert abs(float(row[f"dnsmos_{name.lower()}"]) - value) < 1e-5
        assert "DNSMOS OVRL" in out and f"{scores['OVRL']:.3f}" in out
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "dbtransform[dnsmos]" in run(*command, code=1).err
