"""Scores of one process are those of this one, which need not start it."""

import pytest

from dbtransform_lobes.evaluation import evaluate


@pytest.fixture(scope="module", autouse=True)
def score_here():
    isolated = evaluate.run_isolated

    def run(function, tasks, jobs):
        if jobs > 1:
            return isolated(function, tasks, jobs)
        return [(task, function(*task), "") for task in tasks]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "run_isolated", run)
        yield
