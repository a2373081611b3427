"""The form of a schedule that is created in the admin: validated against the jobs registered in this process.

It imports no job's code. Arguments are JSON, decoded by the codec, which creates plain values and nothing
else.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from djjp import codec, recurrence, redaction, schedules
from djjp.admin import display
from djjp.engine.schedules import WHEN
from djjp.exceptions import PayloadTooLarge
from djjp.jobs import registry, shown
from djjp.models import Schedule, Source

if TYPE_CHECKING:
    Base = forms.ModelForm[Schedule]
else:
    Base = forms.ModelForm

#: The columns that the form writes.
WRITTEN = ("name", "job", "cron", "tz", "every", "catch_up", "enabled", "arguments")
_ARGUMENTS = ("positional", "keyword")
_JSON = forms.Textarea(attrs={"rows": 3, "cols": 80, "class": "vLargeTextField"})


class ScheduleForm(Base):
    """A schedule's fields, with the arguments of its job as JSON."""

    job = forms.ChoiceField(
        label=gettext_lazy("Job"),
        help_text=gettext_lazy("What to run: a job that is registered in this process."),
    )
    positional = forms.CharField(
        required=False,
        strip=False,
        widget=_JSON,
        label=gettext_lazy("Positional arguments"),
        help_text=gettext_lazy('A list in JSON, such as [42, "copy"].'),
    )
    keyword = forms.CharField(
        required=False,
        strip=False,
        widget=_JSON,
        label=gettext_lazy("Keyword arguments"),
        help_text=gettext_lazy('An object in JSON, such as {"copy_to": "a@b.c"}.'),
    )

    class Meta:
        model = Schedule
        fields = ("name", "cron", "tz", "every", "catch_up", "enabled")
        help_texts = {
            "cron": gettext_lazy(
                "Minute, hour, day of the month, month, day of the week: 0 9 * * MON-FRI."
            ),
            "tz": gettext_lazy(
                "Of the cron expression, such as Europe/Berlin; if empty, the time zone of this site."
            ),
            "every": gettext_lazy(
                "An interval instead of a cron expression: 00:05:00, or 2 00:00:00 for two days."
            ),
            "catch_up": gettext_lazy(
                "For occurrences at which no consumer ran: no job, one job for all, or one for each."
            ),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = [(name, name) for name in registry.names()]
        row = self.instance
        if row.pk is not None:
            if registry.find(row.job) is None:
                label = _("%s (not registered here)") % display.lines(row.job)
                known.append((row.job, label))
            self.initial["job"] = row.job
            self.initial["positional"], self.initial["keyword"] = _texts(row)
        self.fields["job"].choices = [("", "---------"), *known]  # type: ignore[attr-defined]  # it is a ChoiceField

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        others = Schedule.objects.filter(source=Source.ADMIN, name=name)
        if others.exclude(pk=self.instance.pk).exists():
            raise ValidationError(_("There is a schedule with this name."))
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
            self.add_error(_field_of(str(error), every), str(error))
        else:
            self.cleaned_data.update(schedules.columns(timing))

    def _clean_call(self, name: str) -> None:
        args = self._value("positional", list)
        kwargs = self._value("keyword", dict)
        if args is None or kwargs is None:
            return
        try:
            text = self._encoded(name, args, kwargs)
            schedules.call(Schedule(job=name, source=Source.ADMIN, arguments=text))
        except PayloadTooLarge as error:
            larger = max(_ARGUMENTS, key=lambda field: len(self.data.get(field, "")))
            self._add_error_of_call(larger, str(error))
        except TypeError as error:
            reason = str(error).removeprefix(f"{name}: ")
            words = {"call": f"{name}{_parameters(name)}", "reason": reason}
            text = _("the arguments do not fit %(call)s: %(reason)s") % words
            self._add_error_of_call("keyword" if _is_of_keyword(reason) else "positional", text)
        except LookupError as error:
            self.add_error("job", str(error))
        except ValueError as error:
            self._add_error_of_call(self._field_with_substitute(), str(error))
        else:
            self.instance.job, self.instance.arguments = name, text

    def _add_error_of_call(self, field: str, text: str) -> None:
        """Add an error of the arguments to their field, or to that of the job where the form has no such field."""
        self.add_error(field if field in self.fields else "job", text)

    def _field_with_substitute(self) -> str:
        """Return the field that has the substitute of a hidden value; "positional" if none has it."""
        has = redaction.substitute() in self.data.get("keyword", "")
        is_first = redaction.substitute() in self.data.get("positional", "")
        return "keyword" if has and not is_first else "positional"

    def _encoded(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        """Return the encoded arguments, with the hidden ones as they were.

        Raises:
            ValueError: there is a substitute where nothing was hidden, or of another job's argument.
            EncodeError, PayloadTooLarge: as the codec and the bounds raise them.
        """
        row = self.instance
        if "positional" not in self.fields:
            return str(row.arguments)
        if row.job == name:
            if not {"positional", "keyword"} & {*self.changed_data}:
                return str(row.arguments)
            with suppress(ValueError):  # damaged, or too long to be shown
                seen = codec.decode_arguments(shown.arguments(row.job, row.arguments))
                whole = codec.decode_arguments(row.arguments)
                args = redaction.restored(args, seen[0], whole[0])
                kwargs = redaction.restored(kwargs, seen[1], whole[1])
        text = codec.encode_arguments(tuple(args), kwargs, None)
        if redaction.is_on() and f'"{redaction.substitute()}"' in text:
            raise ValueError(
                _(
                    "%s stands for a hidden value, which this job has not got there; enter the value itself"
                )
                % redaction.substitute()
            )
        return text

    def _value(self, field: str, kind: type) -> Any:
        """Return the value of a field's JSON; None, with an error of the field, if its type is wrong."""
        text = self.cleaned_data.get(field, "").strip()
        try:
            value = codec.decode_value(text) if text else kind()
        except ValueError as error:
            self.add_error(field, str(error))
            return None
        if type(value) is not kind or (isinstance(value, dict) and {*map(type, value)} - {str}):
            expected = _("a list") if kind is list else _("an object with texts for keys")
            self.add_error(field, _("This must be %s.") % expected)
            return None
        return value


def _field_of(error: str, every: object) -> str:
    """Return the field of a recurrence that is wrong."""
    if error.startswith("tz is"):
        return "tz"
    return "cron" if every is None else "every"


def _is_of_keyword(reason: str) -> bool:
    return any(words in reason for words in ("keyword", "multiple values"))


class ScheduleFormWithoutArguments(ScheduleForm):
    """The fields of a schedule for a user who may not see its arguments, which stay as they are."""

    positional = None  # type: ignore[assignment]  # so Django removes a field
    keyword = None  # type: ignore[assignment]  # so Django removes a field


def _parameters(job: str) -> str:
    """Return a job's signature without its annotations and hidden defaults."""
    signature = registry.get(job).signature
    plain = [
        each.replace(
            annotation=each.empty,
            default=redaction.substitute()
            if each.default is not each.empty and redaction.hides(each.name)
            else each.default,
        )
        for each in signature.parameters.values()
    ]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


def _texts(row: Schedule) -> tuple[str, str]:
    """Return positional and keyword arguments as JSON, without secrets; empty strings for a damaged text."""
    try:
        call = json.loads(shown.arguments(row.job, row.arguments))
        return tuple(json.dumps(call[key], ensure_ascii=False) for key in ("args", "kwargs"))  # type: ignore[return-value]  # two
    except (ValueError, KeyError, TypeError):
        return "", ""
