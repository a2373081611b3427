"""The pages of the reference, made from code."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from enum import EnumMeta
from typing import Any

import click
from django.db.models import Model

from djjp.errors import EXIT_CODES, KINDS
from docs._ext import facts

FOLDER = "docs/reference"
_MADE = "This page is made from the code.\n"


def pages() -> dict[str, str]:
    """Return the text of each page of the reference, by its path on the site."""
    made = {
        "settings": _settings(),
        "commands": _commands(),
        "checks": _checks(),
        "errors": _errors(),
        "permissions": _permissions(),
        "metrics": _metrics(),
        **_modules(),
    }
    return {f"{FOLDER}/{name}.md": text for name, text in made.items()}


#: The rows that the index has for these pages: a question, and a link.
ROWS = [
    ("Which keys has `DJJP`?", "[All settings](reference/settings.md)"),
    ("Which options has this command?", "[All commands](reference/commands.md)"),
    ("Which checks are there?", "[All checks](reference/checks.md)"),
    ("Which problems and exit codes are there?", "[All errors](reference/errors.md)"),
    ("Which permissions are there?", "[All permissions](reference/permissions.md)"),
    ("Which metrics are there?", "[All metrics](reference/metrics.md)"),
    ("Which names can I import, signals included?", "[All modules](reference/modules.md)"),
]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _code(value: Any) -> str:
    if isinstance(value, timedelta):
        value = (
            f"timedelta(seconds={value.total_seconds():g})"
            if value.seconds
            else f"timedelta(days={value.days})"
        )
        return f"`{value}`"
    return f"`{value!r}`"


# Tables


def _settings() -> str:
    rows = (
        (f"`{each.name}`", _code(each.default), each.allowed, _sentence(each.text))
        for each in facts.settings()
    )
    return (
        f"# All settings\n\n{_MADE}\nThe keys of the dictionary `DJJP`. "
        "[Settings](../settings.md) explains them.\n\n"
        + _table(["Key", "Default", "Allowed", "Meaning"], rows)
    )


def _checks() -> str:
    rows = (
        (
            f"[`{each.id}`](../trouble.md#{each.id.lower().replace('.', '')})",
            each.message,
            each.hint,
        )
        for each in facts.checks()
    )
    return (
        f"# All checks\n\n{_MADE}\nOf `manage.py check`. An id links to "
        "[the cause and what to do](../trouble.md#checks); … stands for what varies.\n\n"
        + _table(["Check", "Message", "Hint"], rows)
    )


def _errors() -> str:
    kinds = (
        (
            f"[`{each.slug}`](../errors.md#{each.slug})",
            each.title,
            str(each.status),
            str(each.exit_code),
        )
        for each in KINDS.values()
    )
    codes = ((f"`{code}`", meaning) for code, meaning in EXIT_CODES.items())
    return (
        f"# All errors\n\n{_MADE}\n[Errors](../errors.md) explains them. The exceptions are in "
        "[djjp.exceptions](djjp.exceptions.md).\n\n"
        + _table(["Slug", "Title", "HTTP status", "Exit code"], kinds)
        + "\n## Exit codes\n\n"
        + _table(["Code", "Meaning"], codes)
    )


def _permissions() -> str:
    rows = ((f"`{each.name}`", each.text) for each in facts.permissions())
    return (
        f"# All permissions\n\n{_MADE}\nOf Django's users, for [the admin](../admin.md#permissions). "
        "Programs have [tokens](../http.md#tokens).\n\n" + _table(["Permission", "Meaning"], rows)
    )


def _metrics() -> str:
    rows = (
        (f"`{each.name}`", each.type, ", ".join(f"`{label}`" for label in each.labels), each.text)
        for each in facts.metrics()
    )
    return (
        f"# All metrics\n\n{_MADE}\nOf `djjp.contrib.prometheus`: see [Metrics](../metrics.md).\n\n"
        + _table(["Metric", "Type", "Labels", "Meaning"], rows)
    )


# Commands


def _commands() -> str:
    intro = (
        f"# All commands\n\n{_MADE}\nEach is called by `python manage.py`. [Consumers](../consumer.md) and "
        "[the djjp command](../commands.md) explain them. Each command has Django's own options too, such as "
        "`--settings`.\n"
    )
    return intro + "".join(_command(words, each) for words, each in facts.commands())


#: The examples of a help, which click does not wrap because of the backspace.
_EXAMPLES = re.compile(r"^\x08\nExamples?: ((?:.+\n?)+)", re.MULTILINE)


def _fenced(part: re.Match[str]) -> str:
    return "".join(["```text\n", *(f"{line.strip()}\n" for line in part[1].splitlines()), "```\n"])


def _command(words: str, command: click.Command) -> str:
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    usage = " ".join([words, *(each.make_metavar(click.Context(command)) for each in arguments)])
    options = (
        (_option(each), _default(each), (each.help or "").strip())
        for each in facts.own_options(command)
    )
    explained = _EXAMPLES.sub(_fenced, inspect.cleandoc(command.help or ""))
    text = f"\n## {words}\n\n`python manage.py {usage}`\n\n{explained}\n"
    if isinstance(command, click.Group):
        names = ", ".join(
            f"[`{name}`](#{f'{words} {name}'.replace(' ', '-')})" for name in command.commands
        )
        text += f"\nIts commands: {names}.\n"
    table = _table(["Option", "Default", "Meaning"], options)
    return text + (f"\n{table}" if facts.own_options(command) else "")


def _option(option: click.Option) -> str:
    value = (
        "" if option.is_flag else f" {option.make_metavar(click.Context(click.Command('djjp')))}"
    )
    return ", ".join(f"`{name}{value}`" for name in option.opts)


def _default(option: click.Option) -> str:
    default = option.default
    shown = isinstance(default, (int, float, str)) and not isinstance(default, bool)
    return f"`{default}`" if shown else ""


# The public names


def _modules() -> dict[str, str]:
    """Return a page for each module. An object that several have is described in the first of them."""
    described: dict[int, str] = {}
    made = {}
    links = []
    for name, public in facts.api().items():
        module = importlib.import_module(name)
        text = (
            f"# {name}\n\n{_MADE}\n```{{eval-rst}}\n.. automodule:: {name}\n   :no-members:\n```\n"
        )
        for each in public:
            value = getattr(module, each)
            first = described.setdefault(id(value), name)
            text += f"\n## {each}\n\n"
            if first == name:
                text += _described(f"{name}.{each}", value)
            else:
                text += f"The same as {{py:obj}}`{first}.{each}`.\n"
        made[name] = text
        links.append(
            f"- [{name}]({name}.md): {', '.join(f'`{each}`' for each in public) or 'an app'}\n"
        )
    contents = "```{toctree}\n:hidden:\n\n" + "\n".join(made) + "\n```\n"
    intro = f"# All modules\n\n{_MADE}\nOther modules can change with any release.\n\n"
    return {"modules": f"{intro}{''.join(links)}\n{contents}", **made}


def _described(name: str, value: Any) -> str:
    options = ""
    if inspect.isclass(value):
        kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
        if isinstance(value, EnumMeta):
            options = "   :members:\n   :undoc-members:\n"
        elif not issubclass(value, Model):
            options = "   :members:\n"
    elif callable(value):
        kind = "autofunction"
    else:
        kind = "py:data"
        if isinstance(value, (str, tuple)):
            options = f"   :value: {value!r}\n"
    return f"```{{eval-rst}}\n.. {kind}:: {name}\n{options}```\n"
