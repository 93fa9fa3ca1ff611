"""Programs in containers, with users, mounts and processes of their own, under a real Slurm: told, saved, resumed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.conftest import SAVER

if TYPE_CHECKING:
    from tests.integration.conftest import Site

pytestmark = pytest.mark.cluster

BOX = Path(__file__).with_name("box.sh")
UNSEEN = "the node's agent cannot be seen from here"


def submit_boxed(site: Site, *options: str, launcher: str = "", agent: bool) -> str:
    """Alice's saver in a container that has her home, with or without the directory of the agent's socket."""
    layout, home = site.cluster.layout, site.cluster.home("alice")
    shutil.copy(BOX, home / "box.sh")
    (home / "saver.py").write_text(SAVER)
    places = ":".join(map(str, [home, layout.python, *([layout.slurmext_run] if agent else [])]))
    program = f"{home}/box.sh {places} /usr/bin/python3 {home}/saver.py"
    return site.submit("alice", "--queue=closed", "--ckpt=auto", *options, script=f"{launcher} {program}",
                       env={"PYTHONPATH": str(layout.python)})  # fmt: skip


def test_programs_in_containers_are_told_save_and_resume(site: Site) -> None:
    """Two tasks of a step, in a container each that sees the agent: told, confirmed, requeued at once. A batch
    script's program in one that does not: told by Slurm, saved, and requeued when its grace is over.
    """
    seen = submit_boxed(site, "-n2", "--gres=gpu:2", "--nodelist=n1", launcher="srun", agent=True)
    unseen = submit_boxed(site, "--gres=gpu:2", "--nodelist=n2", agent=False)
    site.until(lambda: site.output("alice", seen).count("ready") == 2 and "ready" in site.output("alice", unseen))
    assert UNSEEN not in site.output("alice", seen)
    site.until(lambda: UNSEEN in site.output("alice", unseen))
    rivals = [site.submit("bob", f"--queue={queue}", "-N2", "--gres=gpu:8") for queue in ("prod", "research")]
    site.until_running(*rivals)
    site.until(lambda: not site.store.open_actions())
    confirmed = {job: site.store.preemptions(job_id=job)[0].confirmed_s is not None for job in (seen, unseen)}
    assert confirmed == {seen: True, unseen: False}
    site.cluster.run(["scancel", *rivals])
    site.until(lambda: site.output("alice", seen).count("resumed at") == 2)
    site.until(lambda: "resumed at" in site.output("alice", unseen))
    for job, tasks in ((seen, 2), (unseen, 1)):
        steps = re.findall(r"^(saved|resumed at) (\d+)$", site.output("alice", job), flags=re.MULTILINE)
        assert len(steps) == 2 * tasks
        assert len({step for _, step in steps}) == 1, "each goes on where it was"
