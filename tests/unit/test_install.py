"""Installing into a site's files and taking it out again."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from slurmext.cli.install import cli
from slurmext.errors import SlurmextError
from slurmext.install import conf_edit
from slurmext.install.apply import apply
from slurmext.install.planning import InstallSpec, Role, make_plan
from slurmext.install.removal import plan_removal, remove

if TYPE_CHECKING:
    from slurmext.install.changes import InstallPlan

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="installs as root")

STUBS = Path(__file__).parent / "stubs"
SLURM_CONF = """\
# The site's own words
ClusterName=tiny
SlurmctldHost=ctl(127.0.0.1)
SlurmUser=root
jobsubmitplugins = all_partitions   # keep me
Prolog=/opt/site/prolog.sh
PrologFlags=X11
NodeName=n1 CPUs=2
PartitionName=main Nodes=n1 Default=YES
"""


class Site:
    """A Slurm site in a folder: fake commands, real headers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.etc = root / "etc"
        self.etc.mkdir()
        (root / "bin").mkdir()
        for name in ("prolog/slurmext-prolog", "epilog/slurmext-epilog", "prolog/slurmext-task-prolog"):
            wrapper = root / "source" / name
            wrapper.parent.mkdir(parents=True, exist_ok=True)
            wrapper.write_text("#!/bin/sh\nexec @PYTHON@ -S @PACKAGE_DIR@/hooks/x.py @RUN_DIR@ @DEADLINE_S@\n")
        self.header(0x160508)
        scontrol = root / "bin" / "scontrol"
        scontrol.write_text("#!/bin/sh\necho slurm 22.05.8\n")
        scontrol.chmod(0o755)
        self.slurm_conf.write_text(SLURM_CONF)
        self.site_config.write_text(
            f"version: 1\ncluster: tiny\ndatabase: sqlite:///{root}/state/state.db\nrun_dir: {root}/run\n"
            f"slurm: {{bin_dir: {root}/bin, conf: {self.slurm_conf}, user: root}}\n"
            f"agent: {{spool_dir: {root}/spool}}\n"
        )

    def header(self, number: int) -> None:
        folder = shutil.copytree(STUBS, self.root / "include", dirs_exist_ok=True)
        (folder / "slurm" / "slurm_version.h").write_text(f"#define SLURM_VERSION_NUMBER 0x{number:06x}\n")

    @property
    def slurm_conf(self) -> Path:
        return self.etc / "slurm.conf"

    @property
    def site_config(self) -> Path:
        return self.etc / "slurmext.yaml"

    @property
    def prefix(self) -> Path:
        return self.root / "lib" / "slurmext"

    def spec(self) -> InstallSpec:
        return InstallSpec(
            slurm_conf=self.slurm_conf, site_config=self.site_config, prefix_dir=self.prefix,
            spank_include=self.root / "include", source_dir=self.root / "source",
        )  # fmt: skip

    def plan(self) -> InstallPlan:
        return make_plan(self.spec())

    def install(self) -> InstallPlan:
        plan = self.plan()
        apply(replace(plan, database=None))
        return plan

    def tree(self) -> dict[str, tuple[int, int, bytes | str]]:
        """Everything there is: mode, mtime of files, content."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            info = path.lstat()
            content = str(path.readlink()) if path.is_symlink() else "" if path.is_dir() else path.read_bytes()
            found[str(path)] = (info.st_mode, 0 if path.is_dir() else info.st_mtime_ns, content)
        return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_uninstall_leaves_no_trace(site: Site) -> None:
    """Install, let the daemons write their data, uninstall: every file, mode and time stamp is as before."""
    (site.etc / "job_submit.lua").write_text("-- the site's own\n")
    (site.etc / "plugstack.conf").write_text("include plugstack.conf.d/*.conf")
    before = site.tree()
    site.install()
    (site.root / "run" / "heartbeat").write_text("1")
    (site.root / "state" / "state.db").write_text("x")
    (site.root / "state" / "state.db-wal").write_text("x")
    (site.root / "spool" / "event").write_text("x")
    remove(site.prefix, keep_data=False)
    assert site.tree() == before


def test_uninstall_empties_a_run_directory_that_was_there(site: Site) -> None:
    """It stays, with what others have in it; all that the daemons write goes."""
    run = site.root / "run"
    run.mkdir()
    (run / "others").write_text("1")
    site.install()
    for name in ("heartbeat", "queues.tsv", "slices.tsv", "nodes.tsv", "submit-wake", "daemon.sock", "hooks.log",
                 "agent-n1.pid", "agent-n1.root.sock", "agent-n1.failures", "agent-n1.catalogue"):  # fmt: skip
        (run / name).write_text("1")
    for folder in ("notes", "slices", "models", "mps"):
        (run / f"agent-n1.{folder}").mkdir()
        (run / f"agent-n1.{folder}" / "7").write_text("1")
    remove(site.prefix, keep_data=False)
    assert [path.name for path in run.iterdir()] == ["others"]


def test_installing_twice_changes_nothing(site: Site) -> None:
    """The second plan finds every file done, and its undoing is still complete."""
    (site.etc / "job_submit.lua").write_text("-- the site's own\n")
    before = site.tree()
    site.install()
    after = site.tree()
    plan = site.install()
    assert all(file.is_done for file in plan.files)
    assert {path: entry for path, entry in site.tree().items() if "manifest" not in path} == {
        path: entry for path, entry in after.items() if "manifest" not in path
    }
    remove(site.prefix, keep_data=False)
    assert site.tree() == before


def test_a_dry_run_changes_nothing(site: Site) -> None:
    """Making the plan writes no file."""
    before = site.tree()
    plan = site.plan()
    assert site.tree() == before
    assert any(file.path == site.slurm_conf for file in plan.files)


def test_slurm_conf_keeps_the_sites_values(site: Site) -> None:
    """The job submit list is appended, flags are joined, and the replaced lines stay as comments."""
    site.install()
    text = site.slurm_conf.read_text()
    assert conf_edit.values_of(text, "JobSubmitPlugins") == ["all_partitions,lua"]
    assert conf_edit.values_of(text, "PrologFlags") == ["X11,Alloc"]
    assert conf_edit.values_of(text, "PrologEpilogTimeout") == ["60"]
    assert conf_edit.values_of(text, "BatchStartTimeout") == ["60"]
    assert "#slurmext# jobsubmitplugins = all_partitions   # keep me\n" in text
    assert conf_edit.strip(text) == SLURM_CONF


def test_the_sites_prolog_still_runs_first(site: Site) -> None:
    """An existing Prolog and ours stand in one folder, whose names Slurm runs in reverse order."""
    site.install()
    assert conf_edit.values_of(site.slurm_conf.read_text(), "Prolog") == [f"{site.prefix}/prolog.d/*"]
    names = sorted((path.name for path in (site.prefix / "prolog.d").iterdir()), reverse=True)
    assert [str((site.prefix / "prolog.d" / name).readlink()) for name in names] == [
        "/opt/site/prolog.sh",
        f"{site.prefix}/hooks/slurmext-prolog",
    ]


def test_a_folder_of_prologs_gets_ours_as_well(site: Site) -> None:
    """Prolog=/…/prolog.d/*: slurm.conf's line stays, a link is added to the folder."""
    folder = site.root / "prolog.d"
    folder.mkdir()
    site.slurm_conf.write_text(SLURM_CONF.replace("/opt/site/prolog.sh", f"{folder}/*.sh"))
    site.install()
    assert f"\nProlog={folder}/*.sh\n" in site.slurm_conf.read_text()
    assert str((folder / "50-slurmext.sh").readlink()) == f"{site.prefix}/hooks/slurmext-prolog"


def test_the_sites_task_prolog_is_chained(site: Site) -> None:
    """TaskProlog takes one program: ours calls the site's first."""
    site.slurm_conf.write_text(SLURM_CONF + "TaskProlog=/opt/site/tp\n")
    site.install()
    chain = Path(conf_edit.values_of(site.slurm_conf.read_text(), "TaskProlog")[0])
    assert chain.read_text().splitlines()[2:] == [
        "/opt/site/tp || exit $?", f"exec {site.prefix}/hooks/slurmext-task-prolog",
    ]  # fmt: skip


def test_the_admins_later_edits_survive_uninstall(site: Site) -> None:
    """Only our lines go from a slurm.conf that was edited after the installation."""
    site.install()
    site.slurm_conf.write_text(site.slurm_conf.read_text().replace("CPUs=2", "CPUs=4") + "KillWait=60\n")
    remove(site.prefix, keep_data=False)
    assert site.slurm_conf.read_text() == SLURM_CONF.replace("CPUs=2", "CPUs=4") + "KillWait=60\n"


def test_a_change_of_the_sites_script_survives_reinstall(site: Site) -> None:
    """The chained job_submit.site.lua is the admin's to edit."""
    (site.etc / "job_submit.lua").write_text("-- one\n")
    site.install()
    (site.etc / "job_submit.site.lua").write_text("-- two\n")
    site.install()
    assert (site.etc / "job_submit.site.lua").read_text() == "-- two\n"


def test_headers_of_another_release_are_refused(site: Site) -> None:
    """A plugin built for another major would silently not load: name both releases and the remedy."""
    site.header(0x180B05)
    with pytest.raises(SlurmextError, match=r"24\.11.*22\.05.*--spank-include"):
        site.plan()


def test_missing_slurm_conf_is_explained(site: Site) -> None:
    """A wrong path names itself and the flag."""
    site.slurm_conf.unlink()
    with pytest.raises(SlurmextError, match=r"etc/slurm\.conf.*--slurm-conf"):
        site.plan()


def test_wrappers_get_their_values(site: Site) -> None:
    """Interpreter, run directory and deadline are filled in."""
    site.install()
    text = (site.prefix / "hooks" / "slurmext-epilog").read_text()
    assert f" {site.root}/run 5\n" in text
    assert "@" not in text


@pytest.mark.parametrize(
    ("limit", "waits"),
    [
        ("", "53"),
        ("PrologEpilogTimeout=400\nBatchStartTimeout=400\n", "305"),
        ("PrologEpilogTimeout=400\n", "65"),
        ("PrologTimeout=30\n", "23"),
    ],
)
def test_a_prolog_that_waits_for_models_ends_before_slurm_ends_it(site: Site, limit: str, waits: str) -> None:
    """Also when the agent hangs and was asked about slices before: 7 s are left for that. Nor does a batch job count as
    lost meanwhile.
    """
    (site.root / "source" / "prolog" / "slurmext-prolog").write_text("#!/bin/sh\nexec x @PRELOAD_S@\n")
    site.slurm_conf.write_text(SLURM_CONF + limit)
    site.install()
    assert (site.prefix / "hooks" / "slurmext-prolog").read_text().split()[-1] == waits


def test_a_parameter_that_shares_its_line_is_refused(site: Site) -> None:
    """Commenting the line out would lose the other parameter."""
    site.slurm_conf.write_text("ClusterName=a\nSlurmUser=root\nPrologFlags=X11 KillWait=5\n")
    with pytest.raises(SlurmextError, match="line 3 sets PrologFlags together"):
        site.plan()


@pytest.mark.parametrize("text", ["", "A=1", "A=1\n", "A=1\n\n", "# c\nA=\\\n1\n", "A=1\r\n"])
def test_strip_undoes_the_block(text: str) -> None:
    """Whatever the text's end, strip gives it back byte for byte."""
    edited = conf_edit.add_block(conf_edit.comment_out(text, "A"), ["A=2"])
    assert conf_edit.strip(edited) == text
    assert conf_edit.values_of(edited, "a") == ["2"]


def test_uninstall_of_nothing_has_no_steps(tmp_path: Path) -> None:
    """A folder without a manifest is not ours to clear."""
    assert plan_removal(tmp_path, keep_data=False) == []


def test_keep_data_keeps_the_database(site: Site) -> None:
    """--keep-data leaves the state database for a later installation."""
    site.install()
    (site.root / "state" / "state.db").write_text("x")
    remove(site.prefix, keep_data=True)
    assert (site.root / "state" / "state.db").exists()
    assert not site.prefix.exists()


def test_manifest_is_for_root_only(site: Site) -> None:
    """The former content of configuration files is nobody else's business."""
    site.install()
    path = site.prefix / "manifest.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["version"] == 1


def test_a_compute_node_gets_plugin_and_hooks_only(site: Site) -> None:
    """No job_submit.lua, no database; slurm.conf is edited where it is local."""
    plan = make_plan(replace(site.spec(), role=Role.NODE))
    names = {file.path.name for file in plan.files}
    assert {"slurmext.so", "plugstack.conf", "slurmext-prolog", "slurm.conf"} <= names
    assert not {"job_submit.lua", "submit-wake"} & names
    assert plan.database is None


def test_a_configless_node_needs_no_slurm_conf(site: Site) -> None:
    """Slurm fetches slurm.conf and plugstack.conf from the controller."""
    site.slurm_conf.unlink()
    plan = make_plan(replace(site.spec(), role=Role.NODE))
    assert {file.path.name for file in plan.files} >= {"slurmext.so", "slurmext-prolog", "slurmext-epilog"}
    assert not {"slurm.conf", "plugstack.conf"} & {file.path.name for file in plan.files}


def test_a_login_host_gets_the_options_only(site: Site) -> None:
    """Plugin and plugstack.conf; no run directory, no hooks."""
    plan = make_plan(replace(site.spec(), role=Role.LOGIN))
    assert {file.path.name for file in plan.files} == {"slurmext.so", "plugstack.conf", "slurm.conf"}


def test_slurm_conf_gets_the_same_lines_on_every_host(site: Site) -> None:
    """Slurm compares slurm.conf between its hosts."""
    plans = [make_plan(replace(site.spec(), role=role)) for role in Role]
    assert len({file.content for plan in plans for file in plan.files if file.path == site.slurm_conf}) == 1


def test_system_files_follow_the_role(site: Site) -> None:
    """The controller runs slurmextd, a node the agent."""
    paths = {
        role: {file.path.name for file in make_plan(replace(site.spec(), role=role, system_files=True)).files}
        for role in Role
    }
    assert {"slurmextd.service", "slurmext-agent.service"} <= paths[Role.ALL]
    assert "slurmext-agent.service" not in paths[Role.CONTROLLER]
    assert "slurmextd.service" not in paths[Role.NODE]
    assert not [name for name in paths[Role.LOGIN] if name.endswith(".service")]
    assert "slurmext-options" in paths[Role.LOGIN]


def invoke(site: Site, *args: str) -> Result:
    """`slurmext install` on the site, nothing else given."""
    paths = [
        "--slurm-conf",
        str(site.slurm_conf),
        "--site-config",
        str(site.site_config),
        "--prefix-dir",
        str(site.prefix),
    ]
    return CliRunner().invoke(cli, [*paths, "--spank-include", str(site.root / "include"), "--no-units", *args])


def test_dry_run_shows_the_exact_diff(site: Site) -> None:
    """slurm.conf as a unified diff, every other file with its size, and what to do afterwards."""
    before = site.tree()
    result = invoke(site, "--dry-run")
    assert result.exit_code == 0, result.output
    for line in (
        "-jobsubmitplugins = all_partitions   # keep me",
        "+#slurmext# jobsubmitplugins = all_partitions   # keep me",
        "+JobSubmitPlugins=all_partitions,lua",
        "+PrologFlags=X11,Alloc",
        f"+optional {site.prefix}/spank/slurmext.so",
        "Nothing was changed. After the installation:",
    ):
        assert line in result.output.splitlines()
    assert f"create {site.etc}/job_submit.lua (" in result.output
    assert site.tree() == before


def test_a_no_leaves_everything_as_it_is(site: Site) -> None:
    """The question is asked before the first change."""
    before = site.tree()
    assert invoke(site).exit_code == 1
    assert site.tree() == before


def test_a_bad_prefix_is_refused(site: Site) -> None:
    """One line, with an example."""
    with pytest.raises(SlurmextError, match="for example sx-"):
        make_plan(replace(site.spec(), option_prefix="SX"))


def test_a_prefix_goes_into_every_place(site: Site) -> None:
    """plugstack.conf and job_submit.lua; the site file is to follow."""
    plan = make_plan(replace(site.spec(), option_prefix="sx-"))
    content = {file.path.name: file.content.decode(errors="replace") for file in plan.files}
    assert "slurmext.so prefix=sx-\n" in content["plugstack.conf"]
    assert 'prefix = "sx-"' in content["job_submit.lua"]
    assert any("options: {prefix: sx-}" in note for note in plan.notes)
