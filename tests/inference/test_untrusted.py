"""Model folders and files from strangers: no code runs, no crash, no hang."""

import os
import pickle
import random
import re
import struct
import warnings
from contextlib import suppress

import numpy as np
import pytest
import soundfile as sf
import torch

from dbtransform_lobes.data.files import replacing
from dbtransform_lobes.inference import EnhanceModel
from dbtransform_lobes.inference.restricted_yaml import load_restricted
from tests.signals import speech_like

CPU = {"device": "cpu"}


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


# Code in the YAML file. Each would make the folder that MARK stands for.
ATTACKS = [
    "x: !apply:os.mkdir [MARK]",
    "x: !applyref:os.mkdir [MARK]",
    "x: !new:subprocess.Popen [[mkdir, MARK]]",
    "x: !!python/object/apply:os.mkdir [MARK]",
    "x: !<tag:yaml.org,2002:python/object/apply:os.mkdir> [MARK]",
    "x: !<!apply:os.mkdir> [MARK]",
    "%TAG !e! !apply:\n---\nx: !e!os.mkdir [MARK]",
    'x: (!!python/object/apply:os.mkdir ["MARK"])',
    'x: !tuple "(!!python/object/apply:os.mkdir [MARK])"',
    "y: '!!python/object/apply:os.mkdir [MARK]'\nx: !ref (<y>)",
    "x: [{deep: [!apply:os.mkdir [MARK]]}]",
    "? !apply:os.mkdir [MARK]\n: key",
]


def test_no_code_runs_from_yaml(tmp_path):
    path, ran = tmp_path / "a.yaml", 0
    for number, attack in enumerate(ATTACKS):
        # a mark of its own for each: a subprocess may be late
        mark = tmp_path / f"mark{number}"
        path.write_text(attack.replace("MARK", str(mark)))
        with pytest.raises(ValueError):
            load_restricted(path)
        assert not mark.exists(), attack
        with suppress(Exception):  # some fail after they ran
            load_restricted(path, trust_code=True)
        ran += mark.exists()
    assert ran >= 8  # so these attacks are real


