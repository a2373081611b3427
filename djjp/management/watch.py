"""A picture that is drawn again and again: in place on a terminal, else one line each time."""

from __future__ import annotations

import os
import queue
import select
import signal
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Generic, NamedTuple, TypeVar

import click
from django.db import Error as DatabaseError
from django.db import connections

from djjp.bounds import one_line
from djjp.exceptions import QueueUnavailable
from djjp.management.output import cut, echo, in_colors

Facts = TypeVar("Facts")

_ENTER = "\x1b[?1049h\x1b[?25l"  # the alternate screen, without a cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"
_STDERR = 2
#: The bytes of stderr that are written afterwards.
_MOST_KEPT = 100_000
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


class Outage(NamedTuple):
    """The queue's database did not answer."""

    reason: str


class Picture(Generic[Facts]):
    """A drawing of the facts.

    Attributes:
        read: reads the facts from the queue.
        lines: returns the facts as styled lines, for a terminal of this width.
        line: returns the facts in one line.
    """

    def __init__(
        self,
        read: Callable[[], Facts],
        lines: Callable[[Facts, int], Sequence[tuple[str, dict[str, object]]]],
        line: Callable[[Facts], str],
    ) -> None:
        self.read = read
        self.lines = lines
        self.line = line


def watch(picture: Picture[Facts], interval: float) -> None:
    """Draw the picture every `interval` seconds, until `q`, Ctrl-C or SIGTERM; an outage does not end it."""
    if sys.stdout is not None and sys.stdout.isatty():
        _Screen(picture, interval).run()
    else:
        _print_lines(picture, interval)


def _print_lines(picture: Picture[Facts], interval: float) -> None:
    with suppress(KeyboardInterrupt):
        while True:
            facts = _read(picture)
            clock = time.strftime("%H:%M:%S")
            text = facts.reason if isinstance(facts, Outage) else picture.line(facts)
            echo(f"{clock} {text}")
            sys.stdout.flush()
            time.sleep(interval)


def _read(picture: Picture[Facts]) -> Facts | Outage:
    try:
        return picture.read()
    except (QueueUnavailable, DatabaseError) as error:
        return Outage(" ".join(str(error).split()))


