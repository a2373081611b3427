import re
import threading
import time
from datetime import timedelta

import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.db import connections

from djjp.admin import job as module
from djjp.engine import Failure, Outcome
from djjp.models import FINISHED, Attempt, Flag, Job, State
from tests.admin.conftest import LIST, NOW, asked, failure, make, page, text
from tests.project.shop.jobs import echo, fail, hog
from tests.support.processes import eventually

ENDED, OPEN = FINISHED, [state for state in State if state not in FINISHED]
SCRIPT = "<script>alert(1)</script>"


def act(client, action, *jobs, **fields):
    data = {"action": action, "_selected_action": [str(job.pk) for job in jobs]} | fields
    return client.post(LIST, data, follow=True)


def said(response):
    return [str(message) for message in response.context["messages"]]


def states(*jobs):
    return [Job.objects.get(pk=job.pk).state for job in jobs]


def gone(job):
    return not Job.objects.filter(pk=job.pk).exists()


# The page of one job


def test_a_job_that_ran_shows_its_arguments_and_its_result(engine, admin, processes):
    handle = echo.run_later(42, "ünïcode", when=(1, 2))
    assert processes.run("start_consumer", "--drain").returncode == 0
    shown = text(admin.get(f"{LIST}{handle.id}/change/"))
    assert '<pre class="djjp-text">[42, &quot;ünïcode&quot;]</pre>' in shown
    assert '<pre class="djjp-text">{&quot;when&quot;: tuple([1, 2])}</pre>' in shown
    assert "[[42, &quot;ünïcode&quot;], {&quot;when&quot;: tuple([1, 2])}]" in shown
    assert "Failed attempts" not in shown
    assert str(handle.id) in shown


def test_a_job_that_failed_shows_its_traceback(engine, admin, processes):
    handle = fail.run_later("order 7 has no address")
    assert processes.run("start_consumer", "--drain").returncode == 0
    shown = text(admin.get(f"{LIST}{handle.id}/change/"))
    assert "builtins.ValueError: order 7 has no address" in shown
    assert "Traceback (most recent call last):" in shown
    assert "raise ValueError(message)" in shown


