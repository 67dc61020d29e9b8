"""The metrics against reference values of 60 noisy recordings.

Set DBTRANSFORM_TEST_DATA to the folder ``real_speech_16k`` to run it.
"""

import os
from pathlib import Path

import pytest

from dbtransform_lobes.data.dataset import mix_testset
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


@pytest.mark.skipif(
    not FOLDER, reason="DBTRANSFORM_TEST_DATA does not name real_speech_16k"
)
def test_noisy_metrics_equal_the_reference(tmp_path):
    folder = Path(FOLDER)
    mix_testset(folder / "test_mixtures.csv", folder, tmp_path)
    names = ("clean_testset_wav", "noisy_testset_wav")
    report = evaluate_folders(*(tmp_path / name for name in names))
    rows = {row["file"]: row for row in report["rows"]}
    reference = rows_of(folder / "test_mixtures_noisy_metrics.csv")
    assert len(reference) == report["num_scored"] == 60
    for expected in reference:
        for metric, (column, tolerance) in COLUMNS.items():
            error = rows[expected["id"]][metric] - float(expected[column])
            assert abs(error) <= tolerance, (expected["id"], metric)
