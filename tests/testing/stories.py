"""The tests of a project that uses djjp's tools, as its authors would write them.

`test_projects.py` has Django's own test runner run them, on each pair of databases.
"""

# ruff: noqa: PT009, PT027 (it is unittest's spelling that most Django projects use)
from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.apps import apps
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.core.serializers.base import DeserializationError
from django.db import DatabaseError, IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError
from django.test import TestCase, TransactionTestCase
from django.test.testcases import (  # type: ignore[attr-defined]  # not in the stubs
    DatabaseOperationForbidden,
)

from djjp import chain, group, run_many
from djjp.exceptions import JobFailed
from djjp.models import Attempt, Job, State
from djjp.outbox import table
from djjp.outbox.models import OutboxJob
from djjp.testing import (
    adrain,
    assert_enqueued,
    assert_not_enqueued,
    captured_jobs,
    drain,
    inline,
)
from tests.testing.bookshop import jobs, tasks

OUTBOX = apps.is_installed("djjp.outbox")


def titles() -> list[str]:
    return sorted(Group.objects.values_list("name", flat=True))


class Drained(TestCase):
    """In the test's own transactions, which never commit."""

    databases = {"default", "queue"}

    def test_what_is_enqueued_runs(self) -> None:
        handle = jobs.order.run_later("Emma")
        self.assertEqual(titles(), [])
        self.assertEqual(drain(), 1)
        self.assertEqual(titles(), ["Emma"])
        self.assertEqual(handle.join(timeout=0), "Emma")
        self.assertEqual(handle.attempts, 1)
        self.assertEqual(drain(), 0)

    def test_nothing_is_left_of_the_other_tests(self) -> None:
        self.assertEqual((titles(), Job.objects.count(), Attempt.objects.count()), ([], 0, 0))

    def test_no_connection_is_closed_or_opened(self) -> None:
        before = [connections[alias].connection for alias in ("default", "queue")]
        jobs.order.run_later("Emma")
        jobs.aorder.run_later("Persuasion")
        drain()
        after = [connections[alias].connection for alias in ("default", "queue")]
        self.assertTrue(all(a is b and a is not None for a, b in zip(after, before, strict=True)))

    def test_jobs_that_jobs_enqueue_run_too(self) -> None:
        jobs.order_all.run_later("Emma", "Persuasion")
        self.assertEqual(drain(), 3)
        self.assertEqual(titles(), ["2 orders", "Emma", "Persuasion"])

    def test_coroutines_run_in_the_tests_transaction(self) -> None:
        jobs.aorder.run_later("Emma")
        jobs.aorder_all.run_later("Persuasion")
        self.assertEqual(drain(), 3)
        self.assertEqual(titles(), ["Emma", "Persuasion"])

    async def test_a_coroutine_drains(self) -> None:
        await jobs.aorder_all.arun_later("Emma", "Persuasion")
        self.assertEqual(await adrain(), 3)
        self.assertEqual(await Group.objects.acount(), 2)

    def test_a_job_enqueued_inside_a_block_runs_once_the_block_has_ended(self) -> None:
        with self.captureOnCommitCallbacks() as waiting, transaction.atomic():
            jobs.order.run_later("Emma")
            self.assertEqual(Job.objects.count(), 0)
        self.assertEqual(drain(), 1)
        Job.objects.all().delete()
        for callback in waiting:
            callback()
        self.assertEqual((len(waiting), drain()), (1, 0))

    def test_a_job_that_was_rolled_back_does_not_run(self) -> None:
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            jobs.order.run_later("Emma")
            raise ZeroDivisionError
        self.assertEqual(drain(), 0)

    def test_inside_a_block_what_it_enqueues_is_not_for_draining(self) -> None:
        with transaction.atomic():
            jobs.order.run_later("Emma")
            if OUTBOX:
                with self.assertRaisesRegex(TransactionManagementError, "inside atomic"):
                    drain()
            else:
                self.assertEqual(drain(), 0)
        self.assertEqual(drain(), 1)

    def test_what_is_not_due_is_left(self) -> None:
        later = jobs.order.using(run_after=timedelta(hours=1)).run_later("Emma")
        now = jobs.order.using(run_after=timedelta(seconds=-1)).run_later("Persuasion")
        self.assertEqual(drain(), 1)
        later.refresh()
        self.assertEqual((later.state, now.join(timeout=0)), (State.SCHEDULED, "Persuasion"))

    def test_a_scheduled_job_whose_time_has_come_runs(self) -> None:
        later = jobs.order.using(run_after=timedelta(hours=1)).run_later("Emma")
        drain()
        Job.objects.update(run_after=Job.objects.get().created_at)
        self.assertEqual(drain(), 1)
        self.assertEqual(later.join(timeout=0), "Emma")

    def test_queues_and_the_number_of_jobs_can_be_named(self) -> None:
        run_many([jobs.mail.bind("a@b.c"), jobs.order.bind("Emma"), jobs.order.bind("Persuasion")])
        self.assertEqual(drain(queues=["none"]), 0)
        self.assertEqual(drain(queues="mail"), 1)
        self.assertEqual(drain(max_jobs=1), 1)
        self.assertEqual(drain(max_jobs=0), 0)
        self.assertEqual(titles(), ["Emma"])
        self.assertEqual(drain(queues=["mail", "default"], max_jobs=5), 1)
        with self.assertRaisesRegex(ValueError, "max_jobs is -1"):
            drain(max_jobs=-1)

    def test_higher_priorities_come_first(self) -> None:
        jobs.order.run_later("Emma")
        first = jobs.mail.run_later("a@b.c")
        drain(max_jobs=1)
        self.assertEqual(first.join(timeout=0), ["a@b.c"])

    def test_a_job_that_fails_is_recorded(self) -> None:
        with self.assertLogs("djjp.consumer", "WARNING") as logged:
            handle = jobs.refuse.run_later("out of stock")
            self.assertEqual(drain(), 1)
        self.assertIn("out of stock", logged.output[0])
        with self.assertRaisesRegex(JobFailed, "out of stock"):
            handle.join(timeout=0)
        self.assertEqual(
            [error.exception_class for error in handle.errors], ["builtins.ValueError"]
        )

    def test_a_result_that_cannot_be_carried_fails_the_job(self) -> None:
        handle = jobs.opaque.run_later()
        with self.assertLogs("djjp.consumer", "WARNING"):
            drain()
        with self.assertRaisesRegex(JobFailed, "return value"):
            handle.join(timeout=0)

    def test_retries_that_are_due_run_and_others_wait(self) -> None:
        at_once, slow = jobs.insist.run_later(), jobs.insist_slowly.run_later()
        with self.assertLogs("djjp.consumer", "WARNING") as logged:
            self.assertEqual(drain(), 4)
        self.assertIn("again at once", logged.output[0])
        self.assertEqual((at_once.join(timeout=0), len(at_once.errors)), (3, 2))
        slow.refresh()
        self.assertEqual((slow.state, slow.attempts), (State.SCHEDULED, 1))

    def test_an_error_can_be_raised_as_the_job_raised_it(self) -> None:
        for enqueue in (jobs.refuse.run_later, jobs.arefuse.run_later):
            with self.assertLogs("djjp.consumer", "WARNING"):
                failed, after = enqueue("out of stock"), jobs.praise.run_later("Emma")
                with self.assertRaisesMessage(ValueError, "out of stock"):
                    drain(raise_errors=True)
            failed.refresh()
            after.refresh()
            self.assertEqual((failed.state, after.state), (State.FAILED, State.READY))
            self.assertEqual(len(failed.errors), 1)
            self.assertEqual(drain(raise_errors=True), 1)

    def test_an_attempt_that_is_repeated_is_no_error(self) -> None:
        handle = jobs.insist.run_later()
        with self.assertLogs("djjp.consumer", "WARNING"):
            self.assertEqual(drain(raise_errors=True), 3)
        self.assertEqual(handle.join(timeout=0), 3)

    def test_an_error_that_goes_on_as_a_value_is_not_raised(self) -> None:
        refused = chain(jobs.refuse.bind("out of stock"), jobs.praise.bind())
        several = group(jobs.praise.bind("Emma"), refused, return_exceptions=True)
        for pipeline in (several, chain(several, jobs.echo.bind())):
            handle = pipeline.run_later()
            with self.assertLogs("djjp.consumer", "ERROR"):
                drain(raise_errors=True)
            praise, failure = handle.join(timeout=0)
            self.assertEqual(praise, "Emma is good")
            self.assertIsInstance(failure, JobFailed)

    def test_an_error_that_stops_a_pipeline_is_raised(self) -> None:
        refuse, praise = jobs.refuse.bind("out of stock"), jobs.praise.bind()
        for pipeline in (
            chain(refuse, praise),
            chain(refuse, group(praise, return_exceptions=True)),
            group(refuse, jobs.praise.bind("Emma")),
            chain(jobs.praise.bind("Emma"), jobs.refuse.bind()),
            chain(refuse, on_failure=jobs.refuse.bind()),
        ):
            pipeline.run_later()
            with self.assertLogs("djjp.consumer", "ERROR"), self.assertRaises(ValueError):
                drain(raise_errors=True)
        with (
            self.assertLogs("djjp.consumer", "ERROR"),
            self.assertRaisesRegex(ValueError, "failed"),
        ):
            drain(raise_errors=True)  # the `on_failure` job

    def test_an_error_of_the_database_is_raised_and_breaks_no_transaction(self) -> None:
        jobs.order_twice.run_later("Emma")
        with self.assertLogs("djjp.consumer", "WARNING"), self.assertRaises(IntegrityError):
            drain(raise_errors=True)
        self.assertEqual(drain(raise_errors=True), 0)
        Group.objects.create(name="Persuasion")

    def test_delays_and_backoffs_can_be_skipped_in_their_order(self) -> None:
        later = jobs.order.using(run_after=timedelta(days=2)).run_later("Emma")
        sooner = jobs.order.using(run_after=timedelta(days=1)).run_later("Persuasion")
        slow = jobs.insist_slowly.run_later()
        other = jobs.mail.using(run_after=timedelta(days=1)).run_later("a@b.c")
        with self.assertLogs("djjp.consumer", "WARNING"):
            self.assertEqual(drain(["default"], skip_delays=True), 4)
        self.assertEqual(titles(), ["Emma", "Persuasion"])
        slow.refresh()
        self.assertEqual((slow.state, slow.attempts), (State.FAILED, 2))
        started = Job.objects.in_bulk([later.id, sooner.id])
        self.assertLess(started[sooner.id].started_at, started[later.id].started_at)
        other.refresh()
        self.assertEqual(other.state, State.SCHEDULED)

    def test_a_job_that_enqueues_itself_for_later_is_bounded_by_their_number(self) -> None:
        jobs.again.run_later()
        self.assertEqual(drain(max_jobs=5, skip_delays=True), 5)
        self.assertEqual(drain(), 0)

    def test_an_error_of_the_database_fails_its_job_alone(self) -> None:
        """On PostgreSQL it makes the transaction around it useless, and that is the test's own."""
        Group.objects.create(name="the test's own")
        broken = jobs.order_twice.run_later("Emma")
        caught = jobs.try_order_twice.run_later("Emma")
        spoiled = jobs.spoil_transaction.run_later("Persuasion")
        last = jobs.order.run_later("Sanditon")
        with self.assertLogs("djjp.consumer", "WARNING"):
            self.assertEqual(drain(), 4)
        broken.refresh()
        spoiled.refresh()
        self.assertEqual((broken.state, spoiled.state), (State.FAILED, State.FAILED))
        self.assertEqual((last.join(timeout=0), len(caught.errors)), ("Sanditon", 0))
        self.assertLessEqual({"Sanditon", "the test's own"}, {*titles()})

    def test_a_job_may_open_a_durable_block(self) -> None:
        handle = jobs.order_durably.run_later("Emma")
        drain()
        self.assertEqual(handle.join(timeout=0), "Emma")

    def test_a_job_knows_itself_and_says_how_far_it_is(self) -> None:
        handle = jobs.count_up.run_later(3)
        drain()
        self.assertEqual(handle.join(timeout=0), State.RUNNING)
        self.assertEqual(handle.progress, (3, 3))

    def test_a_job_that_is_not_known_is_left_in_the_queue(self) -> None:
        jobs.order.run_later("Emma")
        for _ in range(2):
            jobs.mail.run_later("a@b.c")
        self.assertEqual(drain("none"), 0)
        Job.objects.filter(name=jobs.mail.name).update(name="gone")
        with self.assertLogs("djjp.consumer", "WARNING") as logged:
            self.assertEqual(drain(), 1)
        self.assertEqual(len(logged.output), 1)
        left = Job.objects.filter(name="gone")
        self.assertEqual({(job.state, job.attempts) for job in left}, {(State.READY, 0)})

    def test_ctrl_c_ends_the_test_and_not_the_job_alone(self) -> None:
        handle = jobs.press_stop.run_later()
        with self.assertRaises(KeyboardInterrupt):
            drain()
        handle.refresh()
        self.assertEqual((handle.state, handle.attempts), (State.READY, 0))

    def test_the_steps_of_a_pipeline_run(self) -> None:
        with transaction.atomic():
            handle = chain(jobs.order.bind("Emma"), jobs.praise.bind()).run_later()
        if OUTBOX:
            self.assertEqual(len(assert_enqueued(jobs.order)), 1)
        self.assertEqual(drain(), 2)
        self.assertEqual(handle.join(timeout=0), "Emma is good")
        with inline():
            handle = chain(jobs.order.bind("Persuasion"), jobs.praise.bind()).run_later()
        self.assertEqual(handle.join(timeout=0), "Persuasion is good")

    def test_tasks_run(self) -> None:
        result: Any = tasks.restock.enqueue(["Emma", "Persuasion"], shelf=3)
        self.assertEqual(drain(), 1)
        result.refresh()
        self.assertEqual(result.return_value, 2)


