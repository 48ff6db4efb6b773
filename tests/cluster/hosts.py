"""Hosts on this machine: each with a network address, processes, mounts, a home and an ssh server
of its own.

A host is a network namespace on a bridge, and in it a PID and a mount namespace whose first process
is sshd. What Ray does there it does as on a machine: ``ray stop`` sees the host's processes only,
and killing the first process is pulling the plug. A folder of this machine, mounted in each host,
stands for NFS.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent.parent
SHARED = Path("/mnt/suite")  # where the shipped cluster file has it
PACKAGES = ("openssh-server", "libwrap0", "rsync", "libpopt0")
BOOT = """
set -e
mount --make-rprivate /
hostname {name}
for folder in /run /dev/shm /tmp/ray; do mount -t tmpfs tmpfs $folder; done
mkdir /run/sshd
mount --bind {passwd} /etc/passwd
if [ -n "{shared}" ]; then mount --bind {shared} {mounted}; else mount -t tmpfs tmpfs {mounted}; fi
exec {sshd} -D -e -f {config}
"""


def why_not() -> str:
    """What speaks against hosts on this machine, "" where nothing does."""
    if not os.environ.get("SUITE_CLUSTER"):
        return "takes minutes: run by `make cluster`"
    if os.geteuid() != 0:
        return "hosts in namespaces need root"
    for command in ("ip", "unshare", "ssh", "ssh-keygen"):
        if shutil.which(command) is None:
            return f"hosts in namespaces need `{command}`"
    if (
        subprocess.run(
            ["unshare", "--pid", "--fork", "--mount", "--net", "true"], check=False
        ).returncode
        != 0
    ):
        return "this machine allows no namespaces"
    return ""


def tools() -> Path:
    """A folder with sshd and rsync; fetched from the distribution, but not installed.

    Raises:
        pytest.skip: neither there nor to be fetched.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "suite-test-sshd"
    if not (folder / "usr/sbin/sshd").exists():
        draft = folder.with_name(f"{folder.name}-{os.getpid()}")
        draft.mkdir(parents=True)
        fetched = subprocess.run(
            ["apt-get", "download", "-qq", *PACKAGES], cwd=draft, capture_output=True, check=False
        )
        if fetched.returncode != 0:
            shutil.rmtree(draft)
            pytest.skip("no sshd and rsync: apt-get cannot download them")
        for package in draft.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, draft], check=True)
        draft.rename(folder)
    return folder


def packages() -> Path:
    """A folder with what ``requirements-cluster.txt`` adds: a dashboard's server, without which Ray
    takes no jobs.

    Raises:
        pytest.skip: neither there nor to be installed.
    """
    wanted = REPO / "requirements-cluster.txt"
    kind = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = (
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        / f"suite-test-cluster-{kind}"
    )
    if not folder.exists():
        draft = folder.with_name(f"{folder.name}-{os.getpid()}")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--target",
            str(draft),
            "-r",
            str(wanted),
        ]
        if subprocess.run(pip, capture_output=True, check=False).returncode != 0:
            shutil.rmtree(draft, ignore_errors=True)
            pytest.skip("requirements-cluster.txt cannot be installed")
        draft.rename(folder)
    return folder


