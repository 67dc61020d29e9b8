#!/usr/bin/env python3
"""Train DB-Transform on TIMIT in noise.

usage: python train.py hparams/db_transform_timit.yaml --data_folder=TIMIT
    --noise_folder=DIR --test_noises=[babble,factory1]
"""

import sys

import speechbrain as sb
from speechbrain.utils.distributed import ddp_init_group, run_on_main
from timit_prepare import prepare_timit

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
        prepare_timit,
        kwargs={
            "data_folder": hparams["data_folder"],
            "noise_folder": hparams["noise_folder"],
            "save_folder": hparams["save_folder"],
            "test_noises": hparams["test_noises"],
            "test_set": hparams["test_set"],
            "snrs": hparams["snrs"],
            "test_mixtures": hparams["test_mixtures"],
            "valid_fraction": hparams["valid_fraction"],
            "valid_hours": hparams["valid_hours"],
            "jobs": max(hparams["num_workers"], 1),
            "seed": hparams["seed"],
            "skip_prep": hparams["skip_prep"],
        },
    )
    rate = hparams["sample_rate"]
    # Manifests of this recipe hold whole paths.
    brain = train_model(hparams, run_opts, data_root="")
    test_data = whole_files(hparams["test_json"], "", rate)
    brain.evaluate(
        test_data, max_key="pesq", test_loader_kwargs=hparams["valid_loader"]
    )
