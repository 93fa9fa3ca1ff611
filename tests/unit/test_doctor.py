"""Each setting that would hurt is found, explained, and mended by the line that is shown."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from slurmext.doctor.collect import _answers, _heartbeat_age_s, _hook, _listed_plugin, _preload_hook_s
from slurmext.doctor.diagnosis import _LOOKED_AT, RULES, diagnose, unseen
from slurmext.doctor.facts import Facts, PathFact, TransparentFact, parse_config
from slurmext.doctor.rules import Severity
from slurmext.install.hooks import SOURCES, wrapper_text
from slurmext.model.mig import GpuCard
from slurmext.model.slicing import Geometry

GOOD = """\
Configuration data as of 2026-01-01T00:00:00
AccountingStorageTRES   = cpu,mem,energy,node,billing,fs/disk,vmem,pages,gres/gpu
AccountingStorageType   = accounting_storage/slurmdbd
AuthInfo                = socket=/run/munge/socket,cred_expire=10
GresTypes               = gpu
HASH_VAL                = Match
JobAcctGatherParams     = (null)
JobFileAppend           = 1
JobRequeue              = 1
JobSubmitPlugins        = lua
KillWait                = 30 sec
PreemptMode             = OFF
PreemptType             = preempt/none
PrologEpilogTimeout     = 60
PrologFlags             = Alloc
SchedulerParameters     = bf_interval=2
SchedulerType           = sched/backfill
SelectType              = select/cons_tres
SLURM_VERSION           = 22.05.8

