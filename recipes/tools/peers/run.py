"""Systems one after the other over the same files."""

import json
import os
import subprocess
import sys
from pathlib import Path

from dbtransform_lobes.data.audio import audio_info
from dbtransform_lobes.data.files import (
    fingerprint,
    raise_problems,
    read_record,
)
from dbtransform_lobes.evaluation.evaluate import pair_files
from dbtransform_lobes.inference.bundled import BUNDLED
from dbtransform_lobes.versions import package_versions
from peers.adapters import INSTALL, PEERS, SAMPLE_RATE
from peers.worker import TIMING

THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON")


def choose_systems(names=None, models=None):
    """Return the systems of a comparison, and why others cannot run.

    They are names of PEERS, all by default, and sources of models of ours by
    name. Those that can run have ``peer`` or ``model``, and ``versions``.
    """
    names = list(PEERS) if names is None else list(dict.fromkeys(names))
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise ValueError(
            f"there is no system {', '.join(unknown)}, expected some of "
            f"{', '.join(PEERS)}; give models of your own by --models"
        )
    systems, missing = {}, {}
    for name in names:
        versions = PEERS[name].versions()
        lacking = [key for key, value in versions.items() if value is None]
        if lacking:
            missing[name] = f"{', '.join(lacking)} missing: {INSTALL}"
        else:
            systems[name] = {"peer": name, "model": None, "versions": versions}
    versions = package_versions()
    versions = {key: versions[key] for key in ("dbtransform_lobes", "torch")}
    for name, source in (models or {}).items():
        if name in PEERS or Path(name).name != name or name.startswith("."):
            raise ValueError(
                f"a model has the name {name!r}, expected a name of a folder "
                f"that is none of {', '.join(PEERS)}"
            )
        systems[name] = {"peer": None, "model": source, "versions": versions}
    return systems, missing


def run_systems(systems, clean, noisy, folder, report=print):
    """Enhance all files by each system, in a process and folder of its own.

    A system whose folder holds all files, made from the same noisy files and
    model by the same versions, is not run again; one that failed on a file is.
    Returned are what ``timing.json`` holds, by system, and why a system has
    none, or none of some files.
    """
    files = {name: str(path) for name, _, path in pair_files(clean, noisy)}
    rates = {path: audio_info(path).samplerate for path in files.values()}
    wrong = [f"{p}: {r} Hz" for p, r in rates.items() if r != SAMPLE_RATE]
    raise_problems(f"expected files at {SAMPLE_RATE} Hz; resample", wrong)
    timings, failed = {}, {}
    for name, system in systems.items():
        request = {
            "system": system,
            "folder": str(Path(folder, name)),
            "sources": fingerprint(
                Path(path).resolve()
                for path in (*files.values(), *_model_files(system["model"]))
            ),
            "pairs": [
                (path, str(Path(folder, name, f"{file}.wav")))
                for file, path in files.items()
            ],
        }
        timing = _finished(request)
        if timing is None or timing["failed"]:
            report(f"{name}: enhancing {len(files)} files")
            reason = _run(request)
            timing = _finished(request)
            if timing is None:
                failed[name] = reason or "it did not write all files"
                continue
        else:
            report(f"{name}: all files are there")
        if timing["failed"]:
            failed[name] = "; ".join(map(": ".join, timing["failed"].items()))
        timings[name] = timing
    return timings, failed


def _run(request):
    """Let a process do a request; return why it failed, "" if it did not."""
    Path(request["folder"]).mkdir(parents=True, exist_ok=True)
    Path(request["folder"], TIMING).unlink(missing_ok=True)
    threads = {f"{name}_NUM_THREADS": "1" for name in THREADS}
    done = subprocess.run(
        [sys.executable, "-m", "peers.worker"],
        input=json.dumps(request),
        env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return ""
    last = done.stderr.strip().splitlines()[-1:]
    return "".join(last) or f"its process ended with code {done.returncode}"


def _finished(request):
    """Return the times of a request that is done; None if it is not."""
    timing = read_record(Path(request["folder"], TIMING))
    asked = {key: request[key] for key in ("system", "sources")}
    same = all(timing.get(key) == value for key, value in asked.items())
    complete = same and all(
        os.path.isfile(estimate) or noisy in timing["failed"]
        for noisy, estimate in request["pairs"]
    )
    return timing if complete else None


def _model_files(source):
    """Return the files of a model of this machine or of the package."""
    if not source:
        return []
    path = Path(source)
    path = path if path.exists() else BUNDLED / source
    if path.is_dir():
        return [each for each in path.iterdir() if each.is_file()]
    return [path] if path.is_file() else []
