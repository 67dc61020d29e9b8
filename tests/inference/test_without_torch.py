"""The light installation: files, folders and streams as with PyTorch."""

import os
import subprocess
import sys
import venv
from contextlib import suppress
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
import soundfile as sf

from dbtransform_lobes.export.onnx_file import export_onnx
from dbtransform_lobes.inference import (
    EnhanceModel,
    OnnxEnhancer,
    backend,
    batch,
)
from dbtransform_lobes.inference.bundled import find_onnx
from tests.signals import noisy_signal
from tests.training_runs import ROOT

CPU = {"device": "cpu"}
NAMES = ("db_transform_small", "db_transform_streaming")
INSTALL = (
    "pip install --no-compile -r requirements-onnx.txt && "
    "pip install --no-deps ."
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a program of a new environment, made as the README says."""
    assert INSTALL in (ROOT / "README.md").read_text()
    root = tmp_path_factory.mktemp("bare")
    source, bare = root / "source", root / "venv"
    source.mkdir()
    copied = "setup.py pyproject.toml README.md dbtransform_lobes".split()
    subprocess.run(["cp", "-r", *copied, source], cwd=ROOT, check=True)
    venv.create(bare, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(bare / "bin/python")]
    for arguments in (
        ["--no-compile", "-r", str(ROOT / "requirements-onnx.txt")],
        ["--no-deps", str(source)],
    ):
        made = subprocess.run(
            [*pip, "install", "--quiet", *arguments],
            capture_output=True,
            text=True,
        )
        if made.returncode:
            pytest.skip(f"packages cannot be installed: {made.stderr[-300:]}")
    environment = {"PATH": str(bare / "bin"), "OMP_NUM_THREADS": "1"}

    def run(program, *arguments, **options):
        return subprocess.run(
            [str(bare / "bin" / program), *map(str, arguments)],
            capture_output=True,
            env=environment,
            cwd=root,
            **options,
        )

    return run


def close(found, expected, part=0.02):
    """Within a part of the RMS, as eight bits are, and not of silence."""
    assert found.shape == expected.shape and np.abs(expected).max() > 0.01
    error = np.square(found - expected).mean()
    return error < part**2 * np.square(expected).mean()


def test_there_is_no_torch_and_the_rest_is_small(run):
    code = (
        "import importlib.util as u, pathlib, sys\n"
        "names = 'torch speechbrain scipy pandas huggingface_hub'.split()\n"
        "assert not any(map(u.find_spec, names))\n"
        "files = pathlib.Path(sys.prefix).rglob('*')\n"
        "print(sum(path.lstat().st_size for path in files))"
    )
    assert 100e6 < int(run("python", "-c", code).stdout) < 150e6


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_enhanced(run, tmp_path, name):
    """Of other rates, channels and containers, in two processes."""
    files = {"a.wav": (16000, 1), "deep/b.wav": (44100, 2)}
    for file, (rate, channels) in files.items():
        path = tmp_path / "noisy" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        signal = noisy_signal(1.0, rate, channels)
        sf.write(path, signal, rate, subtype="FLOAT")
    result = run(
        *("dbtransform", "enhance", tmp_path / "noisy"),
        *("--output", tmp_path / "out", "--jobs", 2, "--strength", 0.9),
        *("--model", name),
    )
    assert result.returncode == 0, result.stderr
    model = EnhanceModel.from_hparams(name, run_opts=CPU)
    for file in files:
        noisy, rate = sf.read(tmp_path / "noisy" / file, dtype="float32")
        found, _ = sf.read(tmp_path / "out" / file, dtype="float32")
        assert close(found, model.enhance_array(noisy, rate, strength=0.9))


@pytest.mark.parametrize("name", NAMES)
def test_a_stream(run, name):
    noisy = noisy_signal(1.0)
    command = "dbtransform", "stream", "--dtype", "f32", "--model", name
    result = run(*command, input=noisy.tobytes())
    model = EnhanceModel.from_hparams(name, run_opts=CPU)
    if not model.causal:
        assert result.returncode == 1 and b"sees the future" in result.stderr
        return
    assert result.returncode == 0, result.stderr
    found = np.frombuffer(result.stdout, np.float32)
    assert close(found, model.enhance_array(noisy, 16000)[:, 0])


def test_info_and_what_needs_torch(run, tmp_path):
    result = run("dbtransform", "info")
    assert result.returncode == 0, result.stderr
    for text in ("DBTransform", "apache-2.0", "torch not installed"):
        assert text in result.stdout.decode()
    path = tmp_path / "noisy.wav"
    sf.write(path, noisy_signal(0.1), 16000)
    for model in (["--backend", "torch"], ["--model", "owner/name"]):
        result = run("dbtransform", "enhance", path, tmp_path / "b.wav", *model)
        assert result.returncode == 1
        assert b"needs PyTorch, which is not installed" in result.stderr


def rounded_weights(path):
    """Return the weights of eight bits of a graph."""
    stored = onnx.load(path).graph.initializer
    stored = [w for w in stored if w.data_type == onnx.TensorProto.INT8]
    return sorted(onnx.numpy_helper.to_array(w).tobytes() for w in stored)


@pytest.mark.parametrize("name", NAMES)
def test_bundled_graphs_have_the_weights_rounded(name, tmp_path):
    """Bit for bit what an export makes, which compares 32 bits to 1e-4."""
    options = {"streaming": "streaming" in name, "stft": "outside"}
    export_onnx(name, tmp_path / "anew.onnx", int8=True, **options)
    weights = rounded_weights(tmp_path / "anew.onnx")
    assert len(weights) > 10 and weights == rounded_weights(find_onnx(name))


@pytest.mark.parametrize("name", NAMES)
def test_bundled_graphs_are_those_of_the_weights(name):
    """Over the seam of segments as well, and small enough to come along."""
    graph = OnnxEnhancer(name, threads=1)
    model = EnhanceModel.from_hparams(name, run_opts=CPU)
    assert os.path.getsize(find_onnx(name)) < 4e6
    assert graph.description["parameters"] == model.description["parameters"]
    graph.segment_seconds = 2
    noisy = noisy_signal(7.0)[:, 0]
    noisy[: 2 * 16000] *= 0.03
    expected = model.enhance_array(noisy, 16000)
    for engine, part in ((graph, 0.02), (model, 1e-5)):
        for gain in (1, 1e-3, 1e-5, 10):
            found = engine.enhance_array(gain * noisy, 16000)
            assert close(found / gain, expected, part)
        assert not engine.enhance_array(np.zeros(5000), 16000).any()
    both = [each.enhance_array(noisy + 0.3, 16000) for each in (graph, model)]
    assert close(*both)


@pytest.mark.parametrize(
    ("affinity", "quota", "threads"),
    [
        (range(12), "max 100000", 12),
        (range(12), "250000 100000", 3),
        (range(1), "1600000 100000", 1),
        (range(16), "1600000 100000", 0),  # ONNX Runtime chooses
    ],
)
def test_threads_are_at_most_the_cores_of_this_process(
    monkeypatch, tmp_path, affinity, quota, threads
):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(affinity))
    monkeypatch.setattr(backend, "QUOTA", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(quota)
    options = OnnxEnhancer().session.get_session_options()
    assert options.intra_op_num_threads == threads
    given = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(batch, "load_enhancer", given)
    with suppress(KeyboardInterrupt):
        next(batch.enhance_files([(1, 2)] * 4, {}, {}, jobs=2))
    assert given.call_args[1]["threads"] == max(1, (threads or 16) // 2)
