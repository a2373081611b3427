"""The contents of a job's page, formatted: facts, timeline, causes, arguments, failed attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from djjp.admin import display
from djjp.jobs import registry, shown
from djjp.models import Attempt, Flag, Job, OnCrash, State
from djjp.monitoring import tracebacks
from djjp.monitoring.causes import Cause
from djjp.monitoring.explain import Explanation
from djjp.monitoring.frames import innermost
from djjp.monitoring.headline import attempt_of, described
from djjp.monitoring.timeline import Event

#: The characters of a value that stays on the line of its name.
SHORT = 120
#: The lines and the characters of a value that is in sight at once; a longer one is folded.
LONG_LINES, LONG = 40, 3_000
#: The codes of causes that the first sentence of the page says already.
_SAID = ("ended",)
_BAD = ("unknown", "outbox", "no_consumer", "not_registered")


class Fact(NamedTuple):
    """A line of a list: a name, and a value that is ready for the page."""

    name: str | Promise
    value: str | SafeString


class Remedy(NamedTuple):
    """A cause on the page, with its remedy.

    Attributes:
        command: the command that puts it right.
        label, url: the button that does the same, or a link to where it can be done; "" without one.
        is_post: the button is a form.
    """

    text: str
    command: str
    label: str | Promise = ""
    url: str = ""
    is_post: bool = False


class Moment(NamedTuple):
    """An event of the timeline on the page.

    Attributes:
        event: the event; its times are formatted by the template.
        text: what has happened.
        detail: where, or why.
        url: where more of it is; "" without such a place.
    """

    event: Event
    text: str | Promise
    detail: str
    url: str


def tone(found: Explanation) -> str:
    """Return how a job stands: "good", "warn", "bad", or "" for nothing to worry about."""
    job = found.job
    if job.state == State.SUCCEEDED:
        return "good"
    if job.state == State.FAILED or set(_BAD) & set(found.codes[:1]):
        return "bad"
    if job.state == State.RUNNING:
        return "bad" if found.causes[0].facts.get("life", "alive") != "alive" else ""
    if job.state == State.CANCELLED:
        return "" if display.is_not_needed(job) else "warn"
    return "warn" if found.codes[:1] in (["paused"], ["limit"], ["rate"]) or job.attempts else ""


def told(cause: Cause) -> bool:
    """Return whether the first sentence of the page has all of a cause already."""
    if cause.code != "running":
        return cause.code in _SAID
    return cause.facts["life"] == "alive" and not cause.facts["cancel_requested"]


# Facts


def facts(job: Job, link: Callable[..., str], list_url: str, *, shows_texts: bool) -> list[Fact]:
    """Return what is set in a job's row, apart from its arguments and times; nothing that is not set.

    Args:
        link: returns the address of a page by the name of its URL, or "".
        list_url: the address of the list of jobs.
        shows_texts: the user may see a reason, which can have the message of an error.
    """

    def linked(text: str, url: str) -> SafeString | str:
        plain = display.lines(text)
        return format_html('<a href="{}">{}</a>', url, plain) if url else plain

    def listed(**query: str) -> str:
        return f"{list_url}?{urlencode(query)}"

    found = [
        Fact(_("Name"), linked(job.name, link("djjp_job_name", job.name) or listed(name=job.name))),
        Fact(_("Id"), format_html('<code class="djjp-code">{}</code>', job.pk)),
        Fact(
            _("Queue"),
            linked(job.queue, link("djjp_queue_change", job.queue) or listed(queue=job.queue)),
        ),
    ]
    if job.priority:
        found.append(Fact(_("Priority"), str(job.priority)))
    if job.consumer:
        # The row of a consumer ends with its process.
        url = link("djjp_consumer_change", job.consumer) if job.state == State.RUNNING else ""
        url = url or listed(consumer=job.consumer)
        found.append(Fact(_("Consumer"), linked(job.consumer, url)))
    if job.tags:
        tags = [(listed(tag=tag), display.lines(tag)) for tag in job.tags]
        chips = format_html_join(
            "", '<li><a class="djjp-chip" href="{}">{}</a></li>', ((u, t) for u, t in tags)
        )
        found.append(Fact(_("Tags"), format_html('<ul class="djjp-chips">{}</ul>', chips)))
    if job.pipeline is not None:
        url = link("djjp_job_pipeline", job.pipeline) or listed(pipeline=str(job.pipeline))
        found.append(Fact(_("Pipeline"), linked(str(job.pipeline), url)))
    reason = job.reason or ""
    if shows_texts and (len(reason) > SHORT or "\n" in reason):  # the first sentence has the others
        found.append(Fact(_("Reason"), value_of(reason)))
    return [*found, *_constraints(job)]


def _constraints(job: Job) -> list[Fact]:
    """Return what bounds when and how a job runs."""
    found = []
    if (limit := display.limit(job.limit_key, job.limit_max, job.limit_per)) is not None:
        found.append(Fact(_("Limit"), display.lines(limit)))
    if job.unique_key is not None:
        until = _(" (until it starts)") if job.flags & Flag.UNTIL_START else ""
        found.append(Fact(_("Unique key"), f"{display.lines(job.unique_key)}{until}"))
    if job.expires_at is not None:
        found.append(Fact(_("Expires"), display.relative(job.expires_at)))
    if job.call_options:
        options = ", ".join(f"{name} {value}" for name, value in job.call_options.items())
        found.append(Fact(_("Set for this call"), display.lines(options)))
    if job.on_crash == OnCrash.FAIL:
        found.append(Fact(_("When its consumer dies"), _("it fails: it never runs twice")))
    if job.rescues and job.rescues > 0:
        found.append(Fact(_("Rescues"), display.number(job.rescues)))
    return found


# Arguments and results


def call(job: Job, text: str) -> list[Fact]:
    """Return the arguments of a job by their names, without those that are redacted.

    Args:
        text: the arguments as the codec has written them.
    """
    visible = shown.arguments(job.name, text, job.flags)
    found = display.each_argument(visible)
    if found is None:
        return [Fact(_("All arguments"), value_of(display.pretty_json(visible)))]
    args, kwargs = found
    names = _names(job, len(args))
    pairs = [*zip(names, args, strict=True), *kwargs.items()]
    return [Fact(display.lines(name), value_of(value)) for name, value in pairs]


def _names(job: Job, count: int) -> Sequence[str]:
    """Return a name for each positional argument: its parameter's, if the job is registered here."""
    registered = registry.find(job.name)
    known: Sequence[str] = ()
    if registered is not None:
        has_input = bool(job.flags & (Flag.TAKES_INPUT | Flag.COLLECTS))
        known = registered.signature.positional_names(count, has_input)
    return [*known, *(_("argument %d") % (n + 1) for n in range(len(known), count))]


