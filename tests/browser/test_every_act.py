"""Every button of the pages does what it promises: the clicks of a user, what the user reads, what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.utils import timezone

from djjp import job
from djjp.admin import consumers, job_stack
from djjp.models import Consumer, Operation
from tests.browser.acts import GROUPS, OF_A_CONSUMER, OF_SEARCH, Act, name_of
from tests.browser.conftest import LIMIT, OpenTab
from tests.browser.seed import Seeded
from tests.support.consumers import consuming
from tests.support.processes import eventually
from tests.support.recorder import GATE, SEEN, recorder

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request

__all__ = ["recorder"]


@job(name="acts.waits", queue="acts")
def waits() -> None:
    SEEN.append("waits")
    GATE.wait(600)


def perform(page: Page, address: str, act: Act) -> None:
    """Perform an act from a page on; it must press its buttons and lead to the text that it names."""
    found = set()

    def note(request: Request) -> None:
        if request.is_navigation_request():
            url = urlsplit(request.url)
            given = url.query if request.method == "GET" else request.post_data or ""
            found.add(name_of(request.method, url.path, dict(parse_qsl(given, True))))

    page.goto(address)
    page.on("request", note)
    act.do(page)
    page.remove_listener("request", note)
    page.get_by_text(act.read).first.wait_for()
    assert act.buttons - found == set()


def perform_all(acts: dict[str, Act], page: Page, server: str, seeded: Seeded) -> None:
    """Perform acts that share what is seeded."""
    for name, act in acts.items():
        # However long the acts before took: a page does itself what consumers leave alone.
        Consumer.objects.update(heartbeat_at=timezone.now())
        Operation.objects.update(created_at=timezone.now())
        try:
            perform(page, server + act.start(seeded), act)
            assert act.has_done is None or act.has_done(seeded)
        except BaseException as error:
            error.add_note(f"to {name}, at {page.url}")
            raise


@pytest.mark.parametrize("group", GROUPS)
def test_every_act_has_its_effect_and_reports_it(
    group: str, open_tab: OpenTab, server: str, seeded: Seeded, problems: list[str]
) -> None:
    perform_all(GROUPS[group], open_tab(), server, seeded)
    # A form with a mistake is answered so, which chromium regards as an error.
    problems[:] = [each for each in problems if "status of 422" not in each]


@pytest.mark.sqlite_only
def test_every_search_shows_what_it_finds(open_tab: OpenTab, server: str, seeded: Seeded) -> None:
    perform_all(OF_SEARCH, open_tab(), server, seeded)


@pytest.mark.sqlite_only
def test_requests_of_the_pages_reach_a_consumer(
    recorder: list[str], open_tab: OpenTab, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (consumers, job_stack):
        monkeypatch.setattr(module, "ANSWER_WITHIN", LIMIT / 1000)
    waiting = waits.run_later()
    page = open_tab()
    # The job runs until the gate opens, also once its consumer is stopped: pages take long on a busy machine.
    with consuming(queues=["acts"], shutdown_timeout=600):
        eventually(lambda: recorder == ["waits"])
        name = Consumer.objects.get().pk
        for act in OF_A_CONSUMER.values():
            perform(page, server + act.start(name), act)
        page.goto(f"{server}job/{waiting.id}/change/")
        page.get_by_role("link", name="Stack now").click()
        page.get_by_text("GATE.wait").wait_for()
        GATE.set()
        eventually(lambda: not Consumer.objects.exists())
