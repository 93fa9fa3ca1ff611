"""`slurmext model` on a living cluster: two ordinary users and root, real agents, private files."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurmext.devcluster import ClusterSpec, Devcluster
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# The interpreter may stand where only root can read: load everything first, then become the user.
AS_USER = """
import importlib, json, os, pwd, sys
for name in ("cli.model", "cli.model_files", "cli.model_follow", "cli.history", "cli.daemon",
             "adapters.query_client", "staging.importer"):
    importlib.import_module(f"slurmext.{name}")
import ClusterShell.NodeSet, concurrent.futures.thread, pickle, rich.box, rich.console, rich.table
from click.testing import CliRunner
from slurmext.cli.main import cli
from slurmext.config.site import load_site
load_site()
user = pwd.getpwnam(sys.argv[1])
os.initgroups(user.pw_name, user.pw_gid)
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
for line in sys.stdin:
    done = CliRunner().invoke(cli, json.loads(line))
    told = done.output if done.exception is None or isinstance(done.exception, SystemExit) else repr(done.exception)
    print(json.dumps([done.exit_code, done.stdout, told]), flush=True)
"""
FORGE = """
import sys
from pathlib import Path
from slurmext.cli.model_files import upload
from slurmext.cli.session import Session
from slurmext.staging.importer import import_model
import slurmext.adapters.query_client
import os, pwd
path, name = sys.argv[1:]
manifest = import_model(Path(path), name, "v1").manifest  # as root, who has told bob what is in it
session = Session(uid=1)
session.site
user = pwd.getpwnam("bob")
os.initgroups("bob", user.pw_gid); os.setgid(user.pw_gid); os.setuid(user.pw_uid)
fingerprint = upload(session, manifest)
session.ask("model_register", fingerprint=fingerprint, storage=path)
"""
MIB = 1 << 20


class Site:
    """The cluster, `slurmext model` in it, and storage that all nodes see."""

    def __init__(self, cluster: Devcluster) -> None:
        self.cluster = cluster
        self.storage = cluster.dir / "models-on-storage"
        self.storage.mkdir(mode=0o755)
        self.people: dict[str, subprocess.Popen[str]] = {}

    def run(self, user: str, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output, and that with standard error."""
        if user not in self.people:
            environment = self.cluster.environment(None)
            self.people[user] = subprocess.Popen(
                [sys.executable, "-P", "-c", AS_USER, user], env=environment, cwd=self.cluster.dir, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        program = self.people[user]
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(json.dumps(words) + "\n")
        program.stdin.flush()
        code, out, told = json.loads(program.stdout.readline())
        return code, out, told

    def close(self) -> None:
        for program in self.people.values():
            program.communicate(timeout=20)

    def out(self, user: str, *words: str) -> str:
        code, out, told = self.run(user, "model", *words)
        assert code == 0, told
        return out

    def refused(self, user: str, *words: str) -> str:
        code, _, told = self.run(user, "model", *words)
        assert code in {1, 2}, told
        assert "slurmext: " in told, told
        return told

    def where(self, reference: str) -> dict[str, tuple[str, str]]:
        rows = json.loads(self.out("root", "where", reference, "--json"))
        return {row["node"]: (row["state"], ",".join(row["pins"])) for row in rows if row["tier"] == "memory"}

    def weights(self, name: str, user: str, *, mib: int = 24) -> Path:
        """A model's directory that this user alone may enter."""
        path, owner = self.storage / name, pwd.getpwnam(user)
        path.mkdir(mode=0o700)
        length = mib * MIB
        head = json.dumps({"w": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}}).encode()
        (path / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + os.urandom(length))
        for each in (path, path / "model.safetensors"):
            os.chown(each, owner.pw_uid, owner.pw_gid)
        return path

    def staged(self, node: str, reference: str) -> Path:
        """Where a node has it."""
        name, _, revision = reference.partition("@")
        return self.cluster.layout.memory / node / name.replace("/", "--") / revision / "model.safetensors"

    def reads(self, user: str, path: Path) -> bool:
        return self.cluster.run(["/usr/bin/test", "-r", str(path)], user=user, check=False).returncode == 0


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd runs jobs as their users")
    limits = {"staging": {"user_node_gib": 40 / 1024}}
    spec = ClusterSpec(name=f"test-models-{os.getpid()}", nodes=2, users=("alice", "bob"), site=limits)
    with Devcluster.up(spec) as cluster:
        made = Site(cluster)
        until(lambda: len(json.loads(made.run("root", "daemon", "status", "--json")[1])["agents"]) == 2)
        yield made
        made.close()


