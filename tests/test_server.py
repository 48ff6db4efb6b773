"""Sweeps through a team's tracking server that is killed, loses its database, or stands behind a
bad network.

Everything is real: PostgreSQL, ``mlflow server`` with accounts as ``docs/how-to/server.md`` starts
it, sweeps in processes of their own. What the server has is read from the database, not through the
suite. SUITE_FAULTS=full adds the long ones.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from conftest import REPO, SWEEP, Folder
from servers import PASSWORDS, Postgres, Proxy, Served, TeamServer, needs_postgres
from test_tracking import Story, assert_takes_odd_texts, free_port

from suite.core.errors import EnvironmentProblem
from suite.storage.journal import Entry
from suite.tracking import MlflowStore, Projection, Sender

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:(mlflow|pydantic|torch|alembic|sqlalchemy|google|copyreg).*"
    ),
    pytest.mark.filterwarnings("ignore::FutureWarning:(mlflow|torch).*"),
]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    postgres = Postgres()
    try:
        yield postgres
    finally:
        postgres.close()


@pytest.fixture(scope="module")
def running(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    server = TeamServer(tmp_path_factory.mktemp("team"), postgres)
    try:
        server.start()
        server.add_users()
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(running: TeamServer, monkeypatch: pytest.MonkeyPatch) -> TeamServer:
    """The server, up, and this process logged in."""
    if not running.answers():
        running.kill()
        running.start()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS["ann"])
    return running


def story(epochs: int, trials: int = 2) -> list[Entry]:
    """The journal of a sweep."""
    names = [f"t{number}" for number in range(trials)]
    made = Story().launch(*names)
    for name in names:
        made.trial(name).start(name)
    for epoch in range(1, epochs + 1):
        made.epochs(
            names[epoch % trials], epoch
        )  # runs of epochs of one trial become one call: here each is its own
        made.add("champion", id=names[epoch % trials], value=epoch / 100)
    for name in names:
        made.end(name)
    return made.close().entries


def put(sender: Sender, entries: list[Entry]) -> None:
    for entry in entries:
        sender.put(entry)


def assert_holds(postgres: Postgres, sweep: str, entries: list[Entry]) -> None:
    """One run for each trial, one row for each figure of the journal, and no other; all ended."""
    own = "from runs join experiments using (experiment_id) {} where experiments.name = %s"
    trials = {entry["id"] for entry in entries if entry["kind"] == "start"}
    runs = postgres.query(f"select status, runs.lifecycle_stage {own.format('')}", sweep)
    assert sorted(runs) == [("FINISHED", "active")] * (len(trials) + 1)
    kept = postgres.query(
        "select tags.value, key_, step, metrics_value, metrics_time from (select run_uuid, "
        "metrics.key as key_, step, "
        "metrics.value as metrics_value, metrics.timestamp as metrics_time "
        f"{own.format('join metrics using (run_uuid)')}) m join tags using (run_uuid) where "
        "tags.key = 'suite.trial'",
        sweep,
    )
    wanted = [
        (entry["id"], name, entry["epoch"], value, entry["ts_ms"])
        for entry in entries
        if entry["kind"] == "epoch"
        for name, value in entry["metrics"].items()
    ]
    assert sorted(row for row in kept if row[1] != "best/value") == sorted(wanted)
    assert sum(row[1] == "best/value" for row in kept) == len(trials)


# ---- who may do what -----------------------------------------------------------------------------


CREATE = "/api/2.0/mlflow/experiments/create"
SEARCH = "/api/2.0/mlflow/experiments/search"


@pytest.mark.slow
@needs_postgres
class TestAccess:
    def test_nobody_gets_nothing(self, server: TeamServer) -> None:
        for path, body in ((SEARCH, {"max_results": 5}), (CREATE, {"name": "nobody"}), ("/", None),
                           ("/api/2.0/mlflow-artifacts/artifacts", None),
                           ("/ajax-api/2.0/mlflow/experiments/search", {"max_results": 5}),
                           ("/graphql", {"query": "{ test }"})):  # fmt: skip
            assert server.call(path, body, None)[0] == 401, path
        assert server.call(SEARCH, {"max_results": 5}, "ann")[0] == 200, "the same with an account"

    def test_a_wrong_password_gets_nothing(self, server: TeamServer) -> None:
        assert (
            server.call(SEARCH, {"max_results": 5}, None, Authorization="Basic YW5uOmFubg==")[0]
            == 401
        )

    def test_a_name_that_is_not_the_servers_is_refused(self, server: TeamServer) -> None:
        """A page of the internet whose name was bound to 127.0.0.1 says its own name."""
        assert server.call(SEARCH, {"max_results": 5}, Host="evil.example")[0] == 403
        assert server.call(SEARCH, {"max_results": 5}, Host="192.168.0.1")[0] == 403, (
            "MLflow's default lets it in"
        )
        assert server.call(SEARCH, {"max_results": 5}, Host=server.own_name)[0] == 200

    def test_a_page_of_another_origin_cannot_write(self, server: TeamServer) -> None:
        told = server.call(CREATE, {"name": "forged"}, Origin="https://evil.example")
        assert told[0] == 403 and b"origin" in told[1].lower()
        assert server.call(CREATE, {"name": "own"}, Origin="https://tracking.example")[0] == 200

    def test_one_does_not_see_anothers(
        self, server: TeamServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Projection(MlflowStore("private", server.uri, None, "j1")).apply(
            Story().launch().entries[0]
        )
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ben")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS["ben"])
        assert b"private" not in server.call(SEARCH, {"max_results": 100}, "ben")[1]
        with pytest.raises(EnvironmentProblem, match="refuses us"):
            Projection(MlflowStore("private", server.uri, None, "j2")).check()

    def test_without_an_account_the_sweep_says_which_variables_to_set(
        self, server: TeamServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
        with pytest.raises(
            EnvironmentProblem, match=r"refuses us.*401(.|\n)*MLFLOW_TRACKING_USERNAME"
        ):
            Projection(MlflowStore("x", server.uri, None, "j1")).check()

    def test_it_listens_to_this_machine_only(self, server: TeamServer, postgres: Postgres) -> None:
        ours = [psutil.Process(server.process.pid), psutil.Process(postgres.process.pid)]
        ours += [child for process in list(ours) for child in process.children(recursive=True)]
        heard = [
            connection.laddr
            for process in ours
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert {address.port for address in heard} >= {server.port, postgres.port}
        assert {address.ip for address in heard} == {"127.0.0.1"}

    def test_no_password_is_on_a_command_line(self, server: TeamServer, postgres: Postgres) -> None:
        for process in [server.process, postgres.process]:
            shown = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
            assert not any(secret in shown for secret in (*PASSWORDS.values(), postgres.password))


# ---- many at once, and faults, without a sweep ---------------------------------------------------


@pytest.mark.slow
@needs_postgres
class TestSending:
    @pytest.mark.fault(32, 37)
    def test_eight_sweeps_at_once_do_not_mix(
        self, server: TeamServer, postgres: Postgres, tmp_path: Path
    ) -> None:
        from suite.storage.journal import Journal

        journal = Journal(tmp_path / "journal.jsonl")
        for entry in story(epochs=6):
            journal.append(
                entry["kind"],
                **{k: v for k, v in entry.items() if k not in ("seq", "ts_ms", "kind")},
            )
        journal.close()
        names = [f"at-once-{number}" for number in range(8)]
        done = subprocess.run(
            [
                sys.executable,
                str(REPO / "tests" / "senders.py"),
                str(journal.path),
                str(tmp_path),
                server.uri,
                *names,
            ],
            env=Served(tmp_path, server).environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for name in names:
            assert_holds(postgres, name, journal.entries)

    @pytest.mark.fault(28)
    def test_a_database_that_restarts_loses_nothing(
        self, server: TeamServer, postgres: Postgres, tmp_path: Path
    ) -> None:
        entries = story(epochs=20)
        sender = Sender(
            Projection(MlflowStore("restarted", server.uri, None, "j1"), tmp_path),
            tmp_path / "cursor",
        )
        put(sender, entries[:20])
        while sender.behind > 5:
            time.sleep(0.005)
        postgres.stop()
        put(sender, entries[20:])
        assert not sender.drain(1.5) and sender.lost is not None
        postgres.start()
        assert sender.drain(60), sender.lost
        sender.close()
        assert_holds(postgres, "restarted", entries)

    @pytest.mark.fault(30)
    def test_answers_that_get_lost_and_gateways_that_refuse_double_nothing(
        self,
        server: TeamServer,
        postgres: Postgres,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Of each kind of request the first is done and its answer dropped; then 503, 429, 500,
        and so on anew.
        """
        monkeypatch.setattr("suite.tracking.sender._MIN_WAIT_S", 0.02)
        faults = (-1, 503, 429, 500)
        proxy = Proxy(
            server,
            lambda method, kind, number: (
                faults[number % 7] if number % 7 < 4 and number < 14 else 0
            ),
        )
        entries = story(epochs=6)
        (tmp_path / "notes.txt").write_text("kept")
        entries.insert(
            -1, entries[-1] | {"kind": "file", "id": "t0", "path": "notes.txt", "folder": ""}
        )
        entries[-1] = entries[-1] | {"seq": entries[-1]["seq"] + 1}
        told: list[str] = []
        sender = Sender(
            Projection(MlflowStore("lossy", proxy.uri, None, "j1"), tmp_path),
            tmp_path / "cursor",
            told.append,
        )
        try:
            put(sender, entries)
            assert sender.drain(90), sender.lost
        finally:
            sender.close()
            proxy.close()
        assert all(proxy.faults[fault] >= 5 for fault in faults), proxy.faults
        assert not any("passed over" in text for text in told)
        assert_holds(postgres, "lossy", entries)

    @pytest.mark.fault(30, control=True)
    def test_the_stock_client_makes_two_runs_of_a_lost_answer(
        self, server: TeamServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The control: with MLflow's own retries the same fault doubles a run."""
        from mlflow import MlflowClient

        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        proxy = Proxy(
            server,
            lambda method, kind, number: -1 if kind.endswith("runs/create") and not number else 0,
        )
        try:
            client = MlflowClient(proxy.uri)
            experiment = client.create_experiment("stock")
            client.create_run(experiment, run_name="only one")
            assert len(client.search_runs([experiment])) == 2
        finally:
            proxy.close()

    @pytest.mark.fault(34, 35)
    def test_large_many_and_odd_texts(self, server: TeamServer, tmp_path: Path) -> None:
        assert_takes_odd_texts(
            Projection(MlflowStore("odd", server.uri, None, "j1"), tmp_path), tmp_path
        )

    @pytest.mark.fault(33)
    def test_a_database_of_another_mlflow_is_left_alone(
        self, server: TeamServer, postgres: Postgres
    ) -> None:
        postgres.query("create database old", database="postgres")
        postgres.query("create table alembic_version (version_num varchar(32))", database="old")
        postgres.query("create table experiments (experiment_id integer)", database="old")
        postgres.query("insert into alembic_version values ('451aebb31d03')", database="old")
        uri = f"postgresql+psycopg2://mlflow:{postgres.password}@127.0.0.1:{postgres.port}/old"
        with pytest.raises(
            EnvironmentProblem, match=r"schema(.|\n)*Back it up(.|\n)*mlflow db upgrade"
        ) as told:
            Projection(MlflowStore("x", uri, None, "j1")).check()
        assert postgres.password not in str(told.value) and told.value.exit_code == 6
        assert postgres.query("select version_num from alembic_version", database="old") == [
            ("451aebb31d03",)
        ]
        tables = "select count(*) from information_schema.tables where table_schema = 'public'"
        assert postgres.query(tables, database="old") == [(2,)]


# ---- sweeps --------------------------------------------------------------------------------------


def trials_of(folder: Folder) -> set[str]:
    return {entry["name"] for entry in folder.journal if entry["kind"] == "trial"}


def epochs_of(journal: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in journal if entry["kind"] == "epoch"]


def assert_whole(folder: Served) -> None:
    """Every trial one FINISHED run, every figure of the journal once."""
    assert folder.runs() == dict.fromkeys(trials_of(folder), "FINISHED") and folder.parents() == [
        "FINISHED"
    ]
    folder.assert_tracked()


def write(folder: Served, name: str, epochs: int, **changes: Any) -> None:
    trial = SWEEP["trial"] | {"train": SWEEP["trial"]["train"] | {"epochs": epochs}}
    folder.write(name=name, trial=trial, activations=False, **changes)


def short_drain(folder: Served, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The sweep with three seconds for tracking to catch up at the end, instead of a minute."""
    code = (
        "from suite.launch import launcher; launcher.DRAIN_S = 3.0; from suite.sweep.__main__ "
        "import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "sweep.yaml", *arguments],
        cwd=folder.path,
        env=folder.environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.slow
@needs_postgres
@pytest.mark.fault(28)
@pytest.mark.full
def test_a_server_that_is_killed_in_a_sweep_has_everything_once(
    server: TeamServer, tmp_path: Path
) -> None:
    folder = Served(tmp_path, server)
    write(folder, "killed", epochs=10)
    process = folder.start(SLOW="0.04")
    folder.wait_for(process, lambda journal: len(epochs_of(journal)) >= 5)
    server.kill()
    during = len(epochs_of(folder.journal))
    server.start()
    assert len(epochs_of(folder.journal)) > during, "training waits for nobody"
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert "tracking is lost" in output and "tracking is back" in output
    assert "ann-of" not in output
    assert_whole(folder)


@pytest.mark.slow
@needs_postgres
@pytest.mark.fault(29, full=True)
def test_a_server_that_dies_for_good_costs_the_exit_code_only(
    server: TeamServer, tmp_path: Path
) -> None:
    folder = Served(tmp_path, server)
    write(folder, "left", epochs=2, parameters=None, seeds=[0])
    killer = threading.Thread(target=_kill_at_first_epoch, args=(folder, server))
    killer.start()
    done = short_drain(folder, "--no-report")
    killer.join()
    assert done.returncode == 4, done.stdout + done.stderr
    assert len(epochs_of(folder.journal)) == 2, "the sweep went on to its end"
    assert "not fully synced" in done.stdout
    server.start()
    again = folder.sweep()
    assert "already complete" in again.stdout
    assert_whole(folder)


def _kill_at_first_epoch(folder: Served, server: TeamServer) -> None:
    end = time.monotonic() + 120
    while not epochs_of(folder.journal) and time.monotonic() < end:
        time.sleep(0.01)
    server.kill()


@pytest.mark.slow
@pytest.mark.fault(29)
def test_a_server_that_was_never_up_is_told_at_the_start(folder: Folder) -> None:
    folder.write()
    done = folder.run(
        "sweep.yaml", "--tracking-uri", f"http://ann:canary-pw@127.0.0.1:{free_port()}"
    )
    assert done.returncode == 6 and "cannot be reached" in done.stderr
    assert "canary-pw" not in done.stdout + done.stderr
    assert not (folder.path / "runs").exists() and not (folder.path / "mlflow.db").exists()


@pytest.mark.slow
@needs_postgres
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("outage_s", [0, 20, 60])
@pytest.mark.fault(28)
def test_an_outage_does_not_slow_training(
    outage_s: int, server: TeamServer, tmp_path: Path
) -> None:
    """Epochs a second while the server is away, against those before: at least 95 %."""
    folder = Served(tmp_path, server)
    before_s = max(20, outage_s)
    write(
        folder, f"outage-{outage_s}", epochs=before_s + outage_s + 35, parameters=None, seeds=[0, 1]
    )
    process = folder.start("--max-concurrent", "1", SLOW="0.06")
    folder.wait_for(process, lambda journal: len(epochs_of(journal)) >= 5)
    began = epochs_of(folder.journal)[-1]["ts_ms"]
    folder.wait_for(
        process, lambda journal: epochs_of(journal)[-1]["ts_ms"] >= began + 1000 * before_s
    )
    server.kill()
    gone = epochs_of(folder.journal)[-1]["ts_ms"]
    folder.wait_for(
        process, lambda journal: epochs_of(journal)[-1]["ts_ms"] >= gone + 1000 * outage_s
    )
    if outage_s:
        rates = [_rate(folder, began, gone), _rate(folder, gone, gone + 1000 * outage_s)]
        print(f"epochs a second before and during {outage_s} s: {rates[0]:.3f} {rates[1]:.3f}")
        assert rates[1] >= 0.95 * rates[0]
    server.start()
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    assert_whole(folder)


def _rate(folder: Folder, start_ms: int, end_ms: int) -> float:
    times = [
        entry["ts_ms"]
        for entry in epochs_of(folder.journal)
        if start_ms <= entry["ts_ms"] <= end_ms
    ]
    return 1000 * (len(times) - 1) / (times[-1] - times[0])


@pytest.mark.slow
@needs_postgres
@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sweeps", [pytest.param(2, marks=pytest.mark.fault(28, 37)), 8])
def test_sweeps_at_once_while_the_database_restarts(
    server: TeamServer, postgres: Postgres, tmp_path: Path, sweeps: int
) -> None:
    folders = []
    for number in range(sweeps):
        name = f"{sweeps}-at-once-{number}"
        (tmp_path / name).mkdir()
        folders.append(Served(tmp_path / name, server))
        write(folders[-1], name, epochs=20 if sweeps == 2 else 60)
    processes = [folder.start("--max-concurrent", "1", SLOW="0.05") for folder in folders]
    for folder, process in zip(folders, processes, strict=True):
        folder.wait_for(process, lambda journal: len(epochs_of(journal)) >= 5, seconds=300)
    postgres.stop()
    counts = [len(epochs_of(folder.journal)) for folder in folders]
    for folder, process, count in zip(folders, processes, counts, strict=True):
        folder.wait_for(process, lambda journal, count=count: len(epochs_of(journal)) >= count + 3)
    postgres.start()
    for folder, process in zip(folders, processes, strict=True):
        output = process.communicate(timeout=600)[0]
        assert process.returncode == 0, output
        assert_whole(folder)


# ---- the compose file ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((REPO / "docker-compose.yml").read_text())
    return content


class TestCompose:
    def test_every_image_and_package_has_a_version(self, compose: dict[str, Any]) -> None:
        wanted = dict(
            line.split()[0].split("==")
            for line in (REPO / "requirements.txt").read_text().splitlines()
            if "==" in line
        )
        images = [service["image"] for service in compose["services"].values()]
        recipe = compose["services"]["mlflow"]["build"]["dockerfile_inline"]
        images += re.findall(r"^FROM (\S+)", recipe, re.MULTILINE)
        assert len(images) == 3 and all(
            re.fullmatch(r"[a-z-]+:\d+\.\d+[\w.-]*", image) for image in images
        ), images
        installed = re.findall(r"\b([a-z0-9-]+)==([\d.]+)", recipe)
        assert {name for name, _ in installed} == {"mlflow", "flask-wtf", "psycopg2-binary"}
        assert all(wanted[name] == version for name, version in installed), (
            "those that the tests ran with"
        )
        assert compose["services"]["mlflow"]["image"].endswith(wanted["mlflow"])

    def test_every_secret_comes_from_outside_and_must_be_there(
        self, compose: dict[str, Any]
    ) -> None:
        secret = re.compile("PASSWORD|SECRET|KEY|TOKEN")
        found = {
            name: value
            for service in compose["services"].values()
            for name, value in service["environment"].items()
            if secret.search(name)
        }
        assert len(found) == 4 and all(
            re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value) for value in found.values()
        ), found
        text = (REPO / "docker-compose.yml").read_text() + (
            REPO / "deploy" / "basic_auth.ini"
        ).read_text()
        assert "://" not in re.sub(
            r"http://(localhost|127\.0\.0\.1):5000|postgresql\+psycopg2:///mlflow", "", text
        )
        assert not re.search(r"^admin_password", text, re.MULTILINE)

    def test_every_port_is_this_machines_only(self, compose: dict[str, Any]) -> None:
        ports = [
            port for service in compose["services"].values() for port in service.get("ports", ())
        ]
        assert ports == ["127.0.0.1:5000:5000"] and compose["networks"]["inner"] == {
            "internal": True
        }
        assert compose["services"]["postgres"]["networks"] == ["inner"]
        assert not any("network_mode" in service for service in compose["services"].values())

    def test_it_comes_back_and_can_be_watched(self, compose: dict[str, Any]) -> None:
        for service in compose["services"].values():
            assert (
                service["restart"] == "unless-stopped"
                and service["healthcheck"]["test"][0] == "CMD"
            )

    def test_the_server_is_started_as_the_tests_start_it(
        self, compose: dict[str, Any], tmp_path: Path
    ) -> None:
        def flags(command: list[str]) -> set[str]:
            return {word.partition("=")[0] for word in command if word.startswith("--")}

        command = compose["services"]["mlflow"]["command"]
        assert flags(command) == flags(TeamServer(tmp_path, None).command())
        assert "--app-name=basic-auth" in command and "--disable-security-middleware" not in command
        assert (
            "default_permission = NO_PERMISSIONS"
            in (REPO / "deploy" / "basic_auth.ini").read_text()
        )
