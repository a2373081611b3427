"""Times in projects with other time zones, which change nothing.

Django reads the settings of time zones when it starts, and again when a test changes them. So most zones are
tested in this process, and one in a project of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from djjp.engine import Engine
from tests.support.projects import Scratch
from tests.support.times import check_times

SCRIPT = """
import django; django.setup()
from djjp.engine import current
from tests.support.times import check_times
check_times(current())
print("right")
"""


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"USE_TZ": True, "TIME_ZONE": "America/New_York"}, id="aware"),
        pytest.param({"USE_TZ": False, "TIME_ZONE": "Asia/Kolkata"}, id="naive"),
        pytest.param({"USE_TZ": False, "TIME_ZONE": "Europe/Berlin"}, id="twice"),
        pytest.param({"USE_TZ": False, "TIME_ZONE": "America/New_York"}, id="twice, west"),
        pytest.param(
            {"USE_TZ": False, "TIME_ZONE": "Australia/Lord_Howe"}, id="twice, by half an hour"
        ),
    ],
)
def test_times_mean_the_same_to_the_verbs_and_to_the_orm(
    engine: Engine, settings: dict[str, Any]
) -> None:
    with override_settings(**settings):
        check_times(engine)


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param('USE_TZ = False\nTIME_ZONE = "Europe/Berlin"\n', id="twice"),
        pytest.param(
            'USE_TZ = True\nDATABASES["queue"]["TIME_ZONE"] = "Asia/Kolkata"\n',
            id="a time zone of the database's own",
        ),
    ],
)
def test_times_mean_the_same_in_a_project_that_starts_in_a_time_zone(
    tmp_path: Path, engine: Engine, settings: str, request: pytest.FixtureRequest
) -> None:
    if engine.db.alias == "sqlite":
        url = f"sqlite:///{connections['sqlite'].settings_dict['NAME']}"
    else:
        url = request.getfixturevalue("postgres_url")
    project = Scratch(tmp_path, settings)
    project.write("script.py", SCRIPT)
    done = project.python("script.py", DJJP_DATABASE_URL=url)
    assert done.stdout == "right\n", done.stderr