Cgroup Support Configuration:
CgroupPlugin            = (null)
"""
RUN = Path("/run/slurmext")


def there(path: Path, **changes: int) -> PathFact:
    return PathFact(**({"path": path, "exists": True, "uid": 0, "mode": 0o100755} | changes))


HEALTHY = Facts(
    config=parse_config(GOOD), release=(22, 5), slurm_uid=64030, run_dir=there(RUN, mode=0o40755),
    submit_wake=there(RUN / "submit-wake", uid=64030), queues_tsv=there(RUN / "queues.tsv"), heartbeat_age_s=1,
    job_submit_is_ours=True, plugstack=Path("/etc/slurm/plugstack.conf"), plugin=there(Path("/l/slurmext.so")),
    plugin_listed=True, plugin_release=(22, 5), hooks_known=True, agents={"n1": True}, munge_works=True, guaranteed_gpus=32, cluster_gpus=32,
    hooks={name: there(Path("/l/hooks") / name) for name in ("Prolog", "Epilog", "TaskProlog")},
)  # fmt: skip


def card(*, mig: bool | None, pending: bool | None, told: bool = True) -> GpuCard:
    """A GPU of this host; `told`: its driver says what it can be cut into."""
    geometry = Geometry(memory_units=8, compute_slices=7) if told else None
    return GpuCard(uuid="GPU-0", minor=0, index=0, name="NVIDIA A100", memory_mib=81_920, mig=mig, mig_pending=pending,
                   geometry=geometry)  # fmt: skip


def conf(**values: str) -> Facts:
    """The healthy cluster with other slurm.conf values."""
    return replace(HEALTHY, config={**HEALTHY.config, **{name.lower(): value for name, value in values.items()}})


def test_a_healthy_cluster_has_nothing_to_mend() -> None:
    """No false alarm."""
    assert diagnose(HEALTHY) == []


CONFIG_CASES = [
    ({"AuthInfo": ""}, "REQUEUE_DELAY", "AuthInfo=cred_expire=10", "121 s"),
    ({"AuthInfo": "socket=/x"}, "REQUEUE_DELAY", "AuthInfo=socket=/x,cred_expire=10", "(the default)"),
    ({"AuthInfo": "socket=/x,cred_expire=60"}, "REQUEUE_DELAY", "AuthInfo=socket=/x,cred_expire=10", "61 s"),
    ({"PrologEpilogTimeout": "65534"}, "PROLOG_TIMEOUT", "PrologEpilogTimeout=60", "for ever"),
    ({"PrologEpilogTimeout": ""}, "PROLOG_TIMEOUT", "PrologEpilogTimeout=60", "for ever"),
    ({"PrologEpilogTimeout": "5 sec"}, "PROLOG_TIMEOUT", "PrologEpilogTimeout=60", "own deadline"),
    ({"PrologFlags": ""}, "PROLOG_FLAGS", "PrologFlags=Alloc", "first step"),
    ({"PrologFlags": "X11"}, "PROLOG_FLAGS", "PrologFlags=X11,Alloc", "first step"),
    ({"PrologFlags": "Alloc,Serial"}, "PROLOG_SERIAL", "PrologFlags=Alloc", "one after the other"),
    ({"KillWait": "5 sec"}, "KILL_WAIT", "KillWait=60", "too short"),
    ({"JobRequeue": "0"}, "JOB_REQUEUE", "JobRequeue=1", "cancelling"),
    ({"JobFileAppend": "0"}, "JOB_FILE_APPEND", "JobFileAppend=1", "overwrites"),
    (
        {"SchedulerParameters": "defer,bf_interval=2"},
        "SCHEDULER_DEFER",
        "SchedulerParameters=bf_interval=2",
        "periodic",
    ),
    ({"SchedulerType": "sched/builtin"}, "SCHEDULER_TYPE", "SchedulerType=sched/backfill", "blocks"),
    ({"PreemptType": "preempt/qos"}, "PREEMPT_TYPE", "PreemptType=preempt/none", "fenced"),
    ({"SelectType": "select/linear"}, "SELECT_TYPE", "SelectType=select/cons_tres", "one by one"),
    ({"GresTypes": ""}, "GRES_TYPES", "GresTypes=gpu", "no GPUs"),
    (
        {"AcctGatherEnergyType": "acct_gather_energy/gpu"},
        "GPU_ENERGY",
        "AcctGatherEnergyType=acct_gather_energy/none",
        "MIG",
    ),
    ({"AccountingStorageTRES": "cpu"}, "GPU_TRES", "AccountingStorageTRES=cpu,gres/gpu", "GPU time"),
    ({"JobSubmitPlugins": "all_partitions"}, "JOB_SUBMIT", "JobSubmitPlugins=all_partitions,lua", "without quota"),
    ({"HASH_VAL": "Different Ours=0x1 Slurmctld=0x2"}, "CONF_DIFFERS", "scontrol reconfigure", "not read"),
]


@pytest.mark.parametrize(("values", "code", "line", "words"), CONFIG_CASES, ids=lambda case: str(case)[:40])
def test_a_setting_that_hurts(values: dict[str, str], code: str, line: str, words: str) -> None:
    """Exactly one finding, with the line that mends it."""
    (finding,) = diagnose(conf(**values))
    assert (finding.code, finding.line) == (code, line)
    assert words in finding.found + finding.effect


@pytest.mark.parametrize(("values", "code", "line", "words"), CONFIG_CASES, ids=lambda case: str(case)[:40])
def test_the_line_mends_it(values: dict[str, str], code: str, line: str, words: str) -> None:
    """With the advised line in slurm.conf the finding is gone."""
    name, _, value = line.partition("=")
    mended = conf(**values, **({name: value} if name not in values else {}))
    if name in values:
        mended = conf(**{**values, name: value})
    if name == "scontrol reconfigure":
        mended = conf(HASH_VAL="Match")
    assert diagnose(mended) == []


def test_newer_releases_have_a_requeue_delay_of_their_own() -> None:
    """25.11: SchedulerParameters=requeue_delay, so that the credential's life need not be cut."""
    facts = replace(conf(AuthInfo=""), release=(26, 5), plugin_release=(26, 5))
    (finding,) = diagnose(facts)
    assert finding.line == "SchedulerParameters=bf_interval=2,requeue_delay=5"
    mended = {**facts.config, "schedulerparameters": "requeue_delay=5"}
    assert diagnose(replace(facts, config=mended)) == []


