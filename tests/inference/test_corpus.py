"""Manifests of files to enhance, and what makes a result finished."""

import os
import re

import pytest

from dbtransform_lobes.cli.main import main
from dbtransform_lobes.inference.corpus import is_finished, read_corpus
from tests.signals import noise_like, write_wav


def test_every_row_has_a_place(tmp_path):
    manifest = tmp_path / "corpus/manifest.csv"
    manifest.parent.mkdir()
    manifest.write_text("x,path\n1,a.wav\n2,deep/../b.wav\n3,../c.wav\n")
    assert [
        (str(file), str(place)) for file, place in read_corpus(manifest)
    ] == [
        (f"{tmp_path}/corpus/a.wav", "a.wav"),
        (f"{tmp_path}/corpus/b.wav", "b.wav"),
        (f"{tmp_path}/c.wav", f"{tmp_path}/c.wav"[1:]),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected the columns path and at least one row"),
        (b"file\na.wav\n", "expected the columns path .* given file and 1"),
        (b"path,x\n", "at least one row, given path, x and 0 rows"),
        (b"path,x\na.wav,1\n ,2\n", "row 2 has no path; fill it in"),
        (b"path\n\xff\xfe\n", "expected UTF-8"),
        (b"path\nnotes.txt\n", "expected one of the suffixes"),
    ],
)
def test_bad_manifests(tmp_path, content, message, capsys):
    manifest, out = tmp_path / "manifest.csv", tmp_path / "out"
    manifest.write_bytes(content)
    assert main(["enhance", str(manifest), "--output", str(out)]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()


def test_finished_results(tmp_path):
    paths = [tmp_path / name for name in ("in.wav", "out.wav", "record.json")]
    source, target, record = paths
    for path in (source, target):
        write_wav(path, noise_like(0.1))
    record.write_text("{}")
    for path, time in zip(paths, (1, 3, 2), strict=True):
        os.utime(path, (time, time))
    assert is_finished(*paths)
    os.utime(record, (4, 4))  # made by other settings
    assert not is_finished(*paths)
    os.utime(target, (5, 5))
    assert is_finished(*paths)
    os.utime(source, (6, 6))  # recorded anew
    assert not is_finished(*paths)
    os.truncate(target, target.stat().st_size - 100)
    os.utime(target, (7, 7))
    assert not is_finished(*paths)
