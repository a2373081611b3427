"""The form of a schedule that is created in the admin: validated against the jobs registered in this process.

It imports no job's code. Arguments are JSON, decoded by the codec, which creates plain values and nothing
else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError

from djjp import codec, recurrence, schedules
from djjp.engine.schedules import WHEN
from djjp.jobs import registry
from djjp.models import Schedule, Source

if TYPE_CHECKING:
    Base = forms.ModelForm[Schedule]
else:
    Base = forms.ModelForm

#: The columns that the form writes.
WRITTEN = ("name", "job", "cron", "tz", "every", "catch_up", "enabled", "arguments")
_JSON = forms.Textarea(attrs={"rows": 3, "cols": 80, "class": "vLargeTextField"})


class ScheduleForm(Base):
    """A schedule's fields, with the arguments of its job as JSON."""

    job = forms.ChoiceField(help_text="What to run: a job that is registered in this process.")
    positional = forms.CharField(
        required=False,
        strip=False,
        widget=_JSON,
        label="Positional arguments",
        help_text='A list in JSON, such as [42, "copy"].',
    )
    keyword = forms.CharField(
        required=False,
        strip=False,
        widget=_JSON,
        label="Keyword arguments",
        help_text='An object in JSON, such as {"copy_to": "a@b.c"}.',
    )

    class Meta:
        model = Schedule
        fields = ("name", "cron", "tz", "every", "catch_up", "enabled")
        help_texts = {
            "cron": "Minute, hour, day of the month, month, day of the week: 0 9 * * MON-FRI.",
            "tz": "Of the cron expression, such as Europe/Berlin; if empty, the time zone of this site.",
            "every": "An interval instead of a cron expression: 00:05:00, or 2 00:00:00 for two days.",
            "catch_up": "For occurrences at which no consumer ran: no job, one job for all, or one for each.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = [(name, name) for name in registry.names()]
        row = self.instance
        if row.pk is not None:
            if registry.find(row.job) is None:
                known.append((row.job, f"{row.job} (not registered here)"))
            self.initial["job"] = row.job
            self.initial["positional"], self.initial["keyword"] = _texts(row.arguments)
        self.fields["job"].choices = [("", "---------"), *known]  # type: ignore[attr-defined]  # it is a ChoiceField

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        others = Schedule.objects.filter(source=Source.ADMIN, name=name)
        if others.exclude(pk=self.instance.pk).exists():
            raise ValidationError("There is a schedule with this name.")
        return name

    def clean(self) -> None:
        super().clean()
        self._clean_when()
        if "job" in self.cleaned_data:
            self._clean_call(self.cleaned_data["job"])

    def _clean_when(self) -> None:
        if any(field in self.errors for field in WHEN):
            return
        cron, tz, every = (self.cleaned_data[field] for field in WHEN)
        try:
            timing = recurrence.timing(cron or None, tz or None, every, settings.TIME_ZONE)
        except (ValueError, TypeError) as error:
            self.add_error(None, str(error))
        else:
            self.cleaned_data.update(schedules.columns(timing))

    def _clean_call(self, name: str) -> None:
        args = self._value("positional", list)
        kwargs = self._value("keyword", dict)
        if args is None or kwargs is None:
            return
        try:
            text = codec.encode_arguments(tuple(args), kwargs, None)
            schedules.call(Schedule(job=name, source=Source.ADMIN, arguments=text))
        except TypeError as error:
            self.add_error(None, f"the arguments do not fit {name}{_parameters(name)}: {error}")
        except (LookupError, ValueError) as error:
            self.add_error(None, str(error))
        else:
            self.instance.job, self.instance.arguments = name, text

    def _value(self, field: str, kind: type) -> Any:
        """Return the value of a field's JSON; None, with an error of the field, if its type is wrong."""
        text = self.cleaned_data.get(field, "").strip()
        try:
            value = codec.decode_value(text) if text else kind()
        except ValueError as error:
            self.add_error(field, str(error))
            return None
        if type(value) is not kind or (isinstance(value, dict) and {*map(type, value)} - {str}):
            expected = "a list" if kind is list else "an object with texts for keys"
            self.add_error(field, f"This must be {expected}.")
            return None
        return value


def _parameters(job: str) -> str:
    """Return a job's signature without its annotations."""
    signature = registry.get(job).signature
    plain = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


def _texts(arguments: str) -> tuple[str, str]:
    """Return positional and keyword arguments as JSON; empty strings for a damaged text."""
    try:
        call = json.loads(arguments)
        return tuple(json.dumps(call[key], ensure_ascii=False) for key in ("args", "kwargs"))  # type: ignore[return-value]  # two
    except (ValueError, KeyError, TypeError):
        return "", ""
