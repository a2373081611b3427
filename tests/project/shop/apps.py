"""The test project's app; with `DJJP_TEST_STATEMENTS` it writes each statement to stderr."""

import os
import sys
from collections.abc import Callable
from typing import Any

from django.apps import AppConfig
from django.db.backends.signals import connection_created


class ShopConfig(AppConfig):
    name = "tests.project.shop"
    label = "shop"

    def ready(self) -> None:
        if os.environ.get("DJJP_TEST_STATEMENTS"):
            connection_created.connect(_listen)


def _listen(connection: Any, **kwargs: Any) -> None:
    def wrapper(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        sys.stderr.write(f"SQL {connection.alias} {' '.join(str(sql).split())}\n")
        return execute(sql, *args)

    connection.execute_wrappers.append(wrapper)
