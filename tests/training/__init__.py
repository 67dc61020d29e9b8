"""Tests of training, whose processes do not all import the same again."""

import multiprocessing

multiprocessing.set_forkserver_preload([f"{__name__}.test_training_scale"])
