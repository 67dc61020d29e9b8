"""Many files on all cores of a machine or of a cluster, by Ray Data.

Source: Ray (Moritz et al., 2018, arXiv:1712.05889). Ray Data hands out paths
and collects reports; each worker reads, enhances and writes a file at a time,
so that memory does not grow with the corpus.
"""

import importlib.util
import logging
import os
import secrets
from contextlib import contextmanager
from pathlib import Path

import torch

from dbtransform_lobes.data.recordings import audio_info
from dbtransform_lobes.inference.batch import enhance_pair
from dbtransform_lobes.inference.enhance_model import EnhanceModel

# Files that a worker gets at a time, at most.
FILES_OF_A_TASK = 16
# Ray repeats the task of a process that died, for ever; a file that kills it
# is given up after so many.
ATTEMPTS = 2
# Ray's default is 30 % of the memory; paths and reports are small.
OBJECT_STORE_BYTES = 100 * 2**20


def check_ray():
    """Raise a ValueError if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError(
            "enhancing a corpus needs Ray, which is not installed: "
            "pip install 'dbtransform[ray]'"
        )


def enhance_corpus(
    pairs,
    model_options,
    options,
    jobs=None,
    threads=1,
    address="local",
    force=False,
):
    """Enhance files, each once; those that are finished are left as they are.

    Arguments
    ---------
    pairs : list of tuple
        (input, output), absolute paths that every machine can reach; folders
        of outputs are made.
    model_options : dict
        For ``EnhanceModel.from_hparams``. On a device "cuda" every worker
        asks Ray for a GPU of its own.
    options : dict
        For ``EnhanceModel.enhance_file``.
    jobs : int, optional
        Number of workers; by default as many as there are CPUs for.
    threads : int
        CPU threads of each worker.
    address : str
        "local" starts Ray on this machine until the generator ends; otherwise
        that of a Ray cluster, "auto" for the one this machine belongs to.
    force : bool
        Whether to enhance again what is finished, see ``is_finished``.

    Yields
    ------
    tuple
        (input, reason, notes, kept), in any order: why it failed, None if it
        did not; a list of warnings; whether it was finished before.

    Raises
    ------
    ValueError, OSError
        If Ray is not installed or reached, or the model cannot be loaded.
    """
    check_ray()
    EnhanceModel.from_hparams(**model_options)  # so can the workers
    worker_options = {
        "model_options": model_options,
        "options": options,
        "threads": threads,
        "force": force,
    }
    with _ray(address, jobs, threads) as cpus:
        jobs = jobs or max(1, cpus // threads)
        for report in _map(pairs, jobs, worker_options):
            notes = report["notes"].splitlines()
            reason = report["reason"] or None
            yield report["source"], reason, notes, report["kept"]


@contextmanager
def _ray(address, jobs, threads):
    """Connect to Ray, or start it; yields the number of its CPUs."""
    # Read when Ray is imported, and by the processes that it starts. Nothing
    # is reported then; but Ray still asks the link-local metadata service of
    # a cloud (169.254.169.254) which cloud it is.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    local = {}
    if address == "local":
        # Its ports would take commands from anyone who reaches them.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        cpus = jobs * threads if jobs else max(os.cpu_count() or 1, threads)
        local = {
            "num_cpus": cpus,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    import ray

    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        **local,
    )
    try:
        yield int(ray.cluster_resources()["CPU"])
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise OSError(f"Ray failed ({reason}); start again") from error
    finally:
        ray.shutdown()


def _map(pairs, jobs, worker_options):
    """Let the workers enhance tasks of some files; yields their reports."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    device = worker_options["model_options"]["run_opts"]["device"]
    dataset = ray.data.from_items(
        [{"source": source, "target": target} for source, target in pairs],
        override_num_blocks=-(-len(pairs) // task_size(len(pairs), jobs)),
    )
    reports = dataset.map(
        _Worker,
        fn_constructor_kwargs=worker_options,
        compute=ray.data.ActorPoolStrategy(
            size=jobs, max_tasks_in_flight_per_actor=1
        ),
        num_cpus=worker_options["threads"],
        num_gpus=int(device.startswith("cuda")),
    )
    yield from reports.iter_rows()


def task_size(files, jobs):
    """Files of a task: few, so that workers end at about the same time.

    Example
    -------
    >>> task_size(10, 2), task_size(64, 2), task_size(10000, 2)
    (1, 4, 16)
    """
    return min(FILES_OF_A_TASK, max(1, files // (8 * jobs)))


class _Worker:
    """Has a model of its own, on one of the machines."""

    def __init__(self, model_options, options, threads, force):
        torch.set_num_threads(threads)
        self.model = EnhanceModel.from_hparams(**model_options)
        self.options, self.force = options, force

    def __call__(self, row):
        source, target = Path(row["source"]), Path(row["target"])
        kept = not self.force and is_finished(source, target)
        reason, notes = (None, []) if kept else self._enhance(source, target)
        return {
            "source": row["source"],
            "reason": reason or "",
            "notes": "\n".join(notes),
            "kept": kept,
        }

    def _enhance(self, source, target):
        """Enhance a file, having noted that a process tries to."""
        note = target.with_name(f".{target.name}.tried.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(note, "a+b") as file:
                if file.tell() == ATTEMPTS:
                    return f"the process died, {ATTEMPTS} times", []
                file.write(b".")
            _, *result = enhance_pair(
                self.model, (source, target), self.options
            )
            note.unlink()
        except OSError as error:
            return str(error), []
        return result


def is_finished(source, target):
    """Whether a result is there, whole and not older than its input.

    Example
    -------
    >>> is_finished(Path("no.wav"), Path("no_result.wav"))
    False
    """
    try:
        return (
            target.stat().st_mtime >= source.stat().st_mtime
            and audio_info(target).frames == audio_info(source).frames
        )
    except (ValueError, OSError):
        return False
