"""``dbtransform enhance``: single files, folders, failures, exit codes."""

import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile as sf
import torch

from dbtransform_lobes.inference import EnhanceModel
from dbtransform_lobes.inference.batch import enhance_pair
from tests.inference.test_any_audio import mp3
from tests.signals import contents, noise_like, speech_like, times, write_wav
from tests.training_runs import ROOT

BUNDLED = "db_transform_small"  # by ONNX Runtime: workers start sooner
LONG = 300.0  # seconds that take longer than a test


@pytest.fixture
def tree(tmp_path):
    """Three noisy files in a folder, one of them in a folder below."""
    for number, name in enumerate(("a.wav", "b.wav", "deep/er/c.wav")):
        signal = speech_like(0.2, number) + noise_like(0.2, number)
        write_wav(tmp_path / "noisy" / name, signal)
    (tmp_path / "noisy/notes.txt").write_text("no audio")
    (tmp_path / "noisy/.hidden.wav").write_text("no audio")
    return tmp_path


@pytest.fixture
def enhance(model_folder, tree, monkeypatch, run):
    """Run the command in the folder of the tree; return what it wrote."""
    monkeypatch.chdir(tree)
    return partial(run, "enhance", "--model", model_folder)


def files(folder):
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".dbtransform.json"
    )


@pytest.mark.parametrize(
    "name", [b"a" * 251 + b".wav", b"latin\xe9.wav", "čeština.wav".encode()]
)
def test_names_of_any_bytes_up_to_the_limit(enhance, tree, name):
    source = tree / os.fsdecode(name)
    source.write_bytes((tree / "noisy/a.wav").read_bytes())
    enhance(str(source), "--output", "out")
    written = sorted(os.listdir(b"out"))
    assert written == [b".dbtransform.json", name]
    assert os.path.getsize(b"out/" + name) > 1000


def test_files_and_folders_with_a_suffix(enhance, tree):
    paths = ("noisy/a.wav", "noisy/deep")
    enhance(*paths, "--output", ".", "--suffix", "_enhanced")
    assert (tree / "a_enhanced.wav").is_file()
    assert (tree / "er/c_enhanced.wav").is_file()


def test_patterns_keep_the_structure_below_their_start(enhance, tree):
    (tree / "noisy/dull").mkdir()  # without audio
    enhance("noisy/*.wav", "--output", "one")
    assert files(tree / "one") == ["a.wav", "b.wav"]
    enhance("noisy/**/[!b].wav", "--output", "two")
    assert files(tree / "two") == ["a.wav", "deep/er/c.wav"]
    enhance("noisy/d*", "--output", "three")
    assert files(tree / "three") == ["deep/er/c.wav"]
    # a file of such a name is itself, not a pattern
    (tree / "noisy/a.wav").rename(tree / "noisy/[b].wav")
    enhance("noisy/[b].wav", "--output", "four")
    assert files(tree / "four") == ["[b].wav"]
    (tree / "noisy/talk.m4a").write_bytes(b"")
    told = enhance("noisy/*a*", "--output", "five").err
    assert "skipped: noisy/talk.m4a: convert it" in told
    # Neither links to folders nor what was made before are gone through.
    (tree / "noisy/loop").symlink_to(".")
    for _ in range(2):
        within = "noisy/**", "--output", "noisy/out", "--resume"
        assert "of 3 files enhanced" in enhance(*within).out
    assert "3 were there" in enhance(*within).out


