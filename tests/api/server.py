"""The test project as WSGI and ASGI servers load it, with middleware that kills a worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_only_middleware

View = Callable[[HttpRequest], HttpResponse]


@sync_only_middleware
def killing(view: View) -> View:
    """Kill the process between the commit of its first enqueue and the answer, while a file is there."""
    file = Path(os.environ["DJJP_TEST_KILL"])

    def kill(request: HttpRequest) -> HttpResponse:
        response = view(request)
        if response.status_code == 201 and file.exists():
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return response

    return kill


@sync_only_middleware
def sync_only(view: View) -> View:
    """Do nothing, as the middleware of a project that knows no coroutines."""
    return view


def application(kind: str) -> Callable[..., object]:
    """Return the test project as `wsgi` or `asgi`, with its jobs, in which a request can wait for hours."""
    made = get_wsgi_application() if kind == "wsgi" else get_asgi_application()
    from djjp.api import jobs
    from tests.api import jobs as _jobs  # noqa: F401  (it registers them)

    # So a place of `api_waits` that is free sooner was freed by the end of its client.
    jobs.LONGEST_WAIT = 3_600
    return made


def wsgi() -> Callable[..., object]:
    return application("wsgi")


def asgi() -> Callable[..., object]:
    return application("asgi")
