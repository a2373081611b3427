from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import override_settings

from djjp.databases import queue_database
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.projects import alias_for

Opens = Callable[[dict[str, Any]], BaseDatabaseWrapper]


@pytest.fixture(autouse=True)
def no_url_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJJP_DATABASE_URL", raising=False)


@pytest.fixture
def opened() -> Iterator[Opens]:
    """Open a connection with the entry that `queue_database()` returns, as Django does."""
    with ExitStack() as aliases:
        yield lambda config: connections[aliases.enter_context(alias_for(config))]


def pragma(connection: BaseDatabaseWrapper, name: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA {name}")
        return cursor.fetchone()[0]


# Which database


def test_a_path_is_an_sqlite_file(tmp_path: Path) -> None:
    for given in (tmp_path / "queue.sqlite3", str(tmp_path / "queue.sqlite3")):
        config = queue_database(given)
        assert config["ENGINE"] == "django.db.backends.sqlite3"
        assert Path(config["NAME"]) == tmp_path / "queue.sqlite3"


def test_an_sqlite_url_is_the_same_as_its_path(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    assert queue_database(f"sqlite:///{path}") == queue_database(path)
    assert queue_database("sqlite:///queue.sqlite3") == queue_database("queue.sqlite3")


@pytest.mark.parametrize("end", ["?timeout=5", "?", "#1", "?a#b"])
def test_what_an_sqlite_url_cannot_say_is_refused(end: str) -> None:
    with pytest.raises(ValueError, match="as %3F and # as %23"):
        queue_database(f"sqlite:////srv/queue.sqlite3{end}")
    assert queue_database("sqlite:////srv/a%23b%3Fc%25d")["NAME"] == "/srv/a#b?c%d"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "pgsql"])
def test_a_postgres_url_is_a_database_on_a_server(scheme: str) -> None:
    config = queue_database(f"{scheme}://ann:s%40fe@db.example:6543/jobs?sslmode=require")
    assert config["ENGINE"] == "django.db.backends.postgresql"
    assert (config["USER"], config["PASSWORD"]) == ("ann", "s@fe")
    assert (config["HOST"], str(config["PORT"]), config["NAME"]) == ("db.example", "6543", "jobs")
    assert config["OPTIONS"]["sslmode"] == "require"


def test_the_url_in_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DJJP_DATABASE_URL", "postgres://ann@db.example/jobs")
    assert queue_database(tmp_path / "queue.sqlite3")["NAME"] == "jobs"
    assert queue_database("postgres://ann@db.example/others")["NAME"] == "jobs"
    monkeypatch.setenv("DJJP_DATABASE_URL", f"sqlite:///{tmp_path}/elsewhere.sqlite3")
    assert queue_database("postgres://ann@db.example/jobs") == queue_database(
        tmp_path / "elsewhere.sqlite3"
    )


def test_an_empty_url_in_the_environment_is_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DJJP_DATABASE_URL", "")
    assert queue_database(tmp_path / "queue.sqlite3")["NAME"] == str(tmp_path / "queue.sqlite3")


@pytest.mark.parametrize("url", ["mysql://ann@db.example/jobs", "oracle://ann@db.example/jobs"])
def test_an_engine_that_cannot_hold_a_queue_is_refused_by_its_name(url: str) -> None:
    with pytest.raises(ValueError, match=r"SQLite or PostgreSQL.*django\.db\.backends\.") as caught:
        queue_database(url)
    assert url.partition(":")[0] in str(caught.value)


def test_an_unknown_url_is_refused_by_its_scheme() -> None:
    with pytest.raises(ValueError, match="carrierpigeon"):
        queue_database("carrierpigeon://loft/jobs")


@pytest.mark.parametrize("given", ["SOMETIMES", "", "NORMAL; DROP TABLE djjp_job"])
def test_an_invalid_synchronous_is_refused_with_what_is_allowed(given: str) -> None:
    with pytest.raises(ValueError, match="OFF, NORMAL, FULL, EXTRA") as caught:
        queue_database("queue.sqlite3", synchronous=given)
    assert repr(given) in str(caught.value)


# Effects, read from the database itself


def test_an_sqlite_file_is_in_wal_mode_for_everyone_who_opens_it(
    tmp_path: Path, opened: Opens
) -> None:
    import sqlite3

    path = tmp_path / "queue.sqlite3"
    assert pragma(opened(queue_database(path)), "journal_mode") == "wal"
    with sqlite3.connect(path) as bare:
        assert bare.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    bare.close()


def test_a_new_sqlite_file_has_small_pages(tmp_path: Path, opened: Opens) -> None:
    queue = opened(queue_database(tmp_path / "queue.sqlite3"))
    with queue.cursor() as cursor:
        cursor.execute("CREATE TABLE first (id)")
    assert pragma(queue, "page_size") == 1024


def test_an_sqlite_file_keeps_the_pages_that_it_has(tmp_path: Path, opened: Opens) -> None:
    import sqlite3

    path = tmp_path / "queue.sqlite3"
    bare = sqlite3.connect(path, isolation_level=None)
    bare.execute("PRAGMA page_size=4096")
    bare.execute("CREATE TABLE kept AS SELECT 'an old row' AS row")
    queue = opened(queue_database(path))
    with queue.cursor() as cursor:
        cursor.execute("INSERT INTO kept VALUES ('a new row')")
    assert (pragma(queue, "page_size"), pragma(queue, "journal_mode")) == (4096, "wal")
    assert bare.execute("SELECT row FROM kept").fetchall() == [("an old row",), ("a new row",)]
    assert bare.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    bare.close()