def value_of(text: str) -> SafeString:
    """Return a value for the page: on the line of its name, or as a block; a long one is folded."""
    if len(text) <= SHORT and "\n" not in text:
        return format_html('<code class="djjp-code">{}</code>', display.lines(text))
    count = text.count("\n") + 1
    if count <= LONG_LINES and len(text) <= LONG:
        return display.block(text)
    label = ngettext(
        "%(lines)s line, %(size)s characters", "%(lines)s lines, %(size)s characters", count
    )
    return format_html(
        '<details class="djjp-fold"><summary>{}</summary>{}</details>',
        label % {"lines": display.number(count), "size": display.number(len(text))},
        display.block(text),
    )


# Why


def remedies(
    causes: Sequence[Cause], job: Job, button: Callable[[Cause], tuple[str | Promise, str, bool]]
) -> list[Remedy]:
    """Return the causes that the first sentence does not have, the worst first, each with its remedy.

    Args:
        button: returns the label and the address of a cause's button, and whether it is a form.
    """
    return [
        Remedy(capfirst(display.lines(each.text)), display.lines(each.remedy), *button(each))
        for each in causes
        if not told(each)
    ]


# Timeline


def moments(events: Sequence[Event], job: Job, most: int | None, page: str) -> list[Moment]:
    """Return the events of a job with their words.

    Args:
        most: the most attempts that it has; None if that is unknown.
        page: the address of the job's page.
    """
    return [
        Moment(event, _happened(event, job, most), _detail(event), _place(event, page))
        for event in events
    ]


