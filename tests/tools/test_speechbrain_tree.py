"""In SpeechBrain's source tree the project passes SpeechBrain's checks."""

import ast
import csv
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from command import run_tool
from speechbrain_tree import LOBES, ROOT, TASKS, TESTS

TREE = os.environ.get("SPEECHBRAIN_TREE")
needs_tree = pytest.mark.skipif(
    not TREE, reason="SPEECHBRAIN_TREE names no folder of its sources"
)
# What it requires itself.
OF_SPEECHBRAIN = set(
    "huggingface_hub hyperpyyaml numpy scipy soundfile speechbrain torch "
    "torchaudio tqdm".split()
)
SCRIPTS = [f"recipes/{c}/{t}/DBTransform/train.py" for c, t in TASKS.items()]


def without_docstring(path):
    """Return what SpeechBrain's check finds undocumented in a file.

    It takes no first line that has "..." in it.
    """
    return [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        or (isinstance(node, ast.FunctionDef) and node.name[0] != "_")
        if "..." in (ast.get_docstring(node) or "...").splitlines()[0]
    ]


def test_files_rows_and_imports_of_a_stand_in(tmp_path, run):
    (tmp_path / "speechbrain/lobes/models").mkdir(parents=True)
    (tmp_path / "tests/recipes").mkdir(parents=True)
    (tmp_path / ".dict-speechbrain.txt").write_text("vie\n")
    # SpeechBrain takes no newer syntax than that of this version.
    (tmp_path / "ruff.toml").write_text('target-version = "py38"')
    for corpus in TASKS:
        name = f"tests/recipes/{corpus}.csv"
        columns = (ROOT / name).read_text().splitlines()[0].split(",")
        other = dict.fromkeys([*columns, "test_download"], "other")
        with open(tmp_path / name, "w", newline="") as file:
            writer = csv.DictWriter(file, other)
            writer.writeheader()
            writer.writerow(other)
    for _ in range(2):  # the second time changes nothing
        run("speechbrain_tree", tmp_path)
    for corpus, script in zip(TASKS, SCRIPTS, strict=True):
        with open(tmp_path / f"tests/recipes/{corpus}.csv") as file:
            first, ours = csv.DictReader(file)
        assert set(first.values()) == {"other"}
        assert ours["Script_file"] == script and ours["test_download"] == "None"
        assert (tmp_path / script).is_file()
        assert (tmp_path / ours["Hparam_file"]).is_file()
    assert (tmp_path / TESTS / "models/test_graph.py").is_file()
    text = (tmp_path / LOBES / "models/db_transform.py").read_text()
    assert "\nAuthors\n * DB-Transform" in text
    imported = set()
    for path in (tmp_path / LOBES).rglob("*.py"):
        assert not without_docstring(path)
    for path in tmp_path.rglob("*.*"):
        if path.suffix in (".py", ".yaml"):
            text = path.read_text()
            assert not re.search("dbtransform_lobes[./ ]", text)
        if path.suffix == ".py" and LOBES in str(path):
            found = re.findall(r"^(?:from|import) (\w+)", text, re.M)
            imported |= set(found) - sys.stdlib_module_names
    required = (tmp_path / SCRIPTS[0]).with_name("extra_requirements.txt")
    listed = re.findall(r"^\w+", required.read_text(), re.M)
    assert imported - OF_SPEECHBRAIN <= set(listed)


def test_another_folder_is_refused(tmp_path, run):
    told = run("speechbrain_tree", tmp_path, code=1).err
    assert "is not a source tree of SpeechBrain" in told


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of SpeechBrain's sources with the project in it."""
    tree = tmp_path_factory.mktemp("sources") / "speechbrain"
    ignored = shutil.ignore_patterns(".git")
    shutil.copytree(TREE, tree, symlinks=True, ignore=ignored)
    assert run_tool("speechbrain_tree", [str(tree)]) == 0
    return tree


@pytest.fixture(scope="module")
def python(tree, tmp_path_factory):
    """Return a function that runs Python with the SpeechBrain of the tree.

    Its runner of recipes sets PYTHONPATH, so the tree is in the site.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages" / "tree.pth"
    site.write_text(f"{tree}\n{sysconfig.get_path('purelib')}\n")
    path = f"{folder / 'bin'}:{os.environ['PATH']}"

    def run(*arguments):
        done = subprocess.run(
            [folder / "bin/python", *arguments],
            cwd=tree,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(tree)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


@needs_tree
@pytest.mark.parametrize(
    "tests", [["tests/consistency"], ["--doctest-modules", LOBES], [TESTS]]
)
def test_pytest_of_the_tree(tests, python):
    assert " passed" in python("-m", "pytest", "-q", *tests)


@needs_tree
@pytest.mark.parametrize("check", ["load_yaml_test", "run_recipe_tests"])
def test_recipes_of_the_tree(check, python):
    chosen = f"filters_fields=['Script_file'], filters=[{SCRIPTS}]"
    python(
        "-c",
        f"from tests.utils.recipe_tests import {check} as check\n"
        f"assert check({chosen})",
    )


@needs_tree
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("ruff", ["check"]),
        ("ruff", ["format", "--check"]),
        ("yamllint", ["--no-warnings"]),
        ("codespell_lib", ["--ignore-words=.dict-speechbrain.txt"]),
    ],
)
def test_linters_of_the_tree(module, arguments, tree):
    pytest.importorskip(module)
    folders = [LOBES, TESTS, *(str(Path(s).parent) for s in SCRIPTS)]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments, *folders],
        cwd=tree,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stdout
