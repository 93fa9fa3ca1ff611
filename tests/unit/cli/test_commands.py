"""The commands as their users type them: what they print, and their exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
import pytest

from slurmext.cli import completing
from slurmext.cli import main as entry
from slurmext.cli.base import Command, program
from slurmext.cli.session import Session
from slurmext.daemon.query_server import QueryServer
from slurmext.errors import StoreUnavailable
from slurmext.service.query import Queries
from slurmext.testing.memory_store import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

    from slurmext.config.site import SiteConfig

    from .conftest import Run


def test_queue_list_counts_gpus_of_the_queues_below(run: Run) -> None:
    """used, borrowed and waiting, in GPUs."""
    result = run("queue", "list", "-nP", "-o", "Queue,Guaranteed,Max,Used,Borrowed,Pending,PendingGPUs")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "research|16|32|24|8|1|8",
        "research/nlp|8|-|24|16|1|8",
        "research/vision|8|-|0|0|0|0",
        "prod|16|32|0|0|3|18",
    ]


def test_tables_have_a_header_unless_told_otherwise(run: Run) -> None:
    """-n takes it away; a table that is not on a terminal has no colour and is not cut."""
    with_header, without = run("job", "list").output, run("job", "list", "-n").output
    assert "JobID" in with_header
    assert "JobID" not in without
    assert "\x1b" not in with_header
    assert "train [red]x" in with_header  # a job's name is no markup


@pytest.mark.parametrize(
    ("words", "said", "where"),
    [
        (("slice", "history", "--limit", "0"), "invalid value for '--limit': 0 is not in the range x>=1.", "slice history"),
        (("ckpt", "why"), "missing argument 'JOB'.", "ckpt why"),
        (("completion",), "missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish.", "completion"),
        (("ckpt", "lst"), "there is no command 'lst'; did you mean 'list'?", "ckpt"),
    ],
)  # fmt: skip
def test_a_mistyped_command_line_is_one_line_and_exit_code_2(
    run: Run, words: tuple[str, ...], said: str, where: str
) -> None:
    """What is wrong, and where the right way stands; the name of the program is that of the test runner here."""
    done = run(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"slurmext: {said} See 'cli {where} --help'\n"
    before = run("--nope")
    assert (before.exit_code, len(before.stderr.splitlines()), "--nope" in before.stderr) == (2, 1, True)


def test_json_has_every_field_or_the_chosen_ones(run: Run) -> None:
    """--json with and without -o."""
    whole = json.loads(run("job", "list", "--json").output)
    assert whole[0]["job_id"] == "40"
    assert "message" in whole[0]
    assert json.loads(run("job", "list", "--json", "-o", "JobID,State").output)[0] == {
        "job_id": "40",
        "state": "running",
    }


@pytest.mark.parametrize(
    ("arguments", "jobs"),
    [
        (["--queue", "research"], "40 41 42"),
        (["--state", "pending"], "42 57 60_1 60_2"),
        (["-u", "bob"], "40 41"),
        (["--all"], "40 40 41 42 57 60_1 60_2"),
        (["--all", "--since", "1h"], "40 41 42 57 60_1 60_2"),
        (["--queue", "resear"], ""),
    ],
)
def test_job_list_is_filtered(run: Run, arguments: list[str], jobs: str) -> None:
    """By queue (and below), state, user, ended."""
    assert run("job", "list", "-nP", "-o", "JobID", *arguments).output.split() == jobs.split()


def test_explain_says_why_a_job_waits_and_what_must_happen(run: Run) -> None:
    """Reason, message, meaning, and who is leaving for it."""
    said = run("job", "explain", "57").output
    assert "RECLAIMING: 4 of 16 GPUs are still in use" in said
    assert "job 41 of queue research/nlp (4 GPUs) is leaving for it: signalled 11 s ago" in said


def test_explain_tells_a_victim_who_took_what_why_and_what_was_lost(run: Run) -> None:
    """Ledger, checkpoint and timeline."""
    said = run("job", "explain", "41").output
    assert "4 GPUs from research/nlp to prod for job 55" in said
    assert "lost 2 min of GPU time; checkpoint confirmed, signalled 11 s before" in said
    assert "step 300" in said
    assert "in /ckpt/41" in said
    assert "evict.signalled" in said


def test_explain_names_the_parts_of_an_array(run: Run) -> None:
    """`60` is no job of its own."""
    result = run("job", "explain", "60")
    assert result.exit_code == 1
    assert "60_1, 60_2" in result.output


def test_explain_as_data_has_the_words_too(run: Run) -> None:
    """--json."""
    found = json.loads(run("job", "explain", "42", "--json").output)
    assert found["job"]["reason"] == "BEHIND_IN_QUEUE"
    assert found["remedy"]


def test_queue_tree_and_explain_read_as_sentences(run: Run) -> None:
    """Structure and entitlement."""
    assert run("queue", "tree").output.splitlines()[1].startswith("├─ nlp  uses 24 of 8 guaranteed")
    assert "so 8 are borrowed and may be reclaimed" in run("queue", "explain", "research").output


def test_history_and_checkpoints_can_be_narrowed(run: Run) -> None:
    """By job, kind and time."""
    assert run("history", "--kind", "evict", "-nP", "-o", "JobID").output == "41\n"
    assert run("history", "--since", "1h", "--kind", "checkpoint", "-nP", "-o", "JobID").output == "41\n"
    assert run("ckpt", "list", "--job", "41", "-nP", "-o", "Path").output == "/ckpt/41\n"


def test_a_kind_of_which_nothing_happened_is_told_with_those_that_did(run: Run) -> None:
    """It may be mistyped."""
    said = run("history", "--kind", "evicted").output
    assert "nothing of kind 'evicted' happened; what did is of kind checkpoint, evict, policy" in said
    assert run("history", "--kind", "evicted", "--json").output == "[]\n"
    assert "nothing of kind 'x' happened\n" in run("history", "--kind", "x", "--job", "60_1").output


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("queue lst", 2, "did you mean 'list'?"),
        ("queu list", 2, "did you mean 'queue'?"),
        ("queue show reserch", 2, "did you mean 'research'?"),
        ("queue explain nowhere", 2, "queues: research"),
        ("job explain 999", 1, "no job '999' is known"),
        ("job list -o Nmae", 2, "did you mean 'Name'?"),
        ("job list --json -P", 2, "exclude each other"),
        ("job list --since yesterdayish", 2, "is no time; for example 2h"),
        ("job list --state runing", 2, "'running'"),
        ("queue set research max", 2, "write KEY=VALUE"),
        ("queue set research max=1 max=2", 2, "given twice"),
        ("queue set research mx=1", 2, "did you mean 'max'?"),
        ("queue set reserch max=40", 2, "did you mean 'research'?"),
        ("queue set research max=8", 1, "8 is below guaranteed 16"),
        ("queue set research max=40", 2, "add -i to go ahead"),
        ("policy check /nonexistent.yaml", 2, "cannot be read"),
        ("policy export --version 9", 2, "there is no policy version 9; the newest is 1"),
        ("history --job 999", 1, "no job '999' is known"),
    ],
)
def test_mistakes_are_answered_with_a_remedy(run: Run, line: str, code: int, message: str) -> None:
    """One line on standard error, exit code 2 for the command line and 1 for the rest."""
    result = run(*line.split())
    assert (result.exit_code, message in result.stderr) == (code, True), result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("line", ["queue set research max=40 -i", "policy apply -i {file}", "snapshot save x.json"])
def test_others_than_root_change_nothing(run: Run, store: MemoryStore, tmp_path: Path, line: str) -> None:
    """Refused as a usage error that says to use sudo."""
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\nqueues: {a: {}}\n")
    result = run(*line.format(file=file).split(), uid=65534)
    assert (result.exit_code, "sudo" in result.stderr) == (2, True)
    assert len(store.policy_versions()) == 1


def test_without_daemon_only_root_gets_answers(run: Run) -> None:
    """Everybody else is told that the daemon does not answer."""
    result = run("job", "list", uid=65534, store=None)
    assert result.exit_code == 1
    assert "slurmextd does not answer" in result.stderr


def test_a_lost_database_is_one_line(run: Run, store: MemoryStore) -> None:
    """No traceback."""
    store.down = True
    for line in ("queue list", "job explain 41", "policy export", "queue set research max=40 -i"):
        result = run(*line.split())
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
    assert StoreUnavailable


def test_snapshot_save_refuses_to_replace_a_file(run: Run, tmp_path: Path) -> None:
    """Checked before anything is read from Slurm, or with --force replaced."""
    file = tmp_path / "x.json"
    file.write_text("mine")
    result = run("snapshot", "save", str(file))
    assert result.exit_code in {1, 2}
    assert file.read_text() == "mine"


class TestDaemonStatus:
    """`daemon status` is what monitoring calls: 0 healthy, 1 not."""

    def test_a_daemon_that_answers_and_cycles_is_healthy(
        self, run: Run, site: SiteConfig, store: MemoryStore, seeded: SimpleNamespace
    ) -> None:
        """Lease, heartbeat, last cycle and agents, and nothing to complain about."""
        (site.run_dir / "heartbeat").write_text(f"{int(seeded.now) - 2}")
        live = {"status": lambda: {"cycle": {"at_s": seeded.now - 1, "took_s": 0.02, "error": None}, "agents": ["n1"]}}
        with QueryServer(site.run_dir / "daemon.sock", Queries(store=store, now=lambda: seeded.now, live=live)):
            result = run("daemon", "status")
        assert result.exit_code == 0, result.output
        for line in ("ctl:1, token 1", "Heartbeat:      2 s ago", "took 20 ms", "1 connected: n1"):
            assert line in result.output

    @pytest.mark.parametrize(
        ("cycle", "problem"),
        [
            ({"at_s": 0.0, "error": "slurmctld does not answer"}, "the last cycle failed: slurmctld does not answer"),
            ({"at_s": -100.0, "error": None}, "the last cycle was 1 min 40 s ago"),
        ],
    )
    def test_a_daemon_whose_cycles_fail_is_not(
        self, run: Run, site: SiteConfig, store: MemoryStore, seeded: SimpleNamespace, *, cycle: Any, problem: str
    ) -> None:
        """It answers, but decides nothing."""
        (site.run_dir / "heartbeat").write_text(f"{int(seeded.now) - 2}")
        live = {"status": lambda: {"cycle": {**cycle, "at_s": seeded.now + cycle["at_s"]}, "agents": []}}
        with QueryServer(site.run_dir / "daemon.sock", Queries(store=store, now=lambda: seeded.now, live=live)):
            result = run("daemon", "status")
        assert (result.exit_code, problem in result.stderr) == (1, True), result.output

    def test_a_daemon_that_does_not_answer_is_not(self, run: Run, site: SiteConfig, seeded: SimpleNamespace) -> None:
        """Killed a moment ago: lease and heartbeat still look fresh."""
        (site.run_dir / "heartbeat").write_text(f"{int(seeded.now) - 2}")
        result = run("daemon", "status")
        assert (result.exit_code, "slurmextd does not answer" in result.stderr) == (1, True)

    def test_an_old_heartbeat_is_not(self, run: Run, site: SiteConfig, seeded: SimpleNamespace) -> None:
        """Jobs pass unheld, and it says so."""
        (site.run_dir / "heartbeat").write_text(f"{int(seeded.now) - 300}")
        result = run("daemon", "status")
        assert result.exit_code == 1
        assert "! the heartbeat is 5 min old (limit 30 s)" in result.stderr

    @pytest.mark.parametrize("content", ["", "soon", "9" * 400])
    def test_a_garbled_heartbeat_is_none(self, run: Run, site: SiteConfig, content: str) -> None:
        """No traceback."""
        (site.run_dir / "heartbeat").write_text(content)
        assert run("daemon", "status").exit_code == 1

    def test_no_policy_and_no_lease_are_problems(self, run: Run, site: SiteConfig, seeded: SimpleNamespace) -> None:
        """As data, for monitoring."""
        (site.run_dir / "heartbeat").write_text(f"{int(seeded.now)}")
        result = run("daemon", "status", "--json", store=MemoryStore())
        found = json.loads(result.output)
        assert (result.exit_code, found["healthy"], len(found["problems"])) == (1, False, 3)


def commands() -> list[tuple[str, click.Command]]:
    from slurmext.docs.cli_page import commands as found

    return list(found())


def test_every_command_explains_itself() -> None:
    """Help text and, for this package's own classes, examples that start with the command's name and parse."""
    for path, command in commands():
        assert command.help, path
        if isinstance(command, Command):
            assert command.examples, path
            for line, what in command.examples:
                assert "slurmext " in line, path
                assert what, path


def test_a_groups_help_has_each_commands_whole_sentence(run: Run) -> None:
    """None is cut off in its middle."""
    groups = sorted({path.split()[1] for path, _ in commands() if len(path.split()) > 2})
    assert "devcluster" in groups
    assert [group for group in groups if "..." in run(group, "--help").output.partition("Commands:")[2]] == []


def test_what_is_to_be_typed_next_is_typed_as_this_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`slurmext` alone only where PATH has this very one."""
    ours = tmp_path / "bin/slurmext"
    ours.parent.mkdir()
    ours.touch(mode=0o755)
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", [".venv/bin/slurmext"])
    assert program() == ".venv/bin/slurmext"
    monkeypatch.setenv("SUDO_UID", "1000")
    assert program() == "sudo .venv/bin/slurmext"
    monkeypatch.delenv("SUDO_UID")
    monkeypatch.setenv("PATH", f"{ours.parent}:/usr/bin:/bin")
    assert program() == ".venv/bin/slurmext"
    monkeypatch.setattr(sys, "argv", [str(ours)])
    assert program() == "slurmext"


