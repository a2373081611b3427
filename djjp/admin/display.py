"""A job's columns for display: times, durations, and the codec's text as readable JSON.

Nothing here decodes a value or needs the code of a job: it reads JSON and writes text. A row whose job is
gone, or whose text is damaged, is therefore shown like any other.
"""

from __future__ import annotations

import json
import math
import re
import time
from datetime import datetime

from django.utils import timezone
from django.utils.formats import number_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from djjp import redaction
from djjp.admin import layout
from djjp.durations import spelled, to_seconds
from djjp.jobs import shown
from djjp.models import Flag, Job, State

#: Shown instead of an empty value.
NOTHING = SafeString("-")

#: Characters of one text that a page shows; a longer text is cut and keeps its layout.
MAX_TEXT = layout.MAX_TEXT

#: Characters of the arguments that one line of a list shows.
MAX_LINE = 160

# Controls except line ends and tabs, marks that reverse what follows them, and halves of surrogate pairs, which
# cannot be encoded.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def split_arguments(name: str, text: str, flags: int = 0) -> tuple[str, str | None]:
    """Return positional and keyword arguments of a row as indented JSON; for a damaged text one text and None.

    Args:
        name: the row's job.
        flags: the row's; 0 for a schedule.
    """
    text = shown.arguments(name, text, flags)
    try:
        call = layout.load(text)
        if call.keys() - {"release", "task"} == {"args", "kwargs"} and isinstance(
            call["args"], list
        ):
            return layout.pretty(call["args"]), layout.pretty(call["kwargs"])
    except layout.UNREADABLE:
        pass
    return text, None


def pretty_result(text: str) -> str:
    """Return a result as indented JSON."""
    return pretty_json(shown.result(text))


def pretty_input(name: str, text: str) -> str:
    """Return the input of a row as indented JSON: what the jobs before it have returned, or why they failed."""
    return pretty_json(shown.given(name, text))


def pretty_json(text: str) -> str:
    """Return the codec's text as indented JSON with its tags as `tag(value)`; a damaged text unchanged.

    It hides nothing: for arguments, inputs and results there are the functions above.
    """
    try:
        return layout.pretty(layout.load(text))
    except layout.UNREADABLE:
        return text


def block(text: str) -> SafeString:
    """Return a text of any size and content as an HTML block that keeps its lines."""
    shown = text[:MAX_TEXT]
    if len(text) > MAX_TEXT:
        left = number(len(text) - MAX_TEXT)
        shown += "\n" + _("… and %(number)s more characters") % {"number": left}
    return format_html('<pre class="djjp-text">{}</pre>', lines(shown))


def lines(text: str) -> str:
    """Return a text with escapes for the characters that would act on the page or on a terminal."""
    return _ACTING.sub(lambda found: ascii(found[0])[1:-1], text)


def badge(job: Job) -> SafeString:
    """Return a job's state, and for a running job whether its cancellation was requested."""
    label = _("Not needed") if is_not_needed(job) else lines(job.get_state_display())
    shown = format_html('<span class="djjp-state djjp-state-{}">{}</span>', job.state, label)
    return format_html("{} {}", shown, _("cancelling")) if is_cancelling(job) else shown


def is_not_needed(job: Job) -> bool:
    """Return whether this is an `on_failure` job that ended because nothing had failed."""
    return bool(job.flags & Flag.ON_FAILURE and job.flags & Flag.UNLISTED)


def is_cancelling(job: Job) -> bool:
    """Return whether the job still runs although its cancellation was requested."""
    return job.state == State.RUNNING and job.cancel_requested


def timestamp(value: datetime | None) -> SafeString | None:
    """Return a time in the current time zone, to the second; its tooltip has the full value."""
    if value is None:
        return None
    local = timezone.localtime(value) if timezone.is_aware(value) else value
    return format_html(
        '<time class="djjp-time" datetime="{0}" title="{0}">'
        "<span>{1}</span> <span>{2}</span></time>",
        local.isoformat(),
        f"{local:%Y-%m-%d}",
        f"{local:%H:%M:%S}",
    )


def relative(value: datetime | None) -> SafeString:
    """Return a time in relation to now; the exact time is its tooltip, and the text for screen readers."""
    if value is None:
        return SafeString("")
    local = timezone.localtime(value) if timezone.is_aware(value) else value
    return format_html(
        '<time class="djjp-ago" datetime="{}" title="{}"><span aria-hidden="true">{}</span>'
        '<span class="visually-hidden">{}</span></time>',
        local.isoformat(),
        text := exact(value),
        ago(value),
        text,
    )


def exact(value: datetime) -> str:
    """Return a time in the current time zone, to the second, as plain text."""
    local = timezone.localtime(value) if timezone.is_aware(value) else value
    return f"{local:%Y-%m-%d %H:%M:%S}"


