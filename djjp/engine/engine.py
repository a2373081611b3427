"""The engine: everything that can be done to a queue, by concern."""

from __future__ import annotations

from djjp.engine.admission import Admission
from djjp.engine.consumers import Consumers
from djjp.engine.control import Control
from djjp.engine.database import Database
from djjp.engine.expiry import Expiry
from djjp.engine.jobs import Jobs
from djjp.engine.limits import Limits
from djjp.engine.pipelines import Pipelines
from djjp.engine.pruning import Pruning
from djjp.engine.queues import Queues
from djjp.engine.rates import Rates
from djjp.engine.receipts import Receipts
from djjp.engine.requirements import Requirements
from djjp.engine.rescue import Rescue
from djjp.engine.schedules import Schedules
from djjp.engine.unique_keys import UniqueKeys


class Engine:
    """The queue on one database alias. It holds no connection: all threads can share it."""

    def __init__(self, db: Database) -> None:
        self.db = db  # transactions, rows, ids, times, locks, wake-ups: what differs by vendor
        self.pipelines = Pipelines(
            db
        )  # enqueue a pipeline, resolve or cancel dependents, collect inputs
        self.unique_keys = UniqueKeys(db)  # one live job for each key
        self.jobs = Jobs(
            db, self.pipelines, self.unique_keys
        )  # enqueue, claim, finish, release, promote
        self.limits = Limits(db)  # block jobs over their limit, unblock them
        self.rates = Rates(db)  # count starts, throttle jobs over their rate
        self.expiry = Expiry(db, self.pipelines)  # cancel jobs that have not started in time
        self.admission = Admission(
            db, self.limits, self.rates, self.expiry
        )  # all four for claimed jobs
        self.control = Control(db, self.pipelines, self.unique_keys)  # retry and cancel on request
        self.queues = Queues(db)  # pause, resume, queues with ready jobs
        self.schedules = Schedules(db, self.jobs)  # sync, fire, enable, delete
        self.consumers = Consumers(db)  # register, heartbeat, locks, running jobs
        self.rescue = Rescue(
            db, self.consumers, self.pipelines, self.limits
        )  # jobs of dead consumers
        self.pruning = Pruning(db, self.pipelines)  # delete old finished jobs
        self.receipts = Receipts(db)  # jobs that came from an outbox
        self.requirements = Requirements(db)  # problems of a database, its storage parameters
