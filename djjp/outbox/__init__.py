"""Atomic enqueue: a job that commits or vanishes with the application's data.

The queue lives in a database of its own, so no transaction spans both. A job that is enqueued inside
`atomic()` of the application's database is therefore written *there*, into the outbox, and relayed to
the queue after the commit. `relay` explains why this gives exactly one job, whichever process dies when.
"""