class DrainedForReal(TransactionTestCase):
    """Without transactions around the test."""

    databases = {"default", "queue"}

    def test_from_a_thread(self) -> None:
        handle = jobs.order_all.run_later("Emma")
        jobs.aorder.run_later("Persuasion")
        ran: list[object] = []

        def work() -> None:
            try:
                ran.append(drain())
                ran.append([c.alias for c in connections.all() if not closed(c)])
            except BaseException as error:  # noqa: BLE001  (the test shows it)
                ran.append(error)
            for connection in connections.all():
                BaseDatabaseWrapper.close(connection)  # Django's own keeps one in memory open

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        self.assertEqual(ran, [3, []])
        self.assertEqual(titles(), ["1 orders", "Emma", "Persuasion"])
        self.assertEqual(len(handle.join(timeout=0)), 1)

    def test_what_a_crashed_process_left_in_the_outbox_is_relayed(self) -> None:
        if OUTBOX:
            with captured_jobs() as enqueued, transaction.atomic():
                jobs.order.run_later("Emma")
                connections["default"].run_on_commit.clear()
            self.assertEqual((Job.objects.count(), OutboxJob.objects.count()), (0, 1))
            self.assertEqual(drain(), 1)
            self.assertEqual(OutboxJob.objects.count(), 0)
            self.assertEqual(enqueued[0].handle.join(timeout=0), "Emma")

    def test_the_connections_of_the_test_stay_open(self) -> None:
        for title in ("Emma", "Persuasion"):
            jobs.order.run_later(title)
        titles()
        before = [connections[alias].connection for alias in ("default", "queue")]
        self.assertEqual(drain(), 2)
        after = [connections[alias].connection for alias in ("default", "queue")]
        self.assertTrue(all(a is b and a is not None for a, b in zip(after, before, strict=True)))


