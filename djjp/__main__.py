"""The program `djjp`: `manage.py djjp` of the project in the present folder, or in the nearest folder above it."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Become the project's `manage.py djjp`, with the same arguments and with this Python."""
    here = Path.cwd()
    manage = next(
        (f / "manage.py" for f in (here, *here.parents) if (f / "manage.py").is_file()), None
    )
    if manage is not None:
        program = [str(manage)]
    elif os.environ.get("DJANGO_SETTINGS_MODULE"):
        program = ["-m", "django"]
    else:
        sys.exit("djjp: there is no manage.py here or above; or set DJANGO_SETTINGS_MODULE")
    os.execv(sys.executable, [sys.executable, *program, "djjp", *sys.argv[1:]])  # noqa: S606  (no shell)


if __name__ == "__main__":
    main()
