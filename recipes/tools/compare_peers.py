"""Compare models of ours with enhancers of others on the same files.

Quality, speed, memory and latency, on one thread each, one after the other.
OUTPUT gets the enhanced files, scores, table (peers.md, .json) and plot
(peers.png, .pdf). Systems that are not installed are left out.

examples:
  compare_peers.py clean noisy --output peers --jobs 2
  compare_peers.py clean noisy --output peers \\
      --systems noisy rnnoise gtcrn --models ours=my_model onnx=stream.onnx
"""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

from tabulate import tabulate

from benchmark.measure import machine
from command import start
from dbtransform_lobes.cli.evaluate import named_paths
from dbtransform_lobes.cli.options import add_options
from dbtransform_lobes.data.audio import audio_info
from dbtransform_lobes.data.files import raise_problems, write_json, write_text
from dbtransform_lobes.evaluation.compare import compare_systems
from dbtransform_lobes.evaluation.dnsmos import check_installed
from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.evaluation.scoring import list_audio
from dbtransform_lobes.evaluation.tables import comparison_text
from dbtransform_lobes.inference.bundled import bundled_models
from dbtransform_lobes.plotting import check_plot, new_figure, save_costs, style
from dbtransform_lobes.versions import package_versions
from peers.adapters import INSTALL, PEERS, SAMPLE_RATE

SYSTEMS = """\
of others; noisy is the input, noisereduce_half has prop_decrease=0.5
(default: all)"""
MODELS = """\
models of ours: folder, name or .onnx of each (default: the one that comes
with the package); differences are to the first"""
# Column to title and format.
COLUMNS = {
    **{name: (LABELS[name], ".3f") for name in ("pesq", "stoi", "estoi")},
    "si_sdr": (LABELS["si_sdr"], ".2f"),
    **{f"dnsmos_{n.lower()}": (n, ".3f") for n in ("SIG", "BAK", "OVRL")},
    "latency_ms": ("latency (ms)", ".0f"),
    "real_time_factor": ("real-time factor", ".4f"),
    "cpu_factor": ("CPU factor", ".4f"),
    "peak_mb": ("peak memory (MB)", ".0f"),
}
NOTES = """\
Delays are compensated. Latency is algorithmic (block and delay); "-" needs
the whole signal or is not known. Real-time factor: seconds of computing a
second of audio on one thread, with resampling where a system works at
48 kHz, without loading; CPU factor: the same in CPU time, which hardly depends
on what else the machine does. Peak memory is that of the whole process with
Python and all packages; that of "noisy" is what all share. SIG, BAK, OVRL:
DNSMOS P.835.
"""
THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON")


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    add = parser.add_argument
    add("clean", help="folder of clean speech, 16 kHz")
    add("noisy", help="folder of files of the same names")
    add("--output", required=True, help="folder to write")
    several = {"nargs": "+", "choices": PEERS, "default": list(PEERS)}
    add("--systems", **several, help=SYSTEMS)
    add("--models", nargs="+", metavar="NAME=MODEL", help=MODELS)
    # Jobs that score; systems run one by one.
    add_options(parser, "--jobs", "--trust-code")


def run(args):
    """Enhance, time, score, and write all; 1 if a system or a file failed."""
    check_plot("peers.png")
    if args.jobs < 1:
        raise ValueError(f"jobs is {args.jobs}, expected at least 1")
    models = named_paths("models", args.models or (), "NAME=MODEL")
    if args.models is None:
        models = {name: name for name in bundled_models()[:1]}
    systems, missing = choose_systems(args.systems, models)
    try:
        check_installed()
    except ValueError as error:
        missing["DNSMOS"] = str(error)
    for name, reason in missing.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    folder = Path(args.output)
    given = systems, args.clean, args.noisy, folder, args.trust_code
    timings, failed = run_systems(*given)
    if not timings:
        reasons = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise ValueError(f"no system could run: {reasons or missing}")
    print("scoring")
    comparison = compare_systems(
        args.clean,
        {name: folder / name for name in timings},
        folder,
        next((name for name in models if name in timings), None),
        jobs=args.jobs,
        with_dnsmos="DNSMOS" not in missing,
    )
    del comparison["rows"]
    found = {
        "systems": system_rows(comparison, timings),
        "missing": missing,
        "failed": failed,
        "machine": machine(),
        "timings": timings,
        "comparison": comparison,
    }
    write_json(folder / "peers.json", found)
    write_text(folder / "peers.md", peers_text(found))
    for suffix in ("png", "pdf"):
        plot_peers(found["systems"], folder / f"peers.{suffix}")
    print(peers_text(found), end="")
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    for name, reasons in comparison["left_out"].items():
        for system, reason in reasons.items():
            print(f"left out: {name}: {system}: {reason}", file=sys.stderr)
    return 1 if failed or comparison["left_out"] else 0