def test_timeouts_of_newer_releases_count() -> None:
    """PrologTimeout and EpilogTimeout replace PrologEpilogTimeout."""
    assert diagnose(conf(PrologEpilogTimeout="65534", PrologTimeout="60", EpilogTimeout="60")) == []
    assert diagnose(conf(PrologEpilogTimeout="65534", PrologTimeout="60"))


def test_gpu_accounting_only_where_it_can_be_turned_off() -> None:
    """DisableGPUAcct came after 22.05."""
    uses = {"AccountingStorageTRES": "gres/gpu,gres/gpuutil"}
    assert diagnose(conf(**uses)) == []
    newer = replace(conf(**uses), release=(24, 11), plugin_release=(24, 11))
    (finding,) = diagnose(newer)
    assert (finding.code, finding.line) == ("GPU_ACCT", "JobAcctGatherParams=DisableGPUAcct")


PART_CASES = [
    ({"job_submit_is_ours": False}, "JOB_SUBMIT_SCRIPT"),
    ({"plugin_listed": False, "plugin": None}, "SPANK_MISSING"),
    ({"plugin": PathFact(path=Path("/l/slurmext.so"), exists=False)}, "SPANK_MISSING"),
    ({"plugin": there(Path("/l/slurmext.so"), mode=0o100775)}, "SPANK_WRITABLE"),
    ({"plugin": there(Path("/l/slurmext.so"), uid=1000)}, "SPANK_WRITABLE"),
    ({"plugin_release": (24, 11)}, "SPANK_RELEASE"),
    ({"hooks": {name: fact for name, fact in HEALTHY.hooks.items() if name != "Epilog"}}, "HOOK_MISSING"),
    ({"hooks": {**HEALTHY.hooks, "Prolog": there(Path("/p"), mode=0o100644)}}, "HOOK_NOT_EXECUTABLE"),
    ({"run_dir": PathFact(path=RUN, exists=False)}, "RUN_DIR"),
    ({"run_dir": there(RUN, mode=0o40777)}, "RUN_DIR"),
    ({"run_dir": there(RUN, uid=1000)}, "RUN_DIR"),
    ({"submit_wake": there(RUN / "submit-wake", uid=0)}, "SUBMIT_WAKE"),
    ({"submit_wake": PathFact(path=RUN / "submit-wake", exists=False)}, "SUBMIT_WAKE"),
    ({"queues_tsv": PathFact(path=RUN / "queues.tsv", exists=False)}, "NO_POLICY"),
    ({"heartbeat_age_s": 31}, "HEARTBEAT"),
    ({"heartbeat_age_s": float("inf")}, "HEARTBEAT"),
    ({"agents": {"n1": True, "n2": False}}, "AGENT"),
    ({"munge_works": False, "munge_error": "expired"}, "MUNGE"),
    ({"guaranteed_gpus": 33, "cluster_gpus": 32}, "GUARANTEES"),
    ({"cards": (card(mig=False, pending=True, told=False),)}, "MIG_PENDING"),
    ({"cards": (card(mig=True, pending=False),)}, "MIG_PENDING"),
    ({"preload_hook_s": 60}, "PRELOAD_HOOK"),
]


