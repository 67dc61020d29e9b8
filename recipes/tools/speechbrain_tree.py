"""Lay lobes, recipes and their tests out in a source tree of SpeechBrain.

dbtransform_lobes/      ->  speechbrain/lobes/models/dbtransform/
recipes/CORPUS/         ->  recipes/CORPUS/TASK/DBTransform/
hparams/                ->  the folder hparams of each recipe
tests/models/           ->  tests/unittests/dbtransform/models/
tests/recipes/*.csv     ->  rows of SpeechBrain's own

Imports are rewritten and sorted, names of authors added. What SpeechBrain has
another place for, or no use of, stays here: weights, command line, demo,
figures and ONNX.

examples:
  speechbrain_tree.py ../speechbrain
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from command import start

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
    r"from_hparams\(run_opts|OnnxEnhancer|find_onnx\(\)|load_enhancer\(\"db_"
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
    if importlib.util.find_spec("ruff") is None:  # before anything is written
        raise ValueError("this needs ruff to sort imports: pip install ruff")
    folders = [tree / LOBES, tree / TESTS]
    folders += [tree / f"recipes/{c}/{t}/DBTransform" for c, t in TASKS.items()]
    copy_files(tree, folders)
    written = [
        path.resolve()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".py", ".yaml", ".md", ".txt")
    ]
    for path in written:
        text = rewrite(path.read_text("utf-8"), path.suffix == ".py")
        path.write_text(text, "utf-8")
    code = [path for path in written if path.suffix == ".py"]
    for given in (["check", "--fix", "--select=I"], ["format"]):
        command = [sys.executable, "-m", "ruff", *given, "--quiet", *code]
        subprocess.run(command, cwd=tree, check=True)
    print(f"{len(written)} files written to {tree}")
    return 0


def copy_files(tree, folders):
    """Copy all files into folders of the tree; add rows and a word there."""
    for folder in folders:  # of an earlier run
        shutil.rmtree(folder, ignore_errors=True)
    ignore = shutil.ignore_patterns(*LEFT_OUT)
    shutil.copytree(ROOT / "dbtransform_lobes", tree / LOBES, ignore=ignore)
    (tree / TESTS / "models").mkdir(parents=True)
    for name in HELPERS:
        shutil.copy(ROOT / f"tests/{name}.py", tree / TESTS)
    for path in ROOT.glob("tests/models/*.py"):
        if not re.search(OTHERS, path.read_text("utf-8")):
            shutil.copy(path, tree / TESTS / "models")
    ignore = shutil.ignore_patterns("__pycache__", "results", "*_card.md")
    for corpus, folder in zip(TASKS, folders[2:], strict=True):
        shutil.copytree(ROOT / "recipes" / corpus, folder, ignore=ignore)
        shutil.copytree(ROOT / "hparams/models", folder / "hparams/models")
        shutil.copy(ROOT / "recipes/Voicebank/extra_requirements.txt", folder)
        add_rows(tree, corpus)
    words = tree / ".dict-speechbrain.txt"
    known = words.read_text("utf-8")
    if f"\n{WORD}\n" not in known:
        words.write_text(f"{known}{WORD}\n", "utf-8")


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
    text = (tree / name).read_text("utf-8").rstrip("\n")
    rows = pd.read_csv(ROOT / name, dtype=str, keep_default_na=False)
    if rows["Script_file"][0] not in text:
        columns = pd.read_csv(tree / name, nrows=0).columns
        # SpeechBrain evaluates what stands in test_download.
        rows = rows.reindex(columns=columns, fill_value="None")
        text += "\n" + rows.to_csv(header=False, index=False)
        (tree / name).write_text(text, "utf-8")


if __name__ == "__main__":
    start(__file__)
