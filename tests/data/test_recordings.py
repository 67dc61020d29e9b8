"""Listing, reading and writing recordings."""

import os
import re
import time

import numpy as np
import pytest
import soundfile as sf

from dbtransform_lobes.data.audio import read_audio, write_audio
from dbtransform_lobes.data.mixtures import read_test_mixtures
from dbtransform_lobes.data.recordings import (
    Recording,
    read_recordings,
    recordings_root,
)
from dbtransform_lobes.evaluation.conditions import read_conditions
from dbtransform_lobes.inference.corpus import _read_corpus
from tests.signals import noise_like, write_wav

HEADER = "path,kind,source,speaker,split,seconds,native_rate,licence"
MIXTURES = "id,speech,noise,noise_offset_s,snr_db"


def make_manifest(folder, rows):
    """Write 0.1 s files and a manifest of (path, kind, speaker, split)."""
    lines = [HEADER]
    for path, kind, speaker, split in rows:
        write_wav(folder / path, np.full(1600, 0.1))
        lines.append(f"{path},{kind},src,{speaker},{split},0.1,16000,CC0")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


ROWS = [
    ("b/2.wav", "speech", "bob", "valid"),
    ("a/1.wav", "speech", "ann", "train"),
    ("n/3.wav", "noise", "rain", "train"),
]


def test_manifest_is_read_sorted_and_relative_to_itself(tmp_path):
    manifest = make_manifest(tmp_path, ROWS)
    found = read_recordings(manifest)
    paths = [str(tmp_path / path) for path in ("a/1.wav", "b/2.wav", "n/3.wav")]
    assert [r.path for r in found] == paths
    parts = "speech", "ann", "train", 0.1, "CC0", "src"
    assert found[0] == Recording(paths[0], *parts)
    assert recordings_root(manifest) == tmp_path
    assert read_recordings(tmp_path) == found
    chosen = read_recordings(str(manifest), split="train")
    assert [r.speaker for r in chosen] == ["ann", "rain"]


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (read_recordings, "path,kind,speaker,split\né.wav,speech,a,train\n"),
        (_read_corpus, "path\né.wav\n"),
        (read_conditions, "id,noise\né,rain\n"),
        (read_test_mixtures, f"{MIXTURES}\nm,é.wav,b.wav,0,5\n"),
    ],
)
def test_a_byte_order_mark_is_read_other_encodings_named(tmp_path, read, text):
    write_wav(tmp_path / "é.wav", np.zeros(1600))
    table = tmp_path / "table.csv"
    table.write_text(text, encoding="utf-8")
    plain = read(table)
    table.write_text(text, encoding="utf-8-sig")
    assert read(table) == plain
    for encoding in ("utf-16", "latin-1"):
        table.write_text(text, encoding=encoding)
        with pytest.raises(ValueError, match="table.csv.* as UTF-8"):
            read(table)


def test_one_error_counts_all_bad_files_and_lists_20(tmp_path):
    rows = [(f"{n:02d}.wav", "speech", "ann", "train") for n in range(25)]
    manifest = make_manifest(tmp_path, rows)
    (tmp_path / "00.wav").write_text("no audio")
    write_wav(tmp_path / "01.wav", np.zeros(0))
    for path, *_ in rows[2:]:
        (tmp_path / path).unlink()
    with pytest.raises(ValueError, match=r"\(25\)") as error:
        read_recordings(manifest)
    listed = [f"{n:02d}.wav" in str(error.value) for n in range(25)]
    assert listed == [True] * 20 + [False] * 5
    assert "5 more" in str(error.value)


def test_many_missing_files_are_told_at_once(tmp_path):
    """Not in a time that grows with the square of their number."""
    lines = [f"{n:05d}.wav,speech,a,train" for n in range(30000)]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["path,kind,speaker,split", *lines]))
    begin = time.process_time()
    with pytest.raises(ValueError, match=r"\(30000\)"):
        read_recordings(manifest)
    assert time.process_time() - begin < 5


def test_known_lengths_do_not_hide_lost_files(tmp_path):
    """Which a training would meet in the middle of an epoch."""
    write_wav(tmp_path / "a.wav", np.zeros(100))
    lines = ["path,kind,speaker,split,frames,sample_rate"]
    for path in ("a.wav", "moved.wav", "moved.tar#512-1023"):
        lines.append(f"{path},speech,a,train,32000,16000")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"\(2\)(?s:.)*moved.tar: there is no"):
        read_recordings(manifest)
    manifest.write_text("\n".join(lines[:2]))
    assert read_recordings(manifest)[0].seconds == 2  # is not opened
    manifest.write_text("\n".join(lines[:2]).replace("32000", "2 s"))
    with pytest.raises(ValueError, match="a.wav: frames or sample_rate: could"):
        read_recordings(manifest)


