"""The jobs of a project whose data are groups of users: they need no app of their own."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from django.contrib.auth.models import Group
from django.db import IntegrityError, transaction

from djjp import current_job, get_job, job


@job(name="shop.order")
def order(title: str) -> str:
    Group.objects.create(name=title)
    return title


@job
def praise(title: str) -> str:
    return f"{title} is good"


@job
def echo(value: object) -> object:
    return value


@job
async def aorder(title: str) -> str:
    await asyncio.sleep(0)
    await Group.objects.acreate(name=title)
    return title


@job(queue="mail", priority=5)
def mail(address: str, *, copies: tuple[str, ...] = ()) -> list[str]:
    return [address, *copies]


@job
def order_all(*titles: str) -> list[str]:
    """Enqueue jobs together with data, in a transaction."""
    with transaction.atomic():
        Group.objects.create(name=f"{len(titles)} orders")
        return [str(order.run_later(title).id) for title in titles]


@job
async def aorder_all(*titles: str) -> list[str]:
    return [str((await order.arun_later(title)).id) for title in titles]


@job
def order_twice(title: str) -> None:
    """Break a rule of the database, and with it the transaction, if there is one."""
    Group.objects.create(name=title)
    Group.objects.create(name=title)


@job
def try_order_twice(title: str) -> str:
    try:
        with transaction.atomic():
            order_twice(title)
    except IntegrityError:
        return "once is enough"
    return "twice"


@job
def spoil_transaction(title: str) -> None:
    """Leave the transaction around, if there is one, with the mark that it has to be rolled back."""
    with transaction.atomic(savepoint=False):
        Group.objects.create(name=title)
        raise ValueError("out of stock")


@job
def order_durably(title: str) -> str:
    with transaction.atomic(durable=True):
        return order(title)


@job
def order_and_wait(title: str) -> str:
    """Only where jobs run inline does the one that is waited for ever run."""
    result: str = order.run_later(title).join(timeout=0)
    return result


@job
def refuse(reason: str) -> None:
    raise ValueError(reason)


@job
async def arefuse(reason: str) -> None:
    raise ValueError(reason)


@job
def again() -> None:
    """Enqueue the next run, a day later."""
    again.using(run_after=timedelta(days=1)).run_later()


@job(max_attempts=3, backoff=0)
def insist() -> int:
    attempt: int = current_job().attempt
    if attempt < 3:
        raise ConnectionError(f"no answer to call {attempt}")
    return attempt


@job(max_attempts=2, backoff=timedelta(hours=1))
def insist_slowly() -> None:
    raise ConnectionError("no answer")


@job
def count_up(number: int) -> str:
    current = current_job()
    for done in range(1, number + 1):
        current.progress(done, number)
    return str(get_job(current.id).state)


@job
def opaque() -> object:
    return object()


@job
def press_stop() -> None:
    raise KeyboardInterrupt
