"""The prose of the sources: docstrings, comments and texts, and the phrases that are not used in it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator

#: What is not written, by what to write instead.
BANNED = {
    r"\bby (?:itself|themselves)\b": "automatically, alone",
    r"\bbut for\b": "except",
    r"\bin vain\b": "without effect",
    r"\b(?:so|as) many as\b": "N, the number of",
    r"\bwhoever\b": "the caller, the process, a user",
    r"\b(?:is|are|was|were) told\b": "is notified, receives",
    r"\bsays? so\b": "reports it, raises",
    r"\bis to be\b": "must be",
    r"\b(?:one|those|that) that (?:was|were|waits?|ended|runs?)\b": "the noun: running jobs, dependents",
    r"\bbell\b|\bdesk\b|\btakeup\b|\btake-up\b|\bpeople\b": "wakeup, call queue, retry, users",
}

_ANY = re.compile("|".join(BANNED), re.IGNORECASE)

#: How a docstring does not begin, because it must say what the function does: Return …, Raise …, Take ….
BAD_START = re.compile(r"(?:Whether|How many|How much|Told|What|Who|Where|When|Which)\b")


def findings(source: str) -> list[str]:
    """Return what is wrong with the prose of a module, each as `line: text: what to write instead`."""
    found = []
    nodes = [*ast.walk(ast.parse(source))]
    docstrings = [*_docstrings(nodes)]
    texts = {*docstrings, *_messages(nodes)}
    # To find comments takes ten times as long as all else, and few sources have a phrase anywhere.
    if _ANY.search(re.sub(r"[\s#:]+", " ", source)):
        texts.update(_comments(source))
    for line, text in sorted(texts):
        for phrase, instead in BANNED.items():
            if match := re.search(phrase, text, re.IGNORECASE):
                found.append(f"{line}: {match[0]!r}: write {instead}")
    for line, text in docstrings:
        if match := BAD_START.match(text):
            found.append(f"{line}: the docstring begins with {match[0]!r}: write Return …, Take …")
    return found


def findings_in_page(text: str) -> list[str]:
    """Return the phrases that are not used in the prose of a Markdown page, which is without code and blocks."""
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    plain = " ".join(re.sub(r"`[^`]*`", "", plain).split())
    return [
        f"{match[0]!r}: write {instead}"
        for phrase, instead in BANNED.items()
        if (match := re.search(phrase, plain, re.IGNORECASE))
    ]


def _docstrings(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in nodes:
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Return the comments; those in successive lines are one text."""
    start, end, text = 0, -1, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        row, words = token.start[0], token.string.lstrip("#: ")
        if row == end + 1:
            end, text = row, f"{text} {words}"
            continue
        if text:
            yield start, text
        start, end, text = row, row, words
    if text:
        yield start, text


def _messages(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Return the texts that are logged or raised."""
    for node in nodes:
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield from _texts(node.exc)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("debug", "info", "warning", "error", "exception", "log")
        ):
            yield from _texts(node)


def _texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.lineno, each.value
