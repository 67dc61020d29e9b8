"""``dbtransform enhance-corpus``: manifests, resuming, failures, Ray."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile as sf
from speechbrain.utils.fetching import FetchConfig

from dbtransform_lobes.cli.main import main
from dbtransform_lobes.inference.corpus import (
    claim_output,
    pair_files,
    read_corpus,
    write_failures,
)
from dbtransform_lobes.inference.export import export_model
from tests.runs import tiny_run
from tests.signals import noise_like, speech_like, write_wav

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed (pip install 'dbtransform[ray]')",
)
SOUND = {"strength": 1.0, "attenuation_limit_db": None, "high_band": "keep"}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    tiny_run(run)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    export_model(run, folder)
    return folder


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Files in two folders, some in a manifest; made the working folder."""
    paths = ["a.wav", "deep/b.wav", "deep/c.wav"]
    for number, path in enumerate(paths):
        noisy = speech_like(0.2, number) + noise_like(0.2, number)
        write_wav(tmp_path / "corpus" / path, noisy)
    write_wav(tmp_path / "elsewhere/d.wav", noise_like(0.2))
    manifest = tmp_path / "corpus/manifest.csv"
    manifest.write_text("split,path\n" + "".join(f"x,{p}\n" for p in paths))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def add_rows(folder, *paths):
    with open(folder / "corpus/manifest.csv", "a") as file:
        file.writelines(f"x,{path}\n" for path in paths)


def files(folder, pattern="*"):
    return sorted(
        path.relative_to(folder).as_posix()
        for path in Path(folder).rglob(pattern)
        if path.is_file()
    )


