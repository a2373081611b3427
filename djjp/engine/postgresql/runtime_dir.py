"""The folder that one user's consumers on a machine share, in the temporary directory that all users share.

What another user has put there is neither trusted nor in the way. Without a folder a consumer works all the same.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

logger = logging.getLogger("djjp.consumer")


def find() -> Path | None:
    """Return the folder, which is created if needed; None where the system allows none."""
    if not hasattr(os, "getuid"):
        return None
    name = f"djjp-{os.getuid()}"
    try:
        parent = Path(tempfile.gettempdir())
        usual = parent / name
        with suppress(FileExistsError):
            usual.mkdir(mode=0o700)
        for folder in (usual, *sorted(parent.glob(f"{name}-*"))):
            if _is_ours(folder):
                return folder
        # Another user's file has the usual name. This name cannot be known beforehand.
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    except OSError as error:  # a read-only system, or one without a temporary directory
        _warn(str(error))
        return None


def _is_ours(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


@cache  # once in a process
def _warn(error: str) -> None:
    logger.warning(
        "there is no folder for start journals (%s): all claimed jobs of a consumer that dies count as started",
        error,
    )