def test_options_of_one_file(enhance, tree, model, monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    write_wav(tree / "wide.wav", noise_like(0.2, 0, 48000), 48000)
    options = ["--strength", "0.5", "--attenuation-limit", "3"]
    options += ["--high-band", "drop", "--threads", "3"]
    enhance("wide.wav", "out.wav", *options)
    enhance("wide.wav", "plain.wav")
    assert threads == [3]
    plain = model.enhance_file(tree / "wide.wav").numpy()
    assert np.abs(sf.read(tree / "plain.wav")[0] - plain).max() < 1e-4
    written = sf.read(tree / "out.wav")[0]
    given = {"strength": 0.5, "attenuation_limit_db": 3, "high_band": "drop"}
    expected = model.enhance_file(tree / "wide.wav", **given).numpy()
    assert np.abs(written - expected).max() < 1e-4
    for name in given:
        fewer = {key: given[key] for key in given if key != name}
        other = model.enhance_file(tree / "wide.wav", **fewer).numpy()
        # the limit of 3 dB is tighter than a strength of 0.5
        assert name == "strength" or np.abs(other - written).max() > 1e-3


def test_resume_makes_what_is_missing(enhance, tree, monkeypatch):
    """Missing, old or cut; not an MP3 that is longer than its input says."""
    write_wav(tree / "noisy/d.wav", noise_like(0.3))
    path, parts = tree / "noisy/e.mp3", (noise_like(1.0), np.zeros(80000))
    path.write_bytes(b"".join([mp3(path, part) for part in parts]))
    enhance("noisy", "--output", "out")
    lengths = [
        sf.info(tree / name / "e.mp3").frames for name in ("noisy", "out")
    ]
    assert 2 * lengths[0] < lengths[1]
    before = times(tree / "out")
    (tree / "out/b.wav").unlink()
    os.truncate(tree / "out/d.wav", 1000)
    os.utime(tree / "noisy/deep/er/c.wav")  # recorded anew
    out = enhance("noisy", "--output", "out", "--resume").out
    assert "3 of 5 files enhanced into out, 2 were there" in out
    after = times(tree / "out")
    assert after[tree / "out/e.mp3"] == before[tree / "out/e.mp3"]
    kept, again = tree / "out/a.wav", tree / "out/deep/er/c.wav"
    assert after[kept] == before[kept] and after[again] > before[again]
    assert sf.info(tree / "out/b.wav").frames == 3200
    assert sf.info(tree / "out/d.wav").frames == 4800
    monkeypatch.setattr(EnhanceModel, "from_hparams", None)  # all is done
    enhance("noisy", "--output", "out", "--resume")
    with pytest.raises(SystemExit):
        enhance("noisy", "--output", "out", "--resume", "--force")


def test_resume_mixes_no_settings(enhance, tree, own_folder):
    write_wav(tree / "out/a.wav", speech_like(0.1))  # of somebody else
    resumed = "noisy", "--output", "out", "--resume"
    assert "a.wav: exists; use --force" in enhance(*resumed, code=1).err
    enhance("noisy", "--output", "out", "--force")
    before = contents(tree / "out")
    weaker = ["noisy", "--output", "out", "--strength", "0.5"]
    error = enhance(*weaker, "--resume", code=1).err
    assert "has results of strength 1.0, so that --resume would mix" in error
    assert "use --force to replace them" in error
    rounded = *weaker[:3], "--precision", "bf16", "--resume"
    assert "has results of precision fp32" in enhance(*rounded, code=1).err
    with open(own_folder / "hyperparams.yaml", "a") as file:
        file.write("# another one\n")
    again = ["noisy", "--output", "out", "--resume"]
    error = enhance(*again, "--model", own_folder, code=1).err
    assert "has results of another model" in error
    assert contents(tree / "out") == before
    bundled = *again[:2], "other", "--model", BUNDLED
    enhance(*bundled)
    error = enhance(*bundled, "--resume", "--backend", "torch", code=1).err
    assert "has results of another model or backend" in error
    # Stopped after a file by other settings: the rest is not theirs.
    enhance("noisy/a.wav", *weaker[1:], "--force")
    assert "2 of 3 files enhanced" in enhance(*weaker, "--resume").out


def test_every_row_of_a_manifest_has_a_place(enhance, tree):
    """Below its folder, or the whole path of a file from elsewhere."""
    elsewhere = write_wav(tree / "d.wav", noise_like(0.1))
    rows = "b.wav deep/er/c.wav none.wav ./b.wav deep/../a.wav ../d.wav".split()
    (tree / "noisy/list.csv").write_text("x,path\n1," + "\n1,".join(rows))
    out, error = enhance("noisy/list.csv", "--output", "out", code=1)
    assert "4 of 5 files enhanced into out" in out
    assert "failed:" in error and "none.wav: there is no such file" in error
    places = ["a.wav", "b.wav", "deep/er/c.wav", str(elsewhere)[1:]]
    assert files(tree / "out") == sorted(places)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected the columns path and at least one row"),
        (b"file\na.wav\n", "expected the columns path .* given file and 1"),
        (b"path,x\n", "at least one row, .* given path, x and 0 rows"),
        (b"path,x\na.wav,1\n ,2\n", "row 2 has no path; fill it in"),
        (b"path\na\0.wav\n", "expected UTF-8 .*bytes of 0"),
        (b"path\nnotes.txt\n", "expected one of the suffixes"),
    ],
)
def test_bad_manifests(tmp_path, content, message, run):
    manifest, out = tmp_path / "manifest.csv", tmp_path / "out"
    manifest.write_bytes(content)
    told = run("enhance", manifest, "--output", out, code=1).err
    assert re.search(message, told)
    assert not out.exists()


