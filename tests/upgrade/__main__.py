"""`make fixture`: write the filled tables of this version to `tests/upgrade/VERSION/`, for later ones to test."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

import django
from django.core.management import call_command
from django.test import override_settings

import djjp

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.project.settings"
django.setup()

from tests.support.postgres import shared_server  # noqa: E402  (the settings come first)
from tests.support.processes import ROOT  # noqa: E402
from tests.upgrade.fill import fill, fill_outbox  # noqa: E402
from tests.upgrade.tables import ALIAS, HERE, dump, new_database  # noqa: E402


def main() -> None:
    target = HERE / djjp.__version__
    target.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="djjp-fixture-"))
    try:
        with shared_server(folder / "postgresql") as server:
            call_command("migrate", database="default", verbosity=0)
            for vendor in ("sqlite", "postgresql"):
                with new_database(vendor, folder, server.get_uri()) as place:
                    with override_settings(DJJP={"db_name": ALIAS}):
                        call_command("migrate", database=ALIAS, verbosity=0)
                        fill()
                    (target / f"{vendor}-queue.sql").write_text(neutral(dump(vendor, place)))
                write_outbox(vendor, folder, server.get_uri(), target / f"{vendor}-outbox.sql")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"wrote {target}")


def neutral(text: str) -> str:
    """Return a dump without the names of this machine: those of its host, and of the folder in tracebacks."""
    return text.replace(str(ROOT), "/srv/project").replace(f"'{socket.gethostname()}:", "'host:")


def write_outbox(vendor: str, folder: Path, server: str, target: Path) -> None:
    """Write an outbox on this kind of database."""
    (folder / "upgrade.sqlite3").unlink(missing_ok=True)
    settings = {"db_name": "sqlite", "outbox": [ALIAS]}
    with new_database(vendor, folder, server) as place, override_settings(DJJP=settings):
        call_command("migrate", "djjp_outbox", database=ALIAS, verbosity=0)
        fill_outbox(ALIAS)
        target.write_text(neutral(dump(vendor, place)))


if __name__ == "__main__":
    main()
