"""The HTTP interface: `path("djjp/", include("djjp.api.urls"))`. It needs the extra `api`."""

from __future__ import annotations

from importlib import import_module

for _name in ("pydantic", "ninja"):  # ninja imports pydantic
    try:
        import_module(_name)
    except ModuleNotFoundError as error:
        if error.name != _name:
            raise
        raise ModuleNotFoundError(
            f"djjp's HTTP interface needs {_name}; install its extra: pip install 'djjp[api]'",
            name=_name,
        ) from None
