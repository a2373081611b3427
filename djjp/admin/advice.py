"""Advice: what an operator can do about each kind of incident, besides its remedy."""

from __future__ import annotations

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

#: By kind of incident.
ADVICE: dict[str, Promise] = {
    "no_consumer": _(
        "Start a consumer that serves this queue, on any machine that reaches the queue's database. If one should"
        " run, see why its service does not: its log has the reason. A quiet consumer can be had to claim again."
        " If the name of the queue is wrong, move its jobs to the right one."
    ),
    "consumer_lost": _(
        "Its jobs are rescued and run again on other consumers. See the log of the machine for the reason, such as"
        " the kernel's out-of-memory killer; a job that kills its consumer each time is failed after some rescues."
    ),
    "failing": _(
        "See its failures: they are grouped by their place in the project's code. Correct the cause, or stop the"
        " jobs from starting by a pause of their queue; then retry what has failed."
    ),
    "wait": _(
        "All consumers of this queue are busy, or its jobs take long. Start another one, or one for this queue"
        " alone, so that jobs of other queues do not hold it up. Where a job holds a limit, see its stack before"
        " it is cancelled: it shows what the job waits for."
    ),
    "backlog": _(
        "More jobs come than end. Start another consumer, raise the number of jobs that one runs at a time, or"
        " find what enqueues more than usual: the names on the queue's page show it."
    ),
    "outbox_behind": _(
        "Jobs are committed with the application's data and do not reach the queue. Start a consumer that reaches"
        " this database; if one runs, its log under djjp.outbox has the reason."
    ),
    "schedule_broken": _(
        "Correct it in the code or here. Until then it enqueues nothing; disable it if it is not needed any more."
    ),
    "late_results": _(
        "The outcomes were refused because others had the jobs already, so nothing ran twice without a trace. Find"
        " the job that held the interpreter, or raise DJJP['frozen_limit'] and DJJP['heartbeat_limit']."
    ),
    "loop_blocked": _(
        "While it is blocked, no other coroutine of that consumer goes on. Await at the line that is named, or"
        " make the job a plain function: it then runs on a thread."
    ),
    "clock_skew": _(
        "Set the clock of this machine by NTP. Until then its times are off by that much."
    ),
    "unheard": _(
        "Jobs run, and start up to a second later. Connect consumers to PostgreSQL itself instead of through a"
        " pooler in transaction mode, or set DJJP['listen'] to False."
    ),
}
