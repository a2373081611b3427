"""The form of a copy: the call of another job, which can be edited.

The arguments are edited as the codec writes them. Redacted values stay hidden: where the field still has the
substitute, the new job gets the original value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from djjp import codec, redaction
from djjp.admin import display
from djjp.jobs import RegisteredJob, shown
from djjp.jobs.bound import BoundJob, handle_of
from djjp.jobs.enqueue import enqueue
from djjp.jobs.handles import JobHandle
from djjp.models import Job

_JSON = forms.Textarea(attrs={"rows": 8, "cols": 80, "spellcheck": "false", "class": "djjp-code"})
# What JSON can have as it is, and would act on the page.
_ACTING = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Call(NamedTuple):
    """The arguments of the job that is copied, as JSON has them.

    Attributes:
        args, kwargs: the arguments.
        shown_args, shown_kwargs: the same without the values that are redacted.
    """

    args: list[Any]
    kwargs: dict[str, Any]
    shown_args: list[Any]
    shown_kwargs: dict[str, Any]


def call_of(job: Job) -> Call | None:
    """Return the arguments of a job; None if its text is damaged, or no call of a job."""
    try:
        whole = json.loads(job.arguments)
        seen = json.loads(shown.arguments(job.name, job.arguments, job.flags))
        call = Call(whole["args"], whole["kwargs"], seen["args"], seen["kwargs"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    kinds = [type(each) for each in call]
    return call if kinds == [list, dict, list, dict] and "task" not in whole else None


class CopyForm(forms.Form):
    """The call of a new job."""

    args = forms.CharField(
        label=gettext_lazy("Positional arguments"),
        help_text=gettext_lazy('A list in JSON, such as [42, "copy"].'),
        strip=False,
        required=False,
        widget=_JSON,
    )
    kwargs = forms.CharField(
        label=gettext_lazy("Keyword arguments"),
        help_text=gettext_lazy('An object in JSON, such as {"copy_to": "a@b.c"}.'),
        strip=False,
        required=False,
        widget=_JSON,
    )
    queue = forms.CharField(label=gettext_lazy("Queue"), max_length=100)
    priority = forms.IntegerField(
        label=gettext_lazy("Priority"),
        min_value=-32768,
        max_value=32767,
        help_text=gettext_lazy("Jobs of higher priority start first."),
    )
    run_after = forms.DateTimeField(
        label=gettext_lazy("Run after"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )

    def __init__(
        self, call: Call, job: Job, registered: RegisteredJob[..., Any], data: Any
    ) -> None:
        initial = {
            "args": _pretty(call.shown_args),
            "kwargs": _pretty(call.shown_kwargs),
            "queue": job.queue if display.lines(job.queue) == job.queue else "",
            "priority": job.priority,
        }
        super().__init__(data, initial=initial)
        self._call, self._job, self._registered = call, job, registered
        zone = timezone.get_current_timezone_name() if settings.USE_TZ else settings.TIME_ZONE
        text = _("The earliest start, in the time zone %s; empty for at once.")
        self.fields["run_after"].help_text = text % zone

    def clean_args(self) -> list[Any]:
        found: list[Any] = _value(self.cleaned_data["args"] or "[]", list)
        seen, original = self._call.shown_args, self._call.args
        # The place of an argument is its parameter. If some are gone, the others may stand elsewhere.
        if len(found) < len(seen) and found != seen[: len(found)]:
            seen = original = []
        more = [None] * (len(found) - len(seen))
        pairs = zip(found, [*seen, *more], [*original, *more], strict=False)
        return [_decoded(restored(*each)) for each in pairs]

    def clean_kwargs(self) -> dict[str, Any]:
        found: dict[str, Any] = _value(self.cleaned_data["kwargs"] or "{}", dict)
        seen, original = self._call.shown_kwargs, self._call.kwargs
        return {
            key: _decoded(restored(value, seen.get(key), original.get(key)))
            for key, value in found.items()
        }

    def enqueue(self) -> tuple[JobHandle[Any], bool] | None:
        """Enqueue the new job as its own code would; None with errors at their fields if it is refused.

        Returns:
            The handle of the new job and True; of the job that holds its unique key and False.
        """
        given = self.cleaned_data
        job = self._registered
        options: dict[str, Any] = {"queue": given["queue"], "priority": given["priority"]}
        if given["run_after"] is not None:
            options["run_after"] = given["run_after"]
        for name, value in options.items():
            try:
                job = job.using(**{name: value})
            except (ValueError, TypeError) as error:
                self.add_error(name, str(error))
        if self.errors:
            return None
        try:
            kept = {"tags": self._job.tags, **self._job.call_options}
            return _enqueued(job.using(**kept).bind(*given["args"], **given["kwargs"]))
        except (TypeError, ValueError) as error:
            self.add_error(self._place_of(error), self._without_hidden(str(error)))
        return None

    def _place_of(self, error: Exception) -> str:
        """Return the field that an error of the call is about."""
        is_of_keyword = "keyword argument" in str(error) or not self.cleaned_data["args"]
        return "kwargs" if is_of_keyword and self.cleaned_data["kwargs"] else "args"

    def _without_hidden(self, text: str) -> str:
        """Return an error, which can name a value, without the values that are hidden."""
        call = self._call
        hidden = {
            *_hidden(call.shown_args, call.args),
            *_hidden(call.shown_kwargs, call.kwargs),
        }
        for each in sorted(hidden, key=len, reverse=True):
            text = text.replace(each, redaction.substitute())
        return display.lines(text)


def _enqueued(call: BoundJob[Any]) -> tuple[JobHandle[Any], bool]:
    row = call.to_row()
    handle = handle_of(row, enqueue([row], call.options.database))
    return handle, handle.id == row.id


class _Missing(Exception):
    """A substitute stands where no hidden value was."""


def restored(given: Any, seen: Any, original: Any) -> Any:
    """Return a value with the original ones in place of the substitutes that were left as they were shown.

    Args:
        given: the value from the form.
        seen: the value as it was shown.
        original: the value of the job that is copied.

    Raises:
        ValidationError: the substitute is at a place where no value was hidden.
    """
    try:
        return _restored(given, seen, original)
    except _Missing:
        text = _(
            "“%s” stands for a hidden value, and none was hidden there: give the value itself."
        )
        raise ValidationError(text % redaction.substitute()) from None


def _restored(given: Any, seen: Any, original: Any) -> Any:
    if given == redaction.substitute():
        if seen != given:
            raise _Missing
        return original
    if type(given) is dict:
        seen, original = (each if type(each) is dict else {} for each in (seen, original))
        return {
            key: _restored(value, seen.get(key), original.get(key)) for key, value in given.items()
        }
    if type(given) is list:
        # With another length no item is certain to stand where it was.
        same = all(type(each) is list and len(each) == len(given) for each in (seen, original))
        nothing = [None] * len(given)
        both = (seen, original) if same else (nothing, nothing)
        return [_restored(*each) for each in zip(given, *both, strict=True)]
    return given


def _hidden(seen: Any, original: Any) -> Iterator[str]:
    """Return the texts of the values that are hidden."""
    if seen == redaction.substitute() and original != seen:
        yield from _leaves(original)
    elif type(seen) is dict and type(original) is dict:
        for key in seen.keys() & original.keys():
            yield from _hidden(seen[key], original[key])
    elif type(seen) is list and type(original) is list:
        for each in zip(seen, original, strict=False):
            yield from _hidden(*each)


def _leaves(value: Any) -> Iterator[str]:
    if type(value) is dict:
        yield from (leaf for each in value.values() for leaf in _leaves(each))
    elif type(value) is list:
        yield from (leaf for each in value for leaf in _leaves(each))
    elif value not in (None, True, False, ""):
        yield str(value)


def _value(text: str, kind: type) -> Any:
    """Return the value of a field's JSON; raise ValidationError if its type is another."""
    value: Any
    try:
        # int() refuses the names of NaN and the infinities.
        value = json.loads(text, parse_constant=int)
    except (ValueError, RecursionError) as error:
        raise ValidationError(_("This is no JSON: %s") % error) from None
    if not isinstance(value, kind) or codec.TAG in value:  # type: ignore[operator]  # a list or a dict
        expected = _("a list") if kind is list else _("an object with texts for keys")
        raise ValidationError(_("This must be %s.") % expected)
    return value


def _decoded(value: Any) -> Any:
    """Return the value that a JSON value stands for; raise ValidationError for a tag that does not fit."""
    try:
        return codec.decode_value(json.dumps(value))
    except (ValueError, RecursionError):
        raise ValidationError(_("A tagged value does not fit its tag.")) from None


def _pretty(value: Any) -> str:
    """Return a value as JSON to edit, with escapes for what would act on the page."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
