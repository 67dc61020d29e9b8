"""Audio files in blocks: samples, sample format and tags."""

import hashlib
import os
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import soundfile as sf

from dbtransform_lobes.data.audio import (
    AUDIO_SUFFIXES,
    check_finite,
    for_soundfile,
    open_audio,
)
from dbtransform_lobes.data.files import check_parent, replacing
from dbtransform_lobes.data.headers import (
    check_single,
    flac_checksum,
    flac_samples,
    lacks_end,
    promised_frames,
    wav_fault,
)
from dbtransform_lobes.inference.mpeg import piped, true_length
from dbtransform_lobes.inference.tags import TAGS, copy_tags

# Containers of a suffix; the first one is written unless the input has
# another of them.
CONTAINERS = {
    ".wav": ("WAV", "WAVEX", "RF64", "W64"),
    ".flac": ("FLAC",),
    ".ogg": ("OGG",),
    ".mp3": ("MP3",),
}
PLAIN = ("PCM", "FLOAT", "DOUBLE")
CODECS = ("ULAW", "ALAW", "VORBIS", "OPUS")
FLAC_BITS = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}
# A WAV file holds less than 4 GiB, RF64 (EBU Tech 3306) is the same with more.
WAV_BYTES = 2**32 - 2**16
SAMPLE_BYTES = {"PCM_U8": 1, "PCM_S8": 1, "PCM_16": 2, "PCM_24": 3, "DOUBLE": 8}
# Long single writes crash libsndfile's Vorbis encoder; and a header may
# promise more than there is memory for.
SAMPLES_AT_ONCE = 65536


