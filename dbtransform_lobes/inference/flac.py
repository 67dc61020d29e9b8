"""The checksum of a FLAC (RFC 9639): it tells of samples that are not there.

libsndfile decodes as many as the header says, and does not compare.
"""

import hashlib

import numpy as np
from mutagen import MutagenError
from mutagen.flac import FLAC

BITS = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}


class Checksum:
    """Compares the samples of an open file with its MD5, if it has one."""

    def __init__(self, path, file):
        self._bits = BITS.get(file.subtype) if file.format == "FLAC" else None
        self._heard = hashlib.md5(usedforsecurity=False)
        self._path = path

    def add(self, block):
        """Take the next samples, (n, channels), float32."""
        if self._bits is not None:
            block = np.ascontiguousarray(block * 2.0 ** (self._bits - 1))
            samples = block.astype("<i4").view(np.uint8).reshape(-1, 4)
            self._heard.update(samples[:, : self._bits // 8].tobytes())

    def is_wrong(self):
        """Whether all samples are not those that were encoded."""
        if self._bits is None:
            return False
        try:
            expected = FLAC(self._path).info.md5_signature
        except MutagenError:
            return False
        return expected not in (0, int(self._heard.hexdigest(), 16))