def closed(connection: Any) -> bool:
    """Django keeps an in-memory database open on purpose."""
    in_memory = getattr(connection, "is_in_memory_db", lambda: False)()
    return connection.connection is None or in_memory


class Fixtures(TestCase):
    """Django loads a fixture into each database of a class, as `docs/testing.md` reports."""

    databases = {"default", "queue"}

    def load(self, natural: bool) -> None:
        group: dict[str, Any] = {"model": "auth.group", "fields": {"name": "Editors"}}
        if not natural:
            group["pk"] = 1
        with TemporaryDirectory() as folder:
            file = Path(folder) / "editors.json"
            file.write_text(json.dumps([group]))
            with transaction.atomic("queue"):
                call_command("loaddata", file, database="queue", verbosity=0)

    def test_natural_keys_are_looked_up_where_there_is_no_table_of_the_application(self) -> None:
        with self.assertRaisesRegex((DatabaseError, DeserializationError), "auth_group"):
            self.load(natural=True)

    def test_rows_that_belong_elsewhere_are_skipped(self) -> None:
        self.load(natural=False)
        self.assertEqual(titles(), [])


class Inline(TestCase):
    databases = {"default", "queue"}

    def test_a_job_runs_where_it_is_enqueued(self) -> None:
        with inline():
            handle = jobs.order.run_later("Emma")
            self.assertEqual(titles(), ["Emma"])
        self.assertEqual(handle.join(timeout=0), "Emma")
        jobs.order.run_later("Persuasion")
        self.assertEqual(titles(), ["Emma"])

    def test_arguments_and_results_are_what_a_consumer_would_make_of_them(self) -> None:
        with inline():
            handle = jobs.mail.run_later("a@b.c", copies=("d@e.f",))
            self.assertEqual(handle.join(timeout=0), ["a@b.c", "d@e.f"])
            with self.assertRaisesRegex(TypeError, "address"):
                jobs.mail.run_later(object())  # type: ignore[arg-type]  # that is what is refused

    def test_a_failure_is_the_jobs_and_not_the_callers(self) -> None:
        with inline(), self.assertLogs("djjp.consumer", "WARNING"):
            handle = jobs.refuse.run_later("out of stock")
            with self.assertRaisesRegex(JobFailed, "out of stock"):
                handle.join(timeout=0)
        self.assertEqual(handle.state, State.FAILED)

    def test_a_failure_can_be_raised_where_the_job_is_enqueued(self) -> None:
        with inline(raise_errors=True):
            with (
                self.assertLogs("djjp.consumer", "WARNING"),
                self.assertRaisesMessage(ValueError, "out of stock"),
            ):
                jobs.refuse.run_later("out of stock")
            self.assertEqual(jobs.praise.run_later("Emma").join(timeout=0), "Emma is good")
            with inline(), self.assertLogs("djjp.consumer", "WARNING"):
                jobs.refuse.run_later("out of stock")
        self.assertEqual(Job.objects.filter(state=State.FAILED).count(), 2)

    def test_inside_a_block_too(self) -> None:
        with inline(), transaction.atomic():
            handle = jobs.order_all.run_later("Emma")
            self.assertEqual(titles(), ["1 orders", "Emma"])
        self.assertEqual(len(handle.join(timeout=0)), 1)
        self.assertEqual(Job.objects.exclude(state=State.SUCCEEDED).count(), 0)

    def test_a_job_may_wait_for_one_that_it_enqueues(self) -> None:
        with inline():
            self.assertEqual(jobs.order_and_wait.run_later("Emma").join(timeout=0), "Emma")

    def test_what_is_to_run_later_waits(self) -> None:
        with inline():
            later = jobs.order.using(run_after=timedelta(hours=1)).run_later("Emma")
        later.refresh()
        self.assertEqual(later.state, State.SCHEDULED)

    async def test_a_failure_of_a_coroutine_can_be_raised(self) -> None:
        with (
            inline(raise_errors=True),
            self.assertLogs("djjp.consumer", "WARNING"),
            self.assertRaisesMessage(ValueError, "out of stock"),
        ):
            await jobs.arefuse.arun_later("out of stock")

    async def test_coroutines(self) -> None:
        with inline():
            handle = await jobs.aorder.arun_later("Emma")
            self.assertEqual(await handle.ajoin(timeout=0), "Emma")

    def test_many_and_tasks(self) -> None:
        with inline():
            handles = run_many(jobs.order.bind(f"volume {n}") for n in range(3))
            self.assertEqual([h.join(timeout=0) for h in handles], titles())
            result: Any = tasks.restock.enqueue(["Emma"])
        result.refresh()
        self.assertEqual(result.return_value, 1)


