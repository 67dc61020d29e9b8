#!/usr/bin/env python3
"""Train DB-Transform on VoiceBank-DEMAND or on data of that layout.

usage: python train.py hparams/db_transform.yaml --data_folder=DIR
"""

import sys

import speechbrain as sb
from speechbrain.utils.distributed import ddp_init_group, run_on_main
from voicebank_prepare import prepare_voicebank, prepared_root

from dbtransform_lobes.training.recipe import (
    begin_run,
    train_model,
    whole_files,
)

if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    ddp_init_group(run_opts)
    hparams = begin_run(hparams_file, run_opts, overrides)
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
    brain = train_model(hparams, run_opts, root)
    test_data = whole_files(hparams["test_json"], root, hparams["sample_rate"])
    brain.evaluate(
        test_data, max_key="pesq", test_loader_kwargs=hparams["valid_loader"]
    )
