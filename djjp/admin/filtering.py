"""Filters of pages: read from an address, shown as a form, and put into the addresses of other pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from django.http import HttpRequest, QueryDict
from django.utils.functional import Promise
from django.utils.http import urlencode
from django.utils.translation import gettext_lazy as _

from djjp.admin import display
from djjp.models import State
from djjp.monitoring import Filter, FilterError
from djjp.monitoring.filters import KEYS, closest, search_terms
from djjp.monitoring.known import known_words

#: Parameters that are no keys of a filter: those of a page, and those that Django's own links have.
_OTHERS = {
    *("q", "cursor", "backwards", "action", "argument", "post"),
    *("p", "o", "all", "e", "_changelist_filters", "_facets", "_popup", "_to_field"),
}
#: The fields of the form besides the states: of each its label and an example.
_FIELDS: Mapping[str, tuple[Promise, str]] = {
    "queue": (_("Queue"), ""),
    "name": (_("Name"), "shop.*"),
    "tag": (_("Tag"), "tenant-42"),
    "exception": (_("Exception"), "ValueError"),
    "since": (_("Since"), "2h"),
    "until": (_("Until"), "2026-01-31T12:00"),
    "attempts": (_("Attempts"), ">3"),
    "consumer": (_("Consumer"), ""),
    "unique_key": (_("Unique key"), ""),
    "pipeline": (_("Pipeline"), ""),
}
#: The keys whose known values are offered.
_OFFERED = ("queue", "name", "exception")


class Field(NamedTuple):
    """A field of the form of a filter."""

    key: str
    label: str | Promise
    example: str
    value: str
    error: str
    offered: list[str]


class Link(NamedTuple):
    """A link to the same page with another filter."""

    label: str
    query: str
    is_set: bool = False


@dataclass(frozen=True)
class Asked:
    """The filter of an address, or what is wrong with it.

    Attributes:
        wanted: the filter; None if it is wrong.
        text: the text of the search box: what was typed, or the filter in the same language.
        values: the values of the fields, by key, as they were given.
        errors: what is wrong, by key; of the search box as "q".
        unknown: the address has parameters that are no keys.
    """

    wanted: Filter | None
    text: str
    values: dict[str, str]
    errors: dict[str, str] = field(default_factory=dict)
    unknown: bool = False

    @classmethod
    def of(cls, query: QueryDict) -> Asked:
        """Return the filter of a query string: its keys, and the text `q`."""
        text = query.get("q", "").strip()
        given = {
            key: values
            for key, all_values in query.lists()
            if key not in _OTHERS and (values := [each for each in all_values if each.strip()])
        }
        errors: dict[str, str] = {}
        for key, values in given.items():
            _try(errors, key, {key: values})
        typed: dict[str, list[str]] = {}
        try:
            typed = search_terms(text)
        except FilterError as error:
            errors["q"] = display.lines(str(error))
        _try(errors, "q", typed)
        wanted = None
        if not errors:
            merged = {key: given.get(key, []) + typed.get(key, []) for key in {**given, **typed}}
            wanted = _try(errors, None, merged)
        if wanted is not None:
            shown, text = wanted.texts(), text or str(wanted)
        else:
            shown = {key: ", ".join(values) for key, values in given.items()}
        return cls(wanted, text, shown, errors, bool(given.keys() - {*KEYS}))

    @property
    def state(self) -> str:
        """The states as the form sends them."""
        return self.values.get("state", "")

    def query(self, **changes: str | None) -> str:
        """Return the query string of the filter with some changes; None leaves a key out."""
        return query_of(self.wanted or Filter(), **changes)

    def states(self) -> list[Link]:
        """Return a link for each state, and one for all."""
        chosen = self.wanted.state if self.wanted else ()
        links = [Link(str(_("All states")), self.query(state=None), not chosen)]
        for state in State:
            is_set = state in chosen
            query = self.query(state=None if is_set else state.value)
            links.append(Link(str(state.label), query, is_set))
        return links

    def conditions(self) -> list[Link]:
        """Return the conditions besides the states, each with the query string without it."""
        return [
            Link(display.lines(f"{key}:{value}"), self.query(**{key: None}))
            for key, value in self.values.items()
            if key != "state" and self.wanted
        ]

    def fields(self) -> list[Field]:
        """Return the fields of the form, with the known values of some."""
        return [
            Field(
                key,
                label,
                example,
                self.values.get(key, ""),
                self.errors.get(key, ""),
                offered(key) if key in _OFFERED else [],
            )
            for key, (label, example) in _FIELDS.items()
        ]

    def other_errors(self) -> list[str]:
        """Return what is wrong besides the fields."""
        return [text for key, text in self.errors.items() if key not in _FIELDS and key != "q"]

    def close_words(self, fields: list[Field]) -> list[Link]:
        """Return the known words that are closest to unknown ones of the filter, with the filter that has them."""
        found = []
        for each in fields:
            value = each.value
            if not each.offered or not value or value in each.offered or {"*", "?"} & {*value}:
                continue
            if (word := closest(value, each.offered)) is not None:
                found.append(Link(f"{each.key}:{word}", self.query(**{each.key: word})))
        return found


def offered(key: str) -> list[str]:
    """Return the known words of a key, without those that nobody can type: of rows by hand."""
    return [each for each in known_words(key) if display.lines(each) == each]


def query_of(wanted: Filter, **changes: str | None) -> str:
    """Return the query string of a filter with some changes; None leaves a key out. It begins with "?"."""
    texts = {key: value for key, value in {**wanted.texts(), **changes}.items() if value}
    return f"?{urlencode(texts)}"


def bare_id(text: str) -> UUID | None:
    """Return the id that a text consists of."""
    try:
        return UUID(text.strip())
    except ValueError:
        return None


def form_of(asked: Asked) -> dict[str, Any]:
    """Return the values of the template "admin/djjp/filters.html"."""
    fields = asked.fields()
    return {
        "asked": asked,
        "filter_fields": fields,
        "filter_is_wrong": any(each.error for each in fields),
        "close_words": asked.close_words(fields),
    }


def is_fragment(request: HttpRequest) -> bool:
    """Return whether only what changes on a page is wanted, and not its forms."""
    return "X-Djjp-Fragment" in request.headers


def _try(errors: dict[str, str], key: str | None, given: Mapping[str, Any]) -> Filter | None:
    """Return the filter of some values; None, with the error at a key, or at its own, if it is wrong."""
    try:
        return Filter.of(given)
    except FilterError as error:
        errors[error.key if key is None else key] = display.lines(str(error))
        return None
