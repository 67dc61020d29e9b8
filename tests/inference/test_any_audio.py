"""Any rate, channels, container, sample format and tags: in as out."""

import math
import re
import struct
import warnings
from itertools import product

import mutagen
import numpy as np
import pytest
import soundfile as sf
import soxr
import torch

from dbtransform_lobes.inference import EnhanceModel
from dbtransform_lobes.inference.batch import enhance_pair
from dbtransform_lobes.inference.high_band import TopBandGain
from dbtransform_lobes.inference.mpeg import frames_of
from dbtransform_lobes.inference.tags import id3_of
from tests.formulas import literal_stft
from tests.runs import Mapping, model_of
from tests.signals import noise_like, noisy_signal, snr_db

TAGS = {
    "title": "A title, äöü, čřž, 題",
    "artist": "Somebody",
    "comment": "x" * 300,
    "date": "2026-01-02",
    "album": "Album",
    "tracknumber": "7",
    "genre": "Speech",
}


def write(path, seconds=0.2, rate=16000, channels=1, tags=None, **options):
    """Write noisy speech with these tags; return the path."""
    with sf.SoundFile(path, "w", rate, channels, **options) as file:
        for tag, text in (tags or {}).items():
            setattr(file, tag, text)
        file.write(noisy_signal(seconds, rate, channels))
    return path


def literal_gain(noisy, enhanced, sample_rate):
    """TopBandGain in loops over frames and bins."""
    size, hop = int(0.032 * sample_rate), int(0.008 * sample_rate)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    frames = (literal_stft(x, size, hop, window) for x in (noisy, enhanced))
    gains = []
    for pair in zip(*frames, strict=True):
        top = (bins[math.ceil(0.375 * size) :] for bins in pair)
        before, after = (sum(abs(x) ** 2 for x in bins) for bins in top)
        gains.append(min(1.0, (after / before) ** 0.5) if before > 0 else 1.0)
    return np.array(gains)


def top_gain(noisy, enhanced, rate, sizes=(10**9,), sample_rate=None):
    """TopBandGain of one channel, in blocks of these sizes."""
    stage = TopBandGain(rate, sample_rate or rate)
    cuts = [cut for cut in np.cumsum(sizes) if cut < len(noisy)]
    pairs = zip(np.split(noisy, cuts), np.split(enhanced, cuts), strict=True)
    gains = [
        stage.push(*(each[None] for each in pair), number == len(cuts))
        for number, pair in enumerate(pairs)
    ]
    return np.concatenate(gains, axis=-1)[0]


