"""The engine: everything that can be done to a queue, by concern."""

from __future__ import annotations

from djjp.engine.admission import Admission
from djjp.engine.attempts import Attempts
from djjp.engine.bulk import Bulk
from djjp.engine.causes import Causes
from djjp.engine.clocks import Clocks
from djjp.engine.consumers import Consumers
from djjp.engine.control import Control
from djjp.engine.database import Database
from djjp.engine.depths import Depths
from djjp.engine.expansion import Expansion
from djjp.engine.expiry import Expiry
from djjp.engine.graphs import Graphs
from djjp.engine.history import History
from djjp.engine.holding import Holding
from djjp.engine.idempotency import Idempotency
from djjp.engine.incidents import Incidents
from djjp.engine.inputs import Inputs
from djjp.engine.jobs import Jobs
from djjp.engine.limits import Limits
from djjp.engine.line import Line
from djjp.engine.pipelines import Pipelines
from djjp.engine.pruning import Pruning
from djjp.engine.queues import Queues
from djjp.engine.rates import Rates
from djjp.engine.receipts import Receipts
from djjp.engine.repair import Repair
from djjp.engine.requests import Requests
from djjp.engine.requirements import Requirements
from djjp.engine.rescue import Rescue
from djjp.engine.schedules import Schedules
from djjp.engine.search import Search
from djjp.engine.suspects import Suspects
from djjp.engine.tags import Tags
from djjp.engine.totals import Totals
from djjp.engine.unique_keys import UniqueKeys
from djjp.engine.waits import Waits


class Engine:
    """The queue on one database alias. It holds no connection: all threads can share it.

    Attributes:
        db: what differs by vendor: transactions, rows, ids, times, locks, wake-ups.

        jobs: enqueue, claim, finish, release and promote jobs; the fence.
        suspects: claim, one by one, jobs that ran when a consumer died.
        pipelines: enqueue a pipeline, resolve or cancel dependents.
        expansion: insert the jobs that a step of `expand()` becomes.
        inputs: read the results of parents, nested as a step takes them.
        causes: find the jobs because of which others have no result.
        graphs: read the jobs of a pipeline with their edges.
        control: retry and cancel jobs on request.
        bulk: do one verb to many jobs; count by reason the jobs that are left alone.
        tags: mark the tags of jobs that have ended.
        search: find the jobs that meet conditions.
        attempts: list failed attempts, the newest first.
        totals: count the ends of jobs, in the transactions that end them.
        history: add up what was counted, by minute, hour, day and for ever; read it.

        unique_keys: insert a job only if no live job holds its key.
        limits: block jobs over their limit, unblock them when a permit becomes free.
        rates: count starts, throttle jobs over their rate.
        expiry: cancel jobs that have not started in time.
        admission: apply limits, rates and expiry to jobs just claimed.

        queues: pause and resume queues, list those with ready jobs.
        waits: read how long ready jobs have waited, by queue.
        line: find what comes before a job that does not run.
        holding: find the limits whose permits are held for long, and the jobs that hold them.
        depths: count the live jobs of each queue, once a minute.
        schedules: write the declared schedules; fire, enable and delete schedules.

        consumers: register consumers, record heartbeats, test locks, list running jobs.
        requests: make and answer requests to consumers.
        rescue: run again, fail or release the jobs of dead consumers.
        clocks: put right the times that a clock wrote while it was ahead.
        repair: single out and fail the job whose row the database refuses.
        incidents: open, keep, close and prune the rows of what is wrong.
        pruning: delete old finished jobs.
        idempotency: enqueue the jobs of a request once, however often it is repeated.
        receipts: list and delete the receipts of jobs that came from an outbox.
        requirements: list the problems of a database, and its storage parameters.
    """

    def __init__(self, db: Database) -> None:
        self.db = db

        self.totals = Totals(db)
        self.history = History(db)
        self.pipelines = Pipelines(db, self.totals)
        self.expansion = Expansion(db)
        self.causes = Causes(db)
        self.graphs = Graphs(db)
        self.inputs = Inputs(db)
        self.unique_keys = UniqueKeys(db)
        self.tags = Tags(db)
        self.jobs = Jobs(db, self.pipelines, self.unique_keys, self.tags, self.totals)
        self.suspects = Suspects(db, self.jobs)
        self.search = Search(db)
        self.attempts = Attempts(db)
        self.control = Control(db, self.pipelines, self.unique_keys, self.tags, self.totals)

        self.limits = Limits(db)
        self.rates = Rates(db)
        self.expiry = Expiry(db, self.pipelines, self.totals)
        self.admission = Admission(db, self.limits, self.rates, self.expiry)

        self.queues = Queues(db)
        self.waits = Waits(db)
        self.line = Line(db)
        self.holding = Holding(db)
        self.depths = Depths(db, self.queues, self.waits)
        self.schedules = Schedules(db, self.jobs)

        self.consumers = Consumers(db)
        self.requests = Requests(db)
        self.clocks = Clocks(db)
        self.incidents = Incidents(db)
        self.repair = Repair(db, self.pipelines, self.totals)
        self.rescue = Rescue(db, self.consumers, self.pipelines, self.limits, self.totals)
        self.pruning = Pruning(db, self.pipelines, self.tags)
        self.bulk = Bulk(db, self.control, self.unique_keys, self.pruning, self.search)
        self.idempotency = Idempotency(db, self.jobs)
        self.receipts = Receipts(db)
        self.requirements = Requirements(db)
