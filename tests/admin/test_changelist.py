from uuid import uuid4

import pytest
from django.db import connections

from djjp.admin import changelist
from djjp.models import Job, State
from tests.admin.conftest import LIST, asked, failure, make, page, text


def ids(response):
    return [job.pk for job in response.context["cl"].result_list]


@pytest.fixture
def short(monkeypatch):
    """A list that has pages for 8 jobs."""
    monkeypatch.setattr(changelist, "MAX_COUNT", 8)


def test_the_list_shows_each_job_newest_first(engine, admin):
    jobs = [make(state, queue="mail") for state in State]
    response = admin.get(LIST)
    assert ids(response) == [job.pk for job in reversed(jobs)]
    shown = text(response)
    for job in jobs:
        assert page(job) in shown
        assert f'<span class="djjp-state djjp-state-{job.state}">{job.state.label}</span>' in shown
    assert "<span>2026-05-04</span>" in shown
    assert ">4.0 s<" in shown
    assert "/static/djjp/admin.css" in shown


def test_an_empty_list_says_so(engine, admin):
    assert "0 jobs" in text(admin.get(LIST))


def test_the_list_reads_no_payloads_and_counts_sorts_and_compares_no_history(engine, admin):
    failure(make(State.FAILED))
    for url in [
        LIST,
        LIST + "?o=2.-5&state=failed&queue=default&name=shop.echo&q=ech&_facets=True",
    ]:
        with asked(engine) as seen:
            assert len(ids(admin.get(url))) == 1
        assert len(seen.queue) == 2
        count, rows = seen.queue
        assert "COUNT(*) FROM (SELECT" in count.replace('"', "")
        assert f"LIMIT {changelist.MAX_COUNT + 1}" in count
        assert rows.endswith('ORDER BY "djjp_job"."id" DESC LIMIT 200')
        assert "arguments" not in count + rows
        assert "result" not in count + rows
        assert "DISTINCT" not in count + rows


def test_pages_end_where_counting_ends_and_the_list_says_that_there_are_more(engine, admin, short):
    for _ in range(8):
        make()
    assert "search or filter for older jobs" not in text(admin.get(LIST))
    make()
    response = admin.get(LIST)
    assert "search or filter for older jobs" in text(response)
    assert response.context["cl"].result_count == 8


def test_jobs_enqueued_since_the_count_do_not_flood_the_page(engine, admin):
    make()
    enqueued = []

    def enqueue(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if "COUNT(*)" in sql and not enqueued:
            enqueued.extend(make() for _ in range(201))
        return result

    with connections[engine.db.alias].execute_wrapper(enqueue):
        assert len(ids(admin.get(LIST))) == 200
    assert enqueued


def test_filters_by_state_queue_and_name_combine(engine, admin):
    wanted = make(State.FAILED, queue="mail", name="shop.mail")
    for other in ({"queue": "bulk"}, {"name": "shop.mails"}, {"state": State.SUCCEEDED}):
        make(**({"state": State.FAILED, "queue": "mail", "name": "shop.mail"} | other))
    response = admin.get(LIST + "?state=failed&queue=mail&name=shop.mail")
    assert ids(response) == [wanted.pk]
    # Each filter's form keeps what the others hold.
    shown = text(response)
    assert shown.count('<input type="hidden" name="state" value="failed">') >= 2
    assert '<input type="text" name="queue" value="mail"' in shown
    assert len(ids(admin.get(LIST + "?queue=&name="))) == 4


def test_a_queue_in_the_list_leads_to_its_jobs(engine, admin):
    make(queue="a&b c")
    wanted = make(State.FAILED, queue="a&b c")
    assert "?queue=a%26b+c&amp;state=failed" in text(admin.get(LIST + "?state=failed"))
    assert ids(admin.get(LIST + "?queue=a%26b+c&state=failed")) == [wanted.pk]


def test_search_finds_a_job_by_its_id_in_any_spelling(engine, admin):
    make()
    job = make()
    make()
    for term in (str(job.pk), job.pk.hex, str(job.pk).upper(), f"  {job.pk} ", f"{{{job.pk}}}"):
        assert ids(admin.get(LIST, {"q": term})) == [job.pk], term
    assert ids(admin.get(LIST, {"q": str(uuid4())})) == []


def test_search_finds_jobs_by_a_part_of_their_name(engine, admin):
    mail, add = make(name="shop.send_receipt"), make(name="shop.add")
    assert ids(admin.get(LIST, {"q": "receipt"})) == [mail.pk]
    assert ids(admin.get(LIST, {"q": "SHOP."})) == [add.pk, mail.pk]
    assert ids(admin.get(LIST, {"q": "send_receipt"})) == [mail.pk]
    assert ids(admin.get(LIST, {"q": "send%receipt"})) == []
    assert ids(admin.get(LIST, {"q": "  "})) == [add.pk, mail.pk]


@pytest.mark.parametrize(
    "typed",
    [
        "'; DROP TABLE djjp_job; --",
        "a\0b",
        "\0",
        "%" * 60_000,
        "x" * 60_000,
        "\U0001f600",
        "\uff12" * 32,
        "{}",
        "urn:uuid:",
        "<script>",
    ],
    ids=lambda typed: ascii(typed[:12]),
)
def test_whatever_is_typed_gets_a_list(engine, admin, typed):
    make()
    for field in ("q", "queue", "name", "state"):
        assert ids(admin.get(LIST, {field: typed})) in ([], [Job.objects.get().pk]), field
    assert Job.objects.count() == 1


def test_odd_addresses_lead_back_to_the_list(engine, admin):
    make()
    for query in ("p=0", "p=99999", "p=x", "all=", "o=99", "o=x", "e=1"):
        assert len(ids(admin.get(f"{LIST}?{query}", follow=True))) == 1, query


def test_payloads_cannot_be_searched_through_the_address(engine, admin):
    make()
    for query in (
        "arguments__contains=secret",
        "result=1",
        "failures__message=x",
        "state__in=failed",
    ):
        assert admin.get(f"{LIST}?{query}").status_code == 400, query
