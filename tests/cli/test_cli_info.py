"""``dbtransform info`` and the help of every command."""

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


def test_info_of_the_bundled_model(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    state = torch.load(BUNDLED / "db_transform_small/model.ckpt")
    # every tensor of this model is a weight
    count = sum(tensor.numel() for tensor in state.values())
    facts = dict(re.findall(r"^(\w[\w ]*): +(.+)$", out, flags=re.MULTILINE))
    assert facts["model"] == "db_transform_small"
    assert facts["parameters"] == f"{count:,}"
    assert facts["sample rate"] == "16000 Hz" and facts["causal"] == "no"
    assert facts["licence"] == "apache-2.0"
    assert (
        f"torch {torch.__version__.partition('+')[0]}," in facts["running on"]
    )
    assert f"dbtransform_lobes {__version__}" in facts["running on"]
    assert "| esc10 | CC-BY-3.0 | 393 | 0.4902 |" in out
    assert "\nScores\n" in out and "Exported with" in out
    assert main(["info", "db_transform_small"]) == 0
    assert capsys.readouterr().out == out


def test_info_without_a_card_and_of_nothing(tmp_path, capsys):
    for name in ("hyperparams.yaml", "model.ckpt"):
        (tmp_path / name).symlink_to(BUNDLED / "db_transform_small" / name)
    assert main(["info", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "not stated" in out and "The card says nothing." in out
    assert main(["info", str(tmp_path / "no")]) == 1
    assert "there is no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"a: [1", b"- 1", b"", b"\xff", b"a: 1"])
def test_a_yaml_that_is_none_is_told_in_one_line(tmp_path, content, capsys):
    folder, output = str(tmp_path / "model"), str(tmp_path / "o.wav")
    write_wav(tmp_path / "a.wav", speech_like(0.1))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/hyperparams.yaml").write_bytes(content)
    (tmp_path / "model/model.ckpt").write_bytes(b"no weights")
    for argv in (
        ["info", folder],
        ["enhance", str(tmp_path / "a.wav"), output, "--model", folder],
        ["stream", "--model", folder],
        ["export-onnx", folder, str(tmp_path / "o.onnx")],
        ["push", folder, "owner/name", "--dry-run"],
    ):
        assert main(argv) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"dbtransform {argv[0]}: ")
        assert "expected" in error and error.count("\n") == 1
    shutil.copytree(tmp_path / "model", tmp_path / "run/save/CKPT+1")
    (tmp_path / "run/hyperparams.yaml").write_bytes(content)
    assert main(["export", str(tmp_path / "run"), output]) == 1
    assert "hyperparams.yaml: " in capsys.readouterr().err


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


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom dbtransform_lobes.cli.main import main\n"
        "try:\n    main(['enhance', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = 'torch numpy speechbrain soundfile huggingface_hub tqdm'\n"
        "sys.exit(any(name in sys.modules for name in heavy.split()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert result.returncode == 0
    assert b"--strength" in result.stdout
