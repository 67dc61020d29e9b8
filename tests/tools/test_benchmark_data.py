"""The benchmark of data loading runs and counts what it says."""

import numpy as np

from benchmark_data import loading_speed
from command import run_tool
from tests.signals import noise_like, speech_like, write_wav


class Counted:
    """Silence; remembers how much of it was made."""

    made = 0

    def __len__(self):
        return 5

    def order(self, rng):
        return range(5)

    def draw(self, index, length, rng):
        self.made += length
        return "silence", np.zeros(length), np.zeros(length)


def test_all_batches_are_made():
    source = Counted()
    speed = loading_speed(source, 0, batches=3, batch_size=2, crop_seconds=0.5)
    assert speed > 0 and source.made == (2 + 3) * 2 * 8000


def test_command_prints_every_case(tmp_path, capsys):
    write_wav(tmp_path / "speech/train/a/1.wav", speech_like(2.5))
    write_wav(tmp_path / "noise/train/b/1.wav", noise_like(2.5))
    command = [str(tmp_path), "--batches", "1"]
    assert run_tool("benchmark_data", [*command, "--workers", "0", "1"]) == 0
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in words[2:]] == [
        [name, workers]
        for name in ("plain", "augmented", "degraded")
        for workers in ("0", "1")
    ]
    assert all(int(number) > 0 for line in words[2:] for number in line[2:])
    assert run_tool("benchmark_data", [*command, "--workers", "-1"]) == 1
