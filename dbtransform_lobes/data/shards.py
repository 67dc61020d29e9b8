"""Recordings in WebDataset shards: tar files of FLAC, read at random.

``KEY.flac`` and ``KEY.json`` of a recording stand side by side in a shard
(https://github.com/webdataset/webdataset). The paths of the ``manifest.csv``
beside them are ranges of bytes, ``train-speech-00000.tar#1536-20479``, so that
every recording can be read without those before it.
"""

import hashlib
import io
import json
import math
import tarfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile as sf
from tqdm import tqdm

from dbtransform_lobes.data import files
from dbtransform_lobes.data.audio import MEMBER, read_audio
from dbtransform_lobes.data.mixtures import SAMPLE_RATE
from dbtransform_lobes.data.recordings import read_recordings
from dbtransform_lobes.parallel import parallel_map

INDEX, RECORD = "manifest.csv", "shards.json"
# What the manifest says of a recording beside its path, as does KEY.json.
KNOWN = "kind speaker split source licence frames sample_rate".split()


def shard_order(paths, rng):
    """Draw an order of recordings (their indices) that deals out the shards.

    With N shards of equal size, position p lies in the same shard as p + N:
    where W ranks divide N, no two ranks, which take every W-th position, read
    the same shard. Without shards, it is simply random.
    """
    found = (MEMBER.fullmatch(path) for path in paths)
    names = [match[1] if match else "" for match in found]
    shards, shard = np.unique(names, return_inverse=True)
    order = rng.permutation(len(paths))
    if len(shards) == 1:
        return order
    turn = rng.permutation(len(shards))[shard[order]]
    number = pd.Series(turn).groupby(turn).cumcount()  # in its shard
    return order[np.lexsort((turn, number))]


def write_shards(recordings, output, samples=1000, jobs=1, force=False):
    """Write shards of a collection (see ``read_recordings``) and a manifest.

    The recordings of each split and kind are spread at random over shards of
    equal size (to within one), at most ``samples`` in each, resampled to 16
    kHz. A run that was stopped goes on; with ``force`` shards of other
    recordings or settings are replaced.

    Returned are the numbers of ``shards``, of ``samples`` and ``kept``, the
    shards of an earlier run, and ``failed`` (path to reason) of recordings
    left out. ValueError if an argument is out of range or ``output`` holds
    other shards; OSError if writing fails: whole shards remain.
    """
    if samples < 1 or jobs < 1:
        raise ValueError(
            f"samples is {samples} and jobs is {jobs}, expected 1 or more"
        )
    output = Path(output)
    plans = _plan(read_recordings(recordings), samples)
    listed = {name: list(map(asdict, plan)) for name, plan in plans.items()}
    plan = json.dumps([SAMPLE_RATE, listed], sort_keys=True)
    digest = hashlib.sha256(plan.encode()).hexdigest()
    record = {"plan_sha256": digest, "sample_rate": SAMPLE_RATE}
    own = [*output.glob(f"*-*-{5 * '[0-9]'}.tar"), output / INDEX]
    wanted = [output / name for name in (*plans, INDEX)]
    files.claim(output / RECORD, record, own, wanted, force)
    tasks = [
        (output / name, members)
        for name, members in plans.items()
        if not (output / name).is_file()
    ]
    failed = {}
    results = parallel_map(_write_shard, tasks, jobs)
    for problems in tqdm(results, total=len(tasks), unit="shard"):
        failed.update(problems)
    rows = []
    for name, members in plans.items():
        found = _scan(output / name)
        rows += found.values()
        for number in set(range(len(members))) - set(found):
            path = members[number].path
            reason = f"{path}: could not be read when its shard was written"
            failed.setdefault(path, reason)
    files.write_table(output / INDEX, ["path", *KNOWN], rows)
    return {
        "shards": len(plans),
        "samples": len(rows),
        "kept": len(plans) - len(tasks),
        "failed": failed,
    }


def _plan(recordings, samples):
    """Map the name of every shard to its recordings."""
    groups, plans = {}, {}
    for item in recordings:
        groups.setdefault((item.split, item.kind), []).append(item)
    for (split, kind), members in sorted(groups.items()):
        count = math.ceil(len(members) / samples)
        order = np.random.default_rng(0).permutation(len(members))
        for number in range(count):
            chosen = [members[i] for i in order[number::count]]
            plans[f"{split}-{kind}-{number:05d}.tar"] = chosen
    return plans


def _write_shard(task):
    """Write one shard; return {path: reason} of what cannot be read."""
    path, members = task
    failed = {}
    try:
        ustar = partial(tarfile.open, mode="w", format=tarfile.USTAR_FORMAT)
        with files.replacing(path) as temporary, ustar(temporary) as tar:
            for number, item in enumerate(members):
                try:
                    signal = read_audio(item.path, sample_rate=SAMPLE_RATE)
                except (ValueError, OSError) as error:
                    failed[item.path] = str(error)
                    continue
                _add_sample(tar, f"{number:06d}", item, signal)
    except OSError as error:
        raise OSError(
            f"{path}: writing failed ({error}); make room on the disk and "
            "start again: whole shards are kept"
        ) from error
    return failed


def _add_sample(tar, key, item, signal):
    row = asdict(item) | {"frames": len(signal), "sample_rate": SAMPLE_RATE}
    row = {name: row[name] for name in KNOWN}
    row["original"] = Path(item.path).name
    bits = 24 if item.kind == "rir" else 16  # for the tails of rooms
    scale = 2 ** (bits - 1)
    steps = np.clip(np.round(signal * scale), -scale, scale - 1)
    # soundfile keeps the upper bits of 32.
    steps, file = steps.astype(np.int32) << (32 - bits), io.BytesIO()
    sf.write(file, steps, SAMPLE_RATE, format="FLAC", subtype=f"PCM_{bits}")
    members = {"json": json.dumps(row).encode(), "flac": file.getvalue()}
    # The description first, so that one pass finds it before the audio.
    for suffix, data in members.items():
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def _scan(path):
    """Read the rows of the manifest, by number, from a shard itself."""
    rows = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith(".json"):
                row = json.loads(tar.extractfile(member).read())
                continue
            first = member.offset_data
            last = first + member.size - 1
            place = {"path": f"{path.name}#{first}-{last}"}
            rows[int(Path(member.name).stem)] = row | place
    return rows
