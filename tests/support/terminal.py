"""A terminal: a program in a pty, and the screen that its output draws, as far as djjp's commands use one."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from tests.support.processes import ROOT

_ESCAPE = re.compile(rb"\x1b\[(\??)([0-9;]*)([A-Za-z])")


class Screen:
    """The characters on a screen, which a program draws by ANSI sequences.

    Attributes:
        is_alternate: whether the alternate screen is shown.
        has_cursor: whether the cursor is shown.
        wrapped: the number of characters of the present picture for which its lines were too narrow.
        colors: the number of sequences that set a colour.
        is_whole: whether the last picture has come to its end: the first part of one can be read alone.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.is_alternate, self.has_cursor = False, True
        self.wrapped = self.colors = 0
        self.is_whole = self._has_begun = False
        self._pending = b""
        self._clear()

    def _clear(self) -> None:
        self._cells = [[" "] * self.columns for _ in range(self.rows)]
        self._x = self._y = 0

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._cells]

    def feed(self, data: bytes) -> None:
        data = self._pending + data
        self._pending = b""
        at = 0
        while at < len(data):
            if data[at : at + 1] == b"\x1b":
                found = _ESCAPE.match(data, at)
                if found is None:
                    self._pending = data[at:]
                    return
                self._escape(found[1] + found[3], found[2].decode())
                at = found.end()
                continue
            length = 1 if data[at] < 0x80 else 2 if data[at] < 0xE0 else 3 if data[at] < 0xF0 else 4
            if at + length > len(data):
                self._pending = data[at:]
                return
            self._put(data[at : at + length].decode())
            at += length

    def _escape(self, kind: bytes, numbers: str) -> None:
        if kind in (b"?h", b"?l"):
            if numbers == "1049":
                self.is_alternate = kind == b"?h"
                self._clear()
            elif numbers == "25":
                self.has_cursor = kind == b"?h"
        elif kind == b"H":  # the next picture begins
            self._x = self._y = self.wrapped = 0
            self.is_whole, self._has_begun = False, True
        elif kind == b"K":
            self._cells[self._y][self._x :] = [" "] * (self.columns - self._x)
        elif kind == b"J":  # which ends it
            for row in self._cells[self._y + 1 :]:
                row[:] = [" "] * self.columns
            self.is_whole = self._has_begun
        elif kind == b"m":
            self.colors += numbers not in ("", "0", "1", "2")
        else:
            raise AssertionError(f"the screen does not know {kind!r}")

    def _put(self, character: str) -> None:
        if character == "\r":
            self._x = 0
        elif character == "\n":
            self._y += 1
            if self._y == self.rows:
                self._y -= 1
                self._cells = [*self._cells[1:], [" "] * self.columns]
        elif self._x >= self.columns:
            self.wrapped += 1
        else:
            self._cells[self._y][self._x] = character
            self._x += 1


class Terminal:
    """A program in a pty of some size."""

    def __init__(
        self, words: list[str], environment: Mapping[str, str], columns: int = 80, rows: int = 24
    ) -> None:
        self._master, slave = pty.openpty()
        self._resize(columns, rows)
        self.before = termios.tcgetattr(slave)
        self.screen = Screen(columns, rows)
        inherited = {
            k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        # The first terminal that a new session opens is the one whose Ctrl-C reaches it.
        through_shell = ["/bin/sh", "-c", 'exec "$@" < "$0" > "$0" 2>&1', os.ttyname(slave), *words]
        self.process = subprocess.Popen(
            through_shell,
            cwd=ROOT,
            env=inherited | {"TERM": "xterm", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._slave = slave

    @property
    def after(self) -> list[object]:
        """The attributes of the terminal as they are now."""
        return list(termios.tcgetattr(self._slave))

    def _resize(self, columns: int, rows: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal, as a user who drags its window."""
        self.screen = Screen(columns, rows)
        self.screen.is_alternate = True
        self._resize(columns, rows)
        self.process.send_signal(signal.SIGWINCH)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def until(self, true: Callable[[Screen], object]) -> Screen:
        """Read what the program draws until a condition holds of a whole picture."""
        self._read_until(lambda: self.screen.is_whole and true(self.screen))
        return self.screen

    def _read_until(self, true: Callable[[], object], within: float = 90.0) -> None:
        """Read until a condition holds; the bound is only there so that a broken test ends."""
        deadline = time.monotonic() + within
        while not true():
            if time.monotonic() > deadline:
                shown = "\n".join(self.screen.lines)
                raise AssertionError(f"not true within {within} s:\n{shown}")
            self._read(0.05)

    def _read(self, seconds: float) -> None:
        if select.select([self._master], [], [], seconds)[0]:
            with suppress(OSError):
                self.screen.feed(os.read(self._master, 65536))

    def end(self) -> int:
        """Wait for the program's end, read all that it has drawn, and return its exit code."""
        self._read_until(lambda: self.process.poll() is not None)
        while select.select([self._master], [], [], 0)[0]:
            self._read(0)
        return self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)