@contextmanager
def _stderr_kept() -> Iterator[None]:
    """Keep what is written to a terminal's stderr meanwhile, such as log lines, and write it afterwards."""
    if not os.isatty(_STDERR):
        yield
        return
    with tempfile.TemporaryFile() as kept:
        terminal = os.dup(_STDERR)
        os.dup2(kept.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(terminal, _STDERR)
            os.close(terminal)
            kept.seek(0)
            with suppress(OSError):  # the terminal is gone
                os.write(_STDERR, kept.read(_MOST_KEPT))


class _Screen(Generic[Facts]):
    """A terminal on which the picture is drawn in place."""

    def __init__(self, picture: Picture[Facts], interval: float) -> None:
        self._picture = picture
        self._interval = interval
        self._facts: Facts | None = None
        self._outage: Outage | None = None
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._read: queue.SimpleQueue[Facts | Outage | BaseException] = queue.SimpleQueue()
        # Written to by signal handlers and by the reader, so that a wait ends.
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._ended = False

    def run(self) -> None:
        # A thread reads the facts, so that keys work while the database does not answer.
        reader = threading.Thread(target=self._keep_reading, daemon=True)
        reader.start()
        with self._signals(), _stderr_kept(), self._terminal():
            self._loop()
        self._asked.put(False)
        reader.join(1.0)

    def _loop(self) -> None:
        due, waiting = 0.0, False
        while not self._ended:
            if not waiting and time.monotonic() >= due:
                self._asked.put(True)
                waiting = True
            self._wait(None if waiting else max(0.0, due - time.monotonic()))
            if self._take():
                waiting, due = False, time.monotonic() + self._interval
            if not self._ended:
                self._draw()

    def _keep_reading(self) -> None:
        try:
            while self._asked.get():
                found: Facts | Outage
                try:
                    found = _read(self._picture)
                    self._read.put(found)
                except BaseException as error:  # noqa: BLE001  (raised by the main thread)
                    self._read.put(error)
                self._wake()
        finally:
            connections.close_all()

    def _take(self) -> bool:
        """Take what the reader has read; return whether there was anything."""
        try:
            found = self._read.get_nowait()
        except queue.Empty:
            return False
        if isinstance(found, BaseException):
            raise found
        if isinstance(found, Outage):
            self._outage = found
        else:
            self._facts, self._outage = found, None
        return True

    def _wait(self, seconds: float | None) -> None:
        """Wait for a key, a signal, the reader, or until the time has passed."""
        sources = [self._wake_reader]
        if self._keys is not None:
            sources.append(self._keys)
        readable, _, _ = select.select(sources, [], [], seconds)
        if self._wake_reader in readable:
            os.read(self._wake_reader, 4096)
        if self._keys is not None and self._keys in readable:
            pressed = os.read(self._keys, 64)
            self._ended |= pressed == b"" or b"q" in pressed or b"\x03" in pressed

    def _draw(self) -> None:
        size = os.get_terminal_size(sys.stdout.fileno())
        width, height = size.columns or 80, size.lines or 24
        lines: list[tuple[str, dict[str, object]]] = []
        if self._outage is not None:
            lines.append((f"{self._outage.reason}; trying again", {"fg": "red", "bold": True}))
        if self._facts is not None:
            lines += self._picture.lines(self._facts, width)
        elif self._outage is None:
            lines.append(("reading the queue …", {}))
        shown = lines[: height - 1]
        if len(lines) > len(shown):
            shown[-1] = (f"… {len(lines) - len(shown) + 1} more lines", {})
        footer = f"{time.strftime('%H:%M:%S')}  every {self._interval:g} s  q ends"
        shown += [("", {})] * (height - 1 - len(shown)) + [(footer, {"dim": True})]
        color = in_colors()
        drawn = [self._styled(cut(one_line(text), width), style, color) for text, style in shown]
        rows = f"{_REST_OF_LINE}\r\n".join(drawn)
        sys.stdout.write(f"{_HOME}{rows}{_REST_OF_LINE}{_REST_OF_SCREEN}")
        sys.stdout.flush()

    @staticmethod
    def _styled(text: str, style: dict[str, object], color: bool) -> str:
        return click.style(text, **style) if style and color and text else text  # type: ignore[arg-type]  # its keywords

    # The terminal

    @contextmanager
    def _terminal(self) -> Iterator[None]:
        """Take the terminal, and leave it as it was."""
        self._keys = self._key_source()
        before = termios.tcgetattr(self._keys) if self._keys is not None else None
        try:
            self._take_over(before)
            yield
        finally:
            self._give_back(before)

    @staticmethod
    def _key_source() -> int | None:
        """Return the descriptor from which keys are read; None where there is no keyboard."""
        stdin = sys.stdin
        return stdin.fileno() if stdin is not None and stdin.isatty() else None

    def _take_over(self, before: list[object] | None) -> None:
        if self._keys is not None and before is not None:
            mode = termios.tcgetattr(self._keys)
            mode[3] &= ~(termios.ICANON | termios.ECHO)
            termios.tcsetattr(self._keys, termios.TCSADRAIN, mode)
        sys.stdout.write(_ENTER)
        sys.stdout.flush()

    def _give_back(self, before: list[object] | None) -> None:
        with suppress(OSError):  # the terminal is gone
            sys.stdout.write(_LEAVE)
            sys.stdout.flush()
        if self._keys is not None and before is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSADRAIN, before)  # type: ignore[arg-type]  # what it returned

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """End by Ctrl-C, SIGTERM and SIGHUP; draw again when the size of the terminal has changed."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        numbers += [
            getattr(signal, name) for name in ("SIGHUP", "SIGWINCH") if hasattr(signal, name)
        ]
        before = {number: signal.signal(number, self._signalled) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._ended |= number != getattr(signal, "SIGWINCH", None)
        self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # it is awake already
            os.write(self._wake_writer, b".")
