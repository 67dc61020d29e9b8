"""Shards: what they hold, who reads what, and what survives a failure."""

import json
import tarfile
from collections import Counter

import numpy as np
import pytest
import soundfile as sf
import webdataset
from torch.utils.data import DataLoader

from dbtransform_lobes.data.audio import read_audio
from dbtransform_lobes.data.crops import EpochSampler, TrainingCrops
from dbtransform_lobes.data.recordings import read_recordings
from dbtransform_lobes.data.shards import shard_order, write_shards
from dbtransform_lobes.data.sources import Recordings
from tests.corpora import room
from tests.signals import contents, noise_like, speech_like, write_wav

NUM_SPEECH = 14


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for seed in range(NUM_SPEECH):
        path = folder / f"speech/train/s{seed % 3}/{seed}.wav"
        write_wav(path, speech_like(0.3 + 0.01 * seed, seed))
    for seed in range(3):
        write_wav(folder / f"noise/train/n{seed}/0.wav", noise_like(0.2, seed))
    write_wav(folder / "rir/train/small/0.wav", room(), 16000)
    valid = speech_like(0.5, 50, 48000)
    write_wav(folder / "speech/valid/v/0.wav", valid, 48000)
    return folder


@pytest.fixture(scope="module")
def shards(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    report = write_shards(recordings, folder, samples=4)
    assert report == {"shards": 7, "samples": 19, "kept": 0, "failed": {}}
    return folder


def originals(folder):
    """Samples of every file by its kind, speaker, split and duration."""
    found = {}
    for item in read_recordings(folder):
        key = item.kind, item.speaker, item.split, round(16000 * item.seconds)
        found[key] = read_audio(item.path)
    return found


def test_shards_hold_what_the_files_hold(recordings, shards):
    before, after = originals(recordings), originals(shards / "manifest.csv")
    assert before.keys() == after.keys() and len(before) == 19
    for key, samples in before.items():
        if key[0] == "speech" and key[2] == "valid":  # was resampled
            np.testing.assert_allclose(after[key], samples, atol=2**-15)
        else:
            np.testing.assert_array_equal(after[key], samples)
    sizes = Counter(
        item.path.split("#")[0]
        for item in read_recordings(shards / "manifest.csv", "train")
        if item.kind == "speech"
    )
    assert sorted(sizes.values()) == [3, 3, 4, 4]
    last = read_recordings(shards / "manifest.csv", "train")[-1]
    assert last.kind == "speech"
    part, whole = read_audio(last.path, 1000, 500), read_audio(last.path)
    np.testing.assert_array_equal(part, whole[1000:1500])
    with pytest.raises(ValueError, match="expected audio"):
        read_audio(last.path.split("#")[0] + "#0-511")
    with pytest.raises(FileNotFoundError, match="gone.tar"):
        read_audio(str(shards / "gone.tar#0-511"))


def test_webdataset_reads_them(shards):
    urls = sorted(str(path) for path in shards.glob("train-speech-*.tar"))
    data = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert all(sample["flac"][:4] == b"fLaC" for sample in data)
    written = {json.loads(sample["json"])["original"] for sample in data}
    assert len(written) == len(data) == NUM_SPEECH


class Names(Recordings):
    """Gives the path that an index stands for, and no sound."""

    def draw(self, index, length, rng):
        path = self.speech[index].path
        return path, np.zeros(length), np.zeros(length)


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_an_epoch(shards, workers):
    """Equal steps, no recording twice, and shards of their own."""
    crops = TrainingCrops(Names(shards / "manifest.csv"), 12, 0.01)
    shares = []
    for rank in range(2):
        sampler = EpochSampler(12, rank, ranks=2)
        loader = DataLoader(crops, 2, sampler=sampler, num_workers=workers)
        names = [name for batch in loader for name in batch["id"]]
        shares.append([name.rsplit("@")[0] for name in names])
    assert len(shares[0]) == len(shares[1]) == 6
    assert len(set(shares[0] + shares[1])) == 12
    mine, others = ({p.split("#")[0] for p in paths} for paths in shares)
    assert len(mine) == len(others) == 2 and not mine & others


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), (4, 3, 3), (1, 5), (6,)])
def test_order_equals_its_literal_twin(sizes):
    """Shards in a random order are dealt from, each shuffled."""
    paths = [f"{s}.tar#{i}-{i}" for s, n in enumerate(sizes) for i in range(n)]
    order = shard_order(paths, np.random.default_rng(4))
    rng = np.random.default_rng(4)
    shuffled = rng.permutation(len(paths))
    turns = rng.permutation(len(sizes)) if len(sizes) > 1 else [0]
    queues = {turn: [] for turn in turns}
    for i in shuffled:
        queues[turns[int(paths[i].split(".")[0])]].append(int(i))
    twin = []
    while any(queues.values()):
        for turn in sorted(queues):
            if queues[turn]:
                twin.append(queues[turn].pop(0))
    assert order.tolist() == twin
    assert sorted(twin) == list(range(len(paths)))
    other = shard_order(paths, np.random.default_rng(5))
    assert other.tolist() != twin
    files = [path.split(".")[0] for path in paths]  # not in shards
    order = shard_order(files, np.random.default_rng(4))
    assert order.tolist() == shuffled.tolist()