class Captured(TestCase):
    databases = {"default", "queue"}

    def test_each_job_with_its_arguments_and_where_it_went(self) -> None:
        with captured_jobs() as enqueued:
            handle = jobs.mail.using(priority=9).run_later("a@b.c", copies=("d@e.f",))
            with transaction.atomic():
                jobs.order.run_later("Emma")
            run_many([jobs.order.bind("Persuasion")])
            tasks.restock.enqueue(["Emma"], shelf=2)
        jobs.order.run_later("Sanditon")
        mail, *orders, restock = enqueued
        self.assertEqual((mail.id, mail.name, mail.queue), (handle.id, jobs.mail.name, "mail"))
        self.assertEqual((mail.args, mail.kwargs), (("a@b.c",), {"copies": ("d@e.f",)}))
        self.assertEqual((mail.priority, mail.run_after, mail.handle), (9, None, handle))
        self.assertEqual([job.args for job in orders], [("Emma",), ("Persuasion",)])
        self.assertEqual((restock.args, restock.kwargs), ((["Emma"],), {"shelf": 2}))
        self.assertEqual(restock.name, tasks.restock.module_path)
        places = ["outbox"] * 4 if OUTBOX else ["queue", "on_commit", "queue", "queue"]
        self.assertEqual([job.destination for job in enqueued], places)

    def test_also_those_that_jobs_enqueue_and_in_the_order_in_which_they_come(self) -> None:
        with inline(), captured_jobs() as enqueued:
            jobs.order_all.run_later("Emma")
        self.assertEqual([job.name for job in enqueued], [jobs.order_all.name, "shop.order"])

    def test_what_is_refused_is_not_listed(self) -> None:
        with captured_jobs() as enqueued, self.assertRaises(TypeError):
            jobs.order.run_later(object())  # type: ignore[arg-type]  # that is what is refused
        self.assertEqual(enqueued, [])

    def test_nested(self) -> None:
        with captured_jobs() as outer:
            jobs.order.run_later("Emma")
            with captured_jobs() as inner:
                jobs.order.run_later("Persuasion")
            jobs.order.run_later("Sanditon")
        self.assertEqual((len(outer), len(inner)), (3, 1))


