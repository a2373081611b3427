"""Settings of `make demo-site`: those of the demo, with a shop whose jobs never end, and an outbox."""

from example_multidb.project import settings
from example_multidb.project.settings import *  # noqa: F403  (all of them)

INSTALLED_APPS = [*settings.INSTALLED_APPS, "djjp.outbox", "example_multidb.shop"]  # djjp
DJJP = {**settings.DJJP, "concurrency_limit": 4}  # djjp