def test_attempts_are_shown_latest_first_and_bounded_in_number(engine, admin, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS_SHOWN", 2)
    job = make(State.FAILED)
    for number in (1, 2):
        failure(job, number)
    with asked(engine) as seen:
        shown = text(admin.get(page(job)))
    assert [s for s in seen.queue if s.endswith('ORDER BY "djjp_attempt"."id" DESC LIMIT 3')]
    assert re.findall(r"Attempt (\d)", shown) == ["2", "1"]
    assert "Earlier attempts are not shown" not in shown
    failure(job, 3)
    shown = text(admin.get(page(job)))
    assert re.findall(r"Attempt (\d)", shown) == ["3", "2"]
    assert "Earlier attempts are not shown" in shown


def test_a_message_that_the_traceback_leaves_out_is_shown_beside_it(engine, admin):
    job = make(State.FAILED)
    failure(job, message="first\nsecond", traceback="<its traceback could not be printed>")
    shown = text(admin.get(page(job)))
    assert '<pre class="djjp-text">first\nsecond</pre>' in shown
    assert "&lt;its traceback could not be printed&gt;" in shown


def test_nothing_that_a_job_carries_becomes_markup(engine, admin):
    job = make(
        State.FAILED,
        name=f"shop.{SCRIPT}",
        queue=f"q{SCRIPT}",
        consumer=f"c{SCRIPT}",
        arguments=f'{{"args":["{SCRIPT}"],"kwargs":{{"{SCRIPT}":{{"$djjp":"{SCRIPT}","value":1}}}}}}',
        result=f'"{SCRIPT}"',
    )
    bad = dict.fromkeys(("exception_class", "message", "traceback", "consumer"), SCRIPT)
    failure(job, **bad)
    failure(job, **(bad | {"traceback": ""}))
    damaged = make(arguments=SCRIPT, result=SCRIPT)
    admin.post(f"{LIST}{job.pk}/retry/")
    make(name=f"shop.{SCRIPT}", queue=f"q{SCRIPT}")
    for url in (
        LIST,
        f"{LIST}?queue={SCRIPT}&name={SCRIPT}&q={SCRIPT}&state={SCRIPT}",
        page(job),
        page(damaged),
        f"{LIST}{job.pk}/history/",
        f"{LIST}{job.pk}/delete/",
    ):
        shown = text(admin.get(url))
        assert "<script>alert" not in shown, url
        assert "&lt;script&gt;alert" in shown, url
    assert "<script>alert" not in text(act(admin, "delete_selected", job, damaged))


def test_a_job_that_no_code_knows_and_no_codec_reads_is_shown(engine, admin):
    job = make(State.READY, name="long.gone.job", arguments='{"$djjp":', result="{nor this")
    assert "long.gone.job" in text(admin.get(LIST))
    shown = text(admin.get(page(job)))
    assert "{&quot;$djjp&quot;:</pre>" in shown
    assert "{nor this</pre>" in shown


def test_half_a_character_in_an_argument_is_shown_as_json_spells_it(engine, admin):
    job = make(arguments='{"args":["\\ud800","\\u0000"],"kwargs":{}}')
    assert "&quot;\\ud800&quot;, &quot;\\u0000&quot;" in text(admin.get(page(job)))


@pytest.mark.parametrize("address", ["nonsense/change/", "0/change/", "a_00b/change/"])
def test_a_page_of_no_job_leads_away(engine, admin, address):
    response = admin.get(LIST + address, follow=True)
    assert response.redirect_chain
    assert "doesn’t exist" in said(response)[0]


# Who may do what


def test_nobody_adds_or_edits_a_job(engine, staff):
    admin, job = staff("add", "view", "change", "delete"), make()
    assert admin.get(f"{LIST}add/").status_code == 403
    assert admin.post(f"{LIST}add/", {"name": "x"}).status_code == 403
    assert admin.post(page(job), {"name": "x", "state": "ready"}).status_code == 403
    shown = text(admin.get(page(job)))
    assert 'name="_save"' not in shown
    assert not re.search(
        r'<(input|textarea|select)[^>]* name="(name|queue|state|arguments)"', shown
    )
    assert Job.objects.get().name == "shop.echo"


def test_who_may_only_look_sees_no_action_and_can_forge_none(engine, staff):
    viewer, job, waiting = staff("view"), make(State.FAILED), make(State.READY)
    assert 'name="action"' not in text(viewer.get(LIST))
    shown = text(viewer.get(page(job)))
    assert "/retry/" not in shown
    assert "/delete/" not in shown
    assert viewer.post(f"{LIST}{job.pk}/retry/").status_code == 403
    assert "/cancel/" not in text(viewer.get(page(waiting)))
    assert viewer.post(f"{LIST}{waiting.pk}/cancel/").status_code == 403
    assert viewer.post(f"{LIST}{job.pk}/delete/", {"post": "yes"}).status_code == 403
    for action in ("retry_selected", "cancel_selected", "delete_selected"):
        act(viewer, action, job, waiting, post="yes")
    assert states(job, waiting) == ["failed", "ready"]


def test_retry_and_cancel_are_allowed_apart_from_delete(engine, staff):
    job, waiting = make(State.FAILED), make(State.READY)
    retrier, deleter = staff("change"), staff("view", "delete")
    assert "/retry/" in text(retrier.get(page(job)))
    assert "/delete/" not in text(retrier.get(page(job)))
    assert retrier.post(f"{LIST}{job.pk}/delete/", {"post": "yes"}).status_code == 403
    act(retrier, "delete_selected", job, post="yes")
    assert "/retry/" not in text(deleter.get(page(job)))
    assert "/delete/" in text(deleter.get(page(job)))
    assert deleter.post(f"{LIST}{job.pk}/retry/").status_code == 403
    act(deleter, "retry_selected", job)
    assert states(job) == ["failed"]
    assert "/cancel/" in text(retrier.get(page(waiting)))
    assert "/cancel/" not in text(deleter.get(page(waiting)))
    assert deleter.post(f"{LIST}{waiting.pk}/cancel/").status_code == 403
    act(deleter, "cancel_selected", waiting)
    assert states(waiting) == ["ready"]


def test_a_project_may_keep_some_jobs_from_being_deleted(engine, admin, monkeypatch):
    kept, other = make(queue="audit"), make()
    monkeypatch.setattr(
        module.JobAdmin, "has_delete_permission", lambda self, request, obj=None: obj != kept
    )
    assert "Cannot delete" in text(act(admin, "delete_selected", kept, other))
    assert act(admin, "delete_selected", kept, other, post="yes").status_code == 403
    assert states(kept, other) == ["succeeded", "succeeded"]


def test_strangers_are_sent_to_log_in(engine, staff, client):
    job = make(State.FAILED)
    for url in (LIST, page(job), f"{LIST}{job.pk}/retry/", f"{LIST}{job.pk}/cancel/"):
        assert "/admin/login/" in client.post(url).headers["Location"]
    for url in (LIST, page(job)):
        assert staff().get(url).status_code == 403
    assert states(job) == ["failed"]


@pytest.mark.parametrize(
    ("button", "before", "after"),
    [("retry", State.FAILED, "ready"), ("cancel", State.READY, "cancelled")],
)
def test_a_button_needs_a_post_with_the_token(engine, staff, button, before, after):
    job, strict = make(before), staff("view", "change", strict=True)
    assert strict.get(f"{LIST}{job.pk}/{button}/").status_code == 405
    assert strict.post(f"{LIST}{job.pk}/{button}/").status_code == 403
    assert states(job) == [before]
    form = re.search(rf'action="([^"]+/{button}/)".*?value="(\w+)"', text(strict.get(page(job))))
    assert form is not None
    assert strict.post(form[1], {"csrfmiddlewaretoken": form[2]}).status_code == 302
    assert states(job) == [after]


# Retry


@pytest.mark.parametrize("state", ENDED)
def test_the_button_retries_a_job_that_has_ended(engine, admin, state):
    job = make(state, rescues=2)
    failure(job)
    filters = "?_changelist_filters=state%3Dfailed"
    assert f"/retry/{filters}" in text(admin.get(page(job) + filters))
    response = admin.post(f"{LIST}{job.pk}/retry/{filters}", follow=True)
    assert response.redirect_chain == [(page(job) + filters, 302)]
    assert said(response) == ["Retried 1 job."]
    job.refresh_from_db()
    assert (job.state, job.attempts, job.rescues, job.finished_at) == ("ready", 0, 0, None)
    assert Attempt.objects.count() == 1
    assert LogEntry.objects.get().action_flag == CHANGE


@pytest.mark.parametrize("state", OPEN)
def test_a_job_that_has_not_ended_has_no_button_and_is_left_alone(engine, admin, state):
    job = make(state)
    assert "/retry/" not in text(admin.get(page(job)))
    response = admin.post(f"{LIST}{job.pk}/retry/", follow=True)
    assert said(response) == ["1 job left unchanged, not having ended."]
    assert states(job) == [state]
    assert not LogEntry.objects.exists()


def test_the_action_retries_what_has_ended_and_says_what_it_left_alone(engine, admin):
    jobs = {state: make(state) for state in State}
    untouched = make(State.FAILED)
    response = act(admin, "retry_selected", *jobs.values())
    assert said(response) == ["Retried 3 jobs.", "4 jobs left unchanged, not having ended."]
    assert states(*(jobs[state] for state in ENDED)) == ["ready"] * 3
    assert states(*(jobs[state] for state in OPEN)) == OPEN
    assert states(untouched) == ["failed"]
    assert {entry.object_id for entry in LogEntry.objects.all()} == {
        str(jobs[state].pk) for state in ENDED
    }


def test_a_retried_job_is_claimed_again(engine, admin):
    job = make(State.FAILED)
    admin.post(f"{LIST}{job.pk}/retry/")
    with engine.db.transaction():
        assert [claimed.id for claimed in engine.jobs.claim("me", 5, time.time())] == [job.pk]


def test_retrying_a_job_that_is_gone_leads_away(engine, admin):
    job = make(State.FAILED)
    Job.objects.all().delete()
    response = admin.post(f"{LIST}{job.pk}/retry/", follow=True)
    assert "doesn’t exist" in said(response)[0]


def test_actions_take_only_what_is_ticked(engine, admin):
    ticked, other = make(State.FAILED), make(State.FAILED)
    act(admin, "retry_selected", ticked, select_across="1")
    assert states(ticked, other) == ["ready", "failed"]


def test_the_list_does_not_offer_to_select_what_it_does_not_show(engine, admin):
    for _ in range(101):
        make()
    shown = text(admin.get(LIST))
    assert "0 of 100 selected" in shown
    assert "Select all 101" not in shown
    assert 'class="question' not in shown


# Cancel


@pytest.mark.parametrize("state", OPEN)
def test_the_button_cancels_a_job_that_has_not_ended(engine, admin, state):
    job = make(state)
    filters = "?_changelist_filters=state%3Dready"
    assert f"/cancel/{filters}" in text(admin.get(page(job) + filters))
    response = admin.post(f"{LIST}{job.pk}/cancel/{filters}", follow=True)
    assert response.redirect_chain == [(page(job) + filters, 302)]
    job.refresh_from_db()
    if state == State.RUNNING:  # its consumer is to stop it
        assert (job.state, job.cancel_requested) == ("running", True)
        assert said(response) == ["Cancelled 1 job. Running jobs receive the request and end soon."]
    else:
        assert (job.state, job.finished_at is None) == ("cancelled", False)
        assert said(response) == ["Cancelled 1 job."]
    assert "cancelled on request" in text(admin.get(page(job)))
    entry = LogEntry.objects.get()
    assert (entry.action_flag, entry.change_message) == (CHANGE, "Cancelled.")


@pytest.mark.parametrize("state", ENDED)
def test_a_job_that_has_ended_has_no_button_to_cancel_it_and_is_left_alone(engine, admin, state):
    job = make(state)
    assert "/cancel/" not in text(admin.get(page(job)))
    response = admin.post(f"{LIST}{job.pk}/cancel/", follow=True)
    assert said(response) == ["1 job left unchanged, having ended."]
    assert states(job) == [state]
    assert not LogEntry.objects.exists()


def test_the_action_cancels_what_has_not_ended_and_says_what_it_left_alone(engine, admin):
    jobs, untouched = {state: make(state) for state in State}, make(State.READY)
    response = act(admin, "cancel_selected", *jobs.values())
    assert said(response) == [
        "Cancelled 4 jobs. Running jobs receive the request and end soon.",
        "3 jobs left unchanged, having ended.",
    ]
    waiting = [jobs[state] for state in OPEN if state != State.RUNNING]
    assert states(*waiting) == ["cancelled"] * 3
    assert states(*(jobs[state] for state in ENDED), untouched) == [*ENDED, "ready"]
    assert {entry.object_id for entry in LogEntry.objects.all()} == {
        str(jobs[state].pk) for state in OPEN
    }


def test_a_running_job_that_is_cancelled_here_is_stopped(engine, admin, processes):
    handle = hog.run_later(600.0)
    processes.consumer()
    eventually(lambda: Job.objects.get().state == "running")
    admin.post(f"{LIST}{handle.id}/cancel/")
    eventually(lambda: Job.objects.get().state == "cancelled")


# Progress, and what else a job's page says


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
def test_the_progress_is_shown_as_far_as_it_is_known(engine, admin, done, total, shown):
    job = make(State.RUNNING, progress_done=done, progress_total=total)
    row = re.search(
        r'field-progress">.*?<div class="readonly">(.*?)</div>',
        text(admin.get(page(job))),
        re.DOTALL,
    )
    assert row is not None
    assert row[1] == (shown or "-")


def test_why_a_job_was_cancelled_and_what_its_crashes_did_are_shown(engine, admin):
    job = make(State.CANCELLED, reason=f"no <stock> {SCRIPT}", rescues=2, on_crash="fail")
    shown = text(admin.get(page(job)))
    assert "no &lt;stock&gt; &lt;script&gt;" in shown
    assert "<script>alert" not in shown
    for field, value in (("rescues", "2"), ("on_crash", "Fail")):
        row = re.search(
            rf'fieldBox field-{field}\b.*?<div class="readonly">(.*?)</div>', shown, re.DOTALL
        )
        assert row is not None
        assert row[1] == value


def test_why_a_job_failed_is_said_at_the_top_and_a_plain_one_has_no_empty_rows(engine, admin):
    job = make(State.FAILED)
    failure(job, message="first")
    failure(job, 2, message=f"{SCRIPT}\nmore")
    row = re.search(
        r'field-why">.*?<div class="readonly">(.*?)</div>', text(admin.get(page(job))), re.DOTALL
    )
    assert row is not None
    assert row[1] == "builtins.ValueError: &lt;script&gt;alert(1)&lt;/script&gt;"
    shown = text(admin.get(page(make(State.READY))))
    for field in ("why", "returned", "limit", "unique", "expires"):
        assert f"field-{field}" not in shown


@pytest.mark.parametrize(
    ("state", "fields", "shown"),
    [
        (State.BLOCKED, {"limit_key": "t", "limit_max": 2}, "waits for a permit under its limit"),
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
        (State.SCHEDULED, {"flags": Flag.THROTTLED}, "throttled by its rate"),
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
def test_what_holds_a_job_back_is_on_its_page(engine, admin, state, fields, shown):
    said = text(admin.get(page(make(state, created_at=NOW - timedelta(days=9), **fields))))
    assert shown in said
    assert "<script>alert" not in said


def test_a_running_job_that_is_told_to_stop_says_so_and_is_told_once(engine, admin):
    job = make(State.RUNNING, cancel_requested=True)
    for url in (LIST, page(job)):
        assert "Running</span> cancelling" in text(admin.get(url))
    assert "/cancel/" not in text(admin.get(page(job)))
    response = admin.post(f"{LIST}{job.pk}/cancel/", follow=True)
    assert said(response) == ["1 job left unchanged, being cancelled already."]
    assert not LogEntry.objects.exists()


def test_what_others_have_changed_between_the_look_and_the_verb_is_said(engine, admin, monkeypatch):
    job, other = make(State.FAILED), make(State.FAILED)
    verb = type(engine.control).retry

    def late(self, ids):
        verb(self, [other.pk])
        return verb(self, ids)

    monkeypatch.setattr(type(engine.control), "retry", late)
    response = act(admin, "retry_selected", job, other)
    assert said(response) == [
        "Retried 1 job.",
        "1 job left unchanged, changed by others meanwhile.",
    ]


# Delete


def test_deleting_a_job_takes_its_attempts_along(engine, admin):
    job, other = make(State.FAILED), make(State.FAILED)
    for number in (1, 2):
        failure(job, number)
    kept = failure(other)
    shown = text(admin.get(f"{LIST}{job.pk}/delete/"))
    assert "2 failed attempts" in shown
    assert not gone(job)
    response = admin.post(f"{LIST}{job.pk}/delete/", {"post": "yes"}, follow=True)
    assert "deleted successfully" in said(response)[0]
    assert gone(job)
    assert list(Attempt.objects.all()) == [kept]
    entry = LogEntry.objects.get()
    assert (entry.action_flag, entry.object_id) == (DELETION, str(job.pk))


def test_deleting_selected_jobs_asks_first(engine, admin):
    jobs, other = [make(state) for state in State], make()
    for job in jobs:
        failure(job)
    shown = text(act(admin, "delete_selected", *jobs))
    assert "Jobs: 7" in shown
    assert "Failed attempts: 7" in shown
    assert Job.objects.count() == 8
    response = act(admin, "delete_selected", *jobs, post="yes")
    assert said(response) == ["Successfully deleted 7 jobs."]
    assert list(Job.objects.all()) == [other]
    assert not Attempt.objects.exists()
    assert LogEntry.objects.filter(action_flag=DELETION).count() == 7


def test_deleting_reads_neither_tracebacks_nor_payloads_of_many(engine, admin):
    jobs = [make(State.FAILED) for _ in range(3)]
    for job in jobs:
        failure(job)
    with asked(engine) as seen:
        act(admin, "delete_selected", *jobs)
        act(admin, "delete_selected", *jobs, post="yes")
    assert not Job.objects.exists()
    for word in ("traceback", "arguments", "result"):
        assert not [sql for sql in seen.queue if f'"{word}"' in sql]


@pytest.mark.parametrize("action", ["retry_selected", "cancel_selected", "delete_selected"])
@pytest.mark.parametrize("forged", ["", "1", "x" * 36, "\0", "' OR 1=1 --"], ids=ascii)
def test_an_action_on_what_is_no_id_is_refused_and_nothing_happens(engine, admin, action, forged):
    job = make(State.FAILED)
    for post in ({}, {"index": "0"}, {"post": "yes"}):
        ticked = [str(job.pk), forged]
        data = {"action": action, "_selected_action": ticked, "select_across": "0"} | post
        assert admin.post(LIST, data).status_code == 400, post
    assert states(job) == [State.FAILED]


def test_a_running_job_may_be_deleted_and_its_outcome_is_dropped(engine, admin):
    job = make(State.READY)
    with engine.db.transaction():
        (claimed,) = engine.jobs.claim("me", 1, time.time())
    admin.post(f"{LIST}{job.pk}/delete/", {"post": "yes"})
    with engine.db.transaction():
        assert engine.jobs.finish("me", [failed(claimed)]) == set()
    assert not Job.objects.exists()
    assert not Attempt.objects.exists()


def test_a_deletion_waits_for_the_consumer_that_is_about_to_record_a_failure(engine, admin):
    if engine.db.alias != "postgresql":
        pytest.skip("SQLite has one writer: no deletion can begin inside a consumer's turn")
    job = make(State.READY)
    with engine.db.transaction():
        (claimed,) = engine.jobs.claim("me", 1, time.time())
    responses = []

    def delete():
        responses.append(act(admin, "delete_selected", job, post="yes"))
        connections.close_all()

    deletion = threading.Thread(target=delete)
    with engine.db.transaction():
        assert engine.jobs.finish("me", [failed(claimed)]) == {job.pk}
        deletion.start()
        eventually(lambda: waiting(engine))
    deletion.join(30)
    assert said(responses[0]) == ["Successfully deleted 1 job."]
    assert not Job.objects.exists()
    assert not Attempt.objects.exists()


def test_the_queue_is_free_while_a_deletion_is_logged(engine, admin):
    job = make()
    free = []

    def look(execute, sql, params, many, context):
        if sql.startswith("INSERT") and "django_admin_log" in sql:
            free.append((not connections[engine.db.alias].in_atomic_block, gone(job)))
        return execute(sql, params, many, context)

    with connections["default"].execute_wrapper(look):
        admin.post(f"{LIST}{job.pk}/delete/", {"post": "yes"})
    assert free == [(True, True)]


def failed(claimed):
    now = time.time()
    return Outcome(claimed, State.FAILED, now, now, failure=Failure("E", "m", "t"))


def waiting(engine):
    with engine.db.connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return cursor.fetchone()[0]


# Where it is read and written


def test_the_application_and_the_queue_are_each_asked_for_their_own_only(engine, admin):
    jobs = [make(State.FAILED) for _ in range(6)]
    for job in jobs:
        failure(job)
    with asked(engine) as seen:
        for url in (
            "/admin/",
            "/admin/djjp/",
            LIST,
            f"{LIST}?q=echo&state=failed&queue=default&name=shop.echo",
            f"{LIST}?q={jobs[0].pk}",
            page(jobs[0]),
            f"{LIST}{jobs[0].pk}/delete/",
        ):
            text(admin.get(url))
        admin.post(f"{LIST}{jobs[0].pk}/retry/")
        admin.post(f"{LIST}{jobs[0].pk}/cancel/")
        text(admin.get(f"{LIST}{jobs[0].pk}/history/"))
        act(admin, "retry_selected", *jobs[1:3])
        act(admin, "delete_selected", *jobs[3:5])
        act(admin, "delete_selected", *jobs[3:5], post="yes")
        admin.post(f"{LIST}{jobs[5].pk}/delete/", {"post": "yes"})
    assert Job.objects.count() == 3
    assert LogEntry.objects.count() == 7
    assert [sql for sql in seen.application if "djjp_" in sql] == []
    tables = re.compile(r'\b(?:FROM|INTO|UPDATE|JOIN)\s+"?(\w+)', re.IGNORECASE)
    named = {table for sql in seen.queue for table in tables.findall(sql)}
    assert named - {"json_each"} == {"djjp_job", "djjp_attempt"}
    verbs = {sql.split()[0] for sql in seen.queue if not tables.search(sql)}
    notify = {"SELECT"} if engine.db.alias == "postgresql" else set()  # pg_notify('djjp_ready', '')
    assert verbs <= {"BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", *notify}


@pytest.mark.parametrize(("name", "state"), [("retry", State.FAILED), ("cancel", State.READY)])
def test_what_is_done_goes_through_the_verb_of_the_queue(engine, admin, monkeypatch, name, state):
    """So that what the verb will do one day (dependents, unique keys) is done here too."""
    job, calls = make(state), []
    verb = getattr(type(engine.control), name)

    def seen(self, ids, *more):
        calls.append(list(ids))
        return verb(self, calls[-1], *more)

    monkeypatch.setattr(type(engine.control), name, seen)
    admin.post(f"{LIST}{job.pk}/{name}/")
    other = make(state)
    act(admin, f"{name}_selected", other)
    assert calls == [[job.pk], [other.pk]]