def test_a_model_of_alices_from_import_to_removal(site: Site) -> None:
    """She registers, stages, shares, pins, checks and removes it; bob sees and reads what she lets him, no more."""
    path = site.weights("alices", "alice")
    assert "24.0 MiB" in site.out("alice", "import", str(path), "team/m@v1")
    assert "is on 2 of 2 nodes" in site.out("alice", "stage", "team/m", "-w", "n[1-2]", "--wait", "--timeout", "30")
    copy = site.staged("n1", "team/m@v1")
    assert copy.read_bytes() == (path / "model.safetensors").read_bytes()
    assert site.reads("alice", copy) and not site.reads("bob", copy)
    for words in ("show team/m", "verify team/m", "stage team/m -w n1", "remove -i team/m@v1", "share team/m --public",
                  "evict team/m"):  # fmt: skip
        assert "there is no model" in site.refused("bob", *words.split())
    assert "cannot be read here" in site.refused("bob", "import", str(path), "bob/m")
    assert site.out("bob", "list", "-nP") == ""
    assert "another user's" in site.refused("bob", "import", str(site.weights("bobs", "bob", mib=1)), "team/m@v2")

    site.out("alice", "share", "team/m", "--public")
    assert site.out("bob", "list", "-nP", "-o", "Reference,Owner,ReadBy") == "team/m@v1|alice|everyone\n"
    until(lambda: site.reads("bob", copy))
    assert "only alice and root" in site.refused("bob", "evict", "team/m")
    site.out("alice", "share", "team/m", "--private")
    until(lambda: not site.reads("bob", copy))

    site.out("alice", "pin", "team/m", "-w", "n1")
    until(lambda: site.where("team/m")["n1"] == ("complete", "admin"))
    assert "n1 keeps it: held by admin" in site.refused("alice", "evict", "team/m")
    until(lambda: site.where("team/m").keys() == {"n1"})
    with copy.open("r+b") as file:
        file.seek(9 * MIB)
        file.write(b"flipped by a cosmic ray")
    site.out("alice", "verify", "team/m", "-w", "n1")
    until(lambda: copy.read_bytes() == (path / "model.safetensors").read_bytes())
    until(lambda: site.where("team/m")["n1"][0] == "complete")

    site.out("root", "unpin", "team/m")
    assert "is forgotten" in site.out("alice", "remove", "-i", "team/m@v1")
    until(lambda: not copy.exists())
    assert (path / "model.safetensors").exists()
    assert site.out("root", "list", "-nP") == ""
    _, history, _ = site.run("root", "history", "--json")
    assert "alice registered team/m@v1" in history and "alice removed team/m@v1" in history


def test_nobody_has_anothers_files_read_for_him(site: Site) -> None:
    """Bob knows what alice's private file consists of, registers that over her path, and gets nothing staged."""
    path = site.weights("secret", "alice", mib=2)
    site.cluster.run([sys.executable, "-P", "-c", FORGE, str(path), "bob/stolen"])
    code, out, _ = site.run("bob", "model", "stage", "bob/stolen", "-w", "n1", "--wait", "--timeout", "5", "--json")
    assert code == 1
    [row] = json.loads(out)["replicas"]
    assert row.get("ready_bytes", 0) == 0 and row["state"] != "complete"
    site.out("alice", "import", str(path), "alice/hers@v1")
    site.out("alice", "stage", "alice/hers", "-w", "n1", "--wait", "--timeout", "30")
    # It is there now, chunk by chunk what bob's claims to be: none of it becomes his.
    _, out, _ = site.run("bob", "model", "stage", "bob/stolen", "-w", "n1", "--wait", "--timeout", "4", "--json")
    assert json.loads(out)["replicas"][0].get("ready_bytes", 0) == 0
    site.out("bob", "remove", "-i", "bob/stolen@v1")
    site.out("alice", "remove", "-i", "alice/hers@v1")


def test_a_users_models_fill_no_node(site: Site) -> None:
    """40 MiB on each node here: a second model is refused there until the first is gone, root's is not."""
    for name in ("one", "two"):
        site.out("bob", "import", str(site.weights(name, "bob")), f"bob/{name}@v1")
    site.out("bob", "stage", "bob/one", "-w", "n1", "--wait", "--timeout", "30")
    assert "may take 40 MiB" in site.refused("bob", "pin", "bob/two", "-w", "n1")
    site.out("bob", "evict", "bob/one")
    until(lambda: site.where("bob/one") == {})
    site.out("bob", "stage", "bob/two", "-w", "n1", "--wait", "--timeout", "30")
    common = site.weights("common", "root", mib=64)
    site.out("root", "import", str(common), "site/common", "--public")
    assert "is on 2 of 2" in site.out("root", "pin", "site/common", "-w", "n1,n2", "--wait", "--timeout", "30")
    for name in ("bob/one@v1", "bob/two@v1"):
        site.out("bob", "remove", "-i", name)