def make_venv(venv: Path, *more: Path) -> None:
    """An environment with this machine's packages, those of ``packages`` and folders: what
    set-up would install.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "all.pth").write_text(
        "\n".join(map(str, (sysconfig.get_path("purelib"), packages(), *more))) + "\n"
    )


class Host:
    """One host; made by ``Network.host``."""

    def __init__(self, network: Network, name: str, number: int, shared: bool) -> None:
        self.network, self.name = network, name
        self.namespace = f"{network.prefix}{number}"
        self.address = f"{network.subnet}.{number + 1}"
        self.home = network.folder / f"home-{number}-{name}"  # tests reuse names
        self.shared = shared
        self.process: subprocess.Popen[bytes] | None = None
        network.ip("netns", "add", self.namespace)
        network.ip(
            "link",
            "add",
            self.link,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self.namespace,
        )
        network.ip("link", "set", self.link, "master", network.bridge, "up")
        for command in (
            ("addr", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
            (
                "route",
                "add",
                "default",
                "via",
                f"{network.subnet}.1",
            ),  # by its way out Ray finds a host's address
        ):
            network.ip("-n", self.namespace, *command)
        self._make_home()

    @property
    def link(self) -> str:
        """The host's cable, on this machine's side."""
        return f"v{self.namespace}"

    def start(self) -> None:
        """Switch it on; its home is what it was."""
        network, folder = self.network, self.network.folder
        passwd = network.passwd(self.name, self.home)
        config = folder / f"sshd-{self.name}"
        environment = " ".join(
            f"{name}={value}" for name, value in network.session_environment(self).items()
        )
        config.write_text(
            f"ListenAddress {self.address}\nHostKey {folder / 'host_key'}\nPidFile none\nUsePAM "
            "no\nStrictModes no\n"
            f"PermitRootLogin yes\nAuthorizedKeysFile {folder / 'key.pub'}\nSetEnv "
            f"{environment}\nUseDNS no\n"
        )
        boot = folder / f"boot-{self.name}"
        shared = network.shared if self.shared else ""
        sshd = network.tools / "usr/sbin/sshd"
        boot.write_text(
            BOOT.format(
                name=self.name,
                passwd=passwd,
                shared=shared,
                mounted=SHARED,
                sshd=sshd,
                config=config,
            )
        )
        with (folder / f"sshd-{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "ip",
                    "netns",
                    "exec",
                    self.namespace,
                    "unshare",
                    "--pid",
                    "--fork",
                    "--mount",
                    "--uts",
                    "--mount-proc",
                    "--kill-child",
                    "bash",
                    boot,
                ],
                env=os.environ | network.library_path,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._wait_for_ssh()

    def pull_the_plug(self) -> None:
        """Everything that runs there ends at once; the home stays, as a disk does."""
        assert self.process is not None
        if self.process.poll() is None:
            os.kill(
                self.process.pid, signal.SIGKILL
            )  # `ip netns exec` became unshare, whose end kills the namespace
            self.process.wait()

    def cut(self) -> None:
        """Pull the network cable."""
        self.network.ip("link", "set", self.link, "down")

    def heal(self) -> None:
        """Put the cable back."""
        self.network.ip("link", "set", self.link, "up")

    def slow_down(self, rate: str = "2mbit", queue: str = "300ms") -> None:
        """A slow, lossy cable in both directions: what does not fit into its queue is dropped.

        ``tc netem`` would delay and drop at random, but is not in every kernel.
        """
        bucket = ("root", "tbf", "rate", rate, "burst", "16kb", "latency", queue)
        for command in (
            (
                "ip",
                "netns",
                "exec",
                self.namespace,
                "tc",
                "qdisc",
                "replace",
                "dev",
                "eth0",
                *bucket,
            ),
            ("tc", "qdisc", "replace", "dev", self.link, *bucket),
        ):
            self.network._run(*command)

    def dropped(self) -> int:
        """Packets that a slow cable lost."""
        found = ""
        for command in (
            ["ip", "netns", "exec", self.namespace, "tc", "-s", "qdisc", "show", "dev", "eth0"],
            ["tc", "-s", "qdisc", "show", "dev", self.link],
        ):
            found += subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return sum(int(count) for count in re.findall(r"dropped (\d+)", found))

    def processes(self, word: str) -> list[str]:
        """Command lines of this host's processes that contain ``word``."""
        assert self.process is not None
        first = next(iter(_children(self.process.pid)), None)
        found = subprocess.run(
            ["nsenter", "--target", str(first), "--pid", "--mount", "ps", "-eo", "args"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return [line for line in found.stdout.splitlines() if word in line and "ps -eo" not in line]

    def _wait_for_ssh(self) -> None:
        end = time.monotonic() + 20
        while (
            subprocess.run(
                self.network.ssh(self, "true"), capture_output=True, check=False
            ).returncode
            != 0
        ):
            assert time.monotonic() < end, (
                self.network.folder / f"sshd-{self.name}.log"
            ).read_text()[-2000:]
            time.sleep(0.2)

    def _make_home(self) -> None:
        """A home with what the cluster file's set-up would have installed: this machine's
        packages.
        """
        self.home.mkdir()
        venv = self.home / "suite-venv"
        make_venv(venv, self.home / "suite")
        for script, module, function in (
            ("ray", "ray.scripts.scripts", "main"),
            ("mlflow", "mlflow.cli", "cli"),
        ):
            file = venv / "bin" / script
            code = (
                f"#!{venv}/bin/python\nimport sys\nfrom {module} import "
                f"{function}\nsys.exit({function}())\n"
            )
            file.write_text(code)
            file.chmod(0o755)
        (self.home / ".bashrc").write_text(f"export PATH={self.network.tools}/usr/bin:$PATH\n")
        wanted = (REPO / "requirements.txt").read_text() + (
            REPO / "requirements-cluster.txt"
        ).read_text()
        (venv / "installed").write_text(wanted)


class Network:
    """A bridge with hosts on it, and a client that starts clusters on them.

    Args:
        folder: for homes, keys, logs and the shared folder.
        environment: of every ssh session on every host.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.environment = folder, dict(environment or {})
        self.tools = tools()
        number = (
            next(
                one
                for one in range(os.getpid(), os.getpid() + 200)
                if not _in_use(f"sh{one % 200}x")
            )
            % 200
        )
        self.prefix, self.subnet = f"sh{number}x", f"10.{number + 20}.0"
        self.bridge = f"{self.prefix}b"
        self.hosts: list[Host] = []
        self.shared = folder / "shared"
        self.client = folder / "home-client"
        for made in (
            self.shared,
            self.client / ".ssh",
            self.client / ".ray",
            folder / "ray",
            SHARED,
            Path("/tmp/ray"),
        ):
            made.mkdir(parents=True, exist_ok=True)
        make_venv(self.client / "venv")
        self.python = str(self.client / "venv/bin/python")  # of the one who starts clusters
        for key in ("host_key", "key"):
            self._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
        shutil.copy(folder / "key", self.client / ".ssh/id_ed25519")
        token = self.client / ".ray/auth_token"
        token.touch(0o600)
        token.write_text(os.urandom(32).hex())
        self.ip("link", "add", self.bridge, "type", "bridge")
        self.ip("addr", "add", f"{self.subnet}.1/24", "dev", self.bridge)
        self.ip("link", "set", self.bridge, "up")

    def host(self, name: str, shared: bool = True) -> Host:
        """A new host, switched on; ``shared``: whether the shared folder is mounted there."""
        host = Host(self, name, len(self.hosts) + 1, shared)
        self.hosts.append(host)
        host.start()
        return host

    def close(self) -> None:
        """Switch everything off and take it down."""
        for host in self.hosts:
            host.pull_the_plug()
            subprocess.run(["ip", "link", "del", host.link], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "del", host.namespace], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)

    def run(
        self, *command: str, timeout: float = 240, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the one who starts clusters: a home, and Ray's notes about clusters,
        of their own.
        """
        process = self.start(*command, **more)
        try:
            out, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(command, process.returncode, out, "")

    def start(self, *command: str, **more: str) -> subprocess.Popen[str]:
        """The same in the background."""
        passwd = self.passwd("client", self.client)  # ssh takes ~ from there, whatever HOME says
        binds = f"mount --bind {self.folder / 'ray'} /tmp/ray && mount --bind {passwd} /etc/passwd"
        mounts = f'mount --make-rprivate / && {binds} && exec "$@"'
        environment = (
            os.environ
            | self.library_path
            | {
                "HOME": str(self.client),
                "PATH": f"{self.tools}/usr/bin:{os.environ['PATH']}",
                "PYTHONPATH": str(REPO),
                "RAY_UP_enable_autoscaler_v2": "0",
            }
        )
        environment.pop("RAY_ADDRESS", None)
        return subprocess.Popen(
            ["unshare", "--mount", "bash", "-c", mounts, "client", *command],
            cwd=REPO,
            env=environment | more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ray(self, *arguments: str, timeout: float = 240) -> str:
        """Run a Ray command of the client's to its end; it must succeed."""
        done = self.run(self.python, "-m", "ray.scripts.scripts", *arguments, timeout=timeout)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def ssh(self, host: Host, command: str) -> list[str]:
        """The command that runs ``command`` on a host."""
        options = (
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "ConnectTimeout=5",
        )
        return ["ssh", *options, "-i", str(self.folder / "key"), f"root@{host.address}", command]

    def passwd(self, name: str, home: Path) -> Path:
        """A file for /etc/passwd in which root lives in ``home``."""
        own = [
            f"root:x:0:0:root:{home}:/bin/bash",
            "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin",
        ]
        others = [
            line
            for line in Path("/etc/passwd").read_text().splitlines()
            if line[:5] not in ("root:", "sshd:")
        ]
        file = self.folder / f"passwd-{name}"
        file.write_text("\n".join([*own, *others]) + "\n")
        return file

    def session_environment(self, host: Host) -> dict[str, str]:
        """What an ssh session on a host finds in its environment."""
        return {
            "PATH": f"{self.tools}/usr/bin:/usr/local/sbin:/usr/local/bin"
            ":/usr/sbin:/usr/bin:/sbin:/bin",
            **self.library_path,
            **self.environment,
        }

    @property
    def library_path(self) -> dict[str, str]:
        """Where sshd and rsync find the libraries that were fetched with them."""
        return {
            "LD_LIBRARY_PATH": ":".join(
                str(path) for path in sorted(self.tools.glob("*/lib/*-linux-gnu"))
            )
        }

    def ip(self, *arguments: str) -> None:
        """Run ``ip``."""
        self._run("ip", *arguments)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _in_use(prefix: str) -> bool:
    """Whether namespaces of this name are there: of a run that was killed, or of one beside
    this.
    """
    return any(path.name.startswith(prefix) for path in Path("/run/netns").glob("*"))


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in found.split()]