def test_the_summaries_in_help_name_commands_that_exist() -> None:
    """The lazy table leads to commands."""
    context = click.Context(entry.cli)
    for name in entry.COMMANDS:
        assert isinstance(entry.cli.get_command(context, name), click.Command), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_back(run: Run, shell: str) -> None:
    """Click's own."""
    assert "_SLURMEXT_COMPLETE" in run("completion", shell).output


def test_version_and_help_import_little() -> None:
    """--help must come at once: no pydantic, no database, no rich; `job list` needs no database either."""
    probe = (
        "import sys, runpy\n"
        "sys.argv = ['slurmext', *sys.argv[1:]]\n"
        "from slurmext.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(','.join(sorted({m.split('.')[0] for m in sys.modules})), file=sys.stderr)\n"
    )

    def loaded(*arguments: str) -> set[str]:
        environment = {**os.environ, "SLURMEXT_CONF": "/nonexistent"}
        done = subprocess.run(
            [sys.executable, "-c", probe, *arguments], capture_output=True, text=True, check=True, env=environment
        )
        return set(done.stderr.splitlines()[-1].split(","))

    assert not loaded("--help") & {"pydantic", "sqlalchemy", "rich", "ruamel", "alembic", "numpy"}
    assert not loaded("job", "list") & {"sqlalchemy", "alembic", "apscheduler", "numpy", "submitit"}


