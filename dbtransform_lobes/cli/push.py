"""Send a model folder to the Hugging Face hub.

examples:
  dbtransform push my_model owner/name --dry-run
  dbtransform push my_model owner/name --private
  dbtransform enhance noisy.wav enhanced.wav --model owner/name
"""

from dbtransform_lobes.cli.options import add_options


def add_arguments(parser):
    """Add the arguments of ``push`` to its parser."""
    add = parser.add_argument
    add(
        "model_folder",
        metavar="MODEL_FOLDER",
        help="written by `dbtransform export`",
    )
    add("name", metavar="OWNER/NAME", help="of the repository on the hub")
    add(
        "--private",
        action="store_true",
        help="make a private repository; refused if it is there and public",
    )
    add("--revision", help="branch, made if it is not there (default main)")
    add(
        "--token",
        help="with the right to write (default: HF_TOKEN or that of "
        "`hf auth login`)",
    )
    add(
        "--dry-run",
        action="store_true",
        help="check the folder and list what would be sent; no network",
    )
    add_options(parser, "--trust-code")


def run(args):
    """Push the folder or say what would be pushed; return the exit code."""
    import hashlib

    from dbtransform_lobes.export.hub import plan_upload, push_files

    given = args.model_folder, args.name, args.trust_code
    files, others = plan_upload(*given)
    place = f"{args.name}, revision {args.revision or 'main'}" + (
        ", private" if args.private else ""
    )
    for file in files:
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        print(f"{digest}  {len(data):>12,} bytes  {file.name}")
    if others:
        print(f"left out: {', '.join(others)}")
    if args.dry_run:
        print(f"dry run: nothing was sent to {place}")
        return 0
    address = push_files(
        files, args.name, args.private, args.revision, args.token
    )
    print(f"sent to {place}: {address}")
    return 0
