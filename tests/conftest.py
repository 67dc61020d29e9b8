"""Settings of the test processes."""

import os
import shutil
import signal
import socket

import pytest
import torch

# Processes of several threads on the same cores are slower together than
# processes of one. Programs that tests start read the variable.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

# A shell that starts the tests in the background has SIGINT ignored, nohup
# SIGHUP, and the programs that are to be interrupted would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A model folder of a tiny model; not to be changed."""
    from dbtransform_lobes.export.model_folder import export_model
    from tests.runs import tiny_run

    run = tmp_path_factory.mktemp("run")
    tiny_run(run)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    export_model(run, folder)
    return folder


@pytest.fixture
def own_folder(model_folder, tmp_path):
    """A copy of the model folder that a test may break."""
    return shutil.copytree(model_folder, tmp_path / "own")


@pytest.fixture
def no_network(monkeypatch):
    """Fail when anything connects."""

    def refuse(*_):
        raise AssertionError("network access")

    monkeypatch.setattr(socket.socket, "connect", refuse)