class Asserted(TestCase):
    databases = {"default", "queue"}

    def test_a_job_is_found_by_what_is_said_of_it(self) -> None:
        handle = jobs.mail.run_later("a@b.c", copies=("d@e.f",))
        (found,) = assert_enqueued(jobs.mail)
        self.assertEqual(
            (found.handle, found.destination), (handle, "outbox" if OUTBOX else "queue")
        )
        assert_enqueued(jobs.mail, args=["a@b.c"])
        assert_enqueued(jobs.mail, kwargs={"copies": ("d@e.f",)}, queue="mail", priority=5, count=1)
        assert_enqueued(jobs.mail.name)
        assert_not_enqueued(jobs.mail, args=())
        assert_not_enqueued(jobs.mail, queue="default")
        assert_not_enqueued(jobs.order)

    def test_also_once_it_has_run(self) -> None:
        jobs.order.run_later("Emma")
        jobs.order.run_later("Persuasion")
        drain(max_jobs=1)
        jobs.order.run_later("Sanditon")
        found = assert_enqueued(jobs.order, count=3)
        self.assertEqual([job.args[0] for job in found], ["Emma", "Persuasion", "Sanditon"])

    def test_tasks(self) -> None:
        tasks.restock.enqueue(("Emma",), shelf=2)  # type: ignore[arg-type]  # JSON makes it a list
        assert_enqueued(tasks.restock, args=[("Emma",)], kwargs={"shelf": 2}, priority=7)
        assert_not_enqueued(tasks.restock, args=[["Persuasion"]])

    def test_a_failure_lists_what_was_enqueued_instead(self) -> None:
        with self.assertRaisesRegex(AssertionError, "Nothing was enqueued"):
            assert_enqueued(jobs.order)
        jobs.mail.run_later("a@b.c", copies=("d@e.f",))
        jobs.order.using(run_after=timedelta(hours=1)).run_later("Emma")
        with self.assertRaises(AssertionError) as raised:
            assert_enqueued(jobs.mail, args=["x@y.z"], queue="mail")
        head, _, *listed = str(raised.exception).splitlines()
        self.assertEqual(
            head,
            f"{jobs.mail.name} with queue='mail', args=('x@y.z',): 0 enqueued, expected at least 1.",
        )
        place = "outbox" if OUTBOX else "queue"
        self.assertEqual(
            listed[0],
            f"  {jobs.mail.name}('a@b.c', copies=('d@e.f',)) in queue 'mail', priority 5 ({place})",
        )
        self.assertRegex(listed[1], r"^  shop\.order\('Emma'\) in queue 'default', not before 20")
        with self.assertRaisesRegex(AssertionError, "1 enqueued, expected 2"):
            assert_enqueued(jobs.order, count=2)
        with self.assertRaisesRegex(AssertionError, "1 enqueued, expected 0"):
            assert_not_enqueued(jobs.order)
        run_many(jobs.order.bind(f"volume {n}") for n in range(30))
        with self.assertRaisesRegex(AssertionError, "… and 12 more"):
            assert_not_enqueued(jobs.order)

    def test_a_text_that_is_no_job_is_refused(self) -> None:
        with self.assertRaisesRegex(TypeError, "neither a job"):
            assert_enqueued(titles)


