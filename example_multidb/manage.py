"""The project's commands: `python example_multidb/manage.py start_consumer`, from any folder."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # The clone itself, so that the project and djjp are found whether or not they are installed.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_multidb.project.settings"
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
