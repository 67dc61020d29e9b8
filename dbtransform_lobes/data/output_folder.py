"""Folders that are written whole or not at all."""

import os
import shutil

from dbtransform_lobes.data.recordings import temporary_beside


def check_output_folder(target, files, content, force):
    """Refuse to replace what the user did not mean to replace.

    Arguments
    ---------
    target : pathlib.Path
        Folder that is to be written.
    files : sequence of str
        Names that an earlier one may hold.
    content : str
        What these are, for the message.
    force : bool
        Whether an earlier one may be replaced.

    Raises
    ------
    FileNotFoundError
        If the folder around it is missing.
    ValueError
        If it is no folder, holds other files, or exists without force.
    """
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{target.parent}: there is no such folder; make it first"
        )
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


def replace_folder(target, temporary):
    """Give a folder the name of another one, which is removed.

    Arguments
    ---------
    target, temporary : pathlib.Path
        The name, and the folder that gets it.
    """
    if not target.exists():
        os.rename(temporary, target)
        return
    old = temporary_beside(target)
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old)
