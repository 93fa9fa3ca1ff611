"""policy edit and policy rollback."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from slurmext.testing.memory_store import MemoryStore

from .conftest import POLICY

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Run


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An editor that runs the Python in this file over the text."""
    script, change = tmp_path / "editor.py", tmp_path / "change.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfile = Path(sys.argv[1])\ntext = file.read_text()\n"
        f"exec(open({str(change)!r}).read())\nfile.write_text(text)\n"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")
    monkeypatch.delenv("VISUAL", raising=False)
    return change


def test_edit_shows_what_changes_and_applies_it(run: Run, store: MemoryStore, editor: Path) -> None:
    """Comments stay: it is the same text."""
    editor.write_text("text = text.replace('max: 32', 'max: 40', 1)")
    said = run("policy", "edit", "-i").output
    assert "~ research max: 32 -> 40" in said
    assert "policy version 2 applied" in said
    document = store.current_policy().document
    assert "# half of the cluster" in document


def test_edit_applies_nothing_that_is_wrong_or_unsaved(run: Run, store: MemoryStore, editor: Path) -> None:
    """The problems are told with their line."""
    editor.write_text("text = text.replace('max: 32', 'max: many', 1)")
    wrong = run("policy", "edit", "-i")
    assert wrong.exit_code == 1
    assert "queues.research.max" in wrong.stderr
    editor.write_text("sys.exit(0)")
    assert "nothing changes" in run("policy", "edit", "-i").output
    assert store.current_policy().version == 1


def test_rollback_goes_back_to_what_was_before_and_forth_again(run: Run, store: MemoryStore) -> None:
    """As a new version; the one before is the newest that differs."""
    store.apply_policy(POLICY.replace("max: 32", "max: 40", 1), "root", 0)
    assert "~ research max: 40 -> 32" in run("policy", "rollback", "--dry-run").output
    assert store.current_policy().version == 2
    assert "policy version 3 applied" in run("policy", "rollback", "-i").output
    assert store.current_policy().document == POLICY
    assert "~ research max: 32 -> 40" in run("policy", "rollback", "2", "-i").output


def test_rollback_says_when_there_is_nothing_to_go_back_to(run: Run) -> None:
    """One version only, a version that is not there, no policy at all."""
    alone = run("policy", "rollback")
    assert (alone.exit_code, "no earlier policy" in alone.stderr) == (1, True)
    missing = run("policy", "rollback", "9")
    assert (missing.exit_code, "no policy version 9; the newest is 1" in missing.stderr) == (2, True)
    assert run("policy", "rollback", store=MemoryStore()).exit_code == 1