def test_bad_manifests_and_choices_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="manifest.csv"):
        read_recordings(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no audio recordings"):
        read_recordings(tmp_path)
    manifest = make_manifest(tmp_path, ROWS)
    for split, message in (
        ("test", "no test recordings"),
        ("dev", "expected one of train"),
    ):
        with pytest.raises(ValueError, match=message):
            read_recordings(manifest, split=split)
    text = manifest.read_text()
    for old, new, message in (
        ("speaker", "who", "expected the columns path, kind, speaker"),
        ("speech", "voice", "kind is 'voice'"),
        ("valid", "dev", "split is 'dev'"),
        (",ann,", ",,", "speaker is empty"),
    ):
        manifest.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            read_recordings(manifest)


def test_folder_with_named_splits_and_what_is_left_out_of_it(tmp_path):
    names = "speech/train/ann/1 valid/speech/bob_3 noise/test/rain/2 other/4"
    for name in names.split():
        write_wav(tmp_path / f"{name}.wav", np.full(160, 0.1))
    path = tmp_path / "speech/talk.m4a"
    path.write_text("")
    told = f"skipped: {path}: convert it first: ffmpeg -i {path} "
    with pytest.warns(UserWarning, match=re.escape(told)):
        recordings = read_recordings(tmp_path)
    found = {(r.speaker, r.kind, r.split) for r in recordings}
    speech = {("ann", "speech", "train"), ("bob", "speech", "valid")}
    assert found == speech | {("rain", "noise", "test")}


def test_folder_without_splits_hashes_the_speaker(tmp_path):
    for speaker in range(40):
        for number in range(2):
            path = tmp_path / f"speech/s{speaker}/{number}.wav"
            write_wav(path, np.full(16, 0.1))
    found = read_recordings(tmp_path)
    splits = {}
    for item in found:
        splits.setdefault(item.speaker, set()).add(item.split)
    found_splits = set(map(frozenset, splits.values()))
    assert found_splits == {frozenset([n]) for n in ("train", "valid", "test")}
    write_wav(tmp_path / "speech/new/0.wav", np.full(16, 0.1))
    again = read_recordings(tmp_path)
    assert set(found) < set(again)


def test_read_audio_averages_channels_resamples_and_reads_parts(tmp_path):
    """Counted in samples of the new rate."""
    left, right = noise_like(0.1, 1), noise_like(0.1, 2)
    path = tmp_path / "a.wav"
    sf.write(path, np.stack([left, right], 1), 16000, subtype="DOUBLE")
    whole = read_audio(path)
    np.testing.assert_allclose(whole, (left + right) / 2, atol=1e-12)
    np.testing.assert_array_equal(read_audio(path, 100, 50), whole[100:150])
    assert len(read_audio(path, 1500, 500)) == 100
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)
    path = write_wav(tmp_path / "b.wav", tone, 48000)
    whole = read_audio(path)
    assert whole.shape == (16000,)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(whole[500:-500], expected[500:-500], atol=1e-3)
    part = read_audio(path, start=4000, frames=8000)
    assert part.shape == (8000,)
    np.testing.assert_allclose(part[500:-500], expected[4500:11500], atol=1e-3)


def test_read_audio_refuses_bad_files(tmp_path):
    path = tmp_path / "a.wav"
    with pytest.raises(FileNotFoundError, match="a.wav"):
        read_audio(path)
    sf.write(path, np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match="not finite"):
        read_audio(path)
    write_wav(path, np.zeros(10))
    with pytest.raises(ValueError, match="start is 10, expected 0 to 9"):
        read_audio(path, start=10)
    path.write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="soundfile can read"):
        read_audio(path)


def test_write_audio_leaves_no_temporary_file(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")  # no UTF-8
    folder.mkdir()
    path = folder / "a.wav"
    write_audio(path, np.array([0.5, -0.5]))
    with pytest.raises(ValueError, match="dtype"):
        write_audio(path, np.array(["text"]))
    assert [item.name for item in folder.iterdir()] == ["a.wav"]
    info = sf.info(os.fsencode(path))
    assert (info.subtype, info.samplerate, info.frames) == ("PCM_16", 16000, 2)
