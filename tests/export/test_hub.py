"""The hub: downloads from olah and, with a token, from a stand-in; pushes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from dbtransform_lobes.export.hub import plan_upload
from dbtransform_lobes.export.model_folder import FILES
from tests.hub_stand_in import TOKEN, olah, olah_command, stand_in
from tests.signals import speech_like, write_wav

NAME = "owner/name"
# What a process prints: the sum of the weights of each model that it loads.
LOAD = """
import json, os, sys
from speechbrain.utils.fetching import FetchConfig, LocalStrategy
from dbtransform_lobes.inference import EnhanceModel
def load(source="owner/name", savedir=None, strategy="SYMLINK", **config):
    try:
        model = EnhanceModel.from_hparams(
            source, savedir=savedir, run_opts={"device": "cpu"},
            local_strategy=LocalStrategy[strategy],
            fetch_config=FetchConfig(**config))
    except ValueError as error:
        return str(error)
    return sum(p.double().sum().item() for p in model.parameters())
"""


def total(folder):
    """Sum of the trained weights of a model folder."""
    weights = torch.load(folder / "model.ckpt").values()
    return sum(weight.double().sum().item() for weight in weights)


def python(code, cwd, endpoint, **environment):
    """Run code after LOAD and against an endpoint; what it prints as JSON."""
    names = {name for name in os.environ if not name.startswith("HF_")}
    environment = {
        **{name: os.environ[name] for name in names},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cwd / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    result = subprocess.run(
        [sys.executable, "-c", LOAD + code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def git(folder, *commands):
    git = "git -c user.name=test -c user.email=test@example.org"
    for command in commands:
        words = f"{git} {command}".split()
        subprocess.run(words, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def mirror(model_folder, tmp_path):
    """models/owner/name as a git repository with a branch of other weights."""
    folder = tmp_path / "mirrors/models/owner/name"
    shutil.copytree(model_folder, folder)
    git(folder, "init -b main", "add -A", "commit -m first")
    git(folder, "checkout -b double")
    state = torch.load(folder / "model.ckpt")
    torch.save({k: v * 2 for k, v in state.items()}, folder / "model.ckpt")
    git(folder, "commit -a -m second", "checkout main")
    return tmp_path / "mirrors"


ONLINE = """
from speechbrain.inference.interfaces import foreign_class
results = {
    "cache": load(),
    "double": load(revision="double"),
    "links": load(savedir="links"),
    "copy": load(savedir="copy", strategy="COPY"),
    "direct": load(savedir="direct", strategy="COPY_SKIP_CACHE"),
    "other": load(savedir="copy", strategy="COPY", revision="double"),
    "renewed": load(savedir="copy", strategy="COPY", revision="double",
                    allow_updates=True),
    "unknown": load("owner/unknown"),
    "branch": load(revision="no_such_branch"),
}
model = foreign_class("owner/name", pymodule_file="custom.py",
                      classname="EnhanceModel", savedir="foreign",
                      run_opts={"device": "cpu"})
results["foreign"] = sum(p.double().sum().item() for p in model.parameters())
print(json.dumps(results))
"""
OFFLINE = """
print(json.dumps({
    "cache": load(allow_network=False),
    "double": load(revision="double", allow_network=False),
    "copy": load(savedir="copy", strategy="COPY", revision="double"),
    "nothing": load("owner/unknown", allow_network=False),
    "gone": load(),
}))
"""


@pytest.mark.skipif(
    not (olah_command() and shutil.which("git")),
    reason="olah or git is not installed",
)
def test_downloads_from_a_hub_and_offline(model_folder, mirror, tmp_path):
    trained = total(model_folder)
    (tmp_path / "olah").mkdir()
    with olah(tmp_path / "olah", mirror) as endpoint:
        online = python(ONLINE, tmp_path, endpoint)
        write_wav(tmp_path / "noisy.wav", speech_like(0.2))
        command = "enhance noisy.wav out.wav --model owner/name".split()
        code = "from dbtransform_lobes.cli.main import main\n"
        code += f"print(main({command}))"
        assert python(code, tmp_path, endpoint) == 0
        assert (tmp_path / "out.wav").is_file()
    double = 2 * trained
    for key in ("cache", "links", "copy", "direct", "foreign"):
        assert online[key] == pytest.approx(trained), key
    assert online["double"] == online["renewed"] == pytest.approx(double)
    assert "holds a model from owner/name, expected" in online["other"]
    assert "owner/unknown: there is no such folder, and" in online["unknown"]
    assert "check the name, the revision" in online["branch"]
    assert (tmp_path / "links/model.ckpt").is_symlink()
    for name in ("copy", "direct"):
        assert not (tmp_path / name / "model.ckpt").is_symlink()
    # The server is gone: what was fetched is still there.
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        offline = python(OFFLINE, tmp_path, endpoint, **more)
        assert offline["cache"] == offline["gone"] == pytest.approx(trained)
        assert offline["double"] == offline["copy"] == pytest.approx(double)
        assert "getting it from the hub failed" in offline["nothing"]


PUSH = """
import contextlib, io
from dbtransform_lobes.cli.main import main
def push(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["push", "own", "owner/name", *arguments])
    return [code, out.getvalue(), err.getvalue()]
