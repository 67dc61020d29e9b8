"""What the tests of evaluation share."""

import os
from contextlib import contextmanager

import pytest


@pytest.fixture
def full_disk(monkeypatch):
    """A context in which no file can be replaced, which is an error."""

    def fail(*args, **kwargs):
        raise OSError("disk is full")

    @contextmanager
    def context():
        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk is full"):
            yield

    return context()
