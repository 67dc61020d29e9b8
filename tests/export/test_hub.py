"""The hub: downloads from olah and, with a token, from a stand-in; pushes."""

import filecmp
import hashlib
import re
import shutil
import subprocess
from functools import partial

import pytest
import torch
from huggingface_hub import constants
from speechbrain.inference.interfaces import foreign_class
from speechbrain.utils.fetching import FetchConfig, LocalStrategy

from dbtransform_lobes.export.hub import plan_upload
from dbtransform_lobes.export.model_folder import FILES
from dbtransform_lobes.inference import EnhanceModel
from dbtransform_lobes.inference.bundled import find_onnx
from tests.hub_stand_in import OLAH, TOKEN, olah, stand_in
from tests.signals import speech_like, write_wav

NAME = "owner/name"
CPU = {"device": "cpu"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Have this process take an address for the hub, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def use(address, **others):
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_DISABLE_XET": True,
            **others,
        }.items():
            monkeypatch.setattr(constants, name, value)

    return use


def total(model):
    """Sum of the weights of a model."""
    weights = model.mods.model.state_dict().values()
    return sum(weight.double().sum().item() for weight in weights)


def load(source=NAME, savedir=None, strategy="SYMLINK", **config):
    """Load a model; return the sum of its weights."""
    strategy, config = LocalStrategy[strategy], FetchConfig(**config)
    options = {"local_strategy": strategy, "fetch_config": config}
    options |= {"savedir": savedir, "run_opts": CPU}
    return total(EnhanceModel.from_hparams(source, **options))


def refused(message, **options):
    """Assert that a model is not loaded, for this reason."""
    with pytest.raises(ValueError, match=message):
        load(**options)


@pytest.fixture
def mirror(model_folder, tmp_path):
    """models/owner/name in git; a branch has other weights and no graph."""
    folder = tmp_path / "mirrors/models" / NAME
    shutil.copytree(model_folder, folder)
    shutil.copy(find_onnx(), folder)

    def git(*commands):
        git = "git -c user.name=test -c user.email=test@example.org"
        for command in commands:
            words = f"{git} {command}".split()
            subprocess.run(words, cwd=folder, check=True, capture_output=True)

    git("init -b main", "add -A", "commit -m first", "checkout -b double")
    state = torch.load(folder / "model.ckpt")
    torch.save({k: v * 2 for k, v in state.items()}, folder / "model.ckpt")
    git("rm model.onnx", "commit -a -m second", "checkout main")
    return tmp_path / "mirrors"


@pytest.mark.skipif(
    not (OLAH and shutil.which("git")), reason="olah or git is not installed"
)
def test_downloads_from_a_hub_and_offline(model, mirror, hub, run, tmp_path):
    trained, double = (pytest.approx(n * total(model)) for n in (1, 2))
    direct = {"savedir": "direct", "strategy": "COPY_SKIP_CACHE"}
    other = {"revision": "double", "savedir": "copy", "strategy": "COPY"}
    with olah(tmp_path, mirror) as address:
        hub(address)
        assert load() == load(savedir="links") == load(**direct) == trained
        assert load(savedir="copy", strategy="COPY") == trained
        refused("holds a model from owner/name, expected", **other)
        assert load(**other, allow_updates=True) == double
        assert load(revision="double") == double
        told = "owner/unknown: there is no such folder, and"
        refused(told, source="owner/unknown")
        refused("check the name, the revision", revision="no_such_branch")
        custom = {"pymodule_file": "custom.py", "classname": "EnhanceModel"}
        made = foreign_class(NAME, **custom, savedir="foreign", run_opts=CPU)
        assert total(made) == trained
        write_wav(tmp_path / "noisy.wav", speech_like(0.2))
        run("enhance", "noisy.wav", "out.wav", "--model", NAME)
        run("enhance", "noisy.wav", "same.wav")  # by the same graph
        outs = [tmp_path / f"{name}.wav" for name in ("out", "same")]
        assert filecmp.cmp(*outs, shallow=False)
        assert re.search("computed by: +onnx", run("info", NAME).out)
        told = run("info", NAME, "--revision", "double").out
        assert re.search("computed by: +torch", told)
    assert (tmp_path / "links/model.ckpt").is_symlink()
    for name in ("copy", "direct"):
        assert not (tmp_path / name / "model.ckpt").is_symlink()
    # The server is gone: what was fetched is still there.
    for offline in (False, True):
        hub(address, HF_HUB_OFFLINE=offline)
        assert load() == load(allow_network=False) == trained
        assert load(revision="double", allow_network=False) == double
        assert load(**other) == double
        nothing = {"source": "owner/unknown", "allow_network": False}
        refused("getting it from the hub failed", **nothing)


def test_push_sends_what_the_dry_run_lists_and_it_loads(
    own_folder, model, hub, run, monkeypatch
):
    (own_folder / "secret.txt").write_text("not to be sent")
    (own_folder / "model.onnx").write_text("a graph")
    planned, left_out = plan_upload(own_folder, NAME)
    assert left_out == ["secret.txt"]
    assert own_folder / "model.onnx" in planned
    push = partial(run, "push", own_folder, NAME)
    hub(constants.ENDPOINT)
    with stand_in() as repos:
        # Never without the right token.
        assert "pushing failed" in push("--token", "hf_wrong", code=1).err
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        out = push("--private", "--revision", "v2").out
        repo = repos[NAME]
        assert repo["branches"] == ["main", "v2"] and repo["commits"] == ["v2"]
        # Private: with the token it loads, without it does not.
        refused(r"a private model needs FetchConfig\(token=True\)")
        options = {"savedir": "with_token", "run_opts": CPU}
        own = EnhanceModel.from_hparams(NAME, **options)
        assert load(token=True) == total(own) == pytest.approx(total(model))
        repo["private"] = False
        assert "is public" in push("--private", code=1).err
    assert "left out: secret.txt" in out and repo["commits"] == ["v2"]
    assert repo["files"] == {path.name: path.read_bytes() for path in planned}
    for data in repo["files"].values():
        assert hashlib.sha256(data).hexdigest() in out


def test_dry_run_lists_and_sends_nothing(model_folder, run, no_network):
    out = run("push", model_folder, NAME, "--dry-run").out
    assert f"nothing was sent to {NAME}, revision main" in out
    for name in FILES:
        data = (model_folder / name).read_bytes()
        line = next(x for x in out.splitlines() if x.endswith(f"  {name}"))
        assert line.startswith(hashlib.sha256(data).hexdigest())
        assert f"{len(data):,} bytes" in line
    for name in ("name", "a/b/c", "owner/na me"):
        told = "expected owner/name" if name == "name" else name
        assert told in run("push", model_folder, name, "--dry-run", code=1).err


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("model.ckpt", None, "model.ckpt missing, expected"),
        ("README.md", None, "README.md missing"),
        ("model.ckpt", "no weights", "expected a state dict"),
        ("hyperparams.yaml", "x: !apply:os.getcwd []", "could run any code"),
        ("README.md", "# A model", "front matter lacks license, library_name"),
        ("README.md", "---\ntags: [\n---\n", "the front matter is no YAML"),
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