def test_a_file_that_kills_its_process_is_given_up(
    enhance, own_folder, tree, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = (own_folder / "hyperparams.yaml").read_text()
    name = "dbtransform_lobes.models.db_transform.DBTransform"
    assert name in text
    text = text.replace(name, "tests.runs.Killer")
    (own_folder / "hyperparams.yaml").write_text(text)
    write_wav(tree / "noisy/bad.wav", noise_like(1.0))
    options = "--output", "out", "--jobs", 2, "--model", own_folder
    out, error = enhance("noisy", *options, "--trust-code", code=1)
    assert "3 of 4 files enhanced into out" in out
    assert "bad.wav: the process that worked on it died" in error
    assert list((tree / "out").rglob(".*.tmp")) == []


@pytest.fixture
def started(tmp_path):
    """Return a function that enhances long files in a process group."""
    for name in "abc":
        noise = np.tile(noise_like(LONG / 30), 30)
        write_wav(tmp_path / f"noisy/{name}.wav", noise)
    command = [sys.executable, "-m", "dbtransform_lobes.cli.main", "enhance"]
    command += "noisy --output out --threads 1 --jobs".split()

    def start(jobs, begun, backend="onnx"):
        """Start; return when files are made (begun) or processes started."""
        process = subprocess.Popen(
            [*command, str(jobs), "--backend", backend],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        while (
            len(list(tmp_path.glob("out/.*.tmp"))) < jobs
            if begun
            else len(children(process.pid)) < 3  # a tracker and two workers
        ):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        return process

    return start


def test_workers_end_with_their_parent(started, tmp_path):
    process = started(jobs=2, begun=True)  # two files, so two workers
    process.kill()
    process.communicate(timeout=60)  # until no process has stderr open
    assert not list(tmp_path.glob("out/.*.tmp"))


def children(number):
    """List the numbers of the processes that a process has started."""
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc to list the children of a process")
    found = Path(f"/proc/{number}/task").glob("*/children")
    return [int(each) for file in found for each in file.read_text().split()]


def test_failures_are_named_and_the_rest_is_done(enhance, tree):
    (tree / "noisy/bad.wav").write_bytes(b"RIFF and nothing more")
    sf.write(tree / "noisy/nan.wav", [0.1, np.nan], 16000, subtype="FLOAT")
    (tree / "noisy/gone.wav").symlink_to(tree / "nowhere.wav")
    reasons = []
    for folder, jobs in (("one", 1), ("two", 2)):
        options = "--output", folder, "--jobs", jobs, "--model", BUNDLED
        out, error = enhance("noisy", *options, code=1)
        assert f"3 of 6 files enhanced into {folder}" in out
        assert files(tree / folder) == ["a.wav", "b.wav", "deep/er/c.wav"]
        failed = [x for x in error.splitlines() if x.startswith("failed")]
        reasons.append(failed)
    bad, gone, not_finite = reasons[0]
    assert bad.startswith("failed: noisy/bad.wav: expected audio")
    assert gone.startswith("failed: noisy/gone.wav: there is no such file")
    assert not_finite.startswith("failed: noisy/nan.wav: samples are not")
    assert reasons[1] == reasons[0]
    for name in files(tree / "one"):
        one, two = (sf.read(tree / n / name)[0] for n in ("one", "two"))
        assert np.abs(one - two).max() < 1e-4


def test_results_inside_the_input_are_replaced_not_enhanced(enhance, tree):
    for _ in range(2):
        enhance("noisy", "--output", "noisy/out", "--force")
        assert files(tree / "noisy/out") == ["a.wav", "b.wav", "deep/er/c.wav"]
        assert sf.info(tree / "noisy/out/b.wav").frames == 3200
        (tree / "noisy/out/b.wav").write_text("old")


def test_what_is_left_out_of_a_folder_is_listed(enhance, tree, monkeypatch):
    scandir = os.scandir

    def locked(path):
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)  # root may read everything
    (tree / "noisy/locked").mkdir()
    (tree / "noisy/my talk.m4a").write_bytes(b"\0\0\0 ftypM4A ")
    (tree / "noisy/.hidden").mkdir()
    write_wav(tree / "noisy/.hidden/d.wav", noise_like(0.1))
    write_wav(tree / "elsewhere/e.wav", noise_like(0.1))
    (tree / "noisy/link").symlink_to(tree / "elsewhere")
    os.mkfifo(tree / "noisy/pipe.wav")
    shutil.copy(tree / "noisy/a.wav", tree / "noisy/take.2")
    out, error = enhance("noisy", "--output", "out")
    assert files(tree / "out") == ["a.wav", "b.wav", "deep/er/c.wav"]
    assert "3 of 3 files enhanced into out" in out
    lines = error.splitlines()
    assert sorted(x for x in lines if x.startswith("skipped")) == [
        "skipped: noisy/link: a link to a folder; give the folder as well",
        "skipped: noisy/locked: Permission denied",
        "skipped: noisy/my talk.m4a: convert it first: ffmpeg -i "
        "'noisy/my talk.m4a' 'noisy/my talk.wav'",
        "skipped: noisy/pipe.wav: is a pipe or device, expected a file",
        "skipped: noisy/take.2: convert it first: ffmpeg -i noisy/take.2 "
        "noisy/take.wav",
    ]


def test_a_lack_of_memory_fails_one_file(tmp_path):
    pair = tmp_path / "a.wav", tmp_path / "b.wav"
    for error in (torch.OutOfMemoryError, MemoryError):
        model = Mock(enhance_long_file=Mock(side_effect=error("too much")))
        assert enhance_pair(model, pair, {}) == (pair[0], "too much", [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("noisy/a.wav", "1 paths given without --output"),
        ("noisy out.wav", "noisy: is a folder; give --output"),
        ("noisy --output x", "mend these first (1):\n  x/b.wav: exis"),
        ("noisy/a.wav noisy/a.wav --force", "of noisy/a.wav is an input"),
        ("noisy/a.wav out.wav --revision v1", "revision is v1, but"),
        ("no.wav out.wav", "no.wav: there is no such file"),
        ("noisy/a.wav out.txt", "out.txt: expected one of the suffixes"),
        ("noisy/talk.m4a --output out", "convert it first: ffmpeg"),
        ("noisy/a.wav no/out.wav", "no: there is no such folder"),
        ("noisy/a.wav out.wav --suffix x", "without --output"),
        ("noisy --output noisy", "is the input and the --output"),
        ("noisy --output noisy/a.wav", "is no folder, expected one"),
        ("noisy --output nothing", "nothing: is no folder, expected one"),
        ("noisy/a.wav nothing.wav", "nothing.wav: exists; use --force"),
        ("noisy --output out --suffix /x", "part of a name"),
        ("empty --output out", "empty: there is no audio"),
        ("noisy/b.wav x --output out", "for noisy/b.wav and"),
        ("noisy/a.wav x --output noisy --force", "of noisy/a.wav is an i"),
        ("noisy/a.wav out.wav --threads 0", "--threads is 0"),
        ("noisy/a.wav out.wav --jobs 0", "--jobs is 0, expected"),
        ("noisy/a.wav out.wav --strength 1.5", "strength is 1.5"),
        ("noisy/a.wav out.wav --attenuation-limit -3", "is -3.0, expected 0"),
        ("noisy/*.wav out.wav", "is a pattern; give --output"),
        ("noisy/x*.wav --output out", "no audio file has such a name"),
        ("noisy/*.txt --output out", "no audio file has such a name"),
        ("x/b.wav x/b_x.wav --output x --suffix _x --force", "b.wav is an in"),
        ("noisy/a.wav out.wav --model no_model", "no_model: there is no such"),
        ("x --output out --model noisy", "no hyperparams.yaml"),
        ("noisy/a.wav out.wav --threads 9999", "1 to 1024"),
        ("noisy/a.wav out.wav --device cuda:99", "machine: cpu"),
    ],
)
def test_mistakes_are_found_before_the_weights_are_loaded(
    enhance, no_weights, tree, arguments, message
):
    (tree / "empty").mkdir()
    (tree / "noisy/talk.m4a").write_text("")
    for name in ("nothing", "nothing.wav"):
        (tree / name).symlink_to("nowhere")
    for name in ("b.wav", "b_x.wav"):
        write_wav(tree / "x" / name, np.full(100, 0.1))
    before = files(tree)
    assert message in enhance(*shlex.split(arguments), code=1).err
    assert files(tree) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"no audio", "failed: notes.txt: expected a"),
        ("talk.m4a", b"", "convert it first: ffmpeg -i talk.m4a"),
        ("x.raw", bytes(999), "failed: x.raw: expected audio that"),
        ("lfs.wav", b"version https://git-lfs.github.com/", "git lfs pull`"),
    ],
)
def test_what_is_no_audio_fails(enhance, tree, name, content, message):
    (tree / name).write_bytes(content)
    before = files(tree)
    assert message in enhance(name, "out.wav", code=1).err
    assert files(tree) == before


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGINT, (1, True, "torch")),
        (signal.SIGINT, (2, True, "torch")),
        (signal.SIGINT, (2, True)),
        (signal.SIGINT, (2, False)),
        (signal.SIGTERM, (2, True)),
        (signal.SIGHUP, (2, True)),
    ],
)
def test_interrupt_leaves_whole_files(started, tmp_path, number, options):
    """Ctrl-C while workers start or long files are made; nothing is left."""
    process = started(*options)
    os.killpg(process.pid, number)  # as a terminal does
    # a worker that lives on would keep stderr open
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "dbtransform enhance: interrupted\n" in error
    assert "Traceback" not in error and "leaked semaphore" not in error
    for name in files(tmp_path / "out"):  # whole files, if any
        assert sf.info(tmp_path / "out" / name).duration == LONG
