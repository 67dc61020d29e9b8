"""Mix speech and noise recordings into a data set of the VoiceBank-DEMAND
layout, 16 kHz.

examples:
  dbtransform mix --recordings manifest.csv --output mixed --hours 2
  dbtransform mix --recordings my_recordings --output mixed --babble 0
  dbtransform mix --mixtures test_mixtures.csv --recordings manifest.csv \\
      --output fixed_test
"""

import argparse

from dbtransform_lobes.cli.options import add_options

DRAWING = {
    "hours": "hours of the training set, 0 for none (default 1)",
    "valid_hours": "hours of the validation set, 0 for none (default 0.1)",
    "test_hours": "hours of the test set, 0 for none (default 0.1)",
    "snrs": "SNRs of the training and validation set in dB (default 0 5 10 15)",
    "test_snrs": "SNRs of the test set in dB (default 2.5 7.5 12.5 17.5)",
    "seed": "of all draws (default 0)",
    "babble": "probability that the noise is 4 to 10 other talkers of the same "
    "split (default 0.25)",
}


def add_arguments(parser):
    """Add the options of ``mix`` to its parser."""
    add = parser.add_argument
    add(
        "--recordings",
        required=True,
        help="manifest.csv (path, kind, speaker, split), or a folder with "
        "speech/ and noise/ in it",
    )
    add("--output", required=True, help="folder of the data set")
    add(
        "--mixtures",
        help="build the test set that this csv prescribes (id, speech, "
        "noise, noise_offset_s, snr_db); the options on drawing do not apply",
    )
    for name, text in DRAWING.items():
        kind = int if name == "seed" else float
        more = {"nargs": "+", "metavar": "DB"} if "snrs" in name else {}
        more |= {"default": argparse.SUPPRESS}  # only those given
        add(f"--{name}", type=kind, help=text, **more)
    add_options(parser, "--force")


def run(args):
    """Make the data set and print what it holds; return the exit code."""
    from dbtransform_lobes.data.dataset import mix_dataset, mix_testset

    drawing = {name: vars(args)[name] for name in DRAWING if name in args}
    paths = args.recordings, args.output
    if args.mixtures:
        if drawing:
            options = ", ".join(f"--{name}" for name in drawing)
            raise ValueError(
                f"{options} given with --mixtures, which prescribes every "
                "mixture; leave one of them out"
            )
        record = mix_testset(args.mixtures, *paths, args.force)
    else:
        record = mix_dataset(*paths, force=args.force, **drawing)
    for split, summary in record["splits"].items():
        print(f"{split}: {summary['files']} files, {summary['hours']} hours")
    if "licences" in record:
        print(f"licences: {', '.join(record['licences'])}")
    return 0
