"""`python -m tests.openapi`: schemathesis sends what the document of the interface allows, and what it does not.

A server of this process answers it, on a queue that has jobs in all states. Each answer is compared with the
document, and the links in it are followed. Arguments are passed on: see `schemathesis run --help`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="djjp-openapi-") as home:
        os.environ["DJJP_TEST_HOME"] = home
        os.environ["DJANGO_SETTINGS_MODULE"] = "tests.openapi.settings"
        token, pipeline = prepare()
        with serving() as port:
            address = f"http://127.0.0.1:{port}/djjp"
            (Path(home) / "openapi.json").write_bytes(document(token))
            command = [
                *(str(Path(sys.executable).with_name("schemathesis")), "--config-file"),
                *(str(HERE / "schemathesis.toml"), "run", "openapi.json", "--url", address),
                *sys.argv[1:],
            ]
            environment = {
                **os.environ,
                "DJJP_TEST_TOKEN": token,
                "DJJP_TEST_PIPELINE": pipeline,
                "PYTHONPATH": str(ROOT),
            }
            return subprocess.run(command, env=environment, cwd=home, check=False).returncode


def prepare() -> tuple[str, str]:
    """Make the queue with jobs in all states; return a token for it, and the id of a pipeline."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    call_command("migrate", database="queue", verbosity=0)

    from djjp import pipelines, queues, tokens
    from tests.openapi import jobs
    from tests.support.consumers import drain

    jobs.count.run_later(to=1)
    jobs.fail.run_later(text="no")
    pipelines.group(jobs.count.bind(to=1), jobs.fail.bind()).run_later()
    drain()
    jobs.count.run_later(to=2)
    jobs.count.using(run_after=3600).run_later(to=3)
    pipeline = pipelines.group(jobs.count.bind(to=1), jobs.fail.bind()).run_later()
    queues.pause("mail")
    _, token = tokens.create("schemathesis", "operate", arguments=True)
    return token, str(pipeline.id)


def document(token: str) -> bytes:
    """Return the document, as the token gets it."""
    from django.test import Client

    headers = {"Authorization": f"Bearer {token}"}
    response = Client(SERVER_NAME="127.0.0.1").get("/djjp/v1/openapi.json", headers=headers)
    assert response.status_code == 200, response.content
    return response.content


@contextmanager
def serving() -> Iterator[int]:
    """Serve the project on a thread for each connection; give the port."""
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
    from django.core.wsgi import get_wsgi_application

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name there)
            pass

    server = ThreadedWSGIServer(("127.0.0.1", 0), Quiet)
    server.set_app(get_wsgi_application())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    sys.exit(main())