def test_config_names_the_site_file_for_everything(tmp_path: Path) -> None:
    """--config reaches every part through SLURMEXT_CONF."""
    site = tmp_path / "s.yaml"
    site.write_text("version: 1\ncluster: x\nrun_dri: /x\n")
    done = subprocess.run(
        [sys.executable, "-m", "slurmext.cli", "--config", str(site), "job", "list"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, f"{site}:3: run_dri: unknown key, did you mean 'run_dir'?\n")


def test_a_requeued_job_waits_since_its_requeue(run: Run, store: MemoryStore, seeded: SimpleNamespace) -> None:
    """Not since it was submitted days ago."""
    lease = store.current_lease("controller")
    (victim,) = store.jobs(job_ids=["41"])
    assert lease is not None
    store.save_jobs(lease.token, [replace(victim, state="pending", reason="QUEUE_MAX", start_s=None)])
    assert "(7 min 19 s)" in run("job", "explain", "41").output.splitlines()[0]


def test_queue_show_has_the_calendar_and_what_comes_next(run: Run, seeded: SimpleNamespace) -> None:
    """The windows, the numbers in force now, and the next changes with the time each comes."""
    store = MemoryStore()
    window = 'calendar: [{start: "0 8 * * *", hours: 12, guaranteed: 60, max: 80}, {date: 2027-12-24, max: 10}]'
    store.apply_policy(f"version: 1\nqueues: {{prod: {{guaranteed: 10, max: 70, {window}}}}}\n", "root", 0)
    said = run("queue", "show", "prod", store=store, now=lambda: 1_800_000_000.0).output  # 2027-01-15 08:00
    assert "0 8 * * * for 12 h (UTC; above are the numbers in force now)" in said
    assert "2027-12-24" in said
    assert re.search(r"Guaranteed: +60\n", said)
    assert re.search(r"At 2027-01-15T20:00:00: +guaranteed 60 -> 10, max 80 -> 70\n", said)
    assert "borrowers that cannot end before such a change are not started" in said


def test_jobs_are_completed_and_else_directories(site: SiteConfig, store: MemoryStore) -> None:
    """With those that the user may see; a command that takes either lets the shell look where no job begins so."""
    context = click.Context(entry.cli, obj=Session(site=site, store=store, uid=0, now=lambda: 0.0))
    parameter = entry.cli.params[0]
    assert [item.value for item in completing.complete_job(context, parameter, "4")] == ["40", "41", "42"]
    assert [item.value for item in completing.complete_job_or_directory(context, parameter, "42")] == ["42"]
    (item,) = completing.complete_job_or_directory(context, parameter, "/scr")
    assert (item.value, item.type) == ("/scr", "dir")
    nobody = click.Context(entry.cli, obj=Session(site=site, store=store, uid=65534, now=lambda: 0.0))
    assert completing.complete_job(nobody, parameter, "4") == []
