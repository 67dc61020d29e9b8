#!/usr/bin/env python3
"""Train DB-Transform on the data of the DNS Challenge.

usage: python train.py hparams/db_transform_dns.yaml --data_folder=DIR
"""

import sys
from pathlib import Path

import speechbrain as sb
from dns_prepare import prepare_dns
from speechbrain.utils.distributed import ddp_init_group, run_on_main

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
        prepare_dns,
        kwargs={
            "data_folder": hparams["data_folder"],
            "save_folder": hparams["save_folder"],
            "valid_fraction": hparams["valid_fraction"],
            "valid_hours": hparams["valid_hours"],
            "sample_rate": hparams["sample_rate"],
            "jobs": max(hparams["num_workers"], 1),
            "seed": hparams["seed"],
            "skip_prep": hparams["skip_prep"],
        },
    )
    rate = hparams["sample_rate"]
    # Manifests of this recipe hold whole paths.
    brain = train_model(hparams, run_opts, data_root="")
    for manifest in sorted(Path(hparams["save_folder"]).glob("test_*.json")):
        # Each test set has enhanced files and scores in a folder of its own.
        folder = str(Path(hparams["enhanced_folder"], manifest.stem))
        brain.hparams.output_folder = brain.hparams.enhanced_folder = folder
        brain.evaluate(
            whole_files(manifest, "", rate),
            max_key="pesq",
            test_loader_kwargs=hparams["valid_loader"],
        )
