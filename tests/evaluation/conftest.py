"""Scores of one process are those of this one, which need not start it."""

import pytest

from tests.training_runs import scored_here


@pytest.fixture(scope="module", autouse=True)
def score_here():
    with scored_here(most_jobs=1):
        yield
