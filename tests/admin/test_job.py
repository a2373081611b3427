from __future__ import annotations

import re
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import DELETION, LogEntry
from django.db import connections
from django.test import Client

from djjp.admin import job_page as module
from djjp.engine import Claimed, Engine, Failure, Outcome
from djjp.models import Attempt, Flag, Job, State
from djjp.redaction import substitute
from tests.project.shop.jobs import echo, fail
from tests.support.admin import (
    JOBS,
    NOW,
    SCRIPT,
    Execute,
    LogIn,
    Response,
    captured_statements,
    change_url,
    make_attempt,
    make_job,
    messages,
    nothing_hidden,
    run_action,
    states,
    text,
)
from tests.support.consumers import drain
from tests.support.postgres import AWAITS_LOCK
from tests.support.processes import eventually

# The pages read rows by their ids, and call verbs, which have tests on each database.
pytestmark = pytest.mark.one_database


def gone(job: Job) -> bool:
    return not Job.objects.filter(pk=job.pk).exists()


# The page of one job


def test_a_job_that_ran_shows_its_arguments_and_its_result(engine: Engine, admin: Client) -> None:
    handle = echo.run_later(42, "ünïcode", when=(1, 2))
    drain()
    shown = text(admin.get(f"{JOBS}{handle.id}/change/"))
    for name, value in (
        ("args[0]", "42"),
        ("args[1]", "&quot;ünïcode&quot;"),
        ("when", "tuple([1, 2])"),
    ):
        assert f'<dt>{name}</dt><dd><code class="djjp-code">{value}</code></dd>' in shown
    assert "[[42, &quot;ünïcode&quot;], {&quot;when&quot;: tuple([1, 2])}]" in shown
    assert "Failed attempts" not in shown
    assert str(handle.id) in shown


def test_a_call_with_options_and_tags_shows_them(engine: Engine, admin: Client) -> None:
    call = echo.using(timeout=60, max_attempts=3, tags=["<b>", "tenant-42"])
    shown = text(admin.get(f"{JOBS}{call.run_later().id}/change/"))
    assert "timeout 60.0, max_attempts 3" in shown
    assert '?tag=%3Cb%3E">&lt;b&gt;</a>' in shown
    assert '?tag=tenant-42">tenant-42</a>' in shown
    plain = text(admin.get(f"{JOBS}{echo.run_later().id}/change/"))
    assert "set for this call" not in plain.lower()
    assert "<dt>Tags" not in plain


def test_a_job_that_failed_shows_its_traceback(engine: Engine, admin: Client) -> None:
    handle = fail.run_later("order 7 has no address")
    drain()
    shown = text(admin.get(f"{JOBS}{handle.id}/change/"))
    assert "Failed after 1 attempt: ValueError: order 7 has no address" in shown
    assert "Traceback (most recent call last):" in shown
    assert "raise ValueError(message)" in shown


