"""Make a DB-Transform pass clean speech at its level.

A loss that does not see the level, such as SI-SDR, leaves estimates too quiet.
This measures by how much, on clean speech, and scales the taps of the mask
decoder; the estimate is otherwise the same.

examples:
  unit_gain.py my_model mixed/clean_validset_wav
"""

import math
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from command import start
from dbtransform_lobes.cli.options import add_options
from dbtransform_lobes.data.audio import find_audio, read_audio
from dbtransform_lobes.data.files import replacing
from dbtransform_lobes.inference import EnhanceModel
from dbtransform_lobes.inference.bundled import WEIGHTS


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument("model", help="model folder, whose weights it changes")
    parser.add_argument("clean", help="folder of clean speech")
    add_options(parser, "--trust-code")


def measure_gain(model, paths):
    """Return the median of <y, s> / <s, s> over files of clean speech s."""
    gains, rate = [], model.hparams.sample_rate
    for path in tqdm(paths, unit="file"):
        clean = read_audio(path, sample_rate=rate).astype(np.float32)
        estimate = np.asarray(model.enhance_array(clean, rate))
        if clean.any():
            gains.append(np.dot(estimate, clean) / np.dot(clean, clean))
    gain = float(np.median(gains)) if gains else 0.0
    if not 0 < gain < math.inf:
        raise ValueError(
            f"the gain is {gain} over {len(gains)} files with sound, expected "
            "a number above 0; give a folder of clean speech"
        )
    return gain


def run(args):
    """Measure, scale and write the weights."""
    folder = Path(args.model)
    model = EnhanceModel.from_hparams(folder, trust_code=args.trust_code)
    gain = measure_gain(model, find_audio(Path(args.clean)))
    state = torch.load(folder / WEIGHTS, weights_only=True)
    heads = [v for k, v in state.items() if k.startswith("mask_decoder.heads.")]
    if not heads:
        raise ValueError(f"{folder}: has no mask_decoder, expected DBTransform")
    for value in heads:
        # The first half of the rows is what the second gates.
        value[:, : value.shape[1] // 2] /= gain
    with replacing(folder / WEIGHTS) as temporary:
        torch.save(state, temporary)
    print(f"clean speech came out at {gain:.3f} of its level, now at 1")
    return 0


if __name__ == "__main__":
    start(__file__)
