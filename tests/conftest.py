"""Settings of the test processes."""

import os
import shutil
import signal
import socket
from contextlib import contextmanager
from unittest.mock import Mock

import pytest
import torch

from command import run_tool
from dbtransform_lobes.cli.main import COMMANDS, main
from dbtransform_lobes.export.model_folder import export_model
from dbtransform_lobes.inference import EnhanceModel
from tests.runs import model_of, tiny_run

# Processes of several threads on the same cores are slower together than
# processes of one. Programs that tests start read the variable.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

# A shell that starts the tests in the background has SIGINT ignored, nohup
# SIGHUP, and the programs that are to be interrupted would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """Begin with the trainings: the longest file shall not end alone."""
    items.sort(key=lambda item: item.path.parent.name != "training")


def exported(factory, **overrides):
    """Write a run and export it; return the model folder."""
    run = factory.mktemp("run")
    tiny_run(run, **overrides)
    folder = factory.mktemp("model") / "tiny"
    export_model(run, folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A model folder of a tiny model; not to be changed."""
    return exported(tmp_path_factory)


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory):
    """A model folder of a tiny causal model; not to be changed."""
    return exported(tmp_path_factory, causal=True, window=8)


@pytest.fixture(scope="session")
def model(model_folder):
    """The tiny model on the CPU."""
    return EnhanceModel.from_hparams(model_folder, run_opts={"device": "cpu"})


@pytest.fixture(scope="session")
def identity():
    """An EnhanceModel that leaves its input as it is."""
    return model_of(torch.nn.Identity())


@pytest.fixture
def own_folder(model_folder, tmp_path):
    """A copy of the model folder that a test may break."""
    return shutil.copytree(model_folder, tmp_path / "own")


@pytest.fixture
def run(capsys):
    """Run a command or tool; return what it wrote (``.out`` and ``.err``)."""

    def run(name, *arguments, code=0):
        words = [str(each) for each in arguments]
        is_tool = name not in COMMANDS
        ended = run_tool(name, words) if is_tool else main([name, *words])
        written = capsys.readouterr()
        assert ended == code, written.err
        return written

    return run


@pytest.fixture
def small_disk():
    """Refuse bytes beyond a size, as a full disk: ``with small_disk(size)``."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def limited(size):
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)

    return limited


@pytest.fixture
def no_weights(monkeypatch):
    """Fail when weights are loaded."""
    refuse = Mock(side_effect=AssertionError("weights before the checks"))
    monkeypatch.setattr(EnhanceModel, "from_hparams", refuse)


@pytest.fixture
def no_network(monkeypatch):
    """Fail when anything connects."""
    refuse = Mock(side_effect=AssertionError("network access"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
