"""Mix batches of noisy and clean speech on the fly, on the CPU or a GPU.

A plan says in numbers what is in a batch. It follows from the seed and the
step alone, so that a resumed run hears what it would have heard. The mixer
renders a plan from a bank of recordings with batched operations.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torchaudio.functional import resample

# Twentieths: the ratios of rates are small, and so are the filters.
SPEECH_SPEEDS = (18, 19, 20, 21, 22)
NOISE_SPEEDS = (16, 18, 20, 22, 25)
TALKERS = 6
POINTS = 8  # of a random frequency response
FADE_SECONDS = 0.01


@dataclass(frozen=True)
class MixtureSettings:
    """How mixtures are drawn; shares are probabilities.

    Arguments
    ---------
    seconds : float
        Length of a crop.
    sample_rate : int
        In Hz.
    snr_db : tuple of float
        Range of the SNR, uniform, in dB.
    clean_share, clean_snr_db : float, tuple of float
        Share of nearly clean crops and the range of their SNR.
    noise_share : float
        Share of crops without speech.
    babble, clatter : float
        Shares of these kinds of noise; recorded noise otherwise.
    second_noise : float
        Share with another recorded noise below the first.
    speech_filter, noise_filter : float
        Shares of random filters, within 6 and 10 dB. The filter of the
        speech is in the target too.
    speech_room, noise_room : float
        Shares with a room. Half of the rooms are measured ones, if the bank
        has any. The room of the speech is kept in the target.
    early_seconds : float | None
        If given, the target keeps this much of the room alone.
    band_limit : float
        Share of crops without content above 3.4 to 7 kHz.
    jump, jump_db : float, tuple of float
        Share of crops whose gain jumps once, and the range of the jump.
    """

    seconds: float = 2.0
    sample_rate: int = 16000
    snr_db: tuple = (-5.0, 20.0)
    clean_share: float = 0.12
    clean_snr_db: tuple = (25.0, 45.0)
    noise_share: float = 0.04
    babble: float = 0.2
    clatter: float = 0.15
    second_noise: float = 0.4
    speech_filter: float = 0.3
    noise_filter: float = 0.6
    speech_room: float = 0.4
    noise_room: float = 0.4
    early_seconds: float | None = None
    band_limit: float = 0.08
    jump: float = 0.2
    jump_db: tuple = (-25.0, 25.0)


class MixturePlans:
    """Draws what the batches hold.

    Arguments
    ---------
    bank : Bank
        Of ``read_bank``.
    settings : MixtureSettings
        What is drawn how often.
    batch_size : int
        Crops of a batch.
    seed : int
        The same seed and step give the same plan.
    """

    def __init__(self, bank, settings, batch_size, seed=0):
        self.bank, self.settings = bank, settings
        self.batch_size, self.seed = batch_size, seed
        self.length = int(settings.seconds * settings.sample_rate)
        self.speech_steps = np.cumsum(bank.speech.shares)
        self.noise_steps = np.cumsum(bank.noise.shares)

    def __call__(self, step):
        """Return the plan of a step, a dict of arrays (B, ...)."""
        rng, size = np.random.default_rng((self.seed, step)), self.batch_size
        s = self.settings
        plan = {**self._speech(rng), **self._noise(rng)}
        plan["snr_db"] = rng.uniform(*s.snr_db, size)
        nearly = rng.random(size) < s.clean_share
        plan["snr_db"][nearly] = rng.uniform(*s.clean_snr_db, nearly.sum())
        plan["noise_only"] = rng.random(size) < s.noise_share
        for kind, limit in (("speech", 6.0), ("noise", 10.0)):
            chosen = rng.random(size) < getattr(s, f"{kind}_filter")
            response = rng.uniform(-limit, limit, (size, POINTS))
            plan[f"{kind}_filter"] = response * chosen[:, None]
            plan[f"{kind}_room"] = self._rooms(
                rng, getattr(s, f"{kind}_room"), size
            )
        limited = rng.random(size) < s.band_limit
        plan["limit_hz"] = np.where(limited, rng.uniform(3400, 7000, size), 0)
        plan["gain_db"] = rng.uniform(-45, -18, size)
        jumps = rng.random(size) < s.jump
        plan["jump_db"] = np.where(jumps, rng.uniform(*s.jump_db, size), 0)
        plan["jump_at"] = (rng.uniform(0.2, 0.8, size) * self.length).astype(
            int
        )
        plan["seed"] = int(rng.integers(2**62))
        return plan

    def _rooms(self, rng, share, size):
        """Return (number of a measured room or -1, decay or 0, tail level)."""
        chosen, count = rng.random(size) < share, len(self.bank.rooms)
        measured = chosen & (rng.random(size) < 0.5) & (count > 0)
        number = np.where(measured, rng.integers(max(count, 1), size=size), -1)
        simulated = chosen & ~measured
        decay = np.where(simulated, rng.uniform(0.15, 0.8, size), 0)
        return number, decay, rng.uniform(0.2, 1.0, size)

    def _draw(self, rng, steps, size):
        found = np.searchsorted(steps, rng.random(size))
        return np.minimum(found, len(steps) - 1)

    def _speech(self, rng):
        """Two utterances of a speaker, the second after a pause."""
        index, size = self.bank.speech, self.batch_size
        speed = SPEECH_SPEEDS[rng.integers(len(SPEECH_SPEEDS))]
        length = -(-self.length * speed // 20) + 40
        first = self._draw(rng, self.speech_steps, size)
        second = np.array(
            [rng.choice(index.groups[index.owners[item]]) for item in first]
        )
        # Where an utterance does not fill the crop or is cut, another follows.
        span = np.minimum(index.lengths[first], length)
        cut = rng.random(size) < 0.4
        span = np.where(
            cut, np.minimum(span, rng.uniform(0.3, 0.7, size) * length), span
        )
        pause = rng.uniform(0.05, 0.4, size) * self.settings.sample_rate
        lead = rng.uniform(0, 0.3, size) * self.settings.sample_rate
        lead = np.where(index.lengths[first] < length, lead, 0)
        items = np.stack((first, second), 1)
        begins = np.stack((lead, lead + span + pause), 1).astype(int)
        spans = np.stack((span, np.maximum(length - begins[:, 1], 0)), 1)
        spans = np.minimum(spans.astype(int), index.lengths[items])
        offsets = rng.random((size, 2)) * (index.lengths[items] - spans + 1)
        return {
            "speech": items,
            "speech_speed": speed,
            "speech_length": length,
            "speech_begins": begins,
            "speech_spans": spans,
            "speech_offsets": offsets.astype(int),
        }

    def _noise(self, rng):
        """Two recorded noises, or talkers, or one recording as clatter."""
        size, s = self.batch_size, self.settings
        speed = NOISE_SPEEDS[rng.integers(len(NOISE_SPEEDS))]
        kind = rng.random(size)
        second = 10 ** (rng.uniform(-15, 0, size) / 20)
        second *= rng.random(size) < s.second_noise
        talkers = self._draw(rng, self.speech_steps, (size, TALKERS))
        strikes = np.exp(rng.uniform(np.log(1), np.log(10), size))
        return {
            "noise": self._draw(rng, self.noise_steps, (size, 2)),
            "noise_offsets": rng.random((size, 2)),
            "second_noise": second,
            "noise_speed": speed,
            "noise_length": -(-self.length * speed // 20) + 40,
            "is_babble": kind < s.babble,
            "is_clatter": (kind >= s.babble) & (kind < s.babble + s.clatter),
            "talkers": talkers,
            "talker_offsets": rng.random((size, TALKERS)),
            "talker_db": rng.uniform(-6, 0, (size, TALKERS)),
            "strikes": strikes * s.seconds,
        }


class BatchMixer:
    """Renders plans.

    Arguments
    ---------
    bank : Bank
        On the device that is to mix.
    settings : MixtureSettings
        Those of the plans.

    Example
    -------
    >>> from dbtransform_lobes.data.bank import Bank, Index
    >>> owners = np.arange(2)
    >>> index = Index(
    ...     starts=np.array([0, 40000]),
    ...     lengths=np.array([40000, 40000]),
    ...     gains=np.full(2, 1e-4),
    ...     groups=[np.array([0]), np.array([1])],
    ...     owners=owners,
    ...     shares=np.full(2, 0.5),
    ... )
    >>> samples = torch.randint(-9999, 9999, (80000,), dtype=torch.int16)
    >>> bank = Bank(samples, index, index, torch.zeros(0, 8000))
    >>> settings = MixtureSettings(seconds=1.0)
    >>> plans = MixturePlans(bank, settings, batch_size=3)
    >>> noisy, clean = BatchMixer(bank, settings)(plans(0))
    >>> noisy.shape, clean.shape
    (torch.Size([3, 16000]), torch.Size([3, 16000]))
    """

    def __init__(self, bank, settings):
        self.bank, self.settings = bank, settings
        self.device = bank.samples.device
        self.length = int(settings.seconds * settings.sample_rate)
        self.room_length = settings.sample_rate // 2

    def __call__(self, plan):
        """Return noisy and clean waveforms, both (B, L)."""
        generator = torch.Generator(self.device).manual_seed(plan["seed"])
        speech = self._speed(self._speech(plan), plan["speech_speed"])
        noise = self._noise(plan, generator)
        target, speech = self._through(speech, "speech", plan, generator)
        _, noise = self._through(noise, "noise", plan, generator)
        return self._sum(target, speech, noise, plan)

    def _tensor(self, values, dtype=torch.float32):
        return torch.as_tensor(values).to(self.device, dtype)

    def _cut(self, first, last, start):
        """Gather samples start, ..., zero outside [first, last)."""
        first, last = (
            self._tensor(first, torch.long),
            self._tensor(last, torch.long),
        )
        place = self._tensor(start, torch.long)[..., None] + self._time
        inside = (place >= first[..., None]) & (place < last[..., None])
        place = place.clamp_(0, len(self.bank.samples) - 1)
        return self.bank.samples[place].float() * inside

    def _speech(self, plan):
        """Cut the utterances, fade their ends and join them, (B, N)."""
        index, items = self.bank.speech, plan["speech"]
        self._time = torch.arange(plan["speech_length"], device=self.device)
        first = index.starts[items] + plan["speech_offsets"]
        start = first - plan["speech_begins"]
        pieces = self._cut(first, first + plan["speech_spans"], start)
        begins = self._tensor(plan["speech_begins"])[..., None]
        ends = begins + self._tensor(plan["speech_spans"])[..., None]
        fade = FADE_SECONDS * self.settings.sample_rate
        edge = torch.minimum(self._time - begins + 1, ends - self._time)
        ramp = (edge / fade).clamp(0, 1)
        gains = self._tensor(index.gains[items])[..., None]
        return (pieces * gains * ramp).sum(1)

    def _loop(self, index, items, offsets, length):
        """Cut recordings that start anew at their end, (..., N)."""
        time = torch.arange(length, device=self.device)
        lengths = self._tensor(index.lengths[items], torch.long)[..., None]
        offset = self._tensor(offsets * index.lengths[items], torch.long)
        place = (offset[..., None] + time) % lengths
        place += self._tensor(index.starts[items], torch.long)[..., None]
        gains = self._tensor(index.gains[items])[..., None]
        return self.bank.samples[place].float() * gains

    def _noise(self, plan, generator):
        length = plan["noise_length"]
        parts = self._loop(
            self.bank.noise, plan["noise"], plan["noise_offsets"], length
        )
        first, second = parts.unbind(1)
        clatter = plan["is_clatter"].nonzero()[0]
        if len(clatter):
            first[clatter] = self._clatter(
                first[clatter], plan["strikes"][clatter], generator
            )
        babble = plan["is_babble"].nonzero()[0]
        if len(babble):
            first[babble] = self._babble(plan, babble, length)
        noise = _unit(first)
        noise += self._tensor(plan["second_noise"])[:, None] * _unit(second)
        return self._speed(noise, plan["noise_speed"])

    def _babble(self, plan, rows, length):
        """Sum other talkers than the one of the crop."""
        index, items = self.bank.speech, plan["talkers"][rows]
        voices = self._loop(index, items, plan["talker_offsets"][rows], length)
        speaker = index.owners[plan["speech"][rows, 0]]
        other = index.owners[items] != speaker[:, None]
        gains = 10 ** (plan["talker_db"][rows] / 20) * other
        return (voices * self._tensor(gains)[..., None]).sum(1)

    def _clatter(self, noise, strikes, generator):
        """Let fragments of noise strike objects that ring."""
        size, length = noise.shape
        rate = self.settings.sample_rate

        def rand(*shape):
            """Draw uniform numbers on the device."""
            return torch.rand(*shape, generator=generator, device=self.device)

        time = torch.arange(rate // 5, device=self.device) / rate
        decay = torch.exp(-time / (0.002 + 0.04 * rand(size, 1)))
        fragment = noise[:, : len(time)] * decay
        modes = torch.exp(6.2 + 2.6 * rand(size, 4, 1))  # 0.5 to 6.7 kHz
        fall = torch.exp(-6.9 * time / (0.03 + 0.3 * rand(size, 4, 1)))
        ring = (rand(size, 4, 1) * fall * torch.sin(6.283 * modes * time)).sum(
            1
        )
        ring[:, 0] += 1
        hits = rand(size, length) < self._tensor(strikes / length)[:, None]
        hits = hits * 10 ** (-rand(size, length))
        hits[:, length // 3] += 1
        return _convolve(hits, fragment, ring)

    def _speed(self, signal, speed):
        """Play at speed / 20 with a windowed sinc; pitch moves along."""
        if speed != 20:
            signal = resample(signal, speed, 20, lowpass_filter_width=24)
        return signal[:, : self.length]

    def _through(self, signal, kind, plan, generator):
        """Filter, and add a room; returns the target and the signal."""
        length, s = self.length, self.settings
        n_fft = 1 << (length + self.room_length - 1).bit_length()
        spectrum = torch.fft.rfft(signal, n_fft)
        response = self._response(plan[f"{kind}_filter"], spectrum.shape[-1])
        spectrum = spectrum * response
        room = self._room(plan[f"{kind}_room"], generator)
        wet = torch.fft.irfft(spectrum * torch.fft.rfft(room, n_fft), n_fft)
        wet = wet[:, :length]
        if kind == "noise" or s.early_seconds is None:
            return wet, wet
        room[:, int(s.early_seconds * s.sample_rate) :] = 0
        early = torch.fft.irfft(spectrum * torch.fft.rfft(room, n_fft), n_fft)
        return early[:, :length], wet

    def _response(self, points_db, bins):
        """Smooth responses through points on a logarithmic axis, (B, bins)."""
        nyquist = self.settings.sample_rate / 2
        hertz = np.linspace(0, nyquist, bins).clip(50)
        place = np.log(hertz / 50) / np.log(nyquist / 50) * (POINTS - 1)
        left = np.minimum(place.astype(int), POINTS - 2)
        share = self._tensor(place - left)
        points = self._tensor(points_db)
        left = self._tensor(left, torch.long)
        decibels = torch.lerp(points[:, left], points[:, left + 1], share)
        return 10 ** (decibels / 20)

    def _room(self, room, generator):
        """Impulse responses (B, half a second); a unit pulse for none."""
        number, decay, level = (self._tensor(x) for x in room)
        time = torch.arange(self.room_length, device=self.device)
        time = time / self.settings.sample_rate
        shape = len(number), self.room_length
        tail = torch.randn(shape, generator=generator, device=self.device)
        tail *= torch.exp(-6.9 * time / decay.clamp_min(1e-3)[:, None])
        tail *= (level / tail.norm(dim=-1).clamp_min(1e-6))[:, None]
        out = tail * (decay > 0)[:, None]
        out[:, 0] += 1
        measured = (number >= 0).nonzero().flatten()
        if len(measured):
            rooms = self.bank.rooms[number[measured].long()]
            out[measured] = rooms[:, : self.room_length]
        return out

    def _sum(self, target, speech, noise, plan):
        """Set SNR, band and level."""
        snr_db, silent = self._tensor(plan["snr_db"]), plan["noise_only"]
        level = _active_rms(speech)
        gain = level / _rms(noise).clamp_min(1e-6) * 10 ** (-snr_db / 20)
        quiet = self._tensor(silent, torch.bool)
        gain = torch.where(quiet, 1 / _rms(noise).clamp_min(1e-6), gain)
        keep = (~quiet).float()[:, None]
        clean = target * keep
        noisy = speech * keep + noise * gain[:, None]
        both = torch.stack((noisy, clean))  # (2, B, L)
        limited = (plan["limit_hz"] > 0).nonzero()[0]
        if len(limited):
            both[:, limited] = self._low_pass(
                both[:, limited], plan["limit_hz"][limited]
            )
        power = _rms(both[0]).clamp_min(1e-6)
        both = both * (self._gain(plan) / power[:, None])
        # As a recorder does: noisy and clean are never above full scale.
        peak = both.abs().amax((0, 2)).clamp_min(1.0)
        return (both / peak[:, None]).unbind()

    def _gain(self, plan):
        """Gain with one jump over 50 ms, (B, L)."""
        time = torch.arange(self.length, device=self.device)
        after = time - self._tensor(plan["jump_at"])[:, None]
        after = (after / (0.05 * self.settings.sample_rate)).clamp(0, 1)
        decibels = self._tensor(plan["gain_db"])[:, None]
        decibels = decibels + self._tensor(plan["jump_db"])[:, None] * after
        return 10 ** (decibels / 20)

    def _low_pass(self, both, limit_hz):
        spectrum = torch.fft.rfft(both)
        hertz = torch.linspace(
            0, self.settings.sample_rate / 2, spectrum.shape[-1]
        ).to(self.device)
        edge = self._tensor(limit_hz)[:, None]
        response = ((edge * 1.05 - hertz) / (0.05 * edge)).clamp(0, 1)
        return torch.fft.irfft(spectrum * response, both.shape[-1])


def _rms(signal):
    return signal.square().mean(-1).sqrt()


def _unit(signal):
    return signal / _rms(signal).clamp_min(1e-6)[..., None]


def _active_rms(signal, frame=320):
    """RMS of the frames within 30 dB of the loudest, as ``active_level``."""
    pad = -signal.shape[-1] % frame
    power = F.pad(signal, (0, pad)).unflatten(-1, (-1, frame))
    power = power.square().mean(-1)  # (B, frames)
    active = power > 1e-3 * power.amax(-1, keepdim=True)
    return ((power * active).sum(-1) / active.sum(-1).clamp_min(1)).sqrt()


def _convolve(signal, *kernels):
    length = signal.shape[-1]
    size = length + sum(kernel.shape[-1] for kernel in kernels)
    n_fft = 1 << size.bit_length()
    product = torch.fft.rfft(signal, n_fft)
    for kernel in kernels:
        product = product * torch.fft.rfft(kernel, n_fft)
    return torch.fft.irfft(product, n_fft)[:, :length]
