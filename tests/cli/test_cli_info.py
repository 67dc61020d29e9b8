"""``dbtransform info`` and the help of every command."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from dbtransform_lobes import __version__
from dbtransform_lobes.cli.main import COMMANDS, build_parser, main
from dbtransform_lobes.inference.bundled import BUNDLED
from tests.signals import speech_like, write_wav


def test_info_of_the_bundled_model(run):
    out = run("info").out
    state = torch.load(BUNDLED / "db_transform_small/model.ckpt")
    # every tensor of this model is a weight
    count = sum(tensor.numel() for tensor in state.values())
    facts = dict(re.findall(r"^(\w[\w ]*): +(.+)$", out, flags=re.MULTILINE))
    assert facts["model"] == "db_transform_small"
    assert facts["parameters"] == f"{count:,}"
    assert facts["sample rate"] == "16000 Hz" and facts["causal"] == "no"
    assert facts["licence"] == "apache-2.0"
    torch_version = torch.__version__.partition("+")[0]
    assert f"torch {torch_version}," in facts["running on"]
    assert f"dbtransform_lobes {__version__}" in facts["running on"]
    assert "| esc10 | CC-BY-3.0 | 393 | 0.4902 |" in out
    assert "\nScores\n" in out and "Exported with" in out
    assert run("info", "db_transform_small").out == out


def test_info_without_a_card_and_of_nothing(tmp_path, run):
    for name in ("hyperparams.yaml", "model.ckpt"):
        (tmp_path / name).symlink_to(BUNDLED / "db_transform_small" / name)
    out = run("info", tmp_path).out
    assert "not stated" in out and "The card says nothing." in out
    missing = run("info", tmp_path / "no", code=1)
    assert "there is no such folder" in missing.err


@pytest.mark.parametrize("content", [b"a: [1", b"- 1", b"", b"\xff", b"a: 1"])
def test_a_yaml_that_is_none_is_told_in_one_line(tmp_path, content, run):
    folder, output = tmp_path / "model", tmp_path / "o.wav"
    path = write_wav(tmp_path / "a.wav", speech_like(0.1))
    folder.mkdir()
    (folder / "hyperparams.yaml").write_bytes(content)
    (folder / "model.ckpt").write_bytes(b"no weights")
    for name, *arguments in (
        ["info", folder],
        ["enhance", path, output, "--model", folder],
        ["stream", "--model", folder],
        ["export-onnx", folder, tmp_path / "o.onnx"],
        ["push", folder, "owner/name", "--dry-run"],
    ):
        error = run(name, *arguments, code=1).err
        assert error.startswith(f"dbtransform {name}: ")
        assert "expected" in error and error.count("\n") == 1
    shutil.copytree(folder, tmp_path / "run/save/CKPT+1")
    (tmp_path / "run/hyperparams.yaml").write_bytes(content)
    told = run("export", tmp_path / "run", output, code=1).err
    assert "hyperparams.yaml: " in told


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    examples = capsys.readouterr().out.partition("examples:")[2]
    assert "dbtransform" in examples
    for line in examples.replace("\\\n", " ").splitlines():
        words = [word.strip('"') for word in line.split()]
        if words[:1] == ["dbtransform"] and "COMMAND" not in words:
            build_parser().parse_args(words[1:])


def test_neither_help_nor_onnx_imports_what_is_heavy(tmp_path):
    """Although it is installed."""
    path, output = write_wav(tmp_path / "a.wav", speech_like(0.3)), "b.wav"
    code = f"""
import sys
from dbtransform_lobes.cli.main import main
def imported(names):
    return set(names.split()) & set(sys.modules)
try:
    main(["enhance", "--help"])
except SystemExit:
    pass
assert not imported("torch numpy speechbrain soundfile huggingface_hub tqdm")
from dbtransform_lobes import inference
assert inference.__all__ and not imported("numpy")
import numpy
out = inference.OnnxEnhancer().enhance_array(numpy.ones(500), 16000)
assert out.shape == (500,)
assert main(["enhance", {str(path)!r}, {str(tmp_path / output)!r}]) == 0
assert main(["info"]) == 0
assert not imported("torch speechbrain scipy pandas onnx huggingface_hub")
"""
    command = [sys.executable, "-c", code]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    assert b"--strength" in made.stdout and (tmp_path / output).is_file()


@pytest.mark.parametrize("size", [10, 10**5])  # within the buffer or not
def test_a_closed_pipe_ends_it_and_warnings_are_a_line(size):
    code = f"""
import argparse, sys, warnings
from dbtransform_lobes.cli.main import run_command
def run(args):
    warnings.warn("careful")
    print("x" * {size})
sys.exit(run_command("name", argparse.Namespace(run=run)))
"""
    reader, writer = os.pipe()
    os.close(reader)
    made = subprocess.run(
        [sys.executable, "-c", code],
        stdout=writer,
        stderr=subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
    )
    os.close(writer)
    assert (made.returncode, made.stderr) == (1, b"warning: careful\n")