def choose_systems(names, models):
    """Return the systems of a comparison, and why others cannot run, by name.

    Names are those of PEERS, models are sources of models of ours by name. A
    system has its source as ``model``, None of a peer, and ``versions``.
    """
    systems, missing = {}, {}
    for name in names:
        versions = PEERS[name].versions()
        lacking = [key for key, value in versions.items() if value is None]
        if lacking:
            missing[name] = f"{', '.join(lacking)} missing: {INSTALL}"
        else:
            systems[name] = {"model": None, "versions": versions}
    ours, engines = package_versions(), ("onnxruntime", "torch")
    ours = {key: ours[key] for key in ("dbtransform_lobes", *engines)}
    for name, source in models.items():
        if name in PEERS or Path(name).name != name or name.startswith("."):
            raise ValueError(
                f"a model has the name {name!r}, expected a name of a folder "
                f"that is none of {', '.join(PEERS)}"
            )
        systems[name] = {"model": source, "versions": ours}
    return systems, missing


def run_systems(systems, clean, noisy, output, trust_code=False):
    """Enhance all files by each system, in a process and folder of its own.

    Returned are what ``work`` found by system, and why a system has nothing,
    or nothing of some files.
    """
    cleans, noisies = list_audio(clean), list_audio(noisy)
    alone = sorted(cleans.keys() ^ noisies.keys())
    raise_problems(f"files of {clean} or {noisy} alone", alone)
    inputs = {p.resolve() for p in (*cleans.values(), *noisies.values())}
    targets = product(systems, (f"{file}.wav" for file in noisies))
    targets = {Path(output, *target).resolve() for target in targets}
    lost = map(str, sorted(targets & inputs))
    title = "these would be written over by estimates; give another --output"
    raise_problems(title, list(lost))
    files = {name: str(path) for name, path in noisies.items()}
    rates = {path: audio_info(path).samplerate for path in files.values()}
    wrong = [f"{p}: {r} Hz" for p, r in rates.items() if r != SAMPLE_RATE]
    raise_problems(f"expected files at {SAMPLE_RATE} Hz; resample", wrong)
    timings, failed = {}, {}
    settings = {f"{name}_NUM_THREADS": "1" for name in THREADS}
    settings["PYTHONPATH"] = os.pathsep.join(sys.path)
    for name, system in systems.items():
        print(f"{name}: enhancing {len(files)} files", flush=True)
        folder = Path(output, name).absolute()
        timing = folder / "timing.json"
        pairs = [(path, f"{folder / file}.wav") for file, path in files.items()]
        request = {"name": name, "model": system["model"], "pairs": pairs}
        request["trust_code"] = trust_code
        done = subprocess.run(
            [sys.executable, "-m", "peers.worker", timing],
            input=json.dumps(request),
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            reason = "".join(done.stderr.strip().splitlines()[-1:])
            reason = reason or f"its process ended with {done.returncode}"
            failed[name] = reason
            continue
        timings[name] = {**system, **json.loads(timing.read_text("utf-8"))}
        if left := timings[name]["failed"].items():
            failed[name] = "; ".join(f"{path}: {why}" for path, why in left)
    return timings, failed


def system_rows(comparison, timings):
    """Return a dict of COLUMNS for each system."""
    rows = []
    for name, timing in timings.items():
        means = comparison["means"][name].items()
        values = {metric: mean["mean"] for metric, mean in means} | timing
        row = {column: values.get(column) for column in COLUMNS}
        packages = " ".join(f"{k} {v}" for k, v in timing["versions"].items())
        rows.append({"system": name, **row, "packages": packages})
    return rows


def peers_text(found):
    """Return the table, what is missing and the differences as Markdown."""
    titles, formats = zip(*COLUMNS.values(), strict=True)
    table = tabulate(
        [row.values() for row in found["systems"]],
        ["system", *titles, "packages"],
        "pipe",
        ("", *formats, ""),
        missingval="-",
    )
    computer = found["machine"]
    note = f"{NOTES}Measured on {computer['cpu']}, {computer['system']}.\n"
    lines = [f"{table}\n", note]
    for key, title in (("missing", "Left out"), ("failed", "Failed")):
        listed = [f"- {name}: {why}\n" for name, why in found[key].items()]
        if listed:
            lines.append(f"{title}:\n\n{''.join(listed)}")
    lines.append(comparison_text(found["comparison"]))
    return "\n".join(lines)


def plot_peers(rows, path):
    """Plot PESQ against the CPU factor, which does not depend on other load."""
    rows = [row for row in rows if row["pesq"] is not None]
    if not rows:
        return
    figure, [[axes]] = new_figure((7.4, 4.2))
    axes.set(
        xscale="log",
        xlabel="CPU seconds for a second of audio, one thread (left: faster)",
        ylabel=f"{LABELS['pesq']} (up: better)",
    )
    for number, row in enumerate(rows):
        name, height = row["system"], row["pesq"]
        if name == "noisy":
            axes.axhline(height, color="0.5", linestyle="--", label=name)
        else:
            look = {**style(number), "linestyle": "none", "markersize": 7}
            axes.plot(row["cpu_factor"], height, label=name, **look)
    save_costs(figure, axes.xaxis, path)


if __name__ == "__main__":
    start(__file__)