def table(folder):
    with open(Path(folder) / "failures.csv", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_every_file_has_one_place(corpus):
    other = corpus / "elsewhere/d.wav"
    same = corpus / "corpus/a.wav"
    # named again, from elsewhere in two ways, and as another file's place
    rival = corpus / "corpus" / str(other)[1:]
    add_rows(corpus, "deep/../a.wav", same, other, "../elsewhere/d.wav")
    add_rows(corpus, str(other)[1:], "notes.txt", "no.wav")
    found = read_corpus(corpus / "corpus/manifest.csv")
    pairs, refused = pair_files(found, corpus / "out")
    out, inside = corpus / "out", corpus / "corpus"
    assert pairs == [
        (str(inside / "a.wav"), str(out / "a.wav")),
        (str(inside / "deep/b.wav"), str(out / "deep/b.wav")),
        (str(inside / "deep/c.wav"), str(out / "deep/c.wav")),
        (str(other), f"{out}{other}"),
        (str(inside / "no.wav"), str(out / "no.wav")),
    ]
    assert set(refused) == {str(rival), str(inside / "notes.txt")}
    assert "is the place of" in refused[str(rival)]


def test_results_never_replace_files_of_the_corpus(corpus):
    found = read_corpus("corpus/manifest.csv")
    with pytest.raises(ValueError, match="a.wav: is of the corpus"):
        pair_files(found[:1], "corpus")
    add_rows(corpus, "../out/a.wav")
    with pytest.raises(ValueError, match="would replace it; give another"):
        pair_files(read_corpus("corpus/manifest.csv"), "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "columns are None, expected one named path"),
        (b"file\na.wav\n", "columns are file, expected one named path"),
        (b"path,x\n", "lists no files"),
        (b"path,x\na.wav,1\n ,2\n", "row 2 has no path; fill it in"),
        (b"path\n\xff\xfe\n", "expected a CSV"),
        (b"path\nnotes.txt\n", "none of these can be enhanced"),
    ],
)
def test_bad_manifests(tmp_path, content, message, capsys):
    manifest = tmp_path / "manifest.csv"
    manifest.write_bytes(content)
    out = tmp_path / "out"
    assert main(["enhance-corpus", str(manifest), "--output", str(out)]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_results_of_other_settings_are_refused(tmp_path, model_folder):
    model = {"source": str(model_folder), "fetch_config": FetchConfig()}
    out = tmp_path / "out"
    claim_output(out, model, SOUND, force=False)
    (out / ".a.wav.123.tmp").write_text("left by a process that was killed")
    claim_output(out, model, SOUND, force=False)
    assert files(out) == ["enhance_corpus.json"]
    weaker = {**SOUND, "strength": 0.5}
    with pytest.raises(ValueError, match="other settings .* use --force"):
        claim_output(out, model, weaker, force=False)
    claim_output(out, model, weaker, force=True)
    assert json.loads((out / "enhance_corpus.json").read_text())["strength"] < 1
    weights = model_folder / "model.ckpt"
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.ckpt").write_bytes(weights.read_bytes() + b"x")
    (other / "hyperparams.yaml").write_bytes(
        (model_folder / "hyperparams.yaml").read_bytes()
    )
    with pytest.raises(ValueError, match="results of another model"):
        claim_output(out, {**model, "source": str(other)}, weaker, False)


def test_table_of_failures(tmp_path):
    failures = {"b,1.wav": 'not "audio"', "a.wav": "two\nlines"}
    assert write_failures(tmp_path, failures) == tmp_path / "failures.csv"
    assert table(tmp_path) == failures
    write_failures(tmp_path, {})
    assert (tmp_path / "failures.csv").read_text() == "path,reason\n"


def test_without_ray(corpus, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["enhance-corpus", "corpus", "--output", "out"]) == 1
    assert "pip install 'dbtransform[ray]'" in capsys.readouterr().err
    assert not Path("out").exists()


@with_ray
def test_same_results_as_the_folder_command(corpus, model_folder, capsys):
    model = ["--model", str(model_folder)]
    assert main(["enhance", "corpus", "--output", "expected", *model]) == 0
    (corpus / "corpus/bad.wav").write_text("no audio")
    add_rows(corpus, "bad.wav", "no.wav", "a.wav")
    command = ["enhance-corpus", "corpus/manifest.csv", "--output", "out"]
    capsys.readouterr()
    assert main([*command, *model, "--jobs", "2"]) == 1
    out, error = capsys.readouterr()
    assert "3 of 5 files enhanced into out, 0 were there" in out
    assert "2 failed, see out/failures.csv" in error
    reasons = table("out")
    assert list(reasons) == [
        str(corpus / "corpus/bad.wav"),
        str(corpus / "corpus/no.wav"),
    ]
    assert [r.split(" (")[0] for r in reasons.values()] == [
        "expected audio that soundfile can read",
        "there is no such file",
    ]
    assert files("out", "*.wav") == files("expected")
    for path in files("expected"):
        same = Path("out", path).read_bytes()
        assert same == Path("expected", path).read_bytes()
        assert same != Path("corpus", path).read_bytes()


def interrupt(command, result):
    """Send Ctrl-C to the command when a result is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dbtransform_lobes.cli.main", *command],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not result.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    return error


@with_ray
def test_a_stopped_run_goes_on(corpus, model_folder, capsys):
    write_wav(corpus / "corpus/z.wav", noise_like(300.0))
    command = ["enhance-corpus", "corpus", "--output", "out", "--jobs", "1"]
    command += ["--model", str(model_folder)]
    error = interrupt(command, Path("out/deep/c.wav"))
    assert error.endswith("dbtransform enhance-corpus: interrupted\n")
    assert files("out", "*.wav") == ["a.wav", "deep/b.wav", "deep/c.wav"]
    assert files("out", ".*") == []
    write_wav(corpus / "corpus/z.wav", noise_like(0.3))
    # one result is kept, one is cut off, one is older than its input
    kept = Path("out/a.wav").stat().st_mtime_ns
    cut, older = Path("out/deep/b.wav"), Path("out/deep/c.wav")
    os.truncate(cut, cut.stat().st_size - 100)
    os.utime(older, (0, 0))
    assert main(command) == 0
    message = "3 of 4 files enhanced into out, 1 were there"
    assert message in capsys.readouterr().out
    assert Path("out/a.wav").stat().st_mtime_ns == kept
    assert sf.info(cut).frames == 3200 and older.stat().st_mtime > 0
    assert sf.info("out/z.wav").frames == 4800
    assert table("out") == {}


@with_ray
def test_a_file_that_kills_its_process_is_given_up(
    corpus, model_folder, monkeypatch, capsys
):
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    )
    folder = corpus / "killer"
    folder.mkdir()
    text = (model_folder / "hyperparams.yaml").read_text()
    name = "dbtransform_lobes.models.db_transform.DBTransform"
    assert name in text
    (folder / "hyperparams.yaml").write_text(
        text.replace(name, "tests.killer.Killer")
    )
    weights = (model_folder / "model.ckpt").read_bytes()
    (folder / "model.ckpt").write_bytes(weights)
    write_wav(corpus / "corpus/b.wav", noise_like(1.0))
    command = ["enhance-corpus", "corpus", "--output", "out", "--jobs", "1"]
    command += ["--model", str(folder), "--trust-code"]
    assert main(command) == 1
    assert table("out") == {
        str(corpus / "corpus/b.wav"): "the process died, 2 times"
    }
    assert files("out", "*.wav") == ["a.wav", "deep/b.wav", "deep/c.wav"]
    assert files("out", ".*") == []