"""


def test_push_sends_what_the_dry_run_lists_and_it_loads(own_folder, tmp_path):
    (own_folder / "secret.txt").write_text("not to be sent")
    planned, left_out = plan_upload(own_folder, NAME)
    assert left_out == ["secret.txt"]
    first = PUSH + (
        "print(json.dumps([push('--private', '--revision', 'v2'), load(),"
        " load(token=True), push('--token', 'hf_wrong')]))"
    )
    with stand_in() as (address, repos):
        options = tmp_path, address
        told = python(first, *options, HF_TOKEN=TOKEN)
        pushed, without, loaded, refused = told
        repo = repos[NAME]
        repo["private"] = False
        second = PUSH + "print(json.dumps(push('--private')))"
        public = python(second, *options, HF_TOKEN=TOKEN)
    code, out, error = pushed
    assert code == 0, error
    assert repo["branches"] == ["main", "v2"] and repo["commits"] == ["v2"]
    assert "left out: secret.txt" in out
    assert repo["files"] == {path.name: path.read_bytes() for path in planned}
    for data in repo["files"].values():
        assert hashlib.sha256(data).hexdigest() in out
    # Private: with the token it loads, without it does not.
    assert "a private model needs FetchConfig(token=True)" in without
    assert loaded == pytest.approx(total(own_folder))
    # Never without the right token, and what is private not into the public.
    assert refused[0] == public[0] == 1
    assert "pushing failed" in refused[2] and "is public" in public[2]


def test_dry_run_lists_and_sends_nothing(model_folder, run, no_network):
    out = run("push", model_folder, NAME, "--dry-run").out
    assert f"nothing was sent to {NAME}, revision main" in out
    for name in FILES:
        data = (model_folder / name).read_bytes()
        line = next(x for x in out.splitlines() if x.endswith(f"  {name}"))
        assert line.startswith(hashlib.sha256(data).hexdigest())
        assert f"{len(data):,} bytes" in line


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("model.ckpt", None, "model.ckpt missing, expected"),
        ("README.md", None, "README.md missing"),
        ("model.ckpt", "no weights", "expected a state dict"),
        ("hyperparams.yaml", "x: !apply:os.getcwd []", "could run any code"),
        ("README.md", "# A model", "front matter lacks license, library_name"),
        (
            "README.md",
            "---\ntags: [\n---\n",
            "README.md: the front matter is no YAML",
        ),
        (None, None, "there is no such folder"),
    ],
)
def test_dry_run_finds_what_is_wrong(own_folder, run, file, text, message):
    """A file that is gone or has another text; no file: the folder is gone."""
    if file and text is None:
        (own_folder / file).unlink()
    elif file:
        (own_folder / file).write_text(text)
    folder = own_folder if file else own_folder / "no"
    told = run("push", folder, NAME, "--dry-run", code=1).err
    assert message in told


@pytest.mark.parametrize("name", ["name", "a/b/c", "owner/na me"])
def test_names_of_no_repository_are_refused(model_folder, run, name):
    told = run("push", model_folder, name, "--dry-run", code=1).err
    assert ("expected owner/name" if name == "name" else name) in told