def test_a_prolog_that_slurm_would_end_before_its_models_are_there() -> None:
    """Waiting less than the site says is worth knowing, not waiting at all is wrong; the line mends both."""
    waits = replace(HEALTHY, prolog_wait_s=300)
    (finding,) = diagnose(waits)
    assert (finding.code, finding.severity) == ("PRELOAD_WAIT", Severity.NOTE)
    assert "waits 50 s" in finding.effect
    (finding,) = diagnose(replace(waits, config={**waits.config, "prologtimeout": "10"}))
    assert (finding.code, finding.severity) == ("PRELOAD_WAIT", Severity.WARNING)
    name, _, value = finding.line.partition("=")
    assert (name, value.split()[0]) == ("PrologTimeout", "310")
    assert diagnose(replace(waits, config={**waits.config, "prologepilogtimeout": value})) == []
    assert diagnose(replace(waits, prolog_wait_s=50)) == []
    late = replace(conf(BatchStartTimeout="10 sec"), prolog_wait_s=50)
    (finding,) = diagnose(late)
    assert (finding.code, finding.line.split()[0]) == ("PRELOAD_WAIT", "BatchStartTimeout=50")
    assert "waits 10 s" in finding.effect
    assert diagnose(replace(late, config={**late.config, "batchstarttimeout": "50 sec"})) == []
    assert diagnose(replace(conf(PrologEpilogTimeout="65534", PrologTimeout="60", EpilogTimeout="60"),
                            prolog_wait_s=50)) == []  # fmt: skip


def test_an_installed_prolog_that_waits_longer_than_slurm() -> None:
    """It was written for another PrologEpilogTimeout: when the agent hangs, the node is drained."""
    (finding,) = diagnose(replace(HEALTHY, preload_hook_s=60))
    assert finding.severity is Severity.ERROR
    assert diagnose(replace(HEALTHY, preload_hook_s=53)) == []


def test_how_long_the_installed_prolog_waits_is_read_from_it(tmp_path: Path) -> None:
    """Another prolog says nothing of it."""
    source = Path(__file__).parents[2] / SOURCES["Prolog"]
    wrapper = tmp_path / "slurmext-prolog"
    wrapper.write_text(wrapper_text(source, {"PRELOAD_S": "53.5", "DEADLINE_S": "5", "RUN_DIR": "/run/slurmext"}))
    assert _preload_hook_s(there(wrapper)) == 53.5
    wrapper.write_text("#!/bin/sh\n")
    assert _preload_hook_s(there(wrapper)) is None
    assert _preload_hook_s(None) is None


def test_gpus_that_are_as_they_should_be() -> None:
    """Cut, whole where the mode changes without a reset, or without MIG; MPS is missed where there are GPUs only."""
    cards = (card(mig=True, pending=True), card(mig=False, pending=False), card(mig=None, pending=None, told=False))
    assert diagnose(replace(HEALTHY, cards=cards, mps_control=there(Path("/x/mps")))) == []
    assert diagnose(replace(HEALTHY, mps_control=PathFact(path=Path("/x/mps"), exists=False))) == []


@pytest.mark.parametrize(("changes", "code"), PART_CASES, ids=lambda case: str(case)[:40])
def test_a_part_of_ours_that_does_not_work(changes: dict[str, object], code: str) -> None:
    """Exactly one finding, which says what to do."""
    (finding,) = diagnose(replace(HEALTHY, **changes))
    assert finding.code == code
    assert finding.line
    assert finding.severity is not Severity.NOTE


NOTE_CASES = [
    ({"cards": (card(mig=False, pending=False, told=False),)}, "MIG_OFF"),
    (
        {"cards": (card(mig=True, pending=True),), "mps_control": PathFact(path=Path("/x/mps"), exists=False)},
        "MPS_MISSING",
    ),
    ({"prolog_wait_s": 300}, "PRELOAD_WAIT"),
]


@pytest.mark.parametrize(("changes", "code"), NOTE_CASES, ids=lambda case: str(case)[:40])
def test_what_a_site_may_leave_so(changes: dict[str, object], code: str) -> None:
    """A note: slices or shares are not had there, and nothing is broken."""
    (finding,) = diagnose(replace(HEALTHY, **changes))
    assert (finding.code, finding.severity) == (code, Severity.NOTE)


def test_unknown_raises_no_alarm() -> None:
    """What could not be read is not judged."""
    assert diagnose(Facts(config={})) == []


