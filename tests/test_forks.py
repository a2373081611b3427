"""Forked children: plain processes with connections of their own, which close nothing of their parent's."""

from __future__ import annotations

import json
import subprocess

import pytest

from djjp.engine import Engine
from djjp.models import Job
from djjp.outbox.models import OutboxJob
from tests.project.shop.models import Execution
from tests.support.processes import Processes

# A web server that loads the application and then forks: the parent has enqueued before, and its three
# workers enqueue at the same time. Each reports the jobs that were acknowledged, and ends as a program does.
PREFORK = """
import django; django.setup()
import json, os, sys
from django.db import connections, transaction
from tests.project.shop.jobs import add

def enqueue(number):
    if number % 2:
        with transaction.atomic():
            return str(add.run_later(number).id)
    return str(add.run_later(number).id)

enqueue(0), enqueue(1)
start, go = os.pipe()
pids = []
for worker in range(3):
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(go)
        os.read(start, 1)
        acknowledged = [enqueue(number) for number in range(70)]
        connections["default"].cursor().execute("SELECT 1")
        os.write(write, json.dumps(acknowledged).encode())
        sys.exit(0)
    os.close(write)
    pids.append((pid, read))
os.close(go)
reported, codes = [], []
for pid, read in pids:
    text = b""
    while part := os.read(read, 65536):
        text += part
    reported += json.loads(text or "[]")
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
reported.append(enqueue(0))
reported.append(enqueue(1))
print(json.dumps([reported, codes]))
"""


def output(process: subprocess.Popen[str]) -> str:
    """Return what a process has printed, once it has ended well and without a complaint."""
    out, err = process.communicate(timeout=90)
    assert (process.returncode, err) == (0, "")
    return out


@pytest.mark.end_to_end
@pytest.mark.both_databases
def test_workers_of_a_parent_that_has_enqueued_lose_no_acknowledged_job(
    engine: Engine, processes: Processes
) -> None:
    reported, codes = json.loads(output(processes.python(PREFORK)))

    assert codes == [0, 0, 0]
    assert len(reported) == 3 * 70 + 2
    known = {str(id) for id in Job.objects.values_list("pk", flat=True)}
    assert [id for id in reported if id not in known] == []
    assert not OutboxJob.objects.exists()


# Fork while another thread has the locks that each connection and each coroutine takes for a moment.
LOCKED = """
import django; django.setup()
import asyncio, os, signal, threading, time
from asgiref.sync import AsyncToSync
from django.db.backends.signals import connection_created
from tests.project.shop.jobs import add

asyncio.run(add.arun_later(0))
locked = threading.Event()

def hold():
    with vars(AsyncToSync.executors)["_lock"], connection_created.lock:
        locked.set()
        time.sleep(60)

threading.Thread(target=hold, daemon=True).start()
locked.wait()
if (child := os.fork()) == 0:
    signal.alarm(90)
    add.run_later(1)
    asyncio.run(add.arun_later(2))
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_waits_for_no_lock_of_a_thread_that_it_does_not_have(
    engine: Engine, processes: Processes
) -> None:
    assert output(processes.python(LOCKED)) == "0\n"
    assert Job.objects.count() == 3


# Fork again and again while other threads use an SQLite file most of the time.
BUSY = """
import django; django.setup()
import os, signal, threading, time
from django.db import transaction
from tests.project.shop.models import Execution

def read():
    while True:
        list(Execution.objects.all()[:50])
        time.sleep(0.002)

def write():
    while True:
        with transaction.atomic():
            Execution.objects.create(key="thread", process=0, at=0.0)
        # Not in a transaction, and with the lock until the row that RETURNING gives is fetched.
        for number in range(5):
            Execution.objects.create(key="thread", process=0, at=0.0)
        time.sleep(0.002)

def calculate():
    while True:
        sum(range(1000))

for target in (read, read, write, calculate):
    threading.Thread(target=target, daemon=True).start()
codes = []
for number in range(20):
    Execution.objects.count()
    if (child := os.fork()) == 0:
        signal.alarm(90)
        Execution.objects.create(key="child", process=0, at=0.0)
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(codes == [0] * 20, flush=True)
os._exit(0)
"""


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_a_child_can_use_sqlite_while_other_threads_use_it(
    engine: Engine, processes: Processes
) -> None:
    assert output(processes.python(BUSY)) == "True\n"
    assert Execution.objects.filter(key="child").count() == 20
