"""With --dbd: a private MariaDB, slurmdbd's database in it, and an account with every test user."""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import TYPE_CHECKING, Final

from slurmext.devcluster import packages
from slurmext.devcluster.errors import DevclusterError
from slurmext.devcluster.spec import Layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurmext.devcluster.record import Record

ACCOUNT: Final = "team"

_SQL: Final = """
CREATE DATABASE slurm_acct_db;
CREATE USER slurmdbd@127.0.0.1 IDENTIFIED BY 'slurmdbd';
GRANT ALL ON slurm_acct_db.* TO slurmdbd@127.0.0.1;
"""


def initialise(record: Record) -> None:
    """Make an empty database directory."""
    layout = Layout(record.spec.directory)
    owner = pwd.getpwnam("slurm")
    for directory in (layout.state / "mariadb", layout.run / "mariadb"):
        directory.mkdir()
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    _run(
        [packages.required_program("mariadb-install-db"), "--no-defaults", "--user=slurm", "--skip-test-db",
         f"--datadir={layout.state}/mariadb", "--auth-root-authentication-method=socket",
         "--auth-root-socket-user=slurm", "--innodb-log-file-size=32M"],
    )  # fmt: skip


def create_database(record: Record) -> None:
    """Create slurmdbd's database and its user."""
    socket = Layout(record.spec.directory).run / "mariadb/socket"
    client = [packages.required_program("mariadb"), "--no-defaults", f"--socket={socket}", "--user=slurm"]
    _run(client, stdin=_SQL, user="slurm")


def create_associations(record: Record) -> None:
    """Register the cluster, one account, root, SlurmUser (who has the placeholder jobs) and the test users."""
    layout = Layout(record.spec.directory)
    sacctmgr = [str(layout.bin / "sacctmgr"), "-i"]
    _run([*sacctmgr, "add", "cluster", record.spec.name])
    _run([*sacctmgr, "add", "account", ACCOUNT, f"cluster={record.spec.name}"])
    for user in dict.fromkeys(("root", "slurm", *record.spec.users)):
        _run([*sacctmgr, "add", "user", user, f"account={ACCOUNT}", f"cluster={record.spec.name}"])


def _run(command: Sequence[str], *, stdin: str | None = None, user: str | None = None) -> None:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, input=stdin or "", user=user, group=user
    )  # fmt: skip
    if done.returncode != 0 and "Nothing new added" not in done.stdout + done.stderr:
        raise DevclusterError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
