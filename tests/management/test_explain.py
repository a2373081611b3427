"""`djjp explain` shows why a job does not run, each cause with its remedy."""

from __future__ import annotations

import shlex
from datetime import timedelta

from djjp import queues
from djjp.engine import Engine
from tests.management.conftest import Djjp
from tests.project.shop.jobs import add, fail, mail
from tests.support.consumers import drain


def test_each_cause_is_shown_worst_first_with_its_remedy(engine: Engine, djjp: Djjp) -> None:
    handle = mail.using(run_after=timedelta(hours=1)).run_later("a")
    queues.pause("mail")

    document = djjp("explain", str(handle.id), "--json").document("Explanation")
    ran = djjp("explain", str(handle.id))

    assert document["job"]["id"] == str(handle.id)
    codes = [cause["code"] for cause in document["causes"]]
    assert codes == ["paused", "no_consumer", "scheduled"]
    for cause, line in zip(document["causes"], ran.lines[1:], strict=True):
        assert line == f"{cause['code']}: {cause['sentence']}"
        assert cause["remedy"] in cause["sentence"]


def test_the_remedy_of_a_pause_works_when_it_is_typed(engine: Engine, djjp: Djjp) -> None:
    handle = mail.run_later("a")
    queues.pause("mail")
    (paused, *_) = djjp("explain", str(handle.id), "--json").document("Explanation")["causes"]
    words = shlex.split(paused["remedy"].partition("manage.py djjp ")[2])
    assert djjp(*words).code == 0
    assert not queues.paused()


def test_the_end_of_a_job_is_explained(engine: Engine, djjp: Djjp) -> None:
    handles = [add.run_later(1), fail.run_later("no")]
    drain()
    for handle in handles:
        document = djjp("explain", str(handle.id), "--json").document("Explanation")
        assert [cause["code"] for cause in document["causes"]] == ["ended"]


def test_an_unknown_job_gives_3(djjp: Djjp) -> None:
    ran = djjp("explain", "nonsense", "--json")
    assert ran.code == 3
    assert ran.document("Failure")["error"]["slug"] == "job-not-found"
