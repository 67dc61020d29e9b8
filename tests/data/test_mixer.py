"""Mixing on the fly: what is in a batch, and that targets are sound."""

import csv

import numpy as np
import pytest
import torch

from dbtransform_lobes.data.audio import write_audio
from dbtransform_lobes.data.bank import active_level, read_bank
from dbtransform_lobes.data.mixer import (
    BatchMixer,
    MixturePlans,
    MixtureSettings,
)

RATE = 16000
PLAIN = {
    "clean_share": 0,
    "noise_share": 0,
    "babble": 0,
    "clatter": 0,
    "second_noise": 0,
    "speech_filter": 0,
    "noise_filter": 0,
    "speech_room": 0,
    "noise_room": 0,
    "band_limit": 0,
    "jump": 0,
}


def tone(hertz, seconds=3.0, level=0.1):
    time = np.arange(int(seconds * RATE)) / RATE
    return level * np.sin(2 * np.pi * hertz * time)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Five talkers, each a tone of its own; two noises; one room."""
    folder = tmp_path_factory.mktemp("recordings")
    rng, rows = np.random.default_rng(0), []

    def add(name, kind, speaker, signal, source=""):
        write_audio(folder / f"{name}.wav", signal, RATE)
        row = {"path": f"{name}.wav", "kind": kind, "speaker": speaker}
        rows.append({**row, "split": "train", "source": source})

    for k in range(5):
        for take in range(2):
            hertz = 200 * 2**k  # apart at any speed
            add(f"s{k}{take}", "speech", f"t{k}", tone(hertz), f"c{k}")
    for k in range(2):
        add(f"n{k}", "noise", f"n{k}", 0.1 * rng.standard_normal(RATE))
    room = np.zeros(RATE)
    room[[100, 900]] = 0.8, 0.4
    add("room", "rir", "r", room)
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def bank(collection):
    return read_bank([collection])


def batches(bank, size=8, steps=3, **changes):
    settings = MixtureSettings(**{**PLAIN, **changes})
    plans = MixturePlans(bank, settings, size, seed=1)
    mixer = BatchMixer(bank, settings)
    return [(plan, *mixer(plan)) for plan in map(plans, range(steps))]


def peak_hertz(signal):
    return torch.fft.rfft(signal).abs().argmax(-1) * RATE / signal.shape[-1]


def test_active_level_leaves_pauses_out():
    speech = np.concatenate((tone(300), np.zeros(5 * RATE)))
    assert active_level(speech) == pytest.approx(0.1 / 2**0.5, rel=1e-3)
    assert active_level(np.zeros(100)) == 0


def test_a_bank_holds_all_recordings_and_aligned_rooms(bank):
    assert len(bank.samples) == 10 * 3 * RATE + 2 * RATE
    assert len(bank.speech.starts) == 10 and len(bank.speech.groups) == 5
    assert bank.rooms.shape == (1, RATE // 2)
    assert bank.rooms[0, 0] == pytest.approx(2 * float(bank.rooms[0, 800]))
    assert float(bank.rooms.square().sum()) == pytest.approx(1)


def test_weights_of_sources_change_how_often_they_are_drawn(collection):
    shares = read_bank([collection], {"c0": 4.0}).speech.shares
    owners = read_bank([collection]).speech.owners
    assert shares[owners == 0].sum() == pytest.approx(4 / 8)
    with pytest.raises(ValueError, match="cX"):
        read_bank([collection], {"cX": 1.0})


def test_the_same_seed_and_step_give_the_same_batch(bank):
    first, second = batches(bank, babble=0.3), batches(bank, babble=0.3)
    for (_, *one), (_, *other) in zip(first, second, strict=True):
        assert all(map(torch.equal, one, other))
    assert not torch.equal(first[0][1], first[1][1])


def test_the_snr_is_that_of_the_plan(bank):
    for plan, noisy, clean in batches(bank, seconds=1.0):
        level = torch.tensor([active_level(c) for c in clean.numpy()])
        noise = (noisy - clean).square().mean(-1).sqrt()
        snr_db = 20 * torch.log10(level / noise)
        assert np.allclose(snr_db, plan["snr_db"], atol=0.5)


@pytest.mark.parametrize("seconds", [0.7, 2.0])
def test_targets_are_pure_tones_faded_at_their_ends(bank, seconds):
    """No click at a joint and no alias of a change of speed."""
    for _, _, clean in batches(bank, seconds=seconds):
        window = torch.hann_window(512)
        spec = torch.stft(clean, 512, 128, window=window, return_complex=True)
        power = spec.abs().square()
        top = power.sum(-1).argmax(-1)
        near = (torch.arange(257) - top[:, None]).abs() <= 12
        outside = (power * ~near[..., None]).sum((1, 2))
        assert (outside < 1e-3 * power.sum((1, 2))).all()


def test_both_utterances_are_of_one_speaker_and_babble_of_others(bank):
    for plan, noisy, clean in batches(bank, babble=1.0, size=16):
        owners = bank.speech.owners[plan["speech"]]
        assert (owners[:, 0] == owners[:, 1]).all()
        spectrum = torch.fft.rfft(noisy - clean).abs()
        place = (peak_hertz(clean) * 2).long()  # two seconds
        for row, centre in zip(spectrum, place, strict=True):
            own = row[centre - 8 : centre + 9].max()
            assert own < 0.05 * row.max()


def test_noise_alone_has_a_silent_target(bank):
    for _, noisy, clean in batches(bank, noise_share=1.0):
        assert (clean == 0).all() and (noisy.abs().amax(-1) > 0).all()


def test_rooms_are_kept_in_the_target_unless_early(bank):
    (plan, _, wet), (_, _, early) = (
        batches(bank, speech_room=1.0, steps=1, early_seconds=s)[0]
        for s in (None, 0.0)
    )
    assert not torch.allclose(wet, early, atol=1e-3)
    assert (plan["speech_room"][0] >= 0).any()


def test_band_limits_hold_for_noisy_and_clean(bank):
    for plan, *signals in batches(bank, band_limit=1.0):
        for signal in signals:
            spectrum = torch.fft.rfft(signal).abs().square()
            hertz = torch.arange(spectrum.shape[-1]) / 2
            limit = torch.tensor(plan["limit_hz"])[:, None]
            above = (spectrum * (hertz > 1.06 * limit)).sum(-1)
            assert (above < 1e-6 * spectrum.sum(-1)).all()


def test_levels_jump_by_the_planned_gain(bank):
    jumps = {"jump": 1.0, "jump_db": (20.0, 20.0), "snr_db": (40.0, 40.0)}
    for plan, noisy, _ in batches(bank, **jumps):
        for row, at in zip(noisy, plan["jump_at"], strict=True):
            before = active_level(row[:at].numpy())
            after = active_level(row[at + 1000 :].numpy())
            assert 20 * np.log10(after / before) == pytest.approx(20, abs=2)
        assert (noisy.abs().amax(-1) <= 1).all()


def test_everything_at_once_is_finite(bank):
    for _, noisy, clean in batches(
        bank,
        size=32,
        **{
            name: 0.5
            for name in PLAIN
            if name not in ("babble", "clatter", "noise_share")
        },
        babble=0.3,
        clatter=0.3,
        noise_share=0.1,
    ):
        assert noisy.isfinite().all() and clean.isfinite().all()
        assert noisy.abs().max() <= 1
