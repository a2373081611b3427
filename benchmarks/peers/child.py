"""`python -m benchmarks.peers.child`: one act of one queue, in a process of its own.

The last line on stdout is a number of seconds where the act is timed.
"""

from __future__ import annotations

import json
import logging
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.peers.peer import Peer, Store


def main() -> None:
    name, act, kind, place, folder = sys.argv[1:]
    peer: Peer = import_module(f"benchmarks.peers.{name}").PEER
    store = Store(kind, place, Path(folder))
    given = json.loads((store.folder / "options.json").read_text())
    # A line for each job would be what is measured.
    logging.disable(logging.WARNING)
    if act == "prepare":
        peer.prepare(store)
    elif act == "enqueue":
        print(peer.enqueue(store, given["job"], given["values"], bulk=given["bulk"]))
    else:
        peer.consume(store, given["slots"])


if __name__ == "__main__":
    main()
