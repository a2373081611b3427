"""Settings of compose.yaml: those of the site, with what a deployment changes read from the environment.

`DJJP_DATABASE_URL`, the queue's database, is read by `queue_database()`.
"""

import os

import dj_database_url

from example_multidb.project import site
from example_multidb.project.site import *  # noqa: F403  (all of them)

DEBUG = False
SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = os.environ["ALLOWED_HOSTS"].split(",")
DATABASES = {
    **site.DATABASES,
    "default": {
        **dj_database_url.parse(os.environ["DATABASE_URL"], conn_max_age=60),
        "CONN_HEALTH_CHECKS": True,
    },
}
DJJP = {**site.DJJP, "release": os.environ.get("RELEASE", "")}
