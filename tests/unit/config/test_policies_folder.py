"""The policy files a site starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurmext.config.policy import load_policy
from slurmext.config.submit_table import NameService, queues_tsv

FOLDER = Path(__file__).parents[3] / "policies"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_policy_is_valid_and_says_what_it_is_for(path: Path) -> None:
    """Each file passes the check, has a default queue, starts with a comment and stands in the README's table."""
    policy = load_policy(path)
    default = policy.settings.default_queue
    assert default in policy.leaves or (default or "").rpartition("/")[0] in policy.dynamic
    assert path.read_text().startswith("# ")
    assert f"`{path.name}`" in (FOLDER / "README.md").read_text()
    assert queues_tsv(policy, NameService(members=lambda _: [])).startswith(
        f"#default\t{policy.settings.default_queue}\n"
    )


def test_two_teams_is_the_policy_of_the_demo() -> None:
    """Research and prod, 16 guaranteed and 32 max each."""
    policy = load_policy(FOLDER / "two-teams.yaml")
    assert [(q.path, q.guaranteed, q.max) for q in policy.queues] == [("research", 16, 32), ("prod", 16, 32)]
