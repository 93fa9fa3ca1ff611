"""Commands that check, compare and change the policy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from slurmext.cli.session import Session
from slurmext.testing.memory_store import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

    from slurmext.config.site import SiteConfig

    from .conftest import Run


def test_policy_check_reports_file_and_line(run: Run, tmp_path: Path) -> None:
    """Exit code 1; as data with --json; 0 for a good file; standard input as '-'."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nqueues:\n  a: {guarantee: 3}\n")
    result = run("policy", "check", str(bad))
    assert result.exit_code == 1
    assert result.stderr == f"{bad}:3: queues.a.guarantee: unknown key, did you mean 'guaranteed'?\n"
    found = run("policy", "check", str(bad), "--json")
    assert (found.exit_code, json.loads(found.output)["problems"][0]["line"]) == (1, 3)
    good = run("policy", "check", "-", stdin="version: 1\nqueues: {a: {guaranteed: 3}}\n")
    assert (good.exit_code, good.output) == (0, "stdin: good: 1 queue, 3 GPUs guaranteed in all\n")


def test_a_policy_is_applied_after_showing_what_changes(
    run: Run, store: MemoryStore, site: SiteConfig, tmp_path: Path
) -> None:
    """-i goes ahead; the daemon is woken; the version is the next one; the author is recorded."""
    file = tmp_path / "new.yaml"
    file.write_text("version: 1\nqueues: {research: {guaranteed: 20}}\n")
    result = run("policy", "apply", "-i", str(file))
    assert result.exit_code == 0, result.output
    assert "~ research guaranteed: 16 -> 20" in result.output
    assert "- prod: " in result.output
    current = store.current_policy()
    assert current is not None
    assert (current.version, current.document) == (2, file.read_text())
    assert current.applied_by.startswith("root")
    assert (site.run_dir / "wake").exists()


def test_a_dry_run_and_a_policy_in_force_change_nothing(
    run: Run, store: MemoryStore, tmp_path: Path, seeded: SimpleNamespace
) -> None:
    """No new version."""
    file = tmp_path / "new.yaml"
    file.write_text("version: 1\nqueues: {a: {}}\n")
    assert run("policy", "apply", "--dry-run", str(file)).exit_code == 0
    file.write_text(seeded.policy)
    assert run("policy", "apply", "-i", str(file)).output == "nothing changes\n"
    said = run("queue", "set", "research", "max=20", "--dry-run").output.splitlines()
    assert said == [
        "~ research max: 32 -> 20", "A queue gets smaller, and no running job has to leave for that.",
    ]  # fmt: skip
    assert len(store.policy_versions()) == 1


def test_a_wrong_policy_is_not_applied(run: Run, store: MemoryStore, tmp_path: Path) -> None:
    """Exit code 1, nothing stored."""
    file = tmp_path / "bad.yaml"
    file.write_text("version: 1\nqueues: {a: {guaranteed: 2, max: 1}}\n")
    assert run("policy", "apply", "-i", str(file)).exit_code == 1
    assert len(store.policy_versions()) == 1


def test_the_first_policy_is_applied_to_an_empty_store(run: Run, tmp_path: Path) -> None:
    """Without a daemon."""
    file = tmp_path / "first.yaml"
    file.write_text("version: 1\nqueues: {a: {guaranteed: 2}}\n")
    empty = MemoryStore()
    assert run("policy", "apply", "-i", str(file), store=empty).exit_code == 0
    assert len(empty.policy_versions()) == 1
    assert run("policy", "diff", str(file), store=empty).exit_code == 0


def test_diff_exits_with_1_when_something_would_change(run: Run, tmp_path: Path, seeded: SimpleNamespace) -> None:
    """As diff(1) does."""
    file = tmp_path / "p.yaml"
    file.write_text(seeded.policy.replace("max: 32\n", "max: 30\n", 1))
    result = run("policy", "diff", str(file))
    assert (result.exit_code, result.output.splitlines()[0]) == (1, "~ research max: 32 -> 30")


def test_queue_set_keeps_the_comments_of_the_policy(run: Run, store: MemoryStore) -> None:
    """What `policy export` gives back is the author's text with one number changed."""
    assert run("queue", "set", "research", "guaranteed=18", "-i").exit_code == 0
    exported = run("policy", "export").output
    assert "guaranteed: 18   # half of the cluster" in exported
    assert run("policy", "export", "--version", "1").output != exported


def test_a_change_based_on_an_older_policy_is_refused(run: Run, store: MemoryStore, site: SiteConfig) -> None:
    """Two people edit at once: the second starts from the first one's."""
    from slurmext.cli.policy import apply_text
    from slurmext.errors import SlurmextError

    session = Session(site=site, store=store, uid=0)
    text = "version: 1\nqueues: {a: {}}\n"
    apply_text(session, text, based_on=1)
    with pytest.raises(SlurmextError, match="meanwhile"):
        apply_text(session, text, based_on=1)