def test_attempts_are_shown_latest_first_and_bounded_in_number(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS_SHOWN", 2)
    job = make_job(State.FAILED)
    for number in (1, 2):
        make_attempt(job, number)
    with captured_statements(engine) as sent:
        shown = text(admin.get(change_url(job)))
    assert [s for s in sent.queue if s.endswith(" DESC LIMIT 3")]
    assert re.findall(r"<summary>Attempt (\d)", shown) == ["2", "1"]
    assert "Earlier attempts are not shown" not in shown
    make_attempt(job, 3)
    shown = text(admin.get(change_url(job)))
    assert re.findall(r"<summary>Attempt (\d)", shown) == ["3", "2"]
    assert "Earlier attempts are not shown" in shown


def test_a_message_that_the_traceback_leaves_out_is_shown_beside_it(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.FAILED)
    make_attempt(job, message="first\nsecond", traceback="<its traceback could not be printed>")
    shown = text(admin.get(change_url(job)))
    assert '<pre class="djjp-text">first\nsecond</pre>' in shown
    assert "&lt;its traceback could not be printed&gt;" in shown


def test_no_text_of_a_job_becomes_markup(engine: Engine, admin: Client) -> None:
    job = make_job(
        State.FAILED,
        name=f"shop.{SCRIPT}",
        queue=f"q{SCRIPT}",
        consumer=f"c{SCRIPT}",
        arguments=f'{{"args":["{SCRIPT}"],"kwargs":{{"{SCRIPT}":{{"$djjp":"{SCRIPT}","value":1}}}}}}',
        result=f'"{SCRIPT}"',
    )
    bad: dict[str, str] = dict.fromkeys(
        ("exception_class", "message", "traceback", "consumer"), SCRIPT
    )
    make_attempt(job, 1, **bad)
    make_attempt(job, 2, **(bad | {"traceback": ""}))
    damaged = make_job(arguments=SCRIPT, result=SCRIPT)
    admin.post(f"{JOBS}{job.pk}/retry/")
    make_job(name=f"shop.{SCRIPT}", queue=f"q{SCRIPT}")
    for url in (
        JOBS,
        f"{JOBS}?queue={SCRIPT}&name={SCRIPT}&q={SCRIPT}&state={SCRIPT}",
        change_url(job),
        change_url(damaged),
        f"{JOBS}{job.pk}/history/",
        f"{JOBS}{job.pk}/delete/",
    ):
        with nothing_hidden():
            shown = text(admin.get(url))
        assert "<script>alert" not in shown, url
        assert "&lt;script&gt;alert" in shown, url
    assert "<script>alert" not in text(run_action(admin, "delete_selected", job, damaged))


def test_a_job_that_is_not_registered_and_cannot_be_decoded_is_shown(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.READY, name="long.gone.job", arguments='{"$djjp":', result="{nor this")
    assert "long.gone.job" in text(admin.get(JOBS))
    with nothing_hidden():
        shown = text(admin.get(change_url(job)))
    assert "{&quot;$djjp&quot;:</code>" in shown
    assert "{nor this</code>" in shown
    hidden = text(admin.get(change_url(job)))
    assert "nor this" not in hidden
    assert substitute() in hidden


def test_a_lone_surrogate_in_an_argument_is_shown_as_its_json_escape(
    engine: Engine, admin: Client
) -> None:
    job = make_job(arguments='{"args":["\\ud800","\\u0000"],"kwargs":{}}')
    shown = text(admin.get(change_url(job)))
    assert "&quot;\\ud800&quot;</code>" in shown
    assert "&quot;\\u0000&quot;</code>" in shown


@pytest.mark.parametrize("address", ["nonsense/change/", "0/change/", "a_00b/change/"])
def test_an_address_without_a_job_redirects_with_a_message(
    engine: Engine, admin: Client, address: str
) -> None:
    response = admin.get(JOBS + address, follow=True)
    assert response.redirect_chain
    assert "doesn’t exist" in messages(response)[0]


# Permissions


def test_nobody_adds_or_edits_a_job(engine: Engine, log_in: LogIn) -> None:
    admin, job = log_in("view", "operate", "delete"), make_job()
    assert admin.get(f"{JOBS}add/").status_code == 403
    assert admin.post(f"{JOBS}add/", {"name": "x"}).status_code == 403
    assert admin.post(change_url(job), {"name": "x", "state": "ready"}).status_code == 403
    shown = text(admin.get(change_url(job)))
    assert 'name="_save"' not in shown
    assert not re.search(
        r'<(input|textarea|select)[^>]* name="(name|queue|state|arguments)"', shown
    )
    assert Job.objects.get().name == "shop.echo"


def test_a_viewer_sees_no_action_and_can_forge_none(engine: Engine, log_in: LogIn) -> None:
    viewer, job, waiting = log_in("view"), make_job(State.FAILED), make_job(State.READY)
    assert 'name="action"' not in text(viewer.get(JOBS))
    shown = text(viewer.get(change_url(job)))
    assert "/retry/" not in shown
    assert "/delete/" not in shown
    assert viewer.post(f"{JOBS}{job.pk}/retry/").status_code == 403
    assert "/cancel/" not in text(viewer.get(change_url(waiting)))
    assert viewer.post(f"{JOBS}{waiting.pk}/cancel/").status_code == 403
    assert viewer.post(f"{JOBS}{job.pk}/delete/", {"post": "yes"}).status_code == 403
    for action in ("retry_selected", "cancel_selected", "delete_selected"):
        run_action(viewer, action, job, waiting, post="yes")
    assert states(job, waiting) == ["failed", "ready"]


def test_retry_and_cancel_need_another_permission_than_delete(
    engine: Engine, log_in: LogIn
) -> None:
    job, waiting = make_job(State.FAILED), make_job(State.READY)
    retrier, deleter = log_in("view", "operate"), log_in("view", "delete")
    assert "/retry/" in text(retrier.get(change_url(job)))
    assert "/delete/" not in text(retrier.get(change_url(job)))
    assert retrier.post(f"{JOBS}{job.pk}/delete/", {"post": "yes"}).status_code == 403
    run_action(retrier, "delete_selected", job, post="yes")
    assert "/retry/" not in text(deleter.get(change_url(job)))
    assert "/delete/" in text(deleter.get(change_url(job)))
    assert deleter.post(f"{JOBS}{job.pk}/retry/").status_code == 403
    run_action(deleter, "retry_selected", job)
    assert states(job) == ["failed"]
    assert "/cancel/" in text(retrier.get(change_url(waiting)))
    assert "/cancel/" not in text(deleter.get(change_url(waiting)))
    assert deleter.post(f"{JOBS}{waiting.pk}/cancel/").status_code == 403
    run_action(deleter, "cancel_selected", waiting)
    assert states(waiting) == ["ready"]


def test_anonymous_users_are_redirected_to_the_login(
    engine: Engine, log_in: LogIn, client: Client
) -> None:
    job = make_job(State.FAILED)
    for url in (JOBS, change_url(job), f"{JOBS}{job.pk}/retry/", f"{JOBS}{job.pk}/cancel/"):
        assert "/admin/login/" in client.post(url).headers["Location"]
    for url in (JOBS, change_url(job)):
        assert log_in().get(url).status_code == 403
    assert states(job) == ["failed"]


@pytest.mark.parametrize(
    ("button", "before", "after"),
    [("retry", State.FAILED, "ready"), ("cancel", State.READY, "cancelled")],
)
def test_a_button_needs_a_post_with_its_csrf_token(
    engine: Engine, log_in: LogIn, button: str, before: State, after: str
) -> None:
    job, strict = make_job(before), log_in("view", "operate", strict=True)
    assert strict.get(f"{JOBS}{job.pk}/{button}/").status_code == 405
    assert strict.post(f"{JOBS}{job.pk}/{button}/").status_code == 403
    assert states(job) == [before]
    form = re.search(
        rf'action="([^"]+/{button}/)".*?value="(\w+)"', text(strict.get(change_url(job)))
    )
    assert form is not None
    assert strict.post(form[1], {"csrfmiddlewaretoken": form[2]}).status_code == 302
    assert states(job) == [after]


# Progress, reason, limits


@pytest.mark.parametrize(
    ("done", "total", "shown"),
    [
        (None, None, None),
        (0, None, "0"),
        (12_345, None, "12,345"),
        (1, 3, "1 of 3 (33 %)"),
        (2_000, 4_000, "2,000 of 4,000 (50 %)"),
        (5, 4, "5 of 4 (125 %)"),
        (5, 0, "5 of 0"),
        (-1, -4, "-1 of -4"),
    ],
)
def test_the_known_part_of_the_progress_is_shown(
    engine: Engine, admin: Client, done: int | None, total: int | None, shown: str | None
) -> None:
    job = make_job(State.RUNNING, progress_done=done, progress_total=total)
    page = text(admin.get(change_url(job)))
    row = re.search(r'<p class="djjp-note">(?:<progress.*?</progress>|Progress:) (.*?)</p>', page)
    assert (row and row[1]) == shown
    bar = re.search(r'<progress class="djjp-progress" value="(\d+)" max="(\d+)"', page)
    assert (bar is not None) == (done is not None and total is not None and total > 0)


def test_the_reason_of_a_cancellation_and_the_crash_fields_are_shown(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.CANCELLED, reason=f"no <stock> {SCRIPT}", rescues=2, on_crash="fail")
    shown = text(admin.get(change_url(job)))
    assert "no &lt;stock&gt; &lt;script&gt;" in shown
    assert "<script>alert" not in shown
    assert "<dt>Rescues</dt><dd>2</dd>" in shown
    assert "<dt>When its consumer dies</dt><dd>it fails: it never runs twice</dd>" in shown


def test_the_latest_error_is_at_the_top_and_a_plain_job_has_no_empty_rows(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.FAILED)
    make_attempt(job, message="first")
    make_attempt(job, 2, message=f"{SCRIPT}\nmore")
    said = "Failed after 1 attempt: ValueError: &lt;script&gt;alert(1)&lt;/script&gt;"
    assert f"<strong>{said}</strong>" in text(admin.get(change_url(job)))
    shown = text(admin.get(change_url(make_job(State.READY))))
    found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", shown)
    assert [name for name, _ in found] == ["Name", "Id", "Queue"]
    assert ">-<" not in shown
    for heading in ("Result", "Failed attempts", "Pipeline"):
        assert f">{heading}</h" not in shown


@pytest.mark.parametrize(
    ("state", "fields", "shown"),
    [
        (State.BLOCKED, {"limit_key": "t", "limit_max": 2}, "at most 2 at once with the key t"),
        (
            State.RUNNING,
            {"limit_key": SCRIPT, "limit_max": 2},
            "at most 2 at once with the key &lt;",
        ),
        (
            State.SCHEDULED,
            {"limit_key": "api", "limit_max": 1_000, "limit_per": 60.0, "flags": Flag.THROTTLED},
            "at most 1,000 in any 60 s with the key api",
        ),
        (State.READY, {"unique_key": f"u{SCRIPT}"}, ">u&lt;script&gt;alert(1)&lt;/script&gt;<"),
        (
            State.READY,
            {"unique_key": "sync-7", "flags": Flag.UNTIL_START},
            ">sync-7 (until it starts)<",
        ),
        (State.READY, {"expires_at": NOW}, "2026-05-04"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)
def test_the_page_shows_why_a_job_does_not_run_yet(
    engine: Engine, admin: Client, state: State, fields: dict[str, Any], shown: str
) -> None:
    said = text(
        admin.get(change_url(make_job(state, created_at=NOW - timedelta(days=9), **fields)))
    )
    assert shown in said
    assert "<script>alert" not in said


# Delete


def test_a_deletion_includes_the_failed_attempts(engine: Engine, admin: Client) -> None:
    job, other = make_job(State.FAILED), make_job(State.FAILED)
    for number in (1, 2):
        make_attempt(job, number)
    kept = make_attempt(other)
    shown = text(admin.get(f"{JOBS}{job.pk}/delete/"))
    assert "2 failed attempts" in shown
    assert not gone(job)
    response = admin.post(f"{JOBS}{job.pk}/delete/", {"post": "yes"}, follow=True)
    assert "deleted successfully" in messages(response)[0]
    assert gone(job)
    assert list(Attempt.objects.all()) == [kept]
    entry = LogEntry.objects.get()
    assert (entry.action_flag, entry.object_id) == (DELETION, str(job.pk))


def test_a_deletion_reads_neither_tracebacks_nor_payloads(engine: Engine, admin: Client) -> None:
    jobs = [make_job(State.FAILED) for _ in range(3)]
    for job in jobs:
        make_attempt(job)
    with captured_statements(engine) as sent:
        run_action(admin, "delete_selected", *jobs)
        run_action(admin, "delete_selected", *jobs, post="yes")
    assert not Job.objects.exists()
    for word in ("traceback", "arguments", "result"):
        assert not [sql for sql in sent.queue if f'"{word}"' in sql]


def test_a_running_job_can_be_deleted_and_its_outcome_is_dropped(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.READY)
    with engine.db.transaction():
        (claimed,) = engine.jobs.claim("me", 1, time.time())
    admin.post(f"{JOBS}{job.pk}/delete/", {"post": "yes"})
    with engine.db.transaction():
        assert engine.jobs.finish("me", [failed(claimed)]) == {claimed.key}
    assert not Job.objects.exists()
    assert not Attempt.objects.exists()


@pytest.mark.postgresql_only
def test_a_deletion_waits_for_the_consumer_that_is_about_to_record_a_failure(
    engine: Engine, admin: Client
) -> None:
    """SQLite has one writer: no deletion can begin inside a consumer's turn."""
    job = make_job(State.READY)
    with engine.db.transaction():
        (claimed,) = engine.jobs.claim("me", 1, time.time())
    responses: list[Response] = []

    def delete() -> None:
        responses.append(admin.post(f"{JOBS}{job.pk}/delete/", {"post": "yes"}, follow=True))
        connections.close_all()

    deletion = threading.Thread(target=delete)
    with engine.db.transaction():
        assert engine.jobs.finish("me", [failed(claimed)]) == set()
        deletion.start()
        eventually(lambda: is_a_lock_awaited(engine))
    deletion.join(30)
    assert "was deleted successfully" in messages(responses[0])[0]
    assert not Job.objects.exists()
    assert not Attempt.objects.exists()


def test_no_transaction_of_the_queue_is_open_while_a_deletion_is_logged(
    engine: Engine, admin: Client
) -> None:
    job = make_job()
    free: list[tuple[bool, bool]] = []

    def look(
        execute: Execute, sql: str, params: object, many: bool, context: dict[str, Any]
    ) -> object:
        if sql.startswith("INSERT") and "django_admin_log" in sql:
            free.append((not connections[engine.db.alias].in_atomic_block, gone(job)))
        return execute(sql, params, many, context)

    with connections["default"].execute_wrapper(look):
        admin.post(f"{JOBS}{job.pk}/delete/", {"post": "yes"})
    assert free == [(True, True)]


def failed(claimed: Claimed) -> Outcome:
    now = time.time()
    return Outcome(claimed, State.FAILED, now, now, failure=Failure("E", "m", "t"))


def is_a_lock_awaited(engine: Engine) -> bool:
    with engine.db.connection.cursor() as cursor:
        cursor.execute(AWAITS_LOCK)
        return bool(cursor.fetchone()[0])


# Statements


def test_each_database_receives_statements_on_its_own_tables_only(
    engine: Engine, admin: Client
) -> None:
    jobs = [make_job(State.FAILED) for _ in range(6)]
    for job in jobs:
        make_attempt(job)
    with captured_statements(engine) as sent:
        for url in (
            "/admin/",
            JOBS,
            f"{JOBS}?q=echo&state=failed&queue=default",
            f"{JOBS}?q={jobs[0].pk}",
            change_url(jobs[0]),
            f"{JOBS}{jobs[0].pk}/delete/",
        ):
            text(admin.get(url, follow=True))
        admin.post(f"{JOBS}{jobs[0].pk}/retry/")
        admin.post(f"{JOBS}{jobs[0].pk}/cancel/")
        text(admin.get(f"{JOBS}{jobs[0].pk}/history/"))
        run_action(admin, "retry_selected", *jobs[1:3], post="yes")
        run_action(admin, "delete_selected", *jobs[3:5])
        run_action(admin, "delete_selected", *jobs[3:5], post="yes")
        admin.post(f"{JOBS}{jobs[5].pk}/delete/", {"post": "yes"})
    assert Job.objects.count() == 3
    assert LogEntry.objects.count() == 5
    assert [sql for sql in sent.application if "djjp_" in sql] == []
    tables = re.compile(r'\b(?:FROM|INTO|UPDATE|JOIN)\s+"?(\w+)', re.IGNORECASE)
    named = {table for sql in sent.queue for table in tables.findall(sql)}
    assert {"djjp_job", "djjp_attempt", "djjp_operation"} <= named
    assert not {table for table in named if table.startswith(("django_", "auth_"))}
    verbs = {sql.split()[0] for sql in sent.queue if not tables.search(sql)}
    also = {"SELECT"} if engine.db.alias == "postgresql" else {"PRAGMA"}  # pg_notify
    assert verbs <= {"BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", *also}
