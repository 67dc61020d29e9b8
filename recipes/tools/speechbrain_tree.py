"""Lay lobes, recipes and their tests out in a source tree of SpeechBrain.

dbtransform_lobes/      ->  speechbrain/lobes/models/dbtransform/
recipes/CORPUS/         ->  recipes/CORPUS/TASK/DBTransform/
hparams/                ->  the folder hparams of each recipe
tests/models/           ->  tests/unittests/dbtransform/models/
tests/recipes/*.csv     ->  rows of SpeechBrain's own

Imports are rewritten and sorted, names of authors added. What SpeechBrain has
another place for, or no use of, stays here: weights, command line, demo,
figures and ONNX.
"""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

from command import start

HELP = "Lay the project out in a source tree of SpeechBrain."
EXAMPLES = """\
  speechbrain_tree.py ../speechbrain
"""
ROOT = Path(__file__).resolve().parents[2]
TASKS = {"Voicebank": "enhance", "DNS": "enhancement", "TIMIT": "enhancement"}
LOBES = "speechbrain/lobes/models/dbtransform"
TESTS = "tests/unittests/dbtransform"
LEFT_OUT = ("__pycache__", "bundled", "cli", "demo.py", "analysis", "*onnx*")
# Helpers of the tests of the models; a test of what stays here has others.
HELPERS = ("__init__", "composition", "formulas", "signals", "twins")
USED = "|".join([*HELPERS, "models"])
OTHERS = rf"from (benchmark|figures|tests\.(?!{USED}))|onnx"
# In examples that need bundled weights or ONNX.
BUNDLED = (
    r"from_hparams\(run_opts|OnnxEnhancer|find_onnx\(\)|model_folder\(\)"
    r"|load_enhancer\(\"db_"
)
WORD = "caf"  # a suffix of audio files, for the spell checker
AUTHORS = "\n\nAuthors\n * DB-Transform 2026\n"


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument("tree", help="folder of SpeechBrain's sources")


def run(args):
    """Write the files; return the exit code."""
    tree = Path(args.tree)
    if not (tree / "speechbrain/lobes/models").is_dir():
        raise ValueError(
            f"{tree} is not a source tree of SpeechBrain, expected the folder "
            "speechbrain/lobes/models in it; give a clone of its repository"
        )
    written = lay_out(tree)
    code = [path for path in written if path.suffix == ".py"]
    for given in (["check", "--fix", "--select=I"], ["format"]):
        command = [sys.executable, "-m", "ruff", *given, "--quiet", *code]
        subprocess.run(command, cwd=tree, check=True)
    print(f"{len(written)} files written to {tree}")
    return 0


def lay_out(tree):
    """Write all files into the tree; return their paths."""
    folders = [tree / LOBES, tree / TESTS]
    folders += [tree / f"recipes/{c}/{t}/DBTransform" for c, t in TASKS.items()]
    for folder in folders:  # of an earlier run
        shutil.rmtree(folder, ignore_errors=True)
    ignore = shutil.ignore_patterns(*LEFT_OUT)
    shutil.copytree(ROOT / "dbtransform_lobes", tree / LOBES, ignore=ignore)
    (tree / TESTS / "models").mkdir(parents=True)
    for name in HELPERS:
        shutil.copy(ROOT / f"tests/{name}.py", tree / TESTS)
    for path in ROOT.glob("tests/models/*.py"):
        if not re.search(OTHERS, path.read_text(encoding="utf-8")):
            shutil.copy(path, tree / TESTS / "models")
    words = tree / ".dict-speechbrain.txt"
    known = words.read_text(encoding="utf-8")
    if f"\n{WORD}\n" not in known:
        words.write_text(f"{known}{WORD}\n", encoding="utf-8")
    ignore = shutil.ignore_patterns("__pycache__", "results", "*_card.md")
    requirements = ROOT / "recipes/Voicebank/extra_requirements.txt"
    for corpus, folder in zip(TASKS, folders[2:], strict=True):
        shutil.copytree(ROOT / "recipes" / corpus, folder, ignore=ignore)
        shutil.copytree(ROOT / "hparams/models", folder / "hparams/models")
        shutil.copy(requirements, folder)
        add_rows(tree, corpus)
    written = [
        path.resolve()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".py", ".yaml", ".md", ".txt")
    ]
    for path in written:
        text = rewrite(path.read_text(encoding="utf-8"), path.suffix == ".py")
        path.write_text(text, encoding="utf-8")
    return written


def rewrite(text, code):
    """Name modules by their new places; in code also name the authors."""
    text = text.replace("dbtransform_lobes/", f"{LOBES}/")
    modules = r"dbtransform_lobes(?=\\?\.| import)"
    text = re.sub(modules, LOBES.replace("/", "."), text)
    text = text.replace("from tests.", "from dbtransform.")
    example = rf"( *>>> (?:.+\n)*?.*(?:{BUNDLED})(?:.+\n)*)"
    # The lines of an example that needs weights are not run.
    skipped = r"\1  # doctest: +SKIP"
    text = re.sub(example, lambda m: re.sub("(>>>.*)", skipped, m[0]), text)
    if code and (found := re.match(r'(?s)((#!.*?\n)?""".*?)\n?"""', text)):
        text = f'{found[1]}{AUTHORS}"""{text[found.end() :]}'
    return text


def add_rows(tree, corpus):
    """Add the rows of a corpus to SpeechBrain's, which has more columns."""
    name = f"tests/recipes/{corpus}.csv"
    with open(ROOT / name, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    text = (tree / name).read_text(encoding="utf-8")
    if rows[0]["Script_file"] in text:
        return
    columns = next(csv.reader([text.splitlines()[0]]))
    with open(tree / name, "a", encoding="utf-8", newline="") as file:
        file.write("" if text.endswith("\n") else "\n")
        # SpeechBrain evaluates what stands in test_download.
        writer = csv.DictWriter(file, columns, "None", lineterminator="\n")
        writer.writerows(rows)


if __name__ == "__main__":
    start(__file__)
