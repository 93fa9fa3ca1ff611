"""`slurmext model` as real users of this machine, over the daemon's socket: the kernel says who asks."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurmext.daemon.query_server import QueryServer
from slurmext.service.models import ModelRequests
from slurmext.service.query import Queries
from slurmext.testing.memory_store import MemoryStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
ANN, EVE = "nobody", "daemon"

# The interpreter may stand where only root can read: load everything first, then become the user.
AS_USER = """
import importlib, json, os, pwd, sys
for name in ("cli.model", "cli.model_files", "cli.model_follow", "adapters.query_client", "staging.importer"):
    importlib.import_module(f"slurmext.{name}")
import concurrent.futures.thread, pickle, rich.box, rich.console, rich.table
from click.testing import CliRunner
from slurmext.cli.main import cli
from slurmext.config.site import load_site
load_site()
user = pwd.getpwnam(sys.argv[1])
os.initgroups(user.pw_name, user.pw_gid)
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
done = [CliRunner().invoke(cli, ["model", *words]) for words in json.loads(sys.argv[2])]
print(json.dumps([[one.exit_code, one.output or repr(one.exception)] for one in done]))
"""


class Host:
    """A daemon's socket, and shared storage beside it."""

    def __init__(self, room: Path) -> None:
        self.room, self.store = room, MemoryStore()
        (room / "run").mkdir()
        (room / "site.yaml").write_text(
            f"version: 1\ncluster: t\nrun_dir: {room}/run\ndaemon: {{address: 'localhost:1', listen: 'localhost:1'}}\n"
        )
        models = ModelRequests(store=self.store)
        self.server = QueryServer(room / "run" / "daemon.sock", Queries(store=self.store), models=models)

    def run(self, user: str, *commands: str) -> list[tuple[int, str]]:
        """Exit code and output of each command, all run by this user."""
        words = [sys.executable, "-c", AS_USER, user, json.dumps([command.split() for command in commands])]
        environment = {**os.environ, "SLURMEXT_CONF": str(self.room / "site.yaml")}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [(code, output) for code, output in json.loads(done.stdout)]

    def weights(self, name: str, user: str, mode: int) -> Path:
        """A model's directory of this user's."""
        path = self.room / name
        path.mkdir(mode=mode)
        (path / "weights.bin").write_bytes(os.urandom(100_000))
        (path / "weights.bin").chmod(mode & 0o666)
        for each in (path, path / "weights.bin"):
            os.chown(each, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        return path


@pytest.fixture
def host() -> Iterator[Any]:
    room = Path(tempfile.mkdtemp(prefix="slurmext-models-"))  # pytest's own folders are closed to other users
    room.chmod(0o755)
    made = Host(room)
    with made.server:
        yield made
    shutil.rmtree(room)


def test_a_users_model_is_his_own(host: Host) -> None:
    """Imported, listed and checked with his rights; another user neither sees, reads nor changes it."""
    private = host.weights("private", ANN, 0o700)
    half = host.weights("half", EVE, 0o755)
    (half / "more").mkdir(mode=0o700)
    secret = host.weights("secret", "root", 0o700)
    for code, output in host.run(ANN, f"import {private} ann/m@v1", "list", "verify ann/m", "show ann/m --json"):
        assert code == 0, output
    [entry] = host.store.models.models()
    assert (entry.owner, entry.uid, entry.storage) == (ANN, pwd.getpwnam(ANN).pw_uid, str(private))
    told = host.run(
        EVE, "list", "show ann/m", "where ann/m", "verify ann/m", "remove -i ann/m@v1", "share ann/m --public",
        f"import {private} eve/m", f"import {secret} eve/m", f"import {half} eve/m", f"import {host.room}/run/daemon.sock eve/m",
    )  # fmt: skip
    assert told[0] == (0, "no model is registered that you may read ('slurmext model import --help')\n")
    assert all(code == 1 and output.startswith("slurmext: ") for code, output in told[1:]), told
    assert all("no model 'ann/m" in output for _, output in told[1:6])
    assert host.store.models.models() == [entry]
    [(code, _), (_, listed)] = host.run(ANN, "share ann/m --public", "list -nP -o Reference,ReadBy")
    assert code == 0 and listed == "ann/m@v1|everyone\n"
    [(_, seen), (code, output)] = host.run(EVE, "list -nP -o Reference,Owner", "remove -i ann/m@v1")
    assert seen == f"ann/m@v1|{ANN}\n" and code == 2 and f"only {ANN} and root" in output


def test_what_a_user_claims_to_be_does_not_count(host: Host) -> None:
    """Arguments that look like an identity change nothing: the uid is the kernel's."""
    path = host.weights("m", ANN, 0o755)
    host.run(ANN, f"import {path} ann/m@v1")
    code = (
        "import json, os, socket, sys\n"
        "os.setgid(1); os.setuid(1)\n"
        "for op in ('models', 'model_show', 'model_remove'):\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "    args = {'model': 'ann/m@v1', 'uid': 0, 'user': None, 'sees_all': True}\n"
        "    s.sendall(json.dumps({'op': op, 'args': args, 'uid': 0}).encode() + b'\\n'); print(s.makefile().readline())\n"
    )
    socket = host.room / "run" / "daemon.sock"
    done = subprocess.run([sys.executable, "-c", code, str(socket)], capture_output=True, text=True, check=True)
    listed, shown, removed = (json.loads(line) for line in done.stdout.split("\n\n") if line)
    assert listed["answer"] == {"models": []}
    assert not shown["ok"] and not removed["ok"]
    assert len(host.store.models.models()) == 1
