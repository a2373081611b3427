"""`python -m benchmarks.peers.child`: one act of one queue (prepare, enqueue, consume) in its own process.

If the act is timed, the last line on stdout is the number of seconds.
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
    # Logging a line for each job would distort the figures.
    logging.disable(logging.WARNING)
    if act == "prepare":
        peer.prepare(store)
    elif act == "enqueue":
        print(peer.enqueue(store, given["job"], given["values"], bulk=given["bulk"]))
    else:
        peer.consume(store, given["slots"])


if __name__ == "__main__":
    main()
