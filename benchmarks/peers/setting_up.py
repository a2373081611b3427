"""Set Django up for a queue that runs in Django."""

from __future__ import annotations

import os

from benchmarks.peers.peer import Store


def django_for(peer: str, store: Store, slots: int | None = None) -> None:
    """Set Django up in this process, on the store."""
    os.environ.pop("DJJP_DATABASE_URL", None)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "benchmarks.peers.project",
        "DJJP_PEERS_PEER": peer,
        "DJJP_PEERS_PLACE": store.place,
        "DJJP_PEERS_FOLDER": str(store.folder),
    }
    if slots is not None:
        os.environ["DJJP_PEERS_SLOTS"] = str(slots)
    import django

    django.setup()
