"""The context of a job in its row: a dict, whose column is JSON text, and null for an empty one."""

from __future__ import annotations

import reprlib
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

from djjp import instruments


class ContextField(models.TextField):  # type: ignore[type-arg]  # the stubs' parameters are not there at runtime
    """A `TextField` whose values are dicts. A text that is damaged is read as an empty one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "null": True, "blank": True, "default": dict})

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        for fixed in ("null", "blank", "default"):
            kwargs.pop(fixed, None)
        return name, path, args, kwargs

    def from_db_value(self, value: Any, expression: object, connection: Any) -> dict[str, Any]:
        return instruments.to_context(value)

    def to_python(self, value: Any) -> dict[str, Any]:
        return value if isinstance(value, dict) else instruments.to_context(value)

    def get_prep_value(self, value: Any) -> str | None:
        if value is None or isinstance(value, str):
            return value
        try:
            return instruments.to_text(value)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValidationError(f"context is {reprlib.repr(value)}: {error}") from error
