"""A watched picture is drawn in place, survives an outage, and leaves the terminal as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from djjp.engine import Engine
from tests.project.shop.jobs import add
from tests.support.processes import ROOT
from tests.support.terminal import Terminal

#: Draws how often it has read a file, and its text; without the file the database does not answer.
PROGRAM = """
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
import click, django
from django.conf import settings
settings.configure(DATABASES={}, USE_TZ=True)
from djjp.exceptions import QueueUnavailable
from djjp.management.watch import Picture, watch

reads = 0

def read():
    global reads
    reads += 1
    print("a log line", file=sys.stderr, flush=True)
    try:
        return reads, pathlib.Path(sys.argv[1]).read_text()
    except FileNotFoundError:
        raise QueueUnavailable("the file is away")

def lines(facts, width):
    number, text = facts
    yield f"read {number}", {"bold": True, "fg": "red"}
    yield text * width, {}
    for n in range(40):
        yield f"line {n}", {}

@click.command()
@click.argument("file")
def program(file):
    watch(Picture(read, lambda *given: list(lines(*given)), lambda facts: f"read {facts[0]}"), 0.1)

program()
"""

Start = Callable[..., Terminal]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "facts"
    path.write_text("x")
    return path


@pytest.fixture
def start(file: Path) -> Iterator[Start]:
    """Start the program in a terminal."""
    started: list[Terminal] = []

    def begin(**given: object) -> Terminal:
        environment = {"PYTHONPATH": str(ROOT), **given.pop("environment", {})}  # type: ignore[dict-item]  # a dict
        words = [sys.executable, "-c", PROGRAM, str(file)]
        started.append(Terminal(words, environment, **given))  # type: ignore[arg-type]  # its size
        return started[-1]

    yield begin
    for terminal in started:
        terminal.close()


def has_read(number: int) -> Callable[[object], bool]:
    return lambda screen: any(
        line.startswith("read ") and int(line.split()[1]) >= number
        for line in screen.lines  # type: ignore[attr-defined]  # a screen
    )


def test_it_is_drawn_in_place_within_the_screen(start: Start) -> None:
    terminal = start()
    screen = terminal.until(has_read(3))
    assert screen.is_alternate
    assert not screen.has_cursor
    assert screen.wrapped == 0
    assert screen.lines[0].startswith("read ")
    assert screen.lines[1] == "x" * 80
    assert screen.lines[2] == "line 0"
    assert screen.lines[22] == "… 20 more lines"
    assert screen.lines[23].endswith("every 0.1 s  q ends")
    assert screen.colors > 0


def test_no_color_draws_without_colours(start: Start) -> None:
    terminal = start(environment={"NO_COLOR": "1"})
    assert terminal.until(has_read(2)).colors == 0


def test_a_new_size_is_used_at_once(start: Start) -> None:
    terminal = start()
    terminal.until(has_read(1))
    terminal.resize(100, 50)
    # A picture of the size before may come first, and does not fit.
    screen = terminal.until(lambda screen: "every" in screen.lines[49] and not screen.wrapped)
    assert screen.lines[1] == "x" * 100
    terminal.resize(40, 10)
    screen = terminal.until(lambda screen: "every" in screen.lines[9] and not screen.wrapped)
    assert screen.lines[1] == "x" * 40


@pytest.mark.parametrize("end", ["q", "Ctrl-C", "SIGTERM", "SIGHUP"])
def test_it_ends_and_leaves_the_terminal_as_it_was(start: Start, end: str) -> None:
    terminal = start()
    terminal.until(has_read(1))
    match end:
        case "q":
            terminal.press(b"q")
        case "Ctrl-C":
            terminal.press(b"\x03")
        case _:
            terminal.process.send_signal(getattr(signal, end))
    assert terminal.end() == 0
    assert not terminal.screen.is_alternate
    assert terminal.screen.has_cursor
    assert terminal.after == terminal.before


def test_log_lines_do_not_disturb_the_picture_and_follow_it(start: Start) -> None:
    terminal = start()
    screen = terminal.until(has_read(3))
    assert not any("a log line" in line for line in screen.lines)
    terminal.press(b"q")
    assert terminal.end() == 0
    assert screen.lines[0] == "a log line"


def test_an_outage_is_shown_above_the_last_picture_and_ends(start: Start, file: Path) -> None:
    terminal = start()
    terminal.until(has_read(1))
    file.unlink()
    screen = terminal.until(lambda screen: "the file is away; trying again" in screen.lines[0])
    assert screen.lines[1].startswith("read ")
    file.write_text("y")
    screen = terminal.until(lambda screen: screen.lines[1] == "y" * 80)
    assert screen.lines[0].startswith("read ")
    terminal.press(b"q")
    assert terminal.end() == 0


def test_it_ends_at_once_while_the_database_never_answers(start: Start, file: Path) -> None:
    file.unlink()
    terminal = start()
    terminal.until(lambda screen: "the file is away" in screen.lines[0])
    terminal.press(b"q")
    assert terminal.end() == 0


def test_an_error_of_the_program_leaves_the_terminal_as_it_was(start: Start, file: Path) -> None:
    terminal = start()
    terminal.until(has_read(1))
    file.write_bytes(b"\xff")  # which no text begins with
    assert terminal.end() == 1
    assert not terminal.screen.is_alternate
    assert terminal.after == terminal.before


def test_without_a_terminal_there_is_a_line_for_each_interval(file: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(file)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    file.unlink()
    while "the file is away" not in lines[-1]:
        lines.append(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    try:
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert lines[0].rstrip().endswith("read 1")
    assert lines[1].rstrip().endswith("read 2")
    assert "\x1b" not in "".join(lines) + rest


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_status_is_watched_in_a_terminal(engine: Engine) -> None:
    add.run_later(1)
    words = [sys.executable, "-m", "tests.project.manage", "djjp", "status", "--watch"]
    terminal = Terminal(words, {"DJJP_TEST_ALIAS": engine.db.alias, "DJJP_TEST_PAGES": "no"})
    try:
        screen = terminal.until(lambda screen: any("default" in line for line in screen.lines))
        assert screen.wrapped == 0
        assert screen.is_alternate
        terminal.press(b"q")
        assert terminal.end() == 0
        assert not terminal.screen.is_alternate
    finally:
        terminal.close()
