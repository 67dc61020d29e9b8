"""Manifests of files to enhance."""

import re

import pytest

from dbtransform_lobes.cli.main import main
from dbtransform_lobes.inference.corpus import read_corpus


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
        ("path\na.wav\n".encode("utf-16-le"), "expected UTF-8"),
        (b"path\na\0.wav\n", "expected UTF-8 .*bytes of 0"),
        (b"path\nnotes.txt\n", "expected one of the suffixes"),
    ],
)
def test_bad_manifests(tmp_path, content, message, capsys):
    manifest, out = tmp_path / "manifest.csv", tmp_path / "out"
    manifest.write_bytes(content)
    assert main(["enhance", str(manifest), "--output", str(out)]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()
