"""Git LFS pointers: three lines of text in the place of a file whose content Git LFS did not fetch."""

from pathlib import Path

_START = b"version https://git-lfs.github.com/spec/"


def lfs_pointer_fact(path: Path) -> str | None:
    """What is wrong with a file that is a Git LFS pointer, as the end of a sentence; `None` for any other file."""
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_START)) == _START
    except OSError:
        return None  # whoever reads the file says so
    return "is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`" if is_pointer else None
