"""The recipe with the metric discriminator: trained, saved, resumed."""

import re

import torch

from tests.recipes.test_recipe import run_recipe
from tests.signals import voicebank_tree
from tests.training_runs import checkpoint

FLAGS = "--metric_weight=0.05 --metric_channels=2 --pesq_workers=1 "
FLAGS += "--metric_start_epoch=2 --consistency_weight=1.0 --precision=bf16"


def test_recipe_trains_and_resumes_the_discriminator(tmp_path):
    """Off in epoch 1, on in epoch 2, resumed in epoch 3, in bf16."""
    tree = voicebank_tree(tmp_path / "vb", 16000, utterances=1, seconds=1.5)
    output = tmp_path / "out"
    for last in (2, 3):
        epochs = f"--number_of_epochs={last}"
        run_recipe(tree, output, *FLAGS.split(), epochs)
        steps = checkpoint(output, "metric_optimizer")["state"][0]["step"]
        assert int(steps) == 3 * (last - 1)
        if last == 2:
            before = checkpoint(output, "discriminator")
    after = checkpoint(output, "discriminator")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    lines = (output / "train_log.txt").read_text().splitlines()
    epochs = [line for line in lines if line.startswith("epoch")]
    for epoch, line in enumerate(epochs, start=1):
        train, valid = line.split("valid", 1)
        for name in ("loss_metric", "pesq_failed"):
            assert (f"train {name}" in train) == (epoch > 1), line
        # It learns only from scores, which come when they are ready.
        scored = re.search(r"train pesq_scored: [1-9]", train) is not None
        assert ("train loss_discriminator" in train) == scored, line
        assert "metric" not in valid and "discriminator" not in valid
        assert re.search(r"train loss_consistency: \d", train)
    assert len(epochs) == 3
