"""Put recordings into tar shards of 16 kHz FLAC that WebDataset can read.

Where a manifest is expected, give that of the shards: shards/manifest.csv

examples:
  shards.py results/dns/1/save/manifest.csv --output shards
  shards.py my_recordings --output shards --samples 500 --jobs 8
"""

import sys

from command import start
from dbtransform_lobes.cli.options import add_options


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    add = parser.add_argument
    recordings = "manifest.csv, or a folder with speech/, noise/, perhaps rir/"
    add("recordings", help=recordings)
    folder = "folder of the shards; a run that was stopped goes on there"
    add("--output", required=True, help=folder)
    samples = "recordings in a shard, at most (default 1000)"
    add("--samples", type=int, default=1000, help=samples)
    add_options(parser, "--force", "--jobs")


def run(args):
    """Write the shards; 1 if a recording could not be read, else 0."""
    from dbtransform_lobes.data.shards import write_shards

    options = {"samples": args.samples, "jobs": args.jobs, "force": args.force}
    report = write_shards(args.recordings, args.output, **options)
    print(
        f"{report['samples']} recordings in {report['shards']} shards, "
        f"{report['kept']} of them from an earlier run"
    )
    for reason in report["failed"].values():
        print(f"left out: {reason}", file=sys.stderr)
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    start(__file__)