@pytest.mark.parametrize(
    "text",
    [
        "x: !include:other.yaml",
        "x: !module:os",
        "x: !name:os.system",
        "x: !name:torch.load",
        "x: !name:torch.hub.load",
        "x: !new:torch.nn.modules.os.PathLike",
        "x: !new:speechbrain.utils.checkpoints.Checkpointer [x]",
        "x: !name:dbtransform_lobes.models.waveform.torch.load",
        "x: !name:dbtransform_lobes.models.waveform.torch",
        "x: !name:dbtransform_lobes.models.no_such_file.Model",
        "x: !name:dbtransform_lobes.data.files.write_text",
        "m: !new:torch.nn.ReLU {}\nx: !ref <m.forward>",
        "x: !!set {a, b}",
    ],
)
def test_names_that_are_not_of_a_model_are_refused(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    told = "asks for .*could run any code; if you"
    with pytest.raises(ValueError, match=told):
        load_restricted(path)


def test_what_models_need_is_loaded(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "n: 8\nhalf: !ref <n> / 2\npair: (3, 4)\nmodel: !new:torch.nn.Linear\n"
        "  in_features: !ref <n>\n  out_features: 2\nsame: !ref <model>\n"
        "window: !name:torch.hann_window\n"
        "level: !name:dbtransform_lobes.models.level.over_signal_level\n"
    )
    loaded = load_restricted(path, {"n": 16})
    assert loaded["half"] == 8 and loaded["pair"] == (3, 4)
    assert loaded["model"].in_features == 16
    assert loaded["same"] is loaded["model"]
    assert loaded["window"] is torch.hann_window
    path.write_text("a: &x [*x]")
    assert load_restricted(path)  # odd, but a list


@pytest.mark.parametrize(
    "text",
    ["", "just text", "[1, 2]", "a: [", "a: 1\n---\nb: 2",
     "\x00", "a: !new:torch.nn.Linear {no: 1}", "a: !new:torch.nn.NoSuch {}",
     "a: !ref <b>", "a: *b", "1: 2\n1: 3", "a: !new:torch.nn.Linear [1]"],
)  # fmt: skip
def test_broken_yaml_is_a_value_error(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError):
        load_restricted(path)


def test_a_stranger_model_asks_for_trust(own_folder):
    """A class of one's own loads with trust_code alone."""
    path = own_folder / "hyperparams.yaml"
    text = path.read_text()
    path.write_text(text + "extra: !name:os.getcwd\n")
    with pytest.raises(ValueError, match="!name:os.getcwd.*trust_code=True"):
        EnhanceModel.from_hparams(own_folder, run_opts=CPU)
    options = {"run_opts": CPU, "trust_code": True}
    trusted = EnhanceModel.from_hparams(own_folder, **options)
    assert trusted.hparams.extra is os.getcwd


def test_no_code_runs_from_weights(own_folder, tmp_path):
    mark, weights = tmp_path / "mark", own_folder / "model.ckpt"
    for form in ("legacy", "torch", "pickle"):
        zipped = {"_use_new_zipfile_serialization": form == "torch"}
        torch.save({"w": Touch(mark)}, weights, **zipped)
        if form == "pickle":
            weights.write_bytes(pickle.dumps(Touch(mark)))
        with pytest.raises(ValueError, match="expected a state dict"):
            EnhanceModel.from_hparams(own_folder, run_opts=CPU)
        assert not mark.exists(), form
    with open(weights, "rb") as file:
        pickle.load(file)
    assert mark.exists()  # so the attack is real


def mutations(content, count, seed, first=None):
    """Changed copies of bytes; most changes are in the first ones."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(content)
        for _ in range(rng.randint(1, 8)):
            reach = len(data) if rng.random() < 0.3 else first or len(data)
            place = rng.randrange(max(1, min(reach, len(data))))
            old = rng.choice((0, 1, 4, rng.randint(1, 64)))
            new = rng.randbytes(rng.choice((0, 1, rng.randint(1, 16))))
            sizes = b"\xff\xff\xff\xff", bytes(4), b"\xff\xff\xff\x7f"
            data[place : place + old] = rng.choice((new, new, *sizes))
        if rng.random() < 0.2:
            del data[rng.randrange(len(data) + 1) :]
        yield bytes(data)


@pytest.mark.parametrize(
    ("name", "count", "least"),
    [("model.ckpt", 40, 20), ("hyperparams.yaml", 100, 50)],
)
def test_fuzzed_models(own_folder, name, count, least):
    path = own_folder / name
    refused = 0
    for data in mutations(path.read_bytes(), count, seed=count):
        path.write_bytes(data)
        try:
            EnhanceModel.from_hparams(own_folder, run_opts=CPU)
        except (ValueError, FileNotFoundError):
            refused += 1
    assert least <= refused


MENDED = "ffmpeg -i '.*/my a.wav' '.*/my a_mended.wav'"


@pytest.mark.parametrize(
    ("first", "end", "content", "message"),
    [
        *(
            (24, 28, struct.pack("<I", rate), "the sample rate is .* expected")
            for rate in (1, 2**31 - 1, 900000)
        ),
        (40, 44, bytes(4), "was not finished; mend it: " + MENDED),
        (244, 244, b"data\2\0\0\0\0\0", "2 data chunks, expected one"),
        *(
            (40, 244, bytes(4) + after, "the file has no samples; if other")
            for after in (b"", b"LIST\4\0\0\0INFO")
        ),
    ],
)
def test_a_wav_that_cannot_be(tmp_path, first, end, content, message, identity):
    path = tmp_path / "my a.wav"
    sf.write(path, np.full(100, 0.1), 16000)
    before = path.read_bytes()
    path.write_bytes(before[:first] + content + before[end:])
    with pytest.raises(ValueError, match=f"a.wav: .*{message}"):
        identity.enhance_file(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("share", [0.5, 0.9999])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        *((suffix, {}) for suffix in (".wav", ".mp3", ".ogg", ".flac")),
        (".wav", {"endian": "BIG"}),
        (".wav", {"subtype": "IMA_ADPCM"}),
        (".wav", {"format": "RF64"}),
        (".ogg", {"subtype": "OPUS"}),
    ],
)
def test_files_that_are_cut_off(tmp_path, suffix, options, share, identity):
    """What is there with a warning; an error where nothing decodes."""
    path = tmp_path / f"a{suffix}"
    sf.write(path, np.tile(speech_like(1.0), 10), 16000, **options)
    identity.enhance_file(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    if suffix == ".flac":
        with pytest.raises(ValueError, match=f"a{suffix}: "):
            identity.enhance_file(path)
        return
    with pytest.warns(UserWarning, match="a[.].*: ends after [0-9]+ ") as told:
        length = len(identity.enhance_file(path))
    assert (share - 0.3) * 160000 < length < (share + 0.25) * 160000
    assert sum("ends after" in str(each.message) for each in told) == 1
    promised = re.search("of the ([0-9]+) samples", str(told[0].message))
    exact = suffix == ".wav" and not options
    assert not exact or length == (path.stat().st_size - 44) // 2
    slack = 1 if exact else 1000
    assert suffix == ".ogg" or abs(int(promised[1]) - 160000) < slack


@pytest.mark.parametrize(
    ("suffix", "options", "size"),
    [
        *((suffix, {}, b"") for suffix in ".voc .aiff .au .w64".split()),
        (".sph", {"format": "NIST"}, b""),
        (".wav", {}, b"data\xff\xff\xff\xff"),
        (".wav", {"subtype": "PCM_24"}, b"data\xff\xff\xff\xff"),
        (".wav", {"subtype": "IMA_ADPCM"}, b"data\xff\xff\xff\xff"),
        (".wav", {}, b"data\x00\xf0\xff\x7f"),  # of SoX
    ],
)
@pytest.mark.parametrize("share", [0.5, 1])
def test_unknown_length(tmp_path, suffix, options, size, share, identity):
    """Formats that are not checked, and files written into a pipe."""
    path = tmp_path / f"a{suffix}"
    options = {"subtype": "PCM_16", **options}
    sf.write(path, speech_like(1.0), 16000, **options)
    content = path.read_bytes()
    place = content.find(size[:4])
    content = content[:place] + size + content[place + len(size) :]
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.warns(UserWarning, match=f"a{suffix}: its length is not kn"):
        length = len(identity.enhance_file(path))
    assert abs(length - share * 16000) < 1100


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".flac", {}),
        (".ogg", {}),
        (".ogg", {"subtype": "OPUS"}),
        (".wav", {"format": "RF64"}),
    ],
)
def test_joined_files_are_refused(tmp_path, suffix, options, identity):
    path = tmp_path / f"a{suffix}"
    sf.write(path, speech_like(0.3), 16000, **options)
    first = path.read_bytes()
    path.write_bytes(2 * first)
    message = f"another file begins at byte {len(first)} .* ffmpeg -i"
    with pytest.raises(ValueError, match=message):
        identity.enhance_file(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("change", ["turned", "left out"])
def test_ogg_with_a_bad_page_is_refused(tmp_path, subtype, change, identity):
    """libsndfile gives what is before it, or jumps over it."""
    path = tmp_path / "a.ogg"
    sf.write(path, np.tile(speech_like(1.0), 10), 16000, subtype)
    content, damaged = path.read_bytes(), b"\0\xff" * 100
    middle = len(content) // 2
    rest = content[middle + 200 :]
    damaged = damaged if change == "turned" else b""
    path.write_bytes(content[:middle] + damaged + rest)
    with pytest.raises(ValueError, match="a.ogg: is damaged at byte"):
        identity.enhance_file(path)
    path.write_bytes(content + bytes(99))  # after the last page
    assert len(identity.enhance_file(path)) == 160000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_a_flac_of_another_length_than_it_says(tmp_path, subtype, identity):
    """A length of 0 is what programs write into a pipe, none is known."""
    path = tmp_path / "a.flac"
    sf.write(path, np.stack([speech_like(1.0)] * 2, 1), 16000, subtype)
    content = path.read_bytes()
    identity.enhance_file(path)

    def say(frames):
        field = (content[21] >> 4 << 36 | frames).to_bytes(5, "big")
        path.write_bytes(content[:21] + field + content[26:])

    say(8000)
    with pytest.warns(UserWarning, match="a.flac: .* some are missing or dam"):
        assert len(identity.enhance_file(path)) == 8000
    say(0)
    with pytest.raises(ValueError, match="how long it is; mend it: ffmpeg -i"):
        identity.enhance_file(path)
    say(2**36 - 1)
    assert sf.info(path).frames > 2**35
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            assert identity.enhance_file(path).shape == (16000, 2)
            assert "ends after 16000 of the" in str(caught[0].message)
        except ValueError as error:
            assert "cut off or damaged" in str(error)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_full_disk_leaves_no_file(tmp_path, suffix, small_disk, identity):
    path = tmp_path / "a.wav"
    sf.write(path, np.tile(speech_like(1.0), 5), 16000)
    told = "writing failed.*the disk"
    with pytest.raises(ValueError, match=told), small_disk(8192):
        identity.enhance_file(path, tmp_path / f"b{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("name", ["no/b.wav", "folder", "b" * 256])
def test_errors_of_writing_name_the_file(tmp_path, name):
    """Not the temporary one beside it, which nobody knows."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=f"{name}'$") as error:
        with replacing(tmp_path / name) as temporary:
            temporary.touch()
    assert ".tmp" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
