"""The tracking server of ``docs/how-to/server.md``: PostgreSQL, MLflow with accounts, and a bad
network, all real.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, Folder
from test_tracking import Server, free_port

from suite.storage import bucket_journal
from suite.storage.bucket import Bucket

PASSWORDS = {
    "admin": "admin-of-the-tests-1",
    "ann": "ann-of-the-tests-1",
    "ben": "ben-of-the-tests-1",
}


def _program(name: str) -> str | None:
    """One of PostgreSQL's; Debian puts them where PATH does not look."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


needs_postgres = pytest.mark.skipif(
    _program("initdb") is None,
    reason="no PostgreSQL on this machine (Debian's package is postgresql)",
)


class Postgres:
    """A PostgreSQL of its own, in a temporary folder, on 127.0.0.1, as a user who is not root."""

    def __init__(self) -> None:
        self.folder = Path(
            tempfile.mkdtemp(prefix="suite-postgres-")
        )  # pytest's folders are closed to other users
        self.port = free_port()
        self.password = "postgres-of-the-tests"
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam("nobody")
            self.user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        self._run(
            "initdb", "--username=mlflow", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync"
        )
        self.start()
        self.query("create database mlflow", database="postgres")

    @property
    def variables(self) -> dict[str, str]:
        """By which libpq finds it."""
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "mlflow",
            "PGPASSWORD": self.password,
        }

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(_program(program)), *arguments, "-D", str(self.folder / "data")],
            cwd=self.folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            **self.user,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(_program("postgres")),
                    "-D",
                    str(self.folder / "data"),
                    "-p",
                    str(self.port),
                    "-h",
                    "127.0.0.1",
                    "-k",
                    str(self.folder),
                ],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.user,
            )
        end = time.monotonic() + 30
        while True:
            try:
                self.query("select 1", database="postgres")
                return
            except Exception:
                assert time.monotonic() < end and self.process.poll() is None, (
                    self.folder / "log"
                ).read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        """As a restart of the service does: connections are cut."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def query(self, sql: str, *arguments: Any, database: str = "mlflow") -> list[tuple[Any, ...]]:
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="mlflow", password=self.password, dbname=database
        )
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, arguments)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class TeamServer(Server):
    """``mlflow server`` as ``docs/how-to/server.md`` starts it."""

    def __init__(self, folder: Path, postgres: Any) -> None:
        super().__init__(folder)
        self.postgres = postgres
        self.own_name = f"tracking.example:{self.port}"

    def command(self) -> list[str]:
        return [
            *super().command(), "--host", "127.0.0.1", "--app-name", "basic-auth",
            "--backend-store-uri", "postgresql+psycopg2:///mlflow",
            "--artifacts-destination", str(self.folder / "artifacts"),
            "--allowed-hosts", f"127.0.0.1:{self.port},{self.own_name}",
            "--cors-allowed-origins", "https://tracking.example",
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        return super().environment() | self.postgres.variables | {
            "MLFLOW_AUTH_CONFIG_PATH": str(REPO / "deploy" / "basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-the-tests",
        }  # fmt: skip

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            super().kill()
        self.log.close()

    def call(
        self, path: str, body: Any = None, user: str | None = "ann", **headers: str
    ) -> tuple[int, bytes]:
        """Status and answer of a request; ``user`` None = nobody."""
        if user:
            headers["Authorization"] = (
                "Basic " + base64.b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode()
            )
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.uri + path,
            data,
            {"Content-Type": "application/json", **headers},
            method="POST" if data else "GET",
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def add_users(self) -> None:
        for name in ("ann", "ben"):
            told = self.call(
                "/api/2.0/mlflow/users/create",
                {"username": name, "password": PASSWORDS[name]},
                "admin",
            )
            assert told[0] == 200, told


class ObjectStore:
    """An object store that speaks S3 on this machine: moto's server. What it holds ends with it."""

    bucket = "results"

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.port = free_port()
        self.uri = f"http://{host}:{self.port}"
        with (folder / "store.log").open("ab") as log:
            command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(self.port)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < end and self.process.poll() is None, (
                folder / "store.log"
            ).read_text()
            time.sleep(0.1)
        request = urllib.request.Request(f"{self.uri}/{self.bucket}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/moto-api/", timeout=2).close()
        except OSError:
            return False
        return True

    def variables(self, uri: str = "") -> dict[str, str]:
        """By which boto3 finds it."""
        return {
            "AWS_ENDPOINT_URL_S3": uri or self.uri, "AWS_ACCESS_KEY_ID": "nobody-in-particular",
            "AWS_SECRET_ACCESS_KEY": "nothing-in-particular", "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Stored(Folder):
    """A working folder whose sweeps keep their results in an object store."""

    def __init__(self, path: Path, store: ObjectStore, uri: str = "") -> None:
        super().__init__(path)
        self.variables = store.variables(uri)
        self.address = f"s3://{store.bucket}/{path.name}"
        self.there = Bucket(self.address)

    def environment(self, **extra: str) -> dict[str, str]:
        # a cache of its own stands for a machine's disk
        return super().environment(SUITE_CACHE=str(self.path / "cache"), **self.variables, **extra)

    def command(self, *arguments: str, module: str = "suite.sweep") -> list[str]:
        stored = ["--storage-path", self.address] if module == "suite.sweep" else []
        return super().command(*arguments, *stored, module=module)

    @property
    def journal(self) -> list[dict[str, Any]]:
        """Of the store, not of the working copy."""
        return [
            json.loads(line)
            for line in bucket_journal.read_journal(self.there / self.name).splitlines()
        ]


class Served(Folder):
    """A working folder whose sweeps are tracked by a team's server; the database itself is asked
    what it has.
    """

    def __init__(self, path: Path, server: TeamServer, uri: str = "") -> None:
        super().__init__(path)
        self.server, self.uri = server, uri or server.uri

    def environment(self, **extra: str) -> dict[str, str]:
        account = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": PASSWORDS["ann"]}
        return super().environment(**account, MLFLOW_TRACKING_URI=self.uri, **extra)

    def query(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Of this sweep's experiment alone."""
        own = (
            "(select runs.* from runs join experiments using (experiment_id) where "
            "experiments.name = %s) r"
        )
        assert sql.count("runs r") == 1
        sql = sql.replace("?", "%s").replace("runs r", own)
        return self.server.postgres.query(sql, self.name, *arguments)


Fault = Callable[[str, str, int], int]
"""(method, path, how often it was asked before) -> 0 to forward, -1 to forward and drop the answer,
-2 to cut it, or a status.
"""


class Proxy:
    """Between the suite and the server, a network that loses answers and a gateway that says
    503.
    """

    def __init__(self, server: Any, fault: Fault) -> None:
        """``server``: has a ``port`` on this machine."""
        self.server, self.fault = server, fault
        self.seen: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[int] = Counter()
        self._count = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                proxy.handle(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self.thread.start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        kind = request.path.partition("?")[0]
        if "/mlflow-artifacts/" in kind:
            kind = "artifacts"
        with self._count:
            number = self.seen[request.command, kind]
            self.seen[request.command, kind] += 1
            fault = self.fault(request.command, kind, number)
            self.faults[fault] += 1
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if fault > 0:
            self._reply(request, fault, {}, b"the gateway is not in the mood")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("host", "connection")
        }
        connection.request(request.command, request.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if fault == -1:
            request.close_connection = True
            return
        ours = ("content-length", "connection", "transfer-encoding", "date", "server")
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in ours}
        self._reply(request, answer.status, kept, content, cut=fault == -2)

    def _reply(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        content: bytes,
        cut: bool = False,
    ) -> None:
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content[: len(content) // 2] if cut else content)
        request.close_connection |= cut

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()