def test_full_disk_keeps_whole_shards_and_goes_on(
    recordings, shards, tmp_path, small_disk, run
):
    """With other jobs, to the shards that one process makes of them."""
    command = "shards", recordings, "--output", tmp_path, "--samples", 4
    with small_disk(2**15):
        assert "make room on the disk" in run(*command, code=1).err
    kept = {path.name for path in tmp_path.glob("*.tar")}
    assert 0 < len(kept) < 7 and not list(tmp_path.glob(".*"))
    assert not (tmp_path / "manifest.csv").exists()
    again = run(*command, "--jobs", 2).out
    assert f"7 shards, {len(kept)} of them from an earlier" in again
    assert contents(tmp_path) == contents(shards)


def test_other_shards_are_replaced_by_force_only(recordings, tmp_path, run):
    command = "shards", recordings, "--output", tmp_path, "--samples"
    run(*command, 9)
    assert "--force" in run(*command, 3, code=1).err
    run(*command, 3, "--force")
    assert len(list(tmp_path.glob("train-speech*.tar"))) == 5
    run(*command, 0, code=1)


def test_files_of_others_are_kept_even_by_force(recordings, tmp_path, run):
    """Such as the manifest of the recordings themselves."""
    given = tmp_path / "manifest.csv"
    paths = recordings.glob("speech/train/*/[01].wav")
    lines = ["path,kind,speaker,split", *(f"{p},speech,a,train" for p in paths)]
    given.write_text("\n".join(lines))
    (tmp_path / "backup.tar").write_text("mine")
    before = contents(tmp_path)
    for force in ([], ["--force"]):
        command = "shards", given, "--output", tmp_path, *force
        assert "already has manifest.csv" in run(*command, code=1).err
        assert contents(tmp_path) == before
    given.rename(tmp_path / "mine.csv")
    for samples in (1, 2):
        command = "shards", tmp_path / "mine.csv", "--output", tmp_path
        run(*command, "--samples", samples, "--force")
    assert (tmp_path / "backup.tar").read_text() == "mine"


def test_unreadable_recordings_are_left_out_and_listed(tmp_path, run):
    for name in "abc":
        write_wav(tmp_path / f"in/speech/train/x/{name}.wav", speech_like(0.3))
    bad = tmp_path / "in/speech/train/x/b.wav"
    sf.write(bad, np.full(3000, np.nan), 16000, subtype="FLOAT")
    output = run("shards", tmp_path / "in", "--output", tmp_path / "o", code=1)
    assert "b.wav: samples are not finite" in output.err
    assert "2 recordings in 1 shards" in output.out
    (path,) = (tmp_path / "o").glob("*.tar")
    with tarfile.open(path) as tar:
        assert len(tar.getnames()) == 4
    assert len(read_recordings(tmp_path / "o/manifest.csv")) == 2
    again = run("shards", tmp_path / "in", "--output", tmp_path / "o", code=1)
    assert "b.wav: could not be read" in again.err