class AudioInput:
    """A file to enhance; ValueError if it cannot be.

    It has a ``sample_rate`` in Hz, ``channels``, the ``frames`` that it
    promises, ``container`` and ``subtype`` by soundfile's names, such as WAV
    and PCM_16, and a dict of ``tags``.
    """

    def __init__(self, path):
        _check_path(path)
        self.path, self._begin = path, None
        with open_audio(path) as file:
            tags = {tag: getattr(file, tag) for tag in TAGS}
        self.tags = {tag: text for tag, text in tags.items() if text}
        self.sample_rate, self.channels = file.samplerate, file.channels
        self.container, self.subtype = file.format, file.subtype
        if fault := wav_fault(path):
            raise ValueError(f"{path}: {fault}")
        check_single(path, file.format)
        length = file.frames
        if file.format == "MP3" or file.subtype.startswith("MPEG_LAYER"):
            length, self._begin = true_length(path, length)
        promised = promised_frames(path, length, file.format)
        if promised is None:
            self._warn(
                f"its length is not known ({file.format}), so it cannot be "
                "told whether all of it was there and read"
            )
        self.frames = promised or length

    def _warn(self, text):
        warnings.warn(f"{self.path}: {text}", stacklevel=3)

    def blocks(self):
        """Yield what can be read as samples (L, channels), float32."""
        length, encoded = 0, hashlib.md5(usedforsecurity=False)
        with self._open() as file:
            bits = FLAC_BITS.get(file.subtype) if file.format == "FLAC" else 0
            size = max(1, SAMPLES_AT_ONCE // file.channels)
            while len(block := file.read(size, "float32", always_2d=True)):
                check_finite(self.path, block)
                if bits:
                    encoded.update(flac_samples(block, bits))
                length += len(block)
                yield block
        if not length:
            raise ValueError(
                f"{self.path}: no samples can be read, the file is cut off or "
                "damaged; get it again"
            )
        digest = int(encoded.hexdigest(), 16)
        if bits and flac_checksum(self.path) not in (0, digest):
            self._warn(
                "its samples are not those that were encoded, by their "
                "checksum: some are missing or damaged; get it again"
            )
        if length < self.frames:
            missing = f"of the {self.frames} samples that its header says"
        elif lacks_end(self.path):
            missing = "samples without a last page"
        else:
            return
        self._warn(f"ends after {length} {missing}; taken as far as it goes")

    @contextmanager
    def _open(self):
        """Open the file; what goes wrong while it is read is named."""
        pipe = nullcontext(for_soundfile(self.path))
        if self._begin is not None:  # the header of an MP3 would end it early
            pipe = piped(self.path, self._begin)
        try:
            with pipe as source, sf.SoundFile(source, closefd=False) as file:
                yield file
        except RuntimeError as error:
            raise ValueError(
                f"{self.path}: reading failed ({_reason(error)}), the file is "
                "cut off or damaged; get it again"
            ) from error


def _check_path(path):
    if not isinstance(path, str | os.PathLike):
        raise ValueError(
            f"a file is given as {type(path).__name__}, expected its path as "
            "str or pathlib.Path"
        )


def check_output(path, output):
    """Refuse an output that cannot be written, or would replace the input."""
    for each in (path, output):
        _check_path(each)
    output = Path(output)
    if output.suffix.lower() not in AUDIO_SUFFIXES:
        raise ValueError(
            f"{output}: the suffix is {output.suffix!r}, expected one of "
            f"{', '.join(AUDIO_SUFFIXES)}"
        )
    check_parent(output)
    if output.is_dir():
        raise ValueError(f"{output}: is a folder, expected a file to write")
    if output.exists() and os.path.samefile(path, output):
        raise ValueError(f"{output}: the output is the input; give another")


def write_blocks(path, blocks, source):
    """Write a file of blocks (L, channels), whole or not at all.

    The suffix gives the container; the sample format is that of ``source``, an
    AudioInput, if the container has it, and so are the tags. Samples beyond
    full scale are clipped but in floating-point formats.
    """
    path = Path(path)
    containers = CONTAINERS[path.suffix.lower()]
    known = source.container in containers
    container = source.container if known else containers[0]
    subtype = _subtype(container, source)
    plain = source.subtype.startswith(PLAIN)
    if known and not plain and subtype != source.subtype:
        warnings.warn(
            f"{path}: {source.subtype} of the input cannot be written to the "
            f"sample, so this is {subtype}",
            stacklevel=2,
        )
    size = source.frames * source.channels * SAMPLE_BYTES.get(subtype, 4)
    if container in ("WAV", "WAVEX") and size >= WAV_BYTES:
        container = "RF64"
    try:
        with replacing(path) as temporary:
            temporary.touch()  # its error says more than libsndfile's
            frames = _encode(temporary, blocks, source, container, subtype)
            copy_tags(source.path, temporary, container, source.tags)
            written = sf.info(for_soundfile(temporary)).frames
            if written != frames:  # a full disk cuts off without an error
                raise OSError(f"{written} of {frames} samples were written")
    except (sf.LibsndfileError, OSError) as error:
        raise ValueError(
            f"{path}: writing failed ({_reason(error)}): {container} {subtype} "
            f"of {source.channels} channels at {source.sample_rate} Hz; "
            "check the folder, the room on the disk, and whether the format "
            "can hold this"
        ) from error


def _encode(path, blocks, source, container, subtype):
    layout = (source.sample_rate, source.channels, subtype)
    tags = {} if container == "MP3" else source.tags
    frames = 0
    name = for_soundfile(path)
    with sf.SoundFile(name, "w", *layout, format=container) as file:
        for tag, text in tags.items():
            setattr(file, tag, text)
        size = max(1, SAMPLES_AT_ONCE // file.channels)
        for block in blocks:
            frames += len(block)
            if subtype not in ("FLOAT", "DOUBLE"):
                block = block.clip(-1, 1)  # LAME aborts far beyond
            for start in range(0, len(block), size):
                file.write(block[start : start + size])
    return frames


def _subtype(container, source):
    """The sample format itself, or the nearest that the container has."""
    eight_bits = {"PCM_U8": "PCM_S8", "PCM_S8": "PCM_U8"}
    plain = source.subtype.startswith(PLAIN)
    # Others, such as ADPCM, come in blocks: samples would be added. MP3 has
    # one sample format, and libsndfile writes it nowhere else.
    kept = plain or source.subtype in CODECS and container == source.container
    for subtype in (source.subtype, eight_bits.get(source.subtype)):
        if kept and sf.check_format(container, subtype or "no"):
            return subtype
    return sf.default_subtype(container)


def _reason(error):
    reason = getattr(error, "error_string", str(error))
    return reason.strip().rstrip(".:") or type(error).__name__
