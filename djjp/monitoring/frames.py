"""Frames: which calls of a stack are the project's own code."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

_DJJP = str(Path(__file__).parents[1])
_LIBRARIES = [
    path
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(name))
]
# The folders of packages, of this machine or of another one.
_PACKAGES = ("/site-packages/", "/dist-packages/", "/lib/python3")


@lru_cache(maxsize=4096)
def is_project(file: str) -> bool:
    """Return whether a file is the project's: not of a package, of Python or of djjp."""
    if file.startswith(("<", _DJJP)) or any(file.startswith(path) for path in _LIBRARIES):
        return False
    path = file.replace("\\", "/")
    return not any(each in path for each in _PACKAGES)


_FRAME = re.compile(r'File "(.+?)", line ([0-9]+), in (.+)')


class Frame(NamedTuple):
    """A place in the code of the release that the job ran on."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


def innermost(traceback: str) -> Frame | None:
    """Return the innermost frame of the project's code in a traceback as text.

    A project can be installed as a package: without any other frame it is the innermost one of a package. None if
    there is neither.
    """
    installed = None
    for frame in _from_innermost(traceback):
        if is_project(frame.file):
            return frame
        if installed is None and _is_of_package(frame.file):
            installed = frame
    return installed


def _from_innermost(traceback: str) -> Iterator[Frame]:
    end = len(traceback)
    while (at := traceback.rfind('File "', 0, end)) >= 0:
        end = traceback.rfind("\n", 0, at) + 1
        found = _FRAME.match(traceback, at)
        # The lines of an exception group are indented by signs.
        if found is not None and not traceback[end:at].strip(" |+-"):
            yield Frame(found[1], int(found[2]), found[3])


def _is_of_package(file: str) -> bool:
    path = file.replace("\\", "/")
    return any(each in path for each in _PACKAGES[:2]) and "-packages/djjp/" not in path
