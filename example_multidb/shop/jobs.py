"""The jobs of a shop, of all kinds, so that the dashboard has something to show."""

from __future__ import annotations

import random
import time

from django.db import transaction

from djjp import Limit, Rate, chain, current_job, expand, job, queues


class PaymentRefused(Exception):
    """The bank has refused a payment."""


@job(name="shop.take_order", api=True)
def take_order(order: int, amount: float) -> None:
    """Take an order, as a program does over HTTP: its jobs commit with it, through the application's outbox."""
    with transaction.atomic("default"):
        chain(charge.bind(order, amount), send_receipt.bind()).run_later()


@job(name="shop.charge", max_attempts=2, backoff=20, limit=Rate("bank", 60, per=60))
def charge(order: int, amount: float, card_token: str = "tok_4242") -> str:  # noqa: S107  (no secret)
    """Charge an order, and fail for one in ten."""
    time.sleep(random.uniform(0.05, 0.4))  # noqa: S311  (a demo)
    if order % 10 == 0:
        raise PaymentRefused(f"the card of order {order} was declined")
    return f"receipt-{order}"


@job(name="shop.send_receipt", queue="mail", tags=["mail"])
def send_receipt(receipt: str, address: str = "somebody@example.com") -> None:
    """Send a receipt."""
    time.sleep(0.1)


@job(name="shop.resize_pictures", limit=Limit("pictures", 1))
def resize_pictures(product: int, pictures: int = 40) -> int:
    """Resize pictures one by one, and report how many are done."""
    current = current_job()
    for done in range(pictures):
        if current.cancelled:
            break
        current.progress(done, pictures)
        time.sleep(0.5)
    return pictures


@job(name="shop.check_stock")
def check_stock(order: int, item: int) -> int:
    """Return the number of pieces that are left."""
    time.sleep(0.2)
    return 100 - item


@job(name="shop.pack")
def pack(left: list[int], order: int) -> int:
    """Pack an order; `left` are the results of the group before this step."""
    time.sleep(0.3)
    return order


@job(name="shop.ship")
def ship(order: int) -> str:
    """Ship an order."""
    return f"parcel-{order}"


@job(name="shop.import_catalogue", every=120, catch_up="none")
def import_catalogue() -> None:
    """Import the catalogue by a schedule: a pipeline with one job for each product."""
    chain(list_products.bind(), expand(import_product), publish.bind()).run_later()


@job(name="shop.list_products")
def list_products() -> list[int]:
    """Return the products; each becomes a job of the next step."""
    return list(range(random.randint(5, 30)))  # noqa: S311  (a demo)


@job(name="shop.import_product")
def import_product(product: int) -> str:
    """Import a product."""
    time.sleep(0.1)
    return f"product-{product}"


@job(name="shop.publish")
def publish(products: list[str]) -> int:
    """Publish the catalogue once all products are imported."""
    return len(products)


@job(name="shop.remind", expires_after=3600)
def remind(order: int) -> None:
    """Remind a customer of what is in the basket."""


@job(name="shop.send_newsletter", queue="newsletter")
def send_newsletter(number: int) -> None:
    """Send a newsletter; the queue is paused, so it waits."""


@job(name="shop.count_orders", every=60, catch_up="none")
def count_orders() -> str:
    """Run each minute by its schedule."""
    return f"{len(queues.paused())} queues are paused"
