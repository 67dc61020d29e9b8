"""Every command of the READMEs is one that the programs accept."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import command
from dbtransform_lobes.cli.main import build_parser
from dbtransform_lobes.data.mixing import mix
from tests.signals import noise_like, speech_like

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = {
    "--standalone",
    "--nnodes",
    "--nproc_per_node",
    "--rdzv_id",
    "--rdzv_backend",
    "--rdzv_endpoint",
}
READMES = [
    "README.md",
    "recipes/Voicebank/README.md",
    "recipes/DNS/README.md",
    "recipes/TIMIT/README.md",
    "docs/evidence.md",
]


def commands(readme):
    """Indented lines, continued lines joined, split at &&, |, < and >."""
    text = (ROOT / readme).read_text().replace("\\\n", " ")
    lines = re.findall(r"^    (\S.*)$", text, flags=re.MULTILINE)
    parts = [c for line in lines for c in re.split(r"&&|\||[<>]", line)]
    return [shlex.split(c) for c in parts]


@pytest.mark.parametrize("readme", READMES)
def test_dbtransform_commands_parse(readme):
    given = [c[1:] for c in commands(readme) if c[:1] == ["dbtransform"]]
    assert given or "TIMIT" in readme
    for arguments in given:
        assert build_parser().parse_args(arguments).command == arguments[0]


@pytest.mark.parametrize("readme", READMES)
def test_commands_of_the_tools_parse(readme):
    given = [c[1:] for c in commands(readme) if "tools/" in "".join(c[1:2])]
    assert given or "TIMIT" in readme
    folder = ROOT if "recipes" not in readme else (ROOT / readme).parent
    for script, *arguments in given:
        assert (folder / script).is_file()
        command.build_parser(Path(script).stem).parse_args(arguments)


@pytest.mark.parametrize("readme", READMES)
def test_training_commands_name_recipes_and_keys_that_exist(readme):
    given = [
        c
        for c in commands(readme)
        if c[:1] == ["python"] and "tools/" not in c[1]
    ]
    given += [c for c in commands(readme) if c[:1] == ["torchrun"]]
    assert given or readme.startswith("docs")
    for words in given:
        start = next(i for i, c in enumerate(words) if c.endswith(".py"))
        script, hparams, *flags = words[start:]
        launch = [flag.split("=")[0] for flag in words[1:start]]
        assert set(launch) <= LAUNCH
        recipe = (ROOT / readme).parent
        if recipe == ROOT:
            recipe = ROOT / "recipes/Voicebank"
        assert (recipe / script).is_file() and (recipe / hparams).is_file()
        keys = (ROOT / hparams).read_text()
        for flag in flags:
            name = flag.removeprefix("--").split("=")[0]
            assert re.search(rf"^{name}:", keys, flags=re.MULTILINE)


def test_files_that_the_readme_links_exist():
    for readme in READMES:
        text = (ROOT / readme).read_text()
        for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
            assert (ROOT / readme).parent.joinpath(link).exists(), link


def test_example_is_made_of_synthetic_signals():
    path = ROOT / "dbtransform_lobes/bundled/example_noisy.flac"
    signal, rate = sf.read(path)
    speech, noise = speech_like(4.0, seed=1), noise_like(4.0, seed=1)
    _, noisy = mix(speech, noise, snr_db=5.0)
    assert rate == 16000
    np.testing.assert_allclose(signal, noisy, atol=1 / 32768)
