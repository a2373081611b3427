"""Reasons for which jobs are left alone, in the language of the page: of one job, and of many."""

from __future__ import annotations

from collections.abc import Mapping

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from djjp.admin import display
from djjp.engine import bulk

#: Of each reason a clause about one job, and one about a number of jobs.
WORDS: Mapping[str, tuple[Promise, Promise]] = {
    bulk.NOT_FOUND: (
        _("there is no such job in the queue"),
        ngettext_lazy("%(count)s not found", "%(count)s not found", "number"),
    ),
    bulk.RUNNING: (
        _("the job is running"),
        ngettext_lazy("%(count)s running", "%(count)s running", "number"),
    ),
    bulk.ENDED: (
        _("the job has ended"),
        ngettext_lazy("%(count)s has ended", "%(count)s have ended", "number"),
    ),
    bulk.NOT_ENDED: (
        _("the job has not ended"),
        ngettext_lazy("%(count)s has not ended", "%(count)s have not ended", "number"),
    ),
    bulk.CHANGED: (
        _("the job is changed by others meanwhile"),
        ngettext_lazy(
            "%(count)s changed by others meanwhile",
            "%(count)s changed by others meanwhile",
            "number",
        ),
    ),
    bulk.KEY_IS_HELD: (
        _("its unique key is held by a live job"),
        ngettext_lazy(
            "%(count)s unique key is held by a live job",
            "%(count)s unique key is held by a live job",
            "number",
        ),
    ),
    bulk.NO_FAILURE: (
        _("the job is part of a pipeline of which no job has failed"),
        ngettext_lazy(
            "%(count)s part of a pipeline of which no job has failed",
            "%(count)s part of a pipeline of which no job has failed",
            "number",
        ),
    ),
    bulk.IS_CANCELLING: (
        _("the job is being cancelled already"),
        ngettext_lazy(
            "%(count)s being cancelled already", "%(count)s being cancelled already", "number"
        ),
    ),
    bulk.IS_READY: (
        _("the job is ready already"),
        ngettext_lazy("%(count)s ready already", "%(count)s ready already", "number"),
    ),
    bulk.HAS_PARENTS: (
        _("the job waits for other jobs of its pipeline"),
        ngettext_lazy(
            "%(count)s waits for other jobs of its pipeline",
            "%(count)s wait for other jobs of its pipeline",
            "number",
        ),
    ),
    bulk.WAITS_FOR_PERMIT: (
        _("the job waits for a permit of its limit"),
        ngettext_lazy(
            "%(count)s waits for a permit of its limit",
            "%(count)s wait for a permit of its limit",
            "number",
        ),
    ),
    bulk.WAITS_FOR_RATE: (
        _("the job waits for its rate"),
        ngettext_lazy("%(count)s waits for its rate", "%(count)s wait for its rate", "number"),
    ),
    bulk.IN_QUEUE: (
        _("the job is in this queue already"),
        ngettext_lazy(
            "%(count)s in this queue already", "%(count)s in this queue already", "number"
        ),
    ),
    bulk.HAS_PRIORITY: (
        _("the job has this priority already"),
        ngettext_lazy(
            "%(count)s has this priority already", "%(count)s have this priority already", "number"
        ),
    ),
}


def of_one(reason: str) -> str:
    """Return why a verb was not done to a job, as half a sentence."""
    return str(WORDS[reason][0]) if reason in WORDS else reason


def of_many(skipped: Mapping[str, int]) -> str:
    """Return the reasons of an operation as a text, the commonest first: "2 have not ended, 1 running"."""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(_counted(reason, number) for reason, number in ordered)


def _counted(reason: str, number: int) -> str:
    words = {"number": number, "count": display.number(number)}
    return WORDS[reason][1] % words if reason in WORDS else f"{words['count']} {reason}"
