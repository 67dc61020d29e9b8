"""DNSMOS P.835 by the networks of the package speechmos."""

import sys

import numpy as np
import pytest
from speechmos import dnsmos as package

from dbtransform_lobes.evaluation.dnsmos import dnsmos
from tests.signals import noise_like, speech_like


def test_scores_are_those_of_the_package_and_fall_with_noise():
    speech, noise = 0.4 * speech_like(3.0, 1), noise_like(3.0, 1)
    clean, noisy = dnsmos(speech, 16000), dnsmos(speech + noise, 16000)
    expected = package.run(speech + noise, 16000)
    assert noisy["OVRL"] == expected["ovrl_mos"]
    assert noisy["SIG"] == expected["sig_mos"]
    assert noisy["BAK"] == expected["bak_mos"]
    assert noisy["P808"] == expected["p808_mos"]
    assert list(noisy) == ["SIG", "BAK", "OVRL", "P808"]
    for name in ("SIG", "BAK", "OVRL", "P808"):
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
