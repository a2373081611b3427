"""Atomic enqueue: a job that commits or vanishes with the application's data.

The queue lives on a database of its own, so no transaction spans both. A job that is enqueued inside
`atomic()` of the application's database is therefore written *there*, into the outbox, and carried
over once it is committed. `relay` says why that gives exactly one job whatever dies when.
"""
