#!/usr/bin/env python3
"""Train DB-Transform on VoiceBank-DEMAND or on data of that layout.

usage: python train.py hparams/db_transform.yaml --data_folder=DIR
"""

import sys

import speechbrain as sb
from speechbrain.utils.distributed import ddp_init_group, run_on_main
from voicebank_prepare import prepare_voicebank, prepared_root

from dbtransform_lobes.training.brain import EnhanceBrain
from dbtransform_lobes.training.pretrained import load_pretrained
from dbtransform_lobes.training.recipe import (
    load_recipe,
    save_versions,
    training_loader,
    whole_files,
)

if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    ddp_init_group(run_opts)
    hparams, hparams_file, overrides = load_recipe(hparams_file, overrides)
    sb.create_experiment_directory(
        hparams["output_folder"], hparams_file, overrides
    )
    run_on_main(save_versions, args=[hparams["output_folder"]])
    run_on_main(
        prepare_voicebank,
        kwargs={
            "data_folder": hparams["data_folder"],
            "save_folder": hparams["save_folder"],
            "train_json": hparams["train_json"],
            "valid_json": hparams["valid_json"],
            "test_json": hparams["test_json"],
            "valid_speakers": hparams["valid_speakers"],
            "sample_rate": hparams["sample_rate"],
            "skip_prep": hparams["skip_prep"],
        },
    )
    root = prepared_root(hparams["save_folder"], hparams["data_folder"])
    rate = hparams["sample_rate"]
    load_pretrained(hparams)
    brain = EnhanceBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    train_loader = training_loader(
        hparams, root, brain.grad_accumulation_factor
    )
    valid_data = whole_files(
        hparams["valid_json"],
        root,
        rate,
        hparams["valid_files"],
        hparams["seed"],
    )
    test_data = whole_files(hparams["test_json"], root, rate)

    brain.train_sampler = train_loader.sampler
    brain.fit(
        hparams["epoch_counter"],
        train_loader,
        valid_data,
        valid_loader_kwargs=hparams["valid_loader"],
    )
    brain.evaluate(
        test_data, max_key="pesq", test_loader_kwargs=hparams["valid_loader"]
    )