def number(value: float | str) -> str:
    """Return a number as the language of the page writes it: "1,204.5" in English, "1.204,5" in German.

    Args:
        value: the number, as text where its decimals matter. The result is for texts, not for attributes.
    """
    return number_format(value, use_l10n=True, force_grouping=True)


def span(seconds: float | None) -> str:
    """Return a duration as text: "45 ms", "3 min" or "2 h"; "" for None."""
    if seconds is None:
        return ""
    if seconds == math.inf:
        return _("for ever")
    amount, unit = spelled(seconds).split()
    amount = number(amount.replace(",", ""))
    return _("%(number)s days") % {"number": amount} if unit == "days" else f"{amount} {unit}"


def ago(value: datetime) -> str:
    """Return a time in relation to now: "3 min ago" or "in 3 min"."""
    distance = to_seconds(value) - time.time()
    if abs(distance) < 1:
        return _("now")
    if distance > 0:
        return _("in %(time)s") % {"time": span(distance)}
    return _("%(time)s ago") % {"time": span(-distance)}


def duration(started: datetime | None, finished: datetime | None) -> str | None:
    """Return how long an execution took, or has taken so far."""
    if started is None:
        return None
    spent = ((finished or timezone.now()) - started).total_seconds()
    if spent < 0:  # the clocks of two hosts differ
        spent = 0.0
    if spent < 0.9995:
        return f"{spent * 1000:.0f} ms"
    if spent < 59.95:
        return f"{number(f'{spent:.1f}')} s"
    minutes, seconds = divmod(round(spent), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def progress(done: int | None, total: int | None) -> str | None:
    """Return a job's last reported progress."""
    if done is None:
        return None
    if total is None:
        return number(done)
    share = f" ({100 * done // total} %)" if total > 0 else ""
    return _("%(done)s of %(total)s") % {"done": number(done), "total": number(total)} + share


def limit(key: str | None, most: int | None, per: float | None) -> str | None:
    """Return the number of jobs of a key that can run at once, or start within a period."""
    if key is None or most is None:
        return None
    words = {"most": number(most), "key": key}
    if per is None:
        return _("at most %(most)s at once with the key %(key)s") % words
    words["per"] = f"{per:,.12g}" if "e" in f"{per:.12g}" else number(f"{per:.12g}")
    return _("at most %(most)s in any %(per)s s with the key %(key)s") % words


def one_line_error(exception_class: str, message: str) -> str:
    """Return the last part of an exception's class, and the first line of its message if there is one."""
    name, first_line = exception_class.rpartition(".")[2], message.partition("\n")[0][:200]
    return lines(f"{name}: {first_line}" if first_line else name)


def one_line_arguments(name: str, text: str | None, flags: int = 0) -> str:
    """Return the arguments of a row on one line, such as `42, "a", copy_to="b"`; "" for None.

    Args:
        name: the row's job.
        flags: the row's; 0 for a schedule.
    """
    if text is None:
        return ""
    try:
        call = layout.load(shown.arguments(name, text, flags))
        args = [layout.one_line(each) for each in call["args"]]
        kwargs = [
            f"{lines(name)}={layout.one_line(value)}" for name, value in call["kwargs"].items()
        ]
    except (*layout.UNREADABLE, KeyError, TypeError):
        return _("(unreadable arguments)")
    # Of a job that is not registered here all are hidden: one mark each is enough.
    line = lines(", ".join([*args, *kwargs])).replace(layout.quote(redaction.substitute()), "***")
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…"


#: The arguments of a call that a page lays out one by one.
MOST_ARGUMENTS = 100


def each_argument(text: str) -> tuple[list[str], dict[str, str]] | None:
    """Return positional and keyword arguments of a call, each as indented JSON.

    None for a damaged text, for a long one, and for one with many arguments.
    """
    try:
        call = layout.load(text)
        args, kwargs = call["args"], call["kwargs"]
        if type(args) is not list or not 0 <= len(args) + len(kwargs) <= MOST_ARGUMENTS:
            return None
        return [layout.pretty(each) for each in args], {
            name: layout.pretty(v) for name, v in kwargs.items()
        }
    except (*layout.UNREADABLE, KeyError, TypeError):
        return None


def release_of(text: str) -> str | None:
    """Return the release that the codec's text of a call names at its end; None without one."""
    found = _RELEASE.search(text[-_LONGEST_RELEASE:])
    if found is None:
        return None
    try:
        return str(json.loads(found[1]))
    except ValueError:
        return None


_RELEASE, _LONGEST_RELEASE = re.compile(r',"release":("[^"]*")\}\Z'), 400
