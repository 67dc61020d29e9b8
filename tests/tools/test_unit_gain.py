"""Clean speech passes at its level once the taps are scaled."""

import shutil

import numpy as np
import pytest
import torch

from dbtransform_lobes.inference import EnhanceModel
from dbtransform_lobes.inference.bundled import BUNDLED
from tests.signals import speech_like, write_wav
from unit_gain import measure_gain


def test_gain_is_one_and_nothing_else_changes(tmp_path, run):
    for n in range(3):
        write_wav(tmp_path / f"clean/{n}.wav", speech_like(1.0, n))
    folder = shutil.copytree(
        BUNDLED / "db_transform_streaming", tmp_path / "model"
    )
    write_wav(tmp_path / "silent/0.wav", np.zeros(8000))
    for other in (folder, tmp_path / "silent"):
        told = run("unit_gain", folder, other, code=1).err
        assert "give a folder of clean speech" in told
    clean = sorted((tmp_path / "clean").iterdir())
    before = EnhanceModel.from_hparams(folder)
    gain = measure_gain(before, clean)
    yaml = (folder / "hyperparams.yaml").read_text()
    (folder / "hyperparams.yaml").write_text(f"{yaml}x: !name:os.getcwd\n")
    command = "unit_gain", folder, tmp_path / "clean"  # of blocks of one's own
    assert "--trust-code" in run(*command, code=1).err
    assert f"at {gain:.3f} of its" in run(*command, "--trust-code").out
    (folder / "hyperparams.yaml").write_text(yaml)
    after = EnhanceModel.from_hparams(folder)
    assert measure_gain(after, clean) == pytest.approx(1, abs=1e-4)
    noisy = torch.randn(1, 8000)
    first, second = (m.enhance_batch(noisy) for m in (before, after))
    np.testing.assert_allclose(first / gain, second, atol=1e-5)
