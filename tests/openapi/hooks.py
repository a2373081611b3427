"""Facts of the interface that schemathesis needs besides its document."""

from __future__ import annotations

from itertools import count
from typing import Any

import schemathesis

_numbers = count()


@schemathesis.deserializer("application/openmetrics-text")
def text(ctx: Any, response: Any) -> str:
    return str(response.content.decode())


@schemathesis.hook
def before_call(ctx: Any, case: Any, kwargs: Any) -> None:
    """Give each valid key to one request only: the next one with it would be refused, as it has another body."""
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and key.isascii() and key.isprintable() and 1 <= len(key) <= 200:
        case.headers["Idempotency-Key"] = f"{key}-{next(_numbers)}"
