"""Private database servers for tests: started in a directory of their own, by a user that is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S = 60


class ServerMissing(Exception):
    """The server cannot be started here; the message says why."""


def unprivileged(directory: Path, *names: str) -> dict[str, int]:
    """Popen arguments to run as one of these users (neither server starts as root); the directory becomes theirs."""
    if os.geteuid() != 0:
        return {}
    for name in (*names, "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(directory, user.pw_uid, user.pw_gid)
        return {"user": user.pw_uid, "group": user.pw_gid}
    raise ServerMissing(f"no user of {names} to run the server as")


def newest(pattern: str) -> Path | None:
    """The highest version of a versioned installation directory."""
    return max(Path("/").glob(pattern), key=lambda path: [int(n) for n in path.parts if n.isdigit()], default=None)


@contextmanager
def server_directory() -> Iterator[Path]:
    """Short, since a unix socket's path has 107 characters; reachable by the server's user, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(prefix="slurmext-db-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def running(command: list[str], log: Path, who: dict[str, int], ready: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from the moment `ready` succeeds until the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd="/", **who)
    try:
        for _ in range(START_S * 10):
            if subprocess.run(ready, capture_output=True, check=False).returncode == 0:
                break
            if process.poll() is not None:
                raise ServerMissing(f"{command[0]} does not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.1)
        else:
            raise ServerMissing(f"{command[0]} was not ready in {START_S} s: {log.read_text(errors='replace')[-500:]}")
        yield process
    finally:
        # INT, not TERM: on TERM PostgreSQL waits for its clients to leave; MariaDB takes only TERM
        process.send_signal(signal.SIGTERM if "mariadbd" in command[0] else signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def postgresql() -> Iterator[str]:
    """URL prefix of a private PostgreSQL: append a database's name."""
    if find_spec("psycopg") is None:
        raise ServerMissing("psycopg is not installed (pip install 'slurmext[postgres]')")
    initdb = shutil.which("initdb") or newest("usr/lib/postgresql/*/bin/initdb")
    if initdb is None:
        raise ServerMissing("PostgreSQL is not installed (apt install postgresql)")
    programs = Path(initdb).resolve().parent  # a link in PATH leads to where its siblings are
    with server_directory() as directory:
        who = unprivileged(directory, "postgres")
        data = directory / "data"
        subprocess.run(
            [initdb, "-D", data, "-U", "slurmext", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
            check=True,
            capture_output=True,
            cwd="/",
            **who,
        )
        # no TCP at all: the socket lies in a directory of its own, so servers of parallel runs do not meet
        command = [str(programs / "postgres"), "-D", str(data), "-k", str(directory), "-c", "listen_addresses="]
        ready = [str(programs / "pg_isready"), "-q", "-h", str(directory), "-d", "postgres"]
        with running([*command, "-c", "fsync=off"], directory / "log", who, ready):
            yield f"postgresql://slurmext@/{{}}?host={directory}"


@contextmanager
def mariadb() -> Iterator[str]:
    """URL of a private MariaDB with `{}` for the database's name."""
    if find_spec("pymysql") is None:
        raise ServerMissing("pymysql is not installed (pip install 'slurmext[mysql]')")
    mariadbd = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    install = shutil.which("mariadb-install-db")
    if mariadbd is None or install is None:
        raise ServerMissing("MariaDB is not installed (apt install mariadb-server)")
    with server_directory() as directory:
        who = unprivileged(directory, "mysql")
        data, socket = directory / "data", directory / "socket"
        subprocess.run(
            [
                install,
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            check=True,
            capture_output=True,
            cwd="/",
            **who,
        )
        command = [mariadbd, "--no-defaults", f"--datadir={data}", f"--socket={socket}", "--skip-networking"]
        fast = ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M", f"--pid-file={directory}/pid"]
        ready = ["mariadb-admin", "--no-defaults", f"--socket={socket}", "-uroot", "ping"]
        with running([*command, *fast], directory / "log", who, ready):
            yield f"mariadb://root@localhost/{{}}?unix_socket={socket}"
