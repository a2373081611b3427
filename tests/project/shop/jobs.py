"""The jobs of the test project."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import signal
import time
from pathlib import Path

from django.conf import settings
from django.db import transaction

from djjp import Limit, Rate, current_job, job, queues
from djjp.jobs import get_job
from tests.project.shop.models import Execution

TALLY = settings.HOME / "tally.txt"
SPANS = settings.HOME / "spans.txt"


@job
def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


@job(name="shop.echo")
def echo(*args: object, **kwargs: object) -> list[object]:
    return [list(args), kwargs]


@job
def items(count: int) -> list[int]:
    return list(range(count))


@job
def repeat(item: object, times: int = 2) -> list[object]:
    return [item] * times


@job
def require(item: int, least: int) -> int:
    """Return the item, if it is large enough."""
    if item < least:
        raise ValueError(f"{item} is below {least}")
    return item


@job
def record(key: str, seconds: float = 0.0) -> int:
    """Leave a row in the application's database, after a while."""
    time.sleep(seconds)
    return Execution.objects.create(key=key, process=os.getpid(), at=time.time()).pk


@job
def tally(key: str) -> None:
    """Leave a line in a file: a trace that no database lock slows down."""
    with TALLY.open("ab", buffering=0) as file:
        file.write(f"{key} {os.getpid()}\n".encode())


@job
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return time.time()


@job
async def anap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return time.time()


@job
def fail(message: str) -> None:
    raise ValueError(message)


@job(name="shop.mail", queue="mail", priority=5)
def mail(address: str) -> str:
    return address


@job
def fan_out(count: int) -> list[str]:
    """Enqueue as many jobs from inside a job."""
    return [str(add.run_later(i).id) for i in range(count)]


@job
def hog(seconds: float) -> None:
    """Keep the interpreter busy."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


@job
def hog_until(path: str) -> None:
    """Keep the interpreter busy until a file is there."""
    while not Path(path).exists():
        sum(range(1000))


@job
def linger_until(key: str, path: str) -> int:
    """Leave a row, and stay until a file is there."""
    Execution.objects.create(key=key, process=os.getpid(), at=time.time())
    while not Path(path).exists():
        time.sleep(0.01)
    return os.getpid()


@job
def linger(key: str, *seconds: float) -> int:
    """Leave a row at once; then, in each attempt, take as long as is said for it, if anything is."""
    Execution.objects.create(key=key, process=os.getpid(), at=time.time())
    attempt = current_job().attempt
    time.sleep(seconds[attempt - 1] if attempt <= len(seconds) else 0)
    return os.getpid()


@job
def read_folder(key: str, folder: str) -> int:
    """Leave a row, read each file of a folder as a backup does, and take long the first time."""
    for path in Path(folder).iterdir():
        path.read_bytes()
    Execution.objects.create(key=key, process=os.getpid(), at=time.time())
    time.sleep(600 if current_job().attempt == 1 else 0)
    return os.getpid()


@job
def hold_interpreter(key: str, seconds: float) -> None:
    """Leave a row, then keep the interpreter's lock inside C, so that no other thread does anything."""
    Execution.objects.create(key=key, process=os.getpid(), at=time.time())
    ctypes.PyDLL(None).usleep(round(seconds * 1_000_000))


@job
def hold_interpreter_until(key: str, fifo: str) -> None:
    """Do the same until another process opens a FIFO to write into it."""
    Execution.objects.create(key=key, process=os.getpid(), at=time.time())
    ctypes.PyDLL(None).open(fifo.encode(), os.O_RDONLY)


@job
def kill_consumer(key: str) -> None:
    """Leave a row, and take the whole process down."""
    Execution.objects.create(key=key, process=os.getpid(), at=time.time())
    os.kill(os.getpid(), signal.SIGKILL)


@job(on_crash="fail")
def kill_consumer_once(key: str) -> None:
    Execution.objects.create(key=key, process=os.getpid(), at=time.time())
    os.kill(os.getpid(), signal.SIGKILL)


