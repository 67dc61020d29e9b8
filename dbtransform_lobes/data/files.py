"""Text files, tables and folders that are written whole or not at all."""

import csv
import hashlib
import io
import json
import os
import shutil
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

LFS_POINTER = b"version https://git-lfs"
MAX_LISTED = 20


def raise_problems(title, problems):
    """Raise a ValueError that counts the problems, if any, and lists some."""
    if not problems:
        return
    problems = list(dict.fromkeys(problems))
    lines = problems[:MAX_LISTED]
    if len(problems) > MAX_LISTED:
        lines.append(f"... and {len(problems) - MAX_LISTED} more")
    listed = "\n".join(f"  {line}" for line in lines)
    raise ValueError(f"{title} ({len(problems)}):\n{listed}")


def collect(problems, function, *arguments, line=None):
    """Call a function; append the message of a user's error to problems."""
    try:
        return function(*arguments)
    except (ValueError, TypeError, OSError) as error:
        problems.append(str(error) if line is None else f"line {line}: {error}")
        return None


def is_lfs_pointer(path):
    """Tell whether a file is the pointer that Git LFS leaves for a file."""
    with open(path, "rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def refuse_lfs_pointer(path):
    """Raise a ValueError that says how to get what a Git LFS pointer is for."""
    if is_lfs_pointer(path):
        raise ValueError(
            f"{path}: is a Git LFS pointer; get the file by `git lfs pull`"
        )


def fingerprint(paths):
    """Digest the names, sizes and times of files."""
    digest = hashlib.sha256()
    for path in paths:
        status = os.stat(path)
        line = f"{path} {status.st_size} {status.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def read_text(path):
    """Read a text file in UTF-8; in another encoding it is a ValueError."""
    path = existing_file(path, "text in UTF-8")
    try:  # spreadsheets begin the file with a byte order mark
        text = path.read_text(encoding="utf-8-sig")
        if "\0" in text:
            raise ValueError("it has bytes of 0, as UTF-16 has")
    except ValueError as error:
        raise ValueError(
            f"{path}: expected UTF-8 ({error}); save the file as UTF-8"
        ) from error
    return text


def temporary_beside(path):
    """Return a new name beside a file, which begins with the process id."""
    name = f".{os.getpid()}-{uuid.uuid4().hex}.tmp"
    return Path(path).with_name(name)


@contextmanager
def replacing(path):
    """Yield a temporary name; the file gets its own when all went well."""
    temporary = temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if temporary.name in str(error):  # a name that tells nobody anything
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path, text):
    """Write UTF-8, file names of any bytes in it, whole or not at all.

    The folder of the file is made if it is not there.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8", "backslashreplace")


def write_json(path, content):
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_record(path):
    """Return the dict that a JSON file holds, {} if it holds none."""
    try:
        record = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def read_table(path, columns):
    """Read a csv as dicts; ValueError without rows or one of the columns."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        given, rows = reader.fieldnames or [], list(reader)
    except csv.Error as error:
        raise ValueError(f"{path}: expected a CSV ({error})") from error
    missing = [name for name in columns if name not in given]
    if missing or not rows:
        raise ValueError(
            f"{path}: expected the columns {', '.join(columns)} and at least "
            f"one row, with commas between, given {', '.join(given)} and "
            f"{len(rows)} rows"
        )
    return rows


def write_table(path, columns, rows):
    """Write dicts as a csv, whole or not at all."""
    write_text(path, table_text(columns, rows))


def table_text(columns, rows):
    """Return the csv of some columns of dicts."""
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, columns, extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def existing_file(path, content):
    """Return the path of a file; FileNotFoundError says its content."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such file, expected {content}"
        )
    return path


def existing_folder(folder, content):
    """Return the whole path of a folder; FileNotFoundError says its content."""
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: there is no such folder, expected {content}"
        )
    return folder


def check_parent(path):
    """Refuse a file or folder to write whose own folder is not there."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path.parent}: there is no such folder; make it first"
        )


def check_output_folder(target, files, content, force):
    """Refuse a folder that holds more than ``files``, or exists without force.

    ``content`` says what an earlier folder may hold.
    """
    check_parent(target)
    if not os.path.lexists(target):
        return
    if not target.is_dir() or target.is_symlink():
        raise ValueError(
            f"{target}: is no folder, expected a name for the folder of "
            f"{content}; give another one"
        )
    others = sorted(p.name for p in target.iterdir() if p.name not in files)
    if others:
        raise ValueError(
            f"{target}: holds more than {content} ({', '.join(others[:5])}); "
            "give another folder or remove these files"
        )
    if not force:
        raise ValueError(f"{target}: exists; use --force to replace it")


def claim(record_path, record, own, wanted, force):
    """Write the record of a plan, whose files and folders are ``wanted``.

    Where there is a record of another plan, its ``own`` are removed with force,
    else it is a ValueError; so are, in any case, those of another origin.
    """
    folder, before = record_path.parent, read_record(record_path)
    own = [path for path in own if before and path.exists()]
    foreign = [p.name for p in wanted if p.exists() and p not in own]
    if foreign:
        raise ValueError(
            f"{folder} already has {', '.join(foreign[:MAX_LISTED])}, which "
            "this command did not write; choose another --output"
        )
    if before.get("plan_sha256") != record["plan_sha256"]:
        if own and not force:
            raise ValueError(
                f"{folder} holds what was made of another configuration (see "
                f"{record_path.name}), expected an empty folder; choose "
                "another --output, or replace it with --force"
            )
        for path in own:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_json(record_path, record)


@contextmanager
def replacing_folder(target):
    """Yield a new folder, which replaces the target when all went well."""
    temporary, old = temporary_beside(target), temporary_beside(target)
    try:
        temporary.mkdir()
        yield temporary
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(temporary, target)
        except BaseException:
            if old.exists():
                os.rename(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
