"""The settings of a PostgreSQL session on the queue, whatever its role, its database or OPTIONS set.

They hold for every session on a database of the queue's own. Where the queue shares the application's
database, an enqueue runs in a session of the application, with its settings; only consumers have sessions of
their own there.
"""

from __future__ import annotations

from typing import Any, Literal

# What a statement of the queue sees, and how values travel.
_NEEDED = (
    # Each statement must see what others committed before it: the counts under a limit follow a lock.
    "default_transaction_isolation = 'read committed'",
    "default_transaction_deferrable = off",
    "client_encoding = 'UTF8'",
    "DateStyle = 'ISO'",
    "IntervalStyle = 'postgres'",
    "bytea_output = 'hex'",
    "extra_float_digits = 1",
    "standard_conforming_strings = on",
    "array_nulls = on",
    "transform_null_equals = off",
    "exit_on_error = off",
    # A session that is idle is a consumer's that waits, or a web process's until its next enqueue.
    "idle_session_timeout = 0",
    "idle_in_transaction_session_timeout = 0",
    "plan_cache_mode = auto",
    "jit = off",
)
_SINCE_17 = ("transaction_timeout = 0",)

# An enqueue keeps the bounds that were set for it, from these up, in milliseconds.
_LEAST = {"statement_timeout": 5_000, "lock_timeout": 2_000}
_RAISE = """SELECT set_config(name, CASE name {least} END, false) FROM pg_settings
WHERE CASE name {is_less} ELSE false END""".format(
    least=" ".join(f"WHEN '{name}' THEN '{value}'" for name, value in _LEAST.items()),
    is_less=" ".join(
        f"WHEN '{name}' THEN setting::bigint BETWEEN 1 AND {value - 1}"
        for name, value in _LEAST.items()
    ),
)

# The statements of a turn have one good plan each, along an index. Without statistics, as on a queue
# that was filled before autovacuum analyzed it, the planner prefers to read all ready rows and sort
# them, or starts a batch of outcomes at all running jobs.
_PLANNER = (
    *(f"enable_{p} = off" for p in ("seqscan", "bitmapscan", "sort", "hashjoin", "mergejoin")),
    *(f"enable_{p} = on" for p in ("indexscan", "indexonlyscan", "nestloop", "tidscan")),
)

# A consumer that waits for a row lock can neither react to a signal nor interrupt a job. After this time the
# statement fails, and the consumer tries again automatically. It waits for nothing else.
_TIMEOUTS = ("lock_timeout = '500ms'", "statement_timeout = 0")

# With these the server notices within seconds that a consumer's machine is gone, and frees its lock.
_KEEPALIVE = (
    "tcp_keepalives_idle = 5",
    "tcp_keepalives_interval = 2",
    "tcp_keepalives_count = 3",
)


def prepare(driver: Any) -> None:
    """Fit a new session to the statements of the queue."""
    _forget_isolation(driver)
    driver.execute(_script("SET", [*_NEEDED, *_newer(driver)]))
    driver.execute(_RAISE)


def prepare_consumer(driver: Any) -> None:
    """Fit a session, on any database, to the statements of a turn."""
    from psycopg import Cursor  # absent where only psycopg2 is, which the checks name

    # It sends batches of outcomes as binary arrays; a class that binds in the client takes three times as long.
    driver.cursor_factory = Cursor
    if driver.info.transaction_status == 0:  # outside a transaction
        _forget_isolation(driver)
    settings = [*_NEEDED, *_newer(driver), *_PLANNER, *_TIMEOUTS, *_KEEPALIVE]
    driver.execute(_script("SET", settings))


def planner_settings() -> str:
    """Return the statements that have one transaction planned as those of a consumer."""
    # Workers would return long reads in an order of chance.
    return _script("SET LOCAL", [*_PLANNER, "max_parallel_workers_per_gather = 0"])


def transaction_settings(driver: Any) -> str:
    """Return the statements that do the same for one transaction, where each can have another session."""
    local = _script("SET LOCAL", [*_NEEDED, *_newer(driver), *_PLANNER, *_TIMEOUTS])
    return f"SET TRANSACTION ISOLATION LEVEL READ COMMITTED; {local}"


def _forget_isolation(driver: Any) -> None:
    """Let the session decide on the isolation, not the alias' OPTIONS, which the driver sends with each BEGIN."""
    if driver.isolation_level is not None:
        driver.isolation_level = None


def _newer(driver: Any) -> tuple[str, ...]:
    return _SINCE_17 if driver.info.server_version >= 17_00_00 else ()


def _script(command: Literal["SET", "SET LOCAL"], settings: list[str]) -> str:
    return "; ".join(f"{command} {setting}" for setting in settings)
