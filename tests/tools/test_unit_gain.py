"""Clean speech passes at its level once the taps are scaled."""

import shutil

import numpy as np
import pytest
import torch

from dbtransform_lobes.inference import EnhanceModel
from dbtransform_lobes.inference.bundled import BUNDLED
from tests.signals import speech_like, write_wav
from unit_gain import measure_gain


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        write_wav(tmp_path / f"clean/{number}.wav", speech_like(1.0, number))
    shutil.copytree(BUNDLED / "db_transform_streaming", tmp_path / "model")
    return tmp_path


def test_gain_is_one_and_nothing_else_changes(folder, run):
    clean = sorted((folder / "clean").iterdir())
    before = EnhanceModel.from_hparams(folder / "model")
    gain = measure_gain(before, clean)
    told = run("unit_gain", folder / "model", folder / "clean").out
    assert f"at {gain:.3f} of its level" in told
    after = EnhanceModel.from_hparams(folder / "model")
    assert measure_gain(after, clean) == pytest.approx(1, abs=1e-4)
    noisy = torch.randn(1, 8000)
    first, second = (m.enhance_batch(noisy) for m in (before, after))
    np.testing.assert_allclose(first / gain, second, atol=1e-5)


def test_a_folder_without_audio_is_refused(folder, run):
    (folder / "none").mkdir()
    told = run("unit_gain", folder / "model", folder / "none", code=1).err
    assert "expected a folder of clean speech" in told