def _happened(event: Event, job: Job, most: int | None) -> str:
    number = attempt_of(event.attempt, most)
    match event.kind:
        case "enqueued":
            return _("Enqueued")
        case "due":
            return _("Due") if not event.is_future else _("Will be due")
        case "started":
            return _("Attempt %s started") % number
        case "failed":
            return _("Attempt %s failed") % number
        case "rescued":
            text = ngettext(
                "Rescued %s time, after its consumer had died",
                "Rescued %s times, after its consumer had died",
                event.attempt,
            )
            return text % event.attempt
        case "retried":
            return _("Retried on request, with fresh attempts")
        case _:
            return str(State(job.state).label) if job.state in State.values else _("Ended")


def _detail(event: Event) -> str:
    if event.kind == "started" and event.consumer:
        return _("on %s") % display.lines(event.consumer)
    return display.lines(event.exception_class)


def _place(event: Event, page: str) -> str:
    if event.kind != "failed":
        return ""
    return f"{page}?attempt={event.row}#attempt-{event.row}"


# Attempts


def attempt(
    failed: Attempt, most: int | None, traceback: str | None, longest: int
) -> dict[str, Any]:
    """Return a failed attempt with the parts of its traceback.

    Args:
        most: the most attempts of the job; None if that is unknown.
        traceback: the end of its traceback; None if it is not shown.
        longest: the length to which a traceback was cut.
    """
    took = (failed.finished_at - failed.started_at).total_seconds()
    shown = {
        "id": failed.pk,
        "of": attempt_of(failed.number, most),
        "finished_at": failed.finished_at,
        "took": display.span(max(0.0, took)),
        "consumer": display.lines(failed.consumer),
        "error": display.lines(described(failed.exception_class, failed.message)),
        "is_open": traceback is not None,
    }
    if traceback is None:
        return shown
    message, is_cut = failed.message, len(traceback) >= longest
    if is_cut:  # it begins inside a line
        traceback = traceback.partition("\n")[2] or traceback
    # A traceback ends in the message, unless it could not be printed.
    is_apart = message.strip() and message[-1000:] not in traceback
    return shown | {
        "parts": _parts(traceback),
        "frame": frame_of(traceback),
        "message": value_of(message) if is_apart else "",
        "is_cut": is_cut,
    }


def frame_of(traceback: str) -> str:
    """Return the innermost call of the project's code; "" without one."""
    frame = innermost(traceback)
    return "" if frame is None else display.lines(str(frame))


def _parts(traceback: str) -> list[dict[str, Any]]:
    parts = tracebacks.parts(traceback)
    # Without a call of the project the last calls in libraries are all there is to see.
    last = -1
    if not tracebacks.has_project_frames(parts):
        last = max((n for n, part in enumerate(parts) if part.kind == "library"), default=-1)
    return [
        {
            "kind": part.kind,
            "text": display.lines(part.text),
            "label": _label(part),
            "is_open": number == last,
        }
        for number, part in enumerate(parts)
    ]


def _label(part: tracebacks.Part) -> str:
    """Return the label of the fold around a part; "" for a part in sight."""
    if part.kind == "library":
        return ngettext("%d call in libraries", "%d calls in libraries", part.frames) % part.frames
    if part.kind == "left":
        return ngettext("%d more line", "%d more lines", part.lines) % part.lines
    return ""
