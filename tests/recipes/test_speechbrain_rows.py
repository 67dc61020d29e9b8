"""The rows of SpeechBrain's recipe tests, run on stand-ins for its samples.

In SpeechBrain's own tree the rows lie in tests/recipes, each recipe in a folder
``DBTransform`` of its task.
"""

import json
import re
from pathlib import Path

import pytest

from tests.signals import noise_like, rows_of, speech_like, write_wav
from tests.training_runs import ROOT, run_script

SMALL = "--architecture={num_channels: 8, num_heads: 1, num_layers: 1}"
HERE = Path(__file__).resolve().parent


def our_path(path):
    """Return the file here for one of SpeechBrain's tree."""
    return ROOT / re.sub(r"/enhance(ment)?/DBTransform/", "/", path)


@pytest.fixture
def samples(tmp_path):
    """Files of the names and the manifests that SpeechBrain's samples have."""
    entries = {}
    for number in range(4):
        clean, noise = speech_like(1.0, number), noise_like(1.0, number)
        pair = {"clean_wav": clean, "noisy_wav": clean + noise}
        entries[f"enh{number}"] = {"length": 1.0}
        for key, signal in pair.items():
            name = f"{key}_{number}.wav"
            write_wav(tmp_path / "tests/samples/separation" / name, signal)
            entries[f"enh{number}"][key] = f"{{data_root}}/{name}"
    folder = tmp_path / "tests/samples/annotation"
    folder.mkdir()
    for name, chosen in (("train", "013"), ("dev", "2")):
        part = {f"enh{number}": entries[f"enh{number}"] for number in chosen}
        (folder / f"enhance_{name}.json").write_text(json.dumps(part))
    return tmp_path


@pytest.mark.parametrize("corpus", ["Voicebank", "DNS", "TIMIT"])
def test_row_runs_and_leaves_its_files(corpus, samples, monkeypatch):
    (row,) = rows_of(HERE / f"{corpus}.csv")
    for key in ("Data_prep_file", "Readme_file"):
        assert our_path(row[key]).is_file()
    argv = [str(our_path(row["Hparam_file"])), *row["test_debug_flags"].split()]
    argv += ["--output_folder=out", "--device=cpu", SMALL]
    monkeypatch.chdir(samples)
    run_script(argv, our_path(row["Script_file"]))
    (names,) = re.findall(r"file_exists=\[(.*)\]", row["test_debug_checks"])
    for name in names.split(","):
        assert (samples / "out" / name).is_file(), name
