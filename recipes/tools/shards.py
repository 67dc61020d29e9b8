"""``shards.py``: put recordings into WebDataset shards."""

import sys

from command import start
from dbtransform_lobes.cli.options import add_options

HELP = "Put recordings into tar shards of FLAC that WebDataset can read."
EXAMPLES = """\
  shards.py results/dns/1/save/manifest.csv --output shards
  shards.py my_recordings --output shards --samples 500 --jobs 8

Where a manifest is expected, give that of the shards: shards/manifest.csv
"""


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "recordings",
        metavar="MANIFEST",
        help="manifest.csv, or a folder with speech/, noise/ and perhaps rir/",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        required=True,
        help="folder of the shards; a run that was stopped goes on there",
    )
    for name, default, text in (
        ("--samples", 1000, "recordings in a shard, at most"),
        ("--sample_rate", 16000, "in Hz; other files are resampled"),
    ):
        parser.add_argument(
            name,
            metavar="N",
            type=int,
            default=default,
            help=f"{text} (default: {default})",
        )
    add_options(parser, "--force", "--jobs")


def run(args):
    """Write the shards; 1 if a recording could not be read, else 0."""
    from dbtransform_lobes.data.shards import write_shards

    report = write_shards(
        args.recordings,
        args.output,
        args.samples,
        args.sample_rate,
        args.jobs,
        args.force,
    )
    print(
        f"{report['samples']} recordings in {report['shards']} shards, "
        f"{report['kept']} of them from an earlier run"
    )
    for reason in report["failed"].values():
        print(f"left out: {reason}", file=sys.stderr)
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    start(__file__)
