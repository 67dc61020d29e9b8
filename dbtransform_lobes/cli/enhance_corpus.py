"""``dbtransform enhance-corpus``: enhance a corpus on many cores by Ray."""

import sys
from pathlib import Path

from dbtransform_lobes.cli.enhance import (
    add_model_arguments,
    add_sound_arguments,
)

HELP = "Enhance a corpus on all cores, or on the machines of a Ray cluster."
EXAMPLES = """\
  dbtransform enhance-corpus manifest.csv --output enhanced
  dbtransform enhance-corpus noisy_folder --output enhanced --jobs 8
  dbtransform enhance-corpus manifest.csv --output enhanced --address auto

A run that was stopped goes on when its command is given again. What failed
stands in failures.csv in the output folder.
"""


def add_arguments(parser):
    """Add the arguments of ``enhance-corpus`` to its parser."""
    parser.add_argument(
        "manifest",
        metavar="MANIFEST",
        help="CSV with a column path, relative to it or absolute; or a "
        "folder, which is searched to any depth",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        required=True,
        help="folder of the results, which keep their places below the "
        "folder of the manifest",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="enhance again what is finished, also by other settings",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        default=1,
        help="CPU threads of each worker (default 1)",
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        help="number of workers, each with a model of its own (default: as "
        "many as there are CPUs for)",
    )
    parser.add_argument(
        "--address",
        default="local",
        help="of a Ray cluster whose machines reach the files by the same "
        "paths, 'auto' for the one this machine belongs to (default: this "
        "machine alone)",
    )
    add_sound_arguments(parser)


def run(args):
    """Enhance all files; 1 if any of them failed, else 0."""
    from dbtransform_lobes.cli.enhance import (
        check_options,
        model_options,
        sound_options,
    )
    from dbtransform_lobes.inference.corpus import claim_output, pair_files

    pairs, failures = pair_files(_files(args), args.output)
    check_options(args)
    from dbtransform_lobes.inference.ray_workers import (
        check_ray,
        enhance_corpus,
    )

    check_ray()
    model, sound = model_options(args), sound_options(args)
    claim_output(args.output, model, sound, args.force)
    results = enhance_corpus(
        pairs, model, sound, args.jobs, args.threads, args.address, args.force
    )
    done, kept = _collect(results, len(pairs), args.output, failures)
    print(
        f"{done} of {len(pairs)} files enhanced into {args.output}, "
        f"{kept} were there"
    )
    return 1 if failures else 0


def _files(args):
    """(file, place in the output folder) of the corpus."""
    from dbtransform_lobes.cli.enhance import audio_files
    from dbtransform_lobes.inference.corpus import read_corpus

    source = Path(args.manifest)
    if not source.is_dir():
        return read_corpus(source)
    return [
        (str(file.absolute()), str(file.relative_to(source)))
        for file in audio_files(source, Path(args.output))
    ]


def _collect(results, total, output, failures):
    """Count what was enhanced and was there; adds to the failures."""
    from tqdm import tqdm

    from dbtransform_lobes.inference.corpus import (
        remove_partial,
        write_failures,
    )

    done = kept = 0
    try:
        for path, reason, notes, was_there in tqdm(
            results, total=total, unit="file"
        ):
            for note in notes:
                tqdm.write(f"warning: {note}", file=sys.stderr)
            kept += was_there
            done += reason is None and not was_there
            if reason is not None:
                failures[path] = reason.removeprefix(f"{path}: ")
    finally:
        results.close()  # no worker is left
        remove_partial(output)
        table = write_failures(output, failures)
    _list_failures(failures, table)
    return done, kept


def _list_failures(failures, table):
    """Print the first failures, and where all of them stand."""
    from dbtransform_lobes.data.recordings import MAX_LISTED

    for path in sorted(failures)[:MAX_LISTED]:
        print(f"failed: {path}: {failures[path]}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} failed, see {table}", file=sys.stderr)
