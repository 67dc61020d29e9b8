"""Training crops of speech in rooms, in noise, through poor channels."""

import numpy as np

from dbtransform_lobes.data.audio import read_audio
from dbtransform_lobes.data.degrade import (
    CODECS,
    clip_peaks,
    limit_band,
    reverberate,
    transcode,
)
from dbtransform_lobes.data.mixing import rms, scale_noise_to_snr
from dbtransform_lobes.data.recordings import read_recordings
from dbtransform_lobes.data.sources import Recordings


class DegradedRecordings:
    """Recordings mixed on the fly, with all that a call does to them.

    Speech and noise come from ``Recordings``. Then, in this order: the
    speech goes into a room (the target keeps the early reflections), noise
    is added at an SNR that counts the reverberation as speech, a band limit
    (on the target as well: a filter of the mixture cannot bring back what is
    not there), a codec and clipping (not on the target).

    The SNR is set here; ``snr_db`` of the crops is to be null, so that they
    keep it.

    Arguments
    ---------
    recordings : str
        A manifest, shards or a folder, see ``read_recordings``; with kind
        "rir" for the rooms.
    snr_db : tuple of float
        Range of the SNR, in dB.
    reverberation, band_limit, codec, clipping : float
        Probabilities.
    early_ms : float | None
        See ``reverberate``.
    sample_rate : int
        In Hz.
    **options
        Of ``Recordings``: split, sources, babble, second_noise, ...

    Raises
    ------
    ValueError
        If reverberation is wanted and there are no impulse responses.
    """

    def __init__(
        self,
        recordings,
        snr_db=(-5.0, 20.0),
        reverberation=0.5,
        early_ms=50.0,
        band_limit=0.1,
        codec=0.1,
        clipping=0.1,
        sample_rate=16000,
        **options,
    ):
        self.dry = Recordings(recordings, sample_rate=sample_rate, **options)
        self.snr_db, self.early_ms = snr_db, early_ms
        self.reverberation, self.band_limit = reverberation, band_limit
        self.codec, self.clipping = codec, clipping
        self.sample_rate = sample_rate
        self.rooms = []
        if reverberation:
            self.rooms = read_recordings(recordings, split="train", kind="rir")

    def __len__(self):
        return len(self.dry)

    def order(self, rng):
        """Order of one pass over the speech, see ``Recordings.order``."""
        return self.dry.order(rng)

    def draw(self, index, length, rng):
        """Return (name, target (length,), all the rest (length,))."""
        name, speech, noise = self.dry.draw(index, length, rng)
        target = speech
        if rng.random() < self.reverberation:
            room = self.rooms[rng.integers(len(self.rooms))]
            rir = read_audio(room.path, sample_rate=self.sample_rate)
            speech, target = reverberate(
                speech, rir, self.early_ms, self.sample_rate
            )
        snr = rng.uniform(*self.snr_db)
        if rms(speech) > 0 and rms(noise) > 0:
            noise = scale_noise_to_snr(speech, noise, snr)
        noisy, target = self._channel(speech + noise, target, rng)
        return name, target, noisy - target

    def _channel(self, noisy, target, rng):
        if rms(noisy) == 0:
            return noisy, target
        rate = self.sample_rate
        if rng.random() < self.band_limit:
            low = rng.choice([0.0, rng.uniform(50, 300)])
            high = rng.uniform(0.2, 0.45) * rate
            noisy = limit_band(noisy, low, high, rate)
            target = limit_band(target, low, high, rate)
        if rng.random() < self.codec:
            codec = CODECS[rng.integers(len(CODECS))]
            noisy = transcode(noisy, codec, rng.uniform(0.4, 0.95), rate)
        if rng.random() < self.clipping:
            noisy = clip_peaks(noisy, np.exp(rng.uniform(np.log(0.1), 0.0)))
        return noisy, target
