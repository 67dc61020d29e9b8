"""Many files, one after the other or in several processes."""

import warnings
from functools import lru_cache

from dbtransform_lobes.inference.backend import load_enhancer, usable_cores


def enhance_files(pairs, model_options, options, jobs=1, threads=None):
    """Enhance files; those that fail do not stop the others.

    ``pairs`` are (input, output) paths; the folders of outputs are made. The
    model is loaded by ``load_enhancer(**model_options)``, by each of ``jobs``
    processes; none is left when this generator ends. ``options`` go to
    ``Enhancer.enhance_long_file``; ``threads`` are those of each process, by
    default all of them, shared.

    Yields (input, reason, notes): why the file failed, None if it did not, and
    a list of warnings; in any order if ``jobs`` > 1.
    """
    if not pairs:
        return
    jobs = min(jobs, len(pairs))
    if threads is None and jobs > 1:
        threads = max(1, usable_cores() // jobs)
    model_options = {**model_options, "threads": threads}
    model = load_enhancer(**model_options)
    if jobs == 1:
        for pair in pairs:
            yield enhance_pair(model, pair, options)
        return
    del model  # it could be loaded: so can the workers
    from dbtransform_lobes.parallel import run_isolated

    given = tuple(model_options.items())
    tasks = [(given, pair, options) for pair in pairs]
    for task, result, reason in run_isolated(
        _enhance_apart, tasks, jobs, _remove_unfinished
    ):
        yield result or (task[1][0], reason, [])


def enhance_pair(model, pair, options):
    """Enhance one (input, output); return (input, reason, notes) of it."""
    source, target = pair
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            model.enhance_long_file(source, target, **options)
            reason = None
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            # torch's errors, such as a lack of memory, are RuntimeErrors
            reason = str(error) or type(error).__name__
    notes = [str(warning.message) for warning in caught]
    own = str(source), str(target)  # others are not on this file
    return source, reason, [note for note in notes if note.startswith(own)]


def _remove_unfinished(task, process):
    _, (_, target), _ = task
    for path in target.parent.glob(f".{process}-*.tmp"):
        path.unlink(missing_ok=True)


def _enhance_apart(model_options, pair, options):
    """Enhance a pair in a worker, which loads its model once."""
    return enhance_pair(_load_once(*model_options), pair, options)


@lru_cache
def _load_once(*model_options):
    return load_enhancer(**dict(model_options))