def test_top_band_gain_equals_its_literal_twin():
    rng = np.random.default_rng(0)
    noisy = rng.standard_normal(85)
    enhanced = noisy * np.linspace(0, 1.3, 85) + 0.1 * rng.standard_normal(85)
    gain = top_gain(noisy, enhanced, 1000)[:96:8]
    expected = literal_gain(noisy, enhanced, 1000)
    assert gain.shape == expected.shape == (1 + 88 // 8,)
    assert np.allclose(gain, expected, rtol=0, atol=1e-10)
    assert gain.min() < 0.3 and gain.max() == 1.0
    # A gain of the whole band would have been told apart.
    other = literal_gain(np.diff(noisy), np.diff(enhanced), 1000)
    assert not np.allclose(gain, other[: len(gain)])
    assert not np.any(top_gain(noisy, 0 * noisy, 1000))
    assert np.all(top_gain(0 * noisy, 0 * noisy, 1000) == 1)
    for sizes in ([85], [1] * 85, [3, 70, 12], [84, 1]):
        blocks = top_gain(noisy, enhanced, 1000, sizes)
        assert np.allclose(blocks[:96:8], gain, rtol=0, atol=1e-12)
        # Interpolated over time: 22 samples from frame to frame at 2750 Hz.
        blocks = top_gain(noisy, enhanced, 1000, sizes, sample_rate=2750)
        between = np.interp(np.arange(len(blocks)) / 22, range(12), expected)
        assert np.allclose(blocks, between, atol=1e-10)
        assert len(blocks) >= 85 * 2.75


def test_high_band_gets_the_gain_of_the_top_of_the_band(identity):
    rng = np.random.default_rng(1)
    signal = 0.1 * rng.standard_normal(48000)
    low = soxr.resample(soxr.resample(signal, 48000, 16000), 16000, 48000)
    above = signal - low
    for lowest in (180, 0):  # 5625 Hz, 0
        gain = 1 - 0.5 * (torch.arange(257) >= lowest)[:, None]
        halved = model_of(lambda spec, gain=gain: spec * gain)
        kept = halved.enhance_array(signal, 48000)
        dropped = halved.enhance_array(signal, 48000, high_band="drop")
        assert snr_db(0.5 * above, kept - dropped) > 40
    rest = identity.enhance_array(signal, 48000) - signal
    assert np.abs(rest).max() < 1e-4  # where the gain would have been 1
    with pytest.raises(ValueError, match="high_band is 'mirror', expected one"):
        identity.enhance_array(signal, 48000, high_band="mirror")


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("name", ["small", "streaming"])
def test_the_end_is_not_louder_than_what_is_before(name, adds):
    """At any length, also when a model adds what no signal has."""
    model = EnhanceModel.from_hparams(
        f"db_transform_{name}", run_opts={"device": torch.device("cpu")}
    )
    if adds:
        model.mods["model"] = Mapping(lambda x: x + 3 * torch.randn_like(x))
    lengths = (4501, *range(4600, 4610), 4700)  # 4608 are 18 hops
    for sample_rate, length in product((8000, 16000, 48000), lengths):
        noise = noise_like(0.3, 3, sample_rate)
        noisy = noise[: length * sample_rate // 16000]
        enhanced = model.enhance_array(noisy, sample_rate)
        both = np.abs(np.stack([noisy, enhanced]))[:, -400:]
        loudest = 2 * both[:, :-20].max()
        assert both[1, -20:].max() < loudest, (sample_rate, length)


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_formats_in_blocks_become_pcm(model, subtype, tmp_path):
    noisy = write(tmp_path / "noisy.wav", 0.5, subtype=subtype)
    output = tmp_path / "enhanced.wav"
    with pytest.warns(UserWarning, match=f"{subtype} of the input .* PCM_16"):
        model.enhance_file(noisy, output)
    assert sf.info(output).subtype == "PCM_16"
    assert sf.info(output).frames == len(sf.read(noisy)[0])


def mp3(path, signal, header=True):
    """Bytes of an MP3, maybe without the header that tells its length."""
    sf.write(path, signal, 16000)
    data = path.read_bytes()
    begin, size, _ = next(frames_of(data))
    return data if header else data[begin + size :]


def chunk(name, *contents):
    """A chunk of a WAV file."""
    content = b"".join(contents)
    return name + struct.pack("<I", len(content)) + content


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("joined", [True, False])
def test_an_mp3_whose_length_is_guessed_gives_all_samples(
    model, tmp_path, joined
):
    """Two files in one, or the header left out."""
    path, output = tmp_path / "a.mp3", tmp_path / "out.wav"
    loud = 0.3 * np.random.default_rng(0).standard_normal(16000)
    parts = loud, np.zeros(80000)
    if joined:
        data = b"".join([mp3(path, part) for part in parts])
    else:
        data = mp3(path, np.concatenate(parts), header=False)
    path.write_bytes(data)
    assert sf.info(path).frames < 48000
    model.enhance_file(path, output)
    assert 0 <= sf.info(output).frames - 96000 < 8000


def test_mp3_in_wav_gives_all_samples_as_pcm(model, tmp_path):
    """libsndfile cannot write it, and guesses its length."""
    path, output = tmp_path / "mp3.wav", tmp_path / "out.wav"
    data = mp3(tmp_path / "a.mp3", noisy_signal(3.2, 16000), header=False)
    kind = struct.pack("<HHIIHH", 0x55, 1, 16000, 3000, 576, 0)
    extra = struct.pack("<HHIHHH", 12, 1, 2, 1152, 1, 1393)
    chunks = chunk(b"fmt ", kind, extra), chunk(b"data", data)
    path.write_bytes(chunk(b"RIFF", b"WAVE", *chunks))
    _, failure, (told,) = enhance_pair(model, (path, output), {})
    assert failure is None and told == (
        f"{output}: MPEG_LAYER_III of the input cannot be written to the "
        "sample, so this is PCM_16"
    )
    assert 0 <= sf.info(output).frames - 51200 < 2000


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_array_shapes_types_and_strength(model, dtype):
    signal = noisy_signal(0.2, 44100, 3).astype(dtype)
    signal[:, 1] *= 0.05
    enhanced = model.enhance_array(signal, 44100)
    assert enhanced.shape == signal.shape and enhanced.dtype == np.float32
    for channel in range(3):
        alone = model.enhance_array(signal[:, channel], 44100)
        assert alone.shape == signal.shape[:1]
        assert np.allclose(alone, enhanced[:, channel], atol=1e-6)
    for high_band in ("keep", "drop"):
        none, half = (
            model.enhance_array(signal, 44100, strength, high_band=high_band)
            for strength in (0.0, 0.5)
        )
        assert np.array_equal(none, signal.astype(np.float32))
        assert not np.allclose(half, signal, atol=1e-3)
    assert not np.allclose(enhanced, signal, atol=1e-2)
    for kind in (torch.float32, torch.bfloat16):
        tensor = torch.from_numpy(signal).to(kind).requires_grad_()
        expected = model.enhance_array(tensor.detach().float().numpy(), 44100)
        found = model.enhance_array(tensor, 44100)
        assert torch.equal(found, torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("signal", "sample_rate", "message"),
    [
        (np.ones(9), 1999, "rate is 1999 Hz, expected 2000 to 768000"),
        (np.ones(9), 2**31, "expected 2000 to 768000"),
        (np.ones(9), "16000", "rate is 16000 Hz, expected 2000 to 768000, a"),
        (np.ones(9), 16000.5, "a whole number"),
        ("a.wav", 16000, "samples are <U5, expected floating point"),
        (np.zeros((2, 300)), 16000, r"\(2, 300\), more channels .*signal.T"),
        (np.ones(9, np.int16), 16000, "int16, expected floating point; divide"),
        (np.ones(0), 16000, "at least one of each"),
        (torch.ones(9).to_sparse(), 16000, "is no array of numbers .*Sparse"),
        (np.ones((9, 0)), 16000, "at least one of each"),
        (np.ones((9, 1, 1)), 16000, r"shape \(9, 1, 1\), expected"),
        (np.full(9, np.nan), 16000, "not finite"),
        (np.full(9, 1e300), 16000, "not finite"),
    ],
)
def test_bad_arrays(model, signal, sample_rate, message):
    with pytest.raises(ValueError, match=message):
        with np.errstate(over="ignore"):
            model.enhance_array(signal, sample_rate)


@pytest.mark.parametrize(
    ("container", "subtype", "suffix", "rates"),
    [
        ("WAV", "PCM_16", ".wav", (8000, 11025, 44100)),
        ("WAV", "PCM_U8", ".wav", (16000,)),
        ("WAV", "ULAW", ".wav", (8000,)),
        ("WAVEX", "PCM_24", ".wav", (48000,)),
        ("RF64", "FLOAT", ".wav", (16000,)),
        ("FLAC", "PCM_24", ".flac", (96000,)),
        ("OGG", "VORBIS", ".ogg", (44100,)),
        ("OGG", "OPUS", ".ogg", (48000,)),
        ("MP3", "MPEG_LAYER_III", ".mp3", (8000, 22050, 44100, 48000)),
    ],
)
def test_format_length_and_tags_are_kept(
    model, tmp_path, container, subtype, suffix, rates
):
    for rate in rates:
        path, output = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        tags, layout = TAGS if suffix != ".mp3" else None, (0.31, rate, 2)
        write(path, *layout, tags, subtype=subtype, format=container)
        if tags is None:
            id3_of(TAGS).save(path)
        enhanced = model.enhance_file(path, output)
        written, _ = sf.read(output)
        assert written.shape == enhanced.shape == (round(0.31 * rate), 2)
        assert snr_db(enhanced.numpy(), written) > 5  # codecs are lossy
        before, long = sf.info(path), tmp_path / f"c{suffix}"
        model.enhance_long_file(path, long)
        for made in (output, long):
            after = sf.info(made)
            for key in "format subtype samplerate channels frames".split():
                assert getattr(after, key) == getattr(before, key), key
            with sf.SoundFile(made) as file:
                assert {tag: getattr(file, tag) for tag in TAGS} == TAGS


def test_pictures_and_rare_tags_are_kept(tmp_path, identity):
    """What soundfile does not know, between files of one kind."""
    picture = mutagen.flac.Picture()
    picture.data, picture.mime, picture.type = b"\x89PNG", "image/png", 3
    for suffix in (".mp3", ".flac", ".ogg", ".wav"):
        path, output = write(tmp_path / f"a{suffix}"), tmp_path / f"b{suffix}"
        file = mutagen.File(path)
        if file.tags is None:
            file.add_tags()
        if suffix in (".mp3", ".wav"):
            file.tags.add(mutagen.id3.TCOM(3, ["Röntgen"]))
            file.tags.add(mutagen.id3.APIC(3, "image/png", 3, "", b"\x89PNG"))
        else:
            file.tags["composer"] = ["Röntgen", "another"]
        if suffix == ".flac":
            file.add_picture(picture)
        file.save()
        identity.enhance_file(path, output)
        assert len(sf.read(output)[0]) == 3200
        given, made = mutagen.File(path), mutagen.File(output)
        assert "Röntgen" in str(given.tags) and made.tags == given.tags
        pictures = given.tags.get("APIC:") or getattr(given, "pictures", None)
        assert pictures or suffix == ".ogg"
        assert getattr(made, "pictures", 0) == getattr(given, "pictures", 0)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_tags_of_a_flac_reach_other_containers(tmp_path, suffix, identity):
    tags = {"title": "Hören", "artist": "Somebody"}
    path, output = tmp_path / "a.flac", tmp_path / f"b{suffix}"
    file = mutagen.File(write(path, tags=tags))
    file.tags["composer"] = "another"
    file.save()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        identity.enhance_file(path, output)
    told = f"1 tags .* not carried over into {suffix[1:].upper()}"
    found = [each for each in caught if re.search(told, str(each.message))]
    assert len(found) == (suffix != ".flac")
    with sf.SoundFile(output) as file:
        assert {tag: getattr(file, tag) for tag in tags} == tags


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_chunks_that_are_not_carried_over_are_told(tmp_path, suffix, identity):
    path, output = tmp_path / "a.wav", tmp_path / f"b{suffix}"
    plain = write(path, tags={"title": "Title"}).read_bytes()
    identity.enhance_file(path, output)
    info = chunk(b"LIST", b"INFO", chunk(b"IENG", b"Me\0\0"))
    rare = info, chunk(b"bext", bytes(602)), chunk(b"cue ")
    path.write_bytes(chunk(b"RIFF", plain[8:], *rare))
    with pytest.warns(UserWarning, match="a.wav: IENG, bext, cue of it are"):
        identity.enhance_file(path, output)
    assert sf.SoundFile(output).title == "Title"


@pytest.mark.parametrize(
    ("before", "subtype", "kept"),
    [
        *((suffix, None, ()) for suffix in (".wav", ".flac", ".ogg", ".mp3")),
        (".wav", "PCM_24", (".wav", ".FLAC")),
        (".wav", "DOUBLE", (".wav",)),
        (".wav", "FLOAT", (".wav",)),
    ],
)
@pytest.mark.parametrize("after", [".wav", ".FLAC", ".ogg", ".mp3"])
def test_any_container_to_any(tmp_path, before, subtype, kept, after, identity):
    path = write(tmp_path / f"a{before}", subtype=subtype)
    output = tmp_path / f"b{after}"
    identity.enhance_file(path, output)
    info = sf.info(output)
    assert info.frames == 3200 and info.format == after[1:].upper()
    default = sf.default_subtype(info.format)
    assert info.subtype == (subtype if after in kept else default)


def test_software_tag_does_not_grow(model, tmp_path):
    write(tmp_path / "a.flac", tags={"software": "recorder"})
    model.enhance_file(tmp_path / "a.flac", tmp_path / "b.flac")
    model.enhance_file(tmp_path / "b.flac", tmp_path / "c.flac")
    texts = [sf.SoundFile(tmp_path / f"{n}.flac").software for n in "abc"]
    assert texts[0].startswith("recorder") and len(set(texts)) == 1


def test_eight_bits_and_32_channels(model, tmp_path):
    signal = np.repeat(noisy_signal(0.1, 8000), 32, axis=1)
    signal[:, 5:] = 0
    sf.write(tmp_path / "a.wav", signal, 8000, subtype="PCM_U8")
    model.enhance_file(tmp_path / "a.wav", tmp_path / "b.wav")
    info = sf.info(tmp_path / "b.wav")
    assert (info.channels, info.subtype, info.frames) == (32, "PCM_U8", 800)
    assert not sf.read(tmp_path / "b.wav")[0][:, 5:].any()
    for suffix in (".flac", ".mp3"):
        with pytest.raises(ValueError, match="of 32 channels at 8000 Hz"):
            model.enhance_file(tmp_path / "a.wav", tmp_path / f"b{suffix}")
        assert not (tmp_path / f"b{suffix}").exists()
    sf.write(tmp_path / "c.wav", signal[:, 0], 8000, subtype="PCM_U8")
    model.enhance_file(tmp_path / "c.wav", tmp_path / "c.flac")
    assert sf.info(tmp_path / "c.flac").subtype == "PCM_S8"
