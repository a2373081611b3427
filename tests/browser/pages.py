"""The pages under `/admin/djjp/`: each name of the URLconf, with an address to look at, or why there is none.

`test_listing.py` fails for a name that is not here. A new page is entered in `PAGES`, and then looked at in light
and dark, wide and narrow, by keyboard and without JavaScript.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from django.contrib import admin
from django.contrib.admin.utils import quote as quote_pk
from django.urls import URLPattern, URLResolver
from django.utils.regex_helper import normalize

from djjp.models import State
from tests.browser.seed import CONSUMER, LONG, SLASHED, Seeded

#: An address below "/admin/djjp/", from what was seeded.
Address = Callable[[Seeded], str]


def at(address: str) -> Address:
    return lambda seeded: address


def page_of(state: State) -> Address:
    return lambda seeded: f"job/{seeded.jobs[state]}/change/"


def quoted(text: str) -> str:
    """Return a name as a part of an address."""
    return quote(text, safe="")


#: The pages by the name of their URL; those with several faces have a word behind the name.
PAGES: dict[str, Address] = {
    "app_list": at(""),
    "djjp_job_changelist": at("job/"),
    "djjp_job_changelist failed": at("job/?state=failed"),
    "djjp_job_changelist empty": at("job/?q=name%3Anothing.at.all"),
    "djjp_job_changelist wrong": at("job/?q=stat%3Afailed&since=yesterday"),
    "djjp_job_bulk retry": at("job/bulk/retry/?state=failed"),
    "djjp_job_bulk cancel": at("job/bulk/cancel/?state=running"),
    "djjp_job_bulk delete": at("job/bulk/delete/"),
    "djjp_job_bulk move": at("job/bulk/move/?state=ready"),
    "djjp_job_bulk priority": at("job/bulk/priority/?state=ready&argument=7"),
    "djjp_job_bulk run": at("job/bulk/run/?state=scheduled"),
    "djjp_job_failures": at("job/failures/"),
    "djjp_job_failures none": at("job/failures/?queue=nothing"),
    "djjp_operation_changelist": at("operation/"),
    "djjp_operation_change": lambda seeded: f"operation/{seeded.operation}/change/",
    "djjp_operation_change waiting": lambda seeded: f"operation/{seeded.waiting}/change/",
    "djjp_operation_history": lambda seeded: f"operation/{seeded.operation}/history/",
    **{f"djjp_job_change {state.value}": page_of(state) for state in State},
    "djjp_job_change paused": lambda seeded: f"job/{seeded.paused}/change/",
    "djjp_job_names": at("job/names/"),
    "djjp_job_name": at("job/names/shop.billing.charge/"),
    "djjp_job_name long": at(f"job/names/{quoted(LONG)}/"),
    "djjp_job_outboxes": at("job/outbox/"),
    "djjp_job_outbox": at("job/outbox/default/"),
    "djjp_job_outbox_delete": lambda seeded: f"job/outbox/default/delete/?key={seeded.aside}",
    "djjp_queue_changelist": at("queue/"),
    "djjp_queue_changelist search": at("queue/?q=mail"),
    "djjp_queue_change": at("queue/default/change/"),
    "djjp_queue_change paused": at("queue/bulk/change/"),
    "djjp_queue_change slashed": at(f"queue/{quote_pk(SLASHED)}/change/"),
    "djjp_consumer_changelist": at("consumer/"),
    "djjp_consumer_changelist search": at("consumer/?q=web"),
    "djjp_consumer_change": at(f"consumer/{quote_pk(CONSUMER)}/change/"),
    "djjp_consumer_change quiet": at(f"consumer/{quote_pk('web-1:17:feed')}/change/"),
    "djjp_consumer_stop": at(f"consumer/{quoted(CONSUMER)}/stop/"),
    "djjp_incident_changelist": at("incident/"),
    "djjp_incident_change": lambda seeded: f"incident/{seeded.incident}/change/",
    "djjp_job_pipeline": lambda seeded: f"job/pipelines/{seeded.pipeline}/",
    "djjp_job_pipeline_retry": lambda seeded: f"job/pipelines/{seeded.pipeline}/retry/",
    "djjp_job_pipeline_retry_step": lambda seeded: (
        f"job/pipelines/{seeded.pipeline}/retry/{seeded.step}/"
    ),
    "djjp_job_pipeline_cancel": lambda seeded: f"job/pipelines/{seeded.underway}/cancel/",
    "djjp_job_pipeline_cancel ended": lambda seeded: f"job/pipelines/{seeded.pipeline}/cancel/",
    "djjp_job_pipeline underway": lambda seeded: f"job/pipelines/{seeded.underway}/",
    "djjp_job_change long": lambda seeded: f"job/{seeded.long}/change/",
    "djjp_job_copy": lambda seeded: f"job/{seeded.copied}/copy/",
    "djjp_job_copy refused": lambda seeded: f"job/{seeded.long}/copy/",
    "djjp_job_stack": lambda seeded: f"job/{seeded.jobs[State.FAILED]}/stack/",
    "djjp_job_confirm_cancel": lambda seeded: f"job/{seeded.jobs[State.RUNNING]}/confirm/cancel/",
    "djjp_job_delete running": lambda seeded: f"job/{seeded.jobs[State.RUNNING]}/delete/",
    "djjp_schedule_changelist": at("schedule/"),
    "djjp_schedule_changelist problem": at("schedule/?problem=yes"),
    "djjp_schedule_add": at("schedule/add/"),
    "djjp_schedule_change": lambda seeded: f"schedule/{seeded.schedule}/change/",
    "djjp_schedule_change disabled": lambda seeded: f"schedule/{seeded.disabled}/change/",
    "djjp_schedule_delete": lambda seeded: f"schedule/{seeded.schedule}/delete/",
    "djjp_schedule_history": lambda seeded: f"schedule/{seeded.schedule}/history/",
    "djjp_job_history": lambda seeded: f"job/{seeded.jobs[State.FAILED]}/history/",
    "djjp_job_delete": lambda seeded: f"job/{seeded.jobs[State.FAILED]}/delete/",
}

#: The names that lead to no page of their own, with the reason.
NO_PAGES: dict[str, str] = {
    "djjp_operation_add": "refused: operations come from the actions of the list of jobs",
    "djjp_operation_delete": "refused: operations are kept for 30 days",
    "djjp_operation_stop": "a button",
    "djjp_operation_go_on": "a button",
    **{
        f"djjp_{model}_{verb}": "refused: it is no row that a user writes"
        for model in ("queue", "consumer", "incident")
        for verb in ("add", "delete", "history")
    },
    "djjp_queue_pause": "a button",
    "djjp_queue_resume": "a button",
    "djjp_consumer_quiet": "a button",
    "djjp_consumer_unquiet": "a button",
    "djjp_consumer_stack": "a button",
    "djjp_job_outbox_relay": "a button",
    "djjp_job_add": "refused: jobs are enqueued by code",
    "djjp_job_dashboard": "a fragment of the dashboard",
    "djjp_job_retry": "a button",
    "djjp_job_cancel": "a button",
    "djjp_job_run": "a button",
    "djjp_job_move": "a button",
    "djjp_job_priority": "a button",
    "djjp_job_resume": "a button",
    "djjp_schedule_run": "a button",
    "djjp_schedule_enable": "a button",
    "djjp_schedule_disable": "a button",
}


def names() -> Iterator[str]:
    """Yield the names of all URLs of djjp in the admin."""
    yield "app_list"
    for pattern, where in _walk(admin.site.urls[0], ""):
        # Django redirects "<path:object_id>/" to the page of the row, and it has no name.
        if where.startswith("djjp/") and not where.endswith("%(object_id)s/"):
            yield pattern.name or where


def _walk(patterns: Any, prefix: str) -> Iterator[tuple[URLPattern, str]]:
    for each in patterns:
        where = prefix + normalize(each.pattern.regex.pattern)[0][0]
        if isinstance(each, URLResolver):
            yield from _walk(each.url_patterns, where)
        else:
            yield each, where
