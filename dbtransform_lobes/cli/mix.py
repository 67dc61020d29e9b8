"""``dbtransform mix``: make a data set of noisy speech from recordings."""

HELP = (
    "Mix speech and noise recordings into a data set of the VoiceBank-DEMAND "
    "layout, 16 kHz."
)
EXAMPLES = """\
  dbtransform mix --recordings manifest.csv --output mixed --hours 2
  dbtransform mix --recordings my_recordings --output mixed --babble 0
  dbtransform mix --mixtures test_mixtures.csv --recordings manifest.csv \\
      --output fixed_test"""


def add_arguments(parser):
    """Add the options of ``mix`` to its parser."""
    parser.add_argument(
        "--recordings",
        required=True,
        help="manifest.csv (path, kind, speaker, split), or a folder with "
        "speech/ and noise/ in it",
    )
    parser.add_argument(
        "--output", required=True, help="folder of the data set"
    )
    parser.add_argument(
        "--mixtures",
        help="build the test set that this csv prescribes (id, speech, "
        "noise, noise_offset_s, snr_db); the options on drawing do not apply",
    )
    for name, default, split in (
        ("--hours", 1.0, "training"),
        ("--valid_hours", 0.1, "validation"),
        ("--test_hours", 0.1, "test"),
    ):
        parser.add_argument(
            name,
            type=float,
            help=f"hours of the {split} set, 0 for none (default {default})",
        )
    for name, values, split in (
        ("--snrs", "0 5 10 15", "training and validation"),
        ("--test_snrs", "2.5 7.5 12.5 17.5", "test"),
    ):
        parser.add_argument(
            name,
            type=float,
            nargs="+",
            metavar="DB",
            help=f"SNRs of the {split} set in dB (default {values})",
        )
    parser.add_argument("--seed", type=int, help="of all draws (default 0)")
    parser.add_argument(
        "--babble",
        type=float,
        help="probability that the noise is 4 to 10 other talkers of the "
        "same split (default 0.25)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace the data set of other settings in --output",
    )


def run(args):
    """Make the data set and print what it holds; return the exit code."""
    from dbtransform_lobes.data.mix import mix_dataset, mix_testset

    drawing = {
        name: getattr(args, name)
        for name in (
            "hours",
            "valid_hours",
            "test_hours",
            "snrs",
            "test_snrs",
            "seed",
            "babble",
        )
        if getattr(args, name) is not None
    }
    if args.mixtures:
        if drawing:
            options = ", ".join(f"--{name}" for name in drawing)
            raise ValueError(
                f"{options} given with --mixtures, which prescribes every "
                "mixture; leave one of them out"
            )
        record = mix_testset(
            args.mixtures, args.recordings, args.output, args.force
        )
    else:
        record = mix_dataset(
            args.recordings, args.output, force=args.force, **drawing
        )
    for split, summary in record["splits"].items():
        print(f"{split}: {summary['files']} files, {summary['hours']} hours")
    if "licences" in record:
        print(f"licences: {', '.join(record['licences'])}")
    return 0
