"""The project's commands: `python example_multidb/manage.py start_consumer`, from any folder."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # The root of the clone, so that the project and djjp can be imported without being installed.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_multidb.project.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