def test_the_log_of_a_new_sqlite_file_is_copied_back_at_four_megabytes(
    tmp_path: Path, opened: Opens
) -> None:
    """By its size: once copied back it is written again from its start, and grows no more."""
    path = tmp_path / "queue.sqlite3"
    queue = opened(queue_database(path))
    with queue.cursor() as cursor:
        cursor.execute("CREATE TABLE filled (content)")
        for _ in range(40):
            cursor.execute("INSERT INTO filled VALUES (zeroblob(500000))")
    assert 4_000_000 < path.with_name("queue.sqlite3-wal").stat().st_size < 5_500_000


@pytest.mark.parametrize(
    ("synchronous", "number"), [("OFF", 0), ("NORMAL", 1), ("full", 2), ("EXTRA", 3)]
)
def test_synchronous_is_set_as_given(
    tmp_path: Path, opened: Opens, synchronous: str, number: int
) -> None:
    config = queue_database(tmp_path / "queue.sqlite3", synchronous=synchronous)
    assert pragma(opened(config), "synchronous") == number


def test_synchronous_is_normal_by_default(tmp_path: Path, opened: Opens) -> None:
    assert pragma(opened(queue_database(tmp_path / "queue.sqlite3")), "synchronous") == 1


def test_a_writer_waits_for_another_for_the_busy_timeout(tmp_path: Path, opened: Opens) -> None:
    path = tmp_path / "queue.sqlite3"
    assert pragma(opened(queue_database(path)), "busy_timeout") == 30_000
    assert pragma(opened(queue_database(path, busy_timeout=1.5)), "busy_timeout") == 1500


def test_a_transaction_takes_the_write_lock_where_it_begins(tmp_path: Path, opened: Opens) -> None:
    """By another connection, which cannot write although the first has not written yet."""
    import sqlite3

    path = tmp_path / "queue.sqlite3"
    queue = opened(queue_database(path))
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    locked = pytest.raises(sqlite3.OperationalError, match="locked")
    with transaction.atomic(using=queue.alias), locked:
        other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_a_connection_to_the_queue_is_kept(tmp_path: Path) -> None:
    assert queue_database(tmp_path / "queue.sqlite3")["CONN_MAX_AGE"] is None
    config = queue_database("postgres://ann@db.example/jobs")
    assert config["CONN_MAX_AGE"] is None
    assert config["CONN_HEALTH_CHECKS"] is True


def test_a_repeated_statement_is_prepared_on_the_postgres_server(
    postgres_url: str, opened: Opens
) -> None:
    connection = opened(queue_database(postgres_url))
    with connection.cursor() as cursor:
        for number in range(6):
            cursor.execute("SELECT 'repeated', %s::integer", [number])
            assert cursor.fetchone() == ("repeated", number)
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        assert [text for (text,) in cursor.fetchall() if "repeated" in text] == [
            "SELECT 'repeated', $1::integer"
        ]


def test_options_of_the_url_override_the_defaults(postgres_url: str, opened: Opens) -> None:
    joint = "&" if "?" in postgres_url else "?"
    connection = opened(queue_database(f"{postgres_url}{joint}prepare_threshold=1000"))
    with connection.cursor() as cursor:
        for number in range(6):
            cursor.execute("SELECT 'repeated', %s::integer", [number])
        cursor.execute("SELECT count(*) FROM pg_prepared_statements")
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("prepare_threshold=none", None),
        ("prepare_threshold=None", None),
        ("prepare_threshold=off", None),
        ("prepare_threshold=0", 0),
        ("prepare_threshold=5", 5),
        ("pool=true", True),
        ("pool=On", True),
        ("pool=1", True),
        ("pool=false", False),
        ("pool=none", None),
        ("server_side_binding=no", False),
        ("server_side_binding=yes", True),
        ("isolation_level=serializable", 4),
        ("isolation_level=repeatable%20read", 3),
        ("isolation_level=REPEATABLE_READ", 3),
        ("isolation_level=2", 2),
        ("assume_role=none", None),
        ("assume_role=shop", "shop"),
        ("sslmode=require", "require"),
        ("connect_timeout=3", 3),
    ],
)
def test_an_option_that_a_url_gives_as_text_has_the_value_that_django_takes(
    option: str, value: Any
) -> None:
    options = queue_database(f"postgres://ann@db.example/jobs?{option}")["OPTIONS"]
    name = option.partition("=")[0]
    assert options[name] == value
    assert type(options[name]) is type(value)


@pytest.mark.parametrize(
    "option",
    ["prepare_threshold=often", "pool=big", "isolation_level=high", "isolation_level=9"],
)
def test_a_text_that_is_no_value_of_an_option_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        queue_database(f"postgres://ann@db.example/jobs?{option}")


def test_a_queue_with_djangos_pool_has_an_age_that_django_accepts() -> None:
    assert queue_database("postgres://ann@db.example/jobs?pool=true")["CONN_MAX_AGE"] == 0
    assert queue_database("postgres://ann@db.example/jobs?pool=false")["CONN_MAX_AGE"] is None


def test_an_enqueue_works_with_djangos_pool(postgres_url: str) -> None:
    pytest.importorskip("psycopg_pool")
    joined = "&" if "?" in postgres_url else "?"
    with (
        alias_for(queue_database(f"{postgres_url}{joined}pool=true")) as alias,
        override_settings(DJJP={"db_name": alias}),
    ):
        handle = add.run_later(1, 2)
        with consuming(2):
            assert handle.join(30) == 3
        connections[alias].close()
        connections[alias].close_pool()  # type: ignore[attr-defined]  # of PostgreSQL only
