"""The page of one job: one sentence, its causes with their buttons, its timeline, its errors, nothing empty."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.test import Client, override_settings
from django.utils import timezone

from djjp import chain, queues
from djjp.admin import job_page as module
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Attempt, Job, Schedule, State
from djjp.redaction import substitute
from tests.monitoring.situations import SITUATIONS, consumer
from tests.project.shop.jobs import add, echo, fail
from tests.support.admin import (
    JOBS,
    SCRIPT,
    LogIn,
    captured_statements,
    change_url,
    make_attempt,
    make_job,
    text,
)
from tests.support.consumers import drain
from tests.support.factories import consumer_row

# The pages format facts, which have tests on each database.
pytestmark = pytest.mark.one_database

FRAGMENT = {"X-Djjp-Fragment": "1"}
HEAD = "Traceback (most recent call last):\n"
LIBRARY = (
    '  File "/usr/lib/python3/dist-packages/requests/api.py", line {}, in get\n    return get()\n'
)
PROJECT = '  File "/srv/shop/jobs.py", line {}, in charge\n    gateway.pay(order)\n'


def page(client: Client, job: Job, query: str = "") -> str:
    return text(client.get(change_url(job) + query))


# The sentence and why


def test_the_page_begins_with_one_sentence_about_the_job(engine: Engine, admin: Client) -> None:
    job = make_job(State.FAILED, attempts=5)
    make_attempt(job, 5, exception_class="shop.PaymentRefused", message="card declined")
    said = "<strong>Failed after 5 attempts: shop.PaymentRefused: card declined</strong>"
    assert said in page(admin, job)


@pytest.mark.parametrize("name", SITUATIONS)
def test_each_situation_has_its_page(engine: Engine, admin: Client, name: str) -> None:
    with SITUATIONS[name].begin(engine) as id:
        shown = text(admin.get(f"{JOBS}{id}/change/"))
        refreshed = text(admin.get(f"{JOBS}{id}/change/", headers=FRAGMENT))
    headline = re.search(r"<strong>(.+?)</strong>", shown)
    assert headline
    assert (">Why</h2>" in shown) == (SITUATIONS[name].codes not in (["ended"], ["running"])) or (
        name == "its consumer is dead"
    )
    assert "<html" not in refreshed
    assert ">Timeline</h2>" in refreshed
    assert ">Call</h2>" not in refreshed


def test_a_cause_has_a_button_that_removes_it_where_the_user_may(
    engine: Engine, admin: Client, log_in: LogIn
) -> None:
    queues.pause("mail")
    job = make_job(State.READY, queue="mail")
    shown = page(admin, job)
    assert f'action="{JOBS}{job.pk}/resume/"' in shown
    assert "python manage.py djjp resume mail</code>" in shown
    viewer = log_in("view")
    assert "/resume/" not in page(viewer, job)
    assert viewer.post(f"{JOBS}{job.pk}/resume/").status_code == 403
    admin.post(f"{JOBS}{job.pk}/resume/")
    assert "is paused" not in page(admin, job)


def test_a_job_of_a_queue_that_only_quiet_consumers_serve_has_the_button_that_ends_that(
    engine: Engine, admin: Client, log_in: LogIn
) -> None:
    consumer_row("web:7:a", quiet=True)
    job = make_job(State.READY)
    form = f'action="/admin/djjp/consumer/{quote("web:7:a")}/unquiet/"'
    shown = page(admin, job)
    assert form in shown
    assert f'name="next" value="{JOBS}{job.pk}/change/"' in shown
    assert form not in page(log_in("view"), job)


def test_what_waits_for_its_time_can_be_run_now_beside_the_cause(
    engine: Engine, admin: Client
) -> None:
    with SITUATIONS["its time has not come"].begin(engine) as id:
        shown = text(admin.get(f"{JOBS}{id}/change/"))
        assert shown.count(f'action="{JOBS}{id}/run/"') == 2


def test_a_blocked_job_leads_to_the_job_that_blocks_it(engine: Engine, admin: Client) -> None:
    with SITUATIONS["the limit is full"].begin(engine) as id:
        holder = Job.objects.get(state=State.RUNNING)
        assert f'href="{change_url(holder)}">Open the job' in text(admin.get(f"{JOBS}{id}/change/"))
    Job.objects.all().delete()
    with SITUATIONS["the queue of its parent is paused"].begin(engine) as id:
        deepest = Job.objects.get(state=State.READY)
        shown = text(admin.get(f"{JOBS}{id}/change/"))
        assert f'href="{change_url(deepest)}">Open the step' in shown


def test_the_buttons_fit_the_state_and_the_rights(
    engine: Engine, admin: Client, log_in: LogIn
) -> None:
    labels = {
        State.SUCCEEDED: ["Run again", "Copy and enqueue again", "Delete"],
        State.FAILED: ["Retry", "Copy and enqueue again", "Delete"],
        State.RUNNING: ["Cancel", "Copy and enqueue again", "Stack now", "Delete"],
        State.READY: ["Cancel", "Copy and enqueue again", "Delete"],
        State.SCHEDULED: ["Cancel", "Run now", "Copy and enqueue again", "Delete"],
    }
    jobs = {state: make_job(state, run_after=timezone.now()) for state in labels}
    for state, wanted in labels.items():
        assert _buttons(page(admin, jobs[state])) == wanted
    viewer, operator = log_in("view"), log_in("view", "operate")
    assert _buttons(page(viewer, jobs[State.RUNNING])) == []
    assert _buttons(page(operator, jobs[State.RUNNING])) == ["Cancel"]
    assert _buttons(page(log_in("view", "view_arguments"), jobs[State.RUNNING])) == ["Stack now"]


def _buttons(shown: str) -> list[str]:
    first = shown.partition("djjp-job-timeline")[0].partition(">Why</h2>")[0]
    return re.findall(r'class="djjp-button[^"]*"[^>]*>(.*?)</', first)


# What has happened


def test_the_timeline_leads_from_the_enqueue_to_the_end(engine: Engine, admin: Client) -> None:
    job = make_job(State.FAILED, attempts=2, options='{"max_attempts":2}')
    made = [make_attempt(job, number) for number in (1, 2)]
    Attempt.objects.filter(pk=made[1].pk).update(exception_class=f"E{SCRIPT}")
    shown = page(admin, job)
    events = re.findall(r'<span class="djjp-happened">(?:<a [^>]*>)?(.*?)(?:</a>)?[ <]*<', shown)
    assert events == [
        "Enqueued",
        *("Attempt 1 of 2 started", "Attempt 1 of 2 failed"),
        *("Attempt 2 of 2 started", "Attempt 2 of 2 failed"),
        "Failed",
    ]
    assert f'href="{change_url(job)}?attempt={made[1].pk}#attempt-{made[1].pk}"' in shown
    assert "E&lt;script&gt;" in shown


def test_calls_of_the_project_are_marked_and_those_of_libraries_folded(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.FAILED)
    trace = HEAD + LIBRARY.format(1) * 2 + PROJECT.format(7) + "shop.PaymentRefused: no\n"
    made = make_attempt(job, traceback=trace, message="no")
    shown = page(admin, job)
    assert '<summary data-djjp-uncopied>2 calls in libraries</summary><pre>  File "/usr' in (
        shown.replace("&quot;", '"')
    )
    project = re.search(r'<pre class="djjp-part-project">(.*?)</pre>', shown, re.DOTALL)
    assert project is not None
    assert "gateway.pay(order)" in project[1]
    assert '<pre class="djjp-part-text">shop.PaymentRefused: no\n</pre>' in shown
    assert shown.count("/srv/shop/jobs.py:7 in charge") == 2
    assert f'data-djjp-copy="djjp-traceback-{made.pk}"' in shown


def test_a_traceback_of_libraries_only_has_its_last_calls_in_sight(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.FAILED)
    make_attempt(job, traceback=HEAD + LIBRARY.format(1) + "E: no\n", message="no")
    assert '<details class="djjp-part-library" open>' in page(admin, job)


def test_five_thousand_lines_and_a_message_of_a_megabyte_are_cut_and_folded(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.FAILED)
    trace = HEAD + PROJECT.format(1) * 60_000 + "E: the end\n"
    made = make_attempt(job, traceback=trace, message="x <b> " * 200_000)
    shown = page(admin, job)
    assert len(shown) < 600_000
    assert "Its beginning is left out." in shown
    assert "more lines</summary>" in shown
    assert "E: the end\n</pre>" in shown
    assert "<b>" not in shown
    with captured_statements(engine) as sent:
        text(admin.get(change_url(job), headers=FRAGMENT))
    assert [sql for sql in sent.queue if str(module.LONGEST_TRACEBACK) in sql] == []
    assert made.pk


def test_only_the_latest_tracebacks_are_sent_and_the_chosen_one(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.FAILED, attempts=6)
    made = [
        make_attempt(job, n, traceback=f"{HEAD}{PROJECT.format(n)}E: {n}\n", message=str(n))
        for n in range(1, 7)
    ]
    shown = page(admin, job)
    assert re.findall(r"E: (\d)\n</pre>", shown) == ["6", "5", "4"]
    assert f'href="?attempt={made[0].pk}#attempt-{made[0].pk}">Show its traceback' in shown
    assert f'id="attempt-{made[5].pk}" open' in shown
    chosen = page(admin, job, f"?attempt={made[0].pk}")
    assert re.findall(r"E: (\d)\n</pre>", chosen) == ["6", "5", "4", "1"]
    assert f'id="attempt-{made[0].pk}" open' in chosen
    for odd in ("x", "-1", "9" * 30, "\0", SCRIPT):
        assert "E: 6\n</pre>" in text(admin.get(change_url(job), {"attempt": odd}))


# The call


def test_arguments_have_the_names_of_their_parameters_and_secrets_are_hidden(
    engine: Engine, admin: Client
) -> None:
    call = '{"args":[471147114711],"kwargs":{"b":{"password":"hunter2"}}}'
    shown = page(
        admin, make_job(name=add.name, arguments=call, result='{"token":"swordfish","n":1}')
    )
    assert '<dt>a</dt><dd><code class="djjp-code">471147114711</code></dd>' in shown
    assert "hunter2" not in shown
    assert "swordfish" not in shown
    assert substitute() in shown
    gone = page(admin, make_job(name="shop.gone", arguments=call))
    assert "No job of this name is registered in this process" in gone
    assert "471147114711" not in gone


def test_arguments_results_and_errors_need_their_right(engine: Engine, log_in: LogIn) -> None:
    viewer = log_in("view", "operate", "delete")
    job = make_job(
        State.FAILED,
        name=add.name,
        arguments='{"args":["SECRET"],"kwargs":{}}',
        result='"SECRET"',
        reason="SECRET" * 50,
    )
    make_attempt(job, message="SECRET", traceback=f"{HEAD}{PROJECT.format(1)}SECRET\n")
    cancelled = make_job(State.CANCELLED, reason="SECRET")
    for each in (job, cancelled):
        shown = page(viewer, each)
        assert "SECRET" not in shown
        assert "You lack the right to see arguments and results." in shown
        assert "SECRET" not in text(viewer.get(change_url(each), headers=FRAGMENT))
    assert "ValueError" in page(viewer, job)
    assert "gateway.pay" not in page(viewer, job)


def test_the_release_and_the_schedule_that_enqueued_it_are_named(
    engine: Engine, log_in: LogIn
) -> None:
    job = make_job(arguments='{"args":[],"kwargs":{},"release":"2026.11.3"}')
    Schedule.objects.create(name=f"nightly {SCRIPT}", job="x", fired_until=0, last_job=job.pk)
    shown = page(log_in("view", "view_schedule"), job)
    assert "<dd>2026.11.3</dd>" in shown
    assert "nightly &lt;script&gt;" in shown
    assert "nightly" not in page(log_in("view"), job)


def test_a_long_result_is_folded(engine: Engine, admin: Client) -> None:
    job = make_job(result='"' + "x" * 50_000 + '"')
    assert "1 line, 50,002 characters</summary>" in page(admin, job)


def test_arguments_of_many_values_are_one_block(engine: Engine, admin: Client) -> None:
    numbers = ",".join(map(str, range(5_000)))
    job = make_job(name=echo.name, arguments=f'{{"args":[{numbers}],"kwargs":{{}}}}')
    shown = page(admin, job)
    assert "<dt>All arguments</dt>" in shown
    assert "4999" in shown


# Odd rows


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "n" * 200, "queue": "q" * 100, "consumer": "c" * 100},
        {"name": "\u202eevil\u2066", "queue": "\x1b[31m", "consumer": "\x07:1:a"},
        {"name": "a/b?c#d%", "queue": "../..", "consumer": "%00"},
        {"pipeline": new_id(), "flags": -1},
        {"arguments": "[1", "result": "nonsense", "options": "nonsense"},
        {"arguments": '{"args":{},"kwargs":[]}'},
        {"attempts": 0, "started_at": None, "finished_at": None},
        {"limit_key": "k", "limit_max": 0, "progress_done": -5, "progress_total": -1},
    ],
    ids=["long", "controls", "signs", "flags", "damaged", "swapped", "without times", "numbers"],
)
def test_no_row_breaks_the_page(engine: Engine, admin: Client, fields: dict[str, Any]) -> None:
    job = make_job(State.FAILED, **fields)
    make_attempt(job, consumer=str(fields.get("consumer", "here")))
    for state in (*State, "dormant"):
        Job.objects.update(state=state)
        for shown in (page(admin, job), text(admin.get(change_url(job), headers=FRAGMENT))):
            assert "\u202e" not in shown
            assert "\x1b" not in shown


def test_a_job_in_an_outbox_has_its_page(engine: Engine, admin: Client) -> None:
    with SITUATIONS["it is in an outbox"].begin(engine) as id:
        shown = text(admin.get(f"{JOBS}{id}/change/"))
        assert "in the outbox of" in shown
        assert _buttons(shown) == ["Cancel"]
        assert '<dt>a</dt><dd><code class="djjp-code">1</code></dd>' in shown


@override_settings(USE_TZ=False)
def test_without_time_zones_the_page_is_the_same(engine: Engine, admin: Client) -> None:
    fail.using(max_attempts=2, backoff=3600).run_later("no")
    drain()
    consumer()
    job = Job.objects.get()
    shown = page(admin, job)
    assert "Will be retried in" in shown
    assert "(attempt 2 of 2): ValueError: no" in shown


def test_the_number_of_statements_does_not_depend_on_what_the_job_has(
    engine: Engine, admin: Client
) -> None:
    plain = make_job(State.FAILED)
    make_attempt(plain)
    rich = make_job(State.FAILED, attempts=30, options='{"tags":["a","b"]}')
    for number in range(30):
        make_attempt(rich, number + 1)
    counts = []
    for job in (plain, rich):
        with captured_statements(engine) as sent:
            page(admin, job)
        counts.append((len(sent.queue), len(sent.application)))
    assert counts[0] == counts[1]
    assert counts[0][0] <= 12

    wide = chain(add.bind(1), echo.bind()).run_later()
    with captured_statements(engine) as sent:
        text(admin.get(f"{JOBS}{wide.id}/change/"))
    assert len(sent.queue) <= 20


def test_a_page_that_is_refreshed_reads_no_arguments_and_no_result(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.RUNNING, started_at=timezone.now() - timedelta(minutes=3))
    with captured_statements(engine) as sent:
        text(admin.get(change_url(job), headers=FRAGMENT))
    # The beginning of the arguments shows whether the job is a task.
    read = [
        sql for sql in sent.queue if re.search(r'[T,] "djjp_job"\."(arguments|result|input)"', sql)
    ]
    assert read == []


def test_the_page_of_a_job_on_another_day_is_answered_within_its_bounds(
    engine: Engine, admin: Client
) -> None:
    handle = add.run_later(1)
    with engine.db.transaction():
        engine.jobs.claim("elsewhere:1:a", 1, time.time())
    assert "whose consumer is dead" in text(admin.get(f"{JOBS}{handle.id}/change/"))
