"""The checksum of a FLAC (RFC 9639): it tells of samples that are not there.

libsndfile decodes as many as the header says, and does not compare.
"""

import numpy as np
from mutagen import MutagenError
from mutagen.flac import FLAC

FLAC_BITS = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}


def as_encoded(block, bits):
    """Return the bytes that samples (n, channels), float32, were made of."""
    block = np.ascontiguousarray(block * 2.0 ** (bits - 1))
    samples = block.astype("<i4").view(np.uint8).reshape(-1, 4)
    return samples[:, : bits // 8].tobytes()


def md5_of_samples(path):
    """Return the MD5 of the encoded bytes that the file tells, 0 if none."""
    try:
        return FLAC(path).info.md5_signature
    except MutagenError:
        return 0
