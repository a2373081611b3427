"""`djjp jobs` takes each filter, goes from page to page, and says what is wrong with a filter."""

from __future__ import annotations

import shlex
from datetime import timedelta

import pytest

from djjp import chain, run_many
from djjp.engine import Engine
from djjp.management.filtering import FilteredCommand
from djjp.management.jobs import jobs
from djjp.models import Job
from djjp.monitoring.filters import KEYS
from tests.management.conftest import Djjp
from tests.project.shop.jobs import add, fail, import_from, mail
from tests.support.consumers import drain


def ids(djjp: Djjp, *options: str) -> list[str]:
    return [job["id"] for job in djjp("jobs", *options, "--json").document("Jobs")["jobs"]]


def test_each_key_of_a_filter_is_an_option_of_each_command_that_takes_filters() -> None:
    assert isinstance(jobs, FilteredCommand)
    options = {option for parameter in jobs.params for option in parameter.opts}
    assert {f"--{key.replace('_', '-')}" for key in KEYS} <= options


def test_each_filter_finds_its_jobs(engine: Engine, djjp: Djjp) -> None:
    failed, done = fail.run_later("no"), add.run_later(1)
    drain()
    mailed = mail.run_later("x")
    tagged = add.using(tags=["tenant 42"], run_after=timedelta(hours=1)).run_later(1)
    imported = import_from.run_later("a")
    steps = chain(add.bind(1), add.bind()).run_later()
    consumer = Job.objects.get(pk=done.id).consumer or ""

    assert ids(djjp, "--state", "failed") == [str(failed.id)]
    assert ids(djjp, "--state", "failed,succeeded") == [str(done.id), str(failed.id)]
    assert ids(djjp, "--state", "failed", "--state", "scheduled") == [
        *(str(tagged.id), str(failed.id))
    ]
    assert ids(djjp, "--queue", "mail") == [str(mailed.id)]
    assert ids(djjp, "--name", "shop.*") == [str(mailed.id)]
    assert ids(djjp, "--exception", "ValueError") == [str(failed.id)]
    assert ids(djjp, "--tag", "tenant 42") == [str(tagged.id)]
    assert len(ids(djjp, "--since", "2h")) == 7
    assert ids(djjp, "--until", "1h", "--state", "failed") == []
    assert ids(djjp, "--pipeline", str(steps.id)) == [str(each.id) for each in steps.steps[::-1]]
    assert set(ids(djjp, "--consumer", consumer)) == {str(failed.id), str(done.id)}
    assert ids(djjp, "--unique-key", "import-a") == [str(imported.id)]
    assert ids(djjp, "--attempts", ">0", "--state", "failed") == [str(failed.id)]


def test_pages_go_on_where_the_last_one_ended_by_the_command_that_it_prints(
    engine: Engine, djjp: Djjp
) -> None:
    handles = run_many(add.using(tags=["a b"]).bind(n) for n in range(5))
    words = ["jobs", "--tag", "a b", "--limit", "2"]
    seen: list[str] = []
    while True:
        *lines, last = djjp(*words).lines
        seen += [line.split()[0] for line in lines if not line.startswith("id ")]
        if not last.startswith("more: "):
            seen.append(last.split()[0])
            break
        words = [*shlex.split(last.partition("djjp ")[2]), "--limit", "2"]
    assert seen == [str(handle.id) for handle in handles[::-1]]


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("--state", "faild", "the closest is 'failed'"),
        ("--attempts", "many", "it must be a number such as 3, >3"),
        ("--since", "yesterday", "it must be a time such as"),
        ("--pipeline", "5", "it must be the id of a pipeline"),
    ],
)
def test_a_wrong_filter_is_a_usage_error_that_says_what_is_allowed(
    djjp: Djjp, option: str, value: str, hint: str
) -> None:
    ran = djjp("jobs", option, value, "--json")
    assert ran.code == 2
    assert ran.document("Failure")["error"]["slug"] == "invalid-filter"
    assert hint in ran.err


@pytest.mark.one_database
def test_a_wrong_cursor_is_a_usage_error(djjp: Djjp) -> None:
    assert djjp("jobs", "--cursor", "x").code == 2


def test_a_filter_that_matches_nothing_gives_4_with_an_empty_list(djjp: Djjp) -> None:
    ran = djjp("jobs", "--queue", "nowhere", "--json")
    assert ran.code == 4
    document = ran.document("Jobs")
    assert (document["jobs"], document["error"]["slug"]) == ([], "nothing-matched")
    ran = djjp("jobs", "--json")  # without a filter nothing is missing
    assert (ran.code, ran.document("Jobs")["jobs"]) == (0, [])
