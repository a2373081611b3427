"""A browser, a server of the test project, and a record of what goes wrong on the pages.

The browser is Debian's chromium, driven by Playwright. It is open for all tests of this folder. The server sends
the strict policy of content that djjp promises to work under.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.test.testcases import LiveServerThread

from djjp.engine import Engine
from tests.browser.seed import Seeded, seed
from tests.support.databases import QUEUES

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'"
)
#: The server's address, and a name for it that the browser does not regard as secure.
LOCAL, HOST = "127.0.0.1", "shop.test"
#: Names of the browser, as systems have them.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Reports violations of the policy, as errors of the console.
REPORT = """document.addEventListener("securitypolicyviolation", (event) =>
    console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
"""
#: The limit of time of a step of the browser, in milliseconds.
LIMIT = 60_000


def with_policy(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """Add the policy to each response."""

    def respond(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return respond


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that open a browser."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
            item.add_marker("end_to_end")
            item.add_marker("one_pair")


@pytest.fixture(scope="package")
def server(sqlite_file: None, request: pytest.FixtureRequest) -> Iterator[str]:
    """Serve the test project; return the address of its admin for djjp."""
    if "postgresql" in QUEUES:
        request.getfixturevalue("postgres_url")
    middleware = [f"{__name__}.with_policy", *settings.MIDDLEWARE]
    with override_settings(MIDDLEWARE=middleware, ALLOWED_HOSTS=[LOCAL, HOST, "testserver"]):
        thread = LiveServerThread(LOCAL, StaticFilesHandler)
        thread.daemon = True
        thread.start()
        thread.is_ready.wait()
        assert thread.error is None
        yield f"http://{LOCAL}:{thread.port}/admin/djjp/"
        thread.terminate()


@pytest.fixture(scope="package")
def browser(server: str) -> Iterator[Browser]:
    """Return the browser.

    Playwright's loop runs on this thread for as long as it is open, so Django would refuse its databases here.
    """
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("there is no chromium on this machine (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="install djjp[browser]")
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        driver = stack.enter_context(playwright.sync_playwright())
        flags = [f"--host-resolver-rules=MAP {HOST} {LOCAL}"]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = driver.chromium.launch(executable_path=path, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def seeded(engine: Engine) -> Seeded:
    """Fill the queue with rows of all kinds."""
    return seed()


class OpenTab(Protocol):
    """Open a tab of a user who has all rights, or some: `open_tab("job/", width=375)`."""

    def __call__(
        self,
        address: str = "",
        *,
        rights: list[str] | None = None,
        width: int = 1400,
        scheme: str = "light",
        scripts: bool = True,
        host: str = "127.0.0.1",
    ) -> Page: ...


@pytest.fixture
def problems() -> list[str]:
    """Collect what goes wrong on the pages: a test fails at its end for what is left here."""
    return []


@pytest.fixture
def open_tab(
    engine: Engine, browser: Browser, server: str, problems: list[str]
) -> Iterator[OpenTab]:
    """Return a function that opens a tab; at the end of the test nothing may have gone wrong in any."""
    contexts: list[BrowserContext] = []

    def open_tab(
        address: str = "",
        *,
        rights: list[str] | None = None,
        width: int = 1400,
        scheme: Any = "light",
        scripts: bool = True,
        host: str = "127.0.0.1",
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=scripts,
        )
        contexts.append(context)
        context.set_default_timeout(LIMIT)
        origin = server.removesuffix("/admin/djjp/")
        key = session(rights)
        for url in (origin, origin.replace(LOCAL, HOST)):
            context.add_cookies([{"name": "sessionid", "value": key, "url": url}])
        page = context.new_page()
        watch(page, problems)
        page.goto(server.replace(LOCAL, host) + address)
        return page

    yield open_tab
    for context in contexts:
        context.close()
    for model in (LogEntry, User, Session):
        model.objects.all().delete()
    assert not problems, "\n".join(problems)


def session(rights: list[str] | None) -> str:
    """Log a new user in; return the key of the session."""
    name = f"user-{User.objects.count()}"
    if rights is None:
        user = User.objects.create_superuser(name)
    else:
        user = User.objects.create(username=name, is_staff=True)
        granted = Permission.objects.filter(content_type__app_label="djjp", codename__in=rights)
        assert len(granted) == len(rights)
        user.user_permissions.set(granted)
    client = Client()
    client.force_login(user)
    key: str = client.cookies["sessionid"].value
    return key


def watch(page: Page, problems: list[str]) -> None:
    """Note errors of the console and of scripts, and violations of the policy."""

    def note(message: ConsoleMessage) -> None:
        asked_by_chromium = message.location["url"].endswith("/favicon.ico")
        if message.type in ("error", "warning") and not asked_by_chromium:
            problems.append(f"{page.url}: {message.type}: {message.text}")

    page.on("console", note)
    page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
    page.add_init_script(REPORT)


@pytest.fixture(scope="session", autouse=True)
def connections_of_the_server() -> Iterator[None]:
    """Close this thread's connections after the last test of the folder."""
    yield
    connections.close_all()


def pictures() -> Path | None:
    """Return the folder for pictures of the pages; None unless they are asked for."""
    folder = os.environ.get("DJJP_PICTURES")
    return Path(folder).resolve() if folder else None