def end_process(how: str) -> None:
    """End the whole process at once, in one of the ways in which jobs do."""
    match how:
        case "SIGKILL":  # as the system does when memory is short
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(1)
        case "stack overflow":
            faulthandler._stack_overflow()  # type: ignore[attr-defined]  # for tests of CPython


@job
def be_fatal(key: str, how: str, rows: int = 0) -> None:
    """Leave a row, and take the whole process down once there are so many rows."""
    Execution.objects.create(key=key, process=os.getpid(), at=time.time())
    while Execution.objects.count() < rows:
        time.sleep(0.05)
    end_process(how)


@job
async def abe_fatal(key: str, how: str, rows: int = 0) -> None:
    """Do the same as a coroutine."""
    await Execution.objects.acreate(key=key, process=os.getpid(), at=time.time())
    while await Execution.objects.acount() < rows:
        await asyncio.sleep(0.05)
    end_process(how)


@job
async def abe_fatal_at_once() -> None:
    """End the process before the event loop runs anything else."""
    end_process("exit")


@job
async def alinger(key: str, *seconds: float) -> int:
    """Leave a row at once; then, in each attempt, take as long as is said for it, if anything is."""
    await Execution.objects.acreate(key=key, process=os.getpid(), at=time.time())
    attempt = current_job().attempt
    await asyncio.sleep(seconds[attempt - 1] if attempt <= len(seconds) else 0)
    return os.getpid()


@job(max_attempts=2, backoff=0.05)
def fail_once(received: object = None) -> str:
    """Fail in the first attempt."""
    if current_job().attempt == 1:
        raise ValueError("not yet")
    return "at last"


@job
def pause_queue(name: str) -> None:
    queues.pause(name)


def note(what: str, key: str) -> None:
    """Leave a line in a file: what happens to which key, when, and in which process."""
    with SPANS.open("ab", buffering=0) as file:
        file.write(f"{what} {key} {time.time():.6f} {os.getpid()}\n".encode())


@job(limit=Limit("tenant-{tenant}", 2))
def serve_tenant(tenant: str, seconds: float) -> None:
    note("start", tenant)
    time.sleep(seconds)
    note("end", tenant)


@job(limit=Limit("tenant-{tenant}", 2))
async def aserve_tenant(tenant: str, seconds: float) -> None:
    note("start", tenant)
    await asyncio.sleep(seconds)
    note("end", tenant)


@job(limit=Rate("api", 10, per=0.5))
def call_api(number: int) -> None:
    note("start", str(number))


@job(limit=Rate("api", 10, per=0.5))
async def acall_api(number: int) -> None:
    note("start", str(number))


@job(limit=Rate("blocking-api", 3, per=0.5))
async def acall_blocking_api(seconds: float) -> None:
    """Block the event loop, as a call of a library without coroutines does."""
    time.sleep(seconds)  # noqa: ASYNC251  (it is what the job is for)


@job(unique_key="import-{source}", queue="imports")
def import_from(source: str, *seconds: float) -> str:
    """In each attempt take as long as is said for it, if anything is."""
    note("start", source)
    attempt = current_job().attempt
    time.sleep(seconds[attempt - 1] if attempt <= len(seconds) else 0)
    return source


@job(expires_after=0.2)
def greet(name: str) -> str:
    return f"hello {name}"


@job
def read_file(path: str) -> int:
    """Read a file, as a program that makes a copy does; return its size."""
    return len(Path(path).read_bytes())


@job
def use_queue_in_transaction(waiting: str, fails: bool = False) -> list[str]:
    """Use handles inside a transaction of the queue's own database; return what they report."""
    with transaction.atomic(using=settings.DJJP["db_name"]):
        handle = add.run_later(1)
        reports = [get_job(handle.id).state.value, get_job(waiting).state.value]
        get_job(waiting).cancel()
        reports.append(get_job(waiting).state.value)
        get_job(waiting).retry()
        reports.append(get_job(waiting).state.value)
        queues.pause("closed")
        reports += queues.paused()
        try:
            handle.join(60)
        except TimeoutError as error:
            reports.append(str(error))
        if fails:
            raise ValueError("undo all of it")
    return reports


from tests.project.shop import forking  # noqa: E402, F401  (its jobs are registered too)