class Unnamed(TestCase):
    """A test that does not name the queue's database gets an error with the fix, and writes nothing there."""

    databases = {"default"}
    told = r"Add 'queue' to .*Unnamed\.databases.* need databases = \{\"default\", \"queue\"\}"

    def setUp(self) -> None:
        if not OUTBOX:
            self.told = self.told.replace('\\"default\\", ', "")

    def test_drain(self) -> None:
        with self.assertRaisesRegex(DatabaseOperationForbidden, self.told):
            drain()

    def test_inline(self) -> None:
        with self.assertRaisesRegex(DatabaseOperationForbidden, self.told), inline():
            jobs.order.run_later("Emma")

    def test_assertions(self) -> None:
        with self.assertRaisesRegex(DatabaseOperationForbidden, self.told):
            assert_enqueued(jobs.order)

    def test_another_databases_refusal_is_left_as_it_is(self) -> None:
        with self.assertRaises(DatabaseOperationForbidden) as raised, inline():
            raise DatabaseOperationForbidden("Add 'stock' to databases")
        self.assertEqual(str(raised.exception), "Add 'stock' to databases")

    def test_enqueueing(self) -> None:
        if OUTBOX:
            jobs.order.run_later("Emma")
            self.assertEqual(len(table.waiting("default", None, 10)), 1)
        else:
            with self.assertRaisesRegex(DatabaseOperationForbidden, "Add 'queue' to"):
                jobs.order.run_later("Emma")


class UnnamedLeavesNothing(TestCase):
    """Runs after `Unnamed`, in the order of their names."""

    databases = {"default", "queue"}

    def test_nothing_came_into_the_queue(self) -> None:
        self.assertEqual(Job.objects.count(), 0)
