"""The metrics against reference values of 60 noisy recordings.

Set DBTRANSFORM_TEST_DATA to the folder ``real_speech_16k`` to run it.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from dbtransform_lobes.evaluation.evaluate import evaluate_folders
from tests.signals import rows_of

FOLDER = os.environ.get("DBTRANSFORM_TEST_DATA")
COLUMNS = {  # metric: (column of the reference, tolerance)
    "pesq": ("pesq_wb", 0.01),
    "stoi": ("stoi", 0.002),
    "estoi": ("estoi", 0.002),
    "si_sdr": ("si_sdr_db", 0.02),
    "seg_snr": ("segsnr_db", 0.01),
    "csig": ("csig", 0.01),
    "cbak": ("cbak", 0.01),
    "covl": ("covl", 0.01),
}


def mix(row, folder):
    """Return clean and noisy signals by the recipe of the data set."""
    speech, rate = sf.read(folder / row["speech"])
    noise, noise_rate = sf.read(folder / row["noise"])
    assert rate == noise_rate == 16000
    clean = speech * 10 ** (-26 / 20) / np.sqrt(np.mean(speech**2))
    start = round(float(row["noise_offset_s"]) * rate)
    noise = noise[(start + np.arange(len(clean))) % len(noise)]
    snr = 10 ** (float(row["snr_db"]) / 10)
    noisy = clean + noise * np.sqrt(np.sum(clean**2) / np.sum(noise**2) / snr)
    gain = min(1.0, 0.99 / np.max(np.abs(noisy)))
    return gain * clean, gain * noisy


@pytest.mark.skipif(
    not FOLDER, reason="DBTRANSFORM_TEST_DATA does not name real_speech_16k"
)
def test_noisy_metrics_equal_the_reference(tmp_path):
    folder = Path(FOLDER)
    for name in ("clean", "noisy"):
        (tmp_path / name).mkdir()
    for row in rows_of(folder / "test_mixtures.csv"):
        for name, signal in zip(
            ("clean", "noisy"), mix(row, folder), strict=True
        ):
            sf.write(
                tmp_path / name / f"{row['id']}.wav", signal, 16000, "PCM_16"
            )
    report = evaluate_folders(tmp_path / "clean", tmp_path / "noisy")
    rows = {row["file"]: row for row in report["rows"]}
    reference = rows_of(folder / "test_mixtures_noisy_metrics.csv")
    assert len(reference) == report["num_scored"] == 60
    for expected in reference:
        for metric, (column, tolerance) in COLUMNS.items():
            value = rows[expected["id"]][metric]
            assert abs(value - float(expected[column])) <= tolerance, (
                expected["id"],
                metric,
            )
