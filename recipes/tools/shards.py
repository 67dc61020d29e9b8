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
        help="manifest.csv, or a folder with speech/, noise/ and perhaps rir/",
    )
    parser.add_argument(
        "--output",
        required=True,
        help="folder of the shards; a run that was stopped goes on there",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=1000,
        help="recordings in a shard, at most (default: 1000)",
    )
    parser.add_argument(
        "--sample_rate",
        type=int,
        default=16000,
        help="in Hz; other files are resampled (default: 16000)",
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
