"""Everything public about djjp, read from its code: the facts that the reference shows."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click
from django.apps import apps
from django.contrib.auth import get_permission_codename

import djjp

SOURCE = Path(djjp.__file__).parent

#: The modules that projects import from, in the order of the reference.
MODULES = [
    "djjp",
    "djjp.jobs",
    "djjp.pipelines",
    "djjp.limits",
    "djjp.queues",
    "djjp.exceptions",
    "djjp.models",
    "djjp.databases",
    "djjp.routers",
    "djjp.outbox",
    "djjp.outbox.relay",
    "djjp.backend",
    "djjp.testing",
    "djjp.pytest",
    "djjp.monitoring",
    "djjp.monitoring.operations",
    "djjp.monitoring.requests",
    "djjp.signals",
    "djjp.instruments",
    "djjp.logs",
    "djjp.admin",
    "djjp.tokens",
    "djjp.contrib.prometheus",
    "djjp.contrib.opentelemetry",
    "djjp.contrib.sentry",
]


def api() -> dict[str, list[str]]:
    """Return the public names of each public module, which are those of its `__all__`."""
    return {name: list(getattr(importlib.import_module(name), "__all__", ())) for name in MODULES}


class Setting(NamedTuple):
    """A key of `DJJP`."""

    name: str
    default: Any
    allowed: str
    text: str


def settings() -> list[Setting]:
    """Return the keys of `DJJP`."""
    from djjp.conf import Settings

    texts = attributes(Settings)
    return [
        Setting(field.name, field.default, field.metadata["allowed"], texts[field.name])
        for field in dataclasses.fields(Settings)
    ]


def attributes(documented: type) -> dict[str, str]:
    """Return the texts of the section `Attributes` in the docstring of a class."""
    _, _, section = inspect.cleandoc(documented.__doc__ or "").partition("Attributes:\n")
    section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", section, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Return each command with the words that call it, such as `djjp schedules run`."""
    from djjp.management.commands.djjp import command as djjp_command
    from djjp.management.commands.start_consumer import command as start_consumer

    yield "start_consumer", start_consumer
    yield from _with_subcommands("djjp", djjp_command)


def _with_subcommands(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _with_subcommands(f"{words} {name}", each)


def own_options(command: click.Command) -> list[click.Option]:
    """Return the options of a command, except those that each command of Django has."""
    return [
        each
        for each in command.params
        if isinstance(each, click.Option) and each.name not in _OF_DJANGO
    ]


#: The options that `djclick` gives to each command, as Django does, and those of the help.
_OF_DJANGO = {
    *("verbosity", "settings", "pythonpath", "traceback", "color", "version", "help"),
    *("force_color", "skip_checks"),
}


class Check(NamedTuple):
    """A system check."""

    id: str
    message: str
    hint: str


def checks() -> list[Check]:
    """Return the system checks, as they stand in the source; … stands for a varying part."""
    found: dict[str, Check] = {}
    for node in _calls():
        named = {keyword.arg: template(keyword.value) for keyword in node.keywords}
        match [template(each) for each in node.args], named:
            case [str(code), str(message), *hint], _ if re.fullmatch(r"[EW]\d{3}", code):
                check = Check(f"djjp.{code}", message, hint[0] if hint else "…")
            case [str(message)], {"id": str(id), "hint": str(text)} if re.fullmatch(
                r"djjp\.[EW]\d{3}", id
            ):
                check = Check(id, message, text)
            case _:
                continue
        found.setdefault(check.id, check)
    return [found[id] for id in sorted(found)]


@cache
def _calls() -> list[ast.Call]:
    """Return the calls in the source."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))]
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]


def template(node: ast.AST) -> str:
    """Return a text of the source, in which … stands for a varying part."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return "…"


class Permission(NamedTuple):
    """A permission of Django that djjp uses."""

    name: str
    text: str


def permissions() -> list[Permission]:
    """Return the permissions of djjp's models."""
    found = []
    for model in (
        m for label in ("djjp", "djjp_outbox") for m in apps.get_app_config(label).get_models()
    ):
        meta = model._meta
        given = [
            (get_permission_codename(action, meta), f"Can {action} {meta.verbose_name_plural}")
            for action in meta.default_permissions
        ]
        found += [
            Permission(f"{meta.app_label}.{code}", str(text))
            for code, text in [*given, *meta.permissions]
        ]
    return found


class Family(NamedTuple):
    """A metric."""

    name: str
    type: str
    labels: list[str]
    text: str


def metrics() -> list[Family]:
    """Return the metrics of `djjp.contrib.prometheus`."""
    from djjp.contrib.prometheus import QueueCollector

    return [
        Family(
            each.name + ("_total" if each.type == "counter" else ""),
            each.type,
            list(getattr(each, "_labelnames", ())),
            each.documentation,
        )
        for each in QueueCollector().describe()
    ]


class LogLine(NamedTuple):
    """A line that djjp logs: its level, its text with … for what varies, and the file that logs it."""

    level: str
    text: str
    file: str


_LEVELS = ("info", "warning", "error", "exception", "critical")


def log_lines() -> list[LogLine]:
    """Return the lines that djjp logs, from INFO up."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assigned = [
            (target.id, node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        ]
        for node in ast.walk(tree):
            level, message = _logged(node)
            if message is not None:
                found += [
                    LogLine(
                        level, re.sub(r"%(\.\d)?[a-z]", "…", text), f"{path.relative_to(SOURCE)}"
                    )
                    for text in _texts(message, assigned)
                ]
    return found


def _logged(node: ast.AST) -> tuple[str, ast.expr | None]:
    """Return the level and the text of a call of a logger; None if it is none, or is for DEBUG."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return "", None
    if ast.unparse(node.func.value) not in ("logger", "_logger", "log", "_log", "_jobs"):
        return "", None
    if node.func.attr == "log":
        return "warning", node.args[1]
    return node.func.attr, node.args[0] if node.func.attr in _LEVELS else None


def _texts(message: ast.expr, assigned: list[tuple[str, ast.Assign]]) -> list[str]:
    """Return the texts of a message; of a name, the texts of the last assignment above."""
    above = [
        each
        for name, each in assigned
        if name == ast.unparse(message) and each.lineno < message.lineno
    ]
    if not above:
        return [template(message)]
    last = max(above, key=lambda each: each.lineno)
    texts = [each.value for each in ast.walk(last.value) if isinstance(each, ast.Constant)]
    return [text for text in texts if isinstance(text, str)] or [template(message)]