def test_what_could_not_be_looked_at_is_told() -> None:
    """No policy is another thing than one that cannot be read."""
    seen = replace(HEALTHY, guaranteed_gpus=0, cluster_gpus=32)
    assert unseen(seen) == []
    assert unseen(replace(seen, guaranteed_gpus=None)) == ["the policy in the state database"]
    assert {name for name in _LOOKED_AT if not hasattr(HEALTHY, name)} == set()


def test_every_rule_is_exercised() -> None:
    """No rule without a case here."""
    facts = [conf(**values) for values, *_ in CONFIG_CASES] + [
        replace(HEALTHY, **changes) for changes, _ in (*PART_CASES, *NOTE_CASES)
    ]
    facts.append(replace(HEALTHY, transparent=TransparentFact(criu=None, version=None, namespaces=True)))
    assert all(any(list(rule(fact)) for fact in facts) for rule in RULES)


# Reading.


def test_plugstack_includes_are_followed(tmp_path: Path) -> None:
    """Debian's plugstack.conf only includes a folder."""
    (tmp_path / "plugstack.conf").write_text("include plugstack.conf.d/*.conf\n")
    (tmp_path / "plugstack.conf.d").mkdir()
    (tmp_path / "plugstack.conf.d" / "a.conf").write_text(
        "# optional /x/slurmext.so\noptional /y/slurmext.so prefix=a-\n"
    )
    assert _listed_plugin(tmp_path / "plugstack.conf") == Path("/y/slurmext.so")


def test_hooks_are_found_behind_patterns_and_scripts(tmp_path: Path) -> None:
    """Directly, through a folder of links, and called by the site's own script."""
    ours = tmp_path / "slurmext-prolog"
    ours.write_text("#!/bin/sh\n")
    ours.chmod(0o755)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "50-slurmext").symlink_to(ours)
    (tmp_path / "own.sh").write_text(f"#!/bin/sh\n{ours} || exit 1\n")
    for value in (ours, tmp_path / "d" / "*", tmp_path / "own.sh"):
        found = _hook("Prolog", {"prolog": str(value)})
        assert found is not None
        assert found.exists
    assert _hook("Prolog", {"prolog": "/bin/true", "prologflags": "x"}) is None
    assert _hook("Prolog", {"prolog[0]": str(ours)}) is not None


@pytest.mark.parametrize(("text", "infinite"), [(None, True), ("x", True), ("", True), ("1", False)])
def test_heartbeat_age(tmp_path: Path, text: str | None, *, infinite: bool) -> None:
    """No heartbeat is infinitely old."""
    if text is not None:
        (tmp_path / "heartbeat").write_text(text)
    assert (_heartbeat_age_s(tmp_path / "heartbeat") == float("inf")) is infinite


def test_an_agent_answers_or_not(tmp_path: Path) -> None:
    """A socket that nobody listens on is a deaf agent."""
    path = tmp_path / "agent-n1.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert not _answers(path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            assert json.loads(connection.recv(100)) == {"op": "status"}
            connection.sendall(b'{"ok": true}\n')
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert _answers(path)
        thread.join()


@pytest.mark.parametrize(
    ("criu", "version", "namespaces", "codes"),
    [
        ("/usr/sbin/criu", (4, 1), True, []),
        ("/usr/sbin/criu", (3, 17), True, ["CRIU_OLD"]),
        ("/usr/sbin/criu", None, True, []),
        (None, None, False, ["CRIU_MISSING", "NO_USER_NAMESPACES"]),
    ],
)
def test_what_a_node_lacks_for_transparent_checkpoints_is_named(
    criu: str | None, version: tuple[int, int] | None, namespaces: bool, codes: list[str]
) -> None:
    """With what to do about it; as a note, for who does not use them misses nothing."""
    fact = TransparentFact(criu=Path(criu) if criu else None, version=version, namespaces=namespaces)
    found = diagnose(replace(HEALTHY, transparent=fact))
    assert [finding.code for finding in found] == codes
    assert all(finding.severity is Severity.NOTE for finding in found)
