"""job_submit.lua under a real Lua with a fake `slurm` table."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from slurmext.options import OPTIONS, Argument, is_valid
from slurmext.spank.job_submit import LuaSite, render

LUAS = [path for name in ("lua5.1", "lua5.4", "lua") if (path := shutil.which(name))]
pytestmark = pytest.mark.skipif(not LUAS, reason="no Lua interpreter: apt install lua5.4")

NO_VAL, NO_VAL16, INFINITE = 4294967294, 65534, 4294967295
QUEUES = (
    "#default\tresearch\n"
    "research\t1\t32\trefuse\t\t\n"
    "prod\t0\t32\trefuse\t\t\n"
    "prod/chat\t1\t16\trefuse\talice,carol\tml\n"
    "prod/batch\t1\t\trefuse\t\t\n"
    "lab\t1\t4\thold\t\t\n"
)
SIZES = (
    "#size\tsmall\t1\t1\t\t8\t65536\t240\th100\n#size\tlarge\t2\t8\t4\t\t\t\t\n#size\tmixed\t1\t2\t\t\t\t\th100,a100\n"
)
DYNAMIC = (
    "#default\tresearch/{user}\n"
    "#rule\t\t\t\tteaching/{user}\tstudents\n"
    "#rule\t\tnlp\t\t{account}\t\n"
    "#rule\t\t\tcpu\tresearch/{group}\t\n"
    "#group\tstudents\t700\tzoe,eve\n"
    "#gid\t50\tstaff\n"
    "research\t0\t32\trefuse\t\t\n"
    "research/*\t1\t16\trefuse\t\t\n"
    "research/shared\t1\t32\trefuse\t\t\n"
    "teaching\t0\t8\trefuse\tzoe\tclass\n"
    "teaching/*\t1\t4\thold\tzoe\tclass\n"
    "nlp\t1\t\trefuse\t\t\n"
)
DRIVER = """
slurm = { SUCCESS = 0, ERROR = -1, NO_VAL = 4294967294, NO_VAL16 = 65534, ESLURM_ACCESS_DENIED = 2002,
  ESLURM_ACCOUNTING_POLICY = 2050 }
local function line(kind) return function(f, ...) print(kind .. "\\t" .. string.format(f, ...)) end end
slurm.log_user, slurm.log_error, slurm.log_info = line("user"), line("error"), function() end
local broken = BROKEN
local fields = JOB
local environment = setmetatable({}, { __index = function(_, k) return (ENVIRONMENT)[k] end })
local job = setmetatable({}, {
  __index = function(_, k)
    if broken.read == k then error("cannot read " .. k) end
    if k == "environment" then return environment end
    return fields[k]
  end,
  __newindex = function(_, k, v)
    if broken.write == k then error("cannot write " .. k) end
    fields[k] = v
    if k == "gres" then fields.tres_per_node = "gres/" .. v end
    print("set\\t" .. k .. "\\t" .. (tostring(v):gsub("\\n", "\\\\n")))
  end,
})
dofile(SCRIPT)
CALL
"""


def lua(value: object) -> str:
    """A Lua literal."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        return (
            '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03d}" for b in value.encode()) + '"'
        )
    if isinstance(value, dict):
        return "{" + ", ".join(f"[{lua(key)}] = {lua(entry)}" for key, entry in value.items()) + "}"
    assert isinstance(value, list)
    return "{" + ", ".join(lua(entry) for entry in value) + "}"


@dataclass
class Outcome:
    """What the script returned, set, and said."""

    code: int
    set: dict[str, str] = field(default_factory=dict)
    user: list[str] = field(default_factory=list)
    error: list[str] = field(default_factory=list)

    @property
    def comment(self) -> str:
        return self.set.get("admin_comment", "")


class Controller:
    """slurmctld with our script, as far as the script can tell."""

    def __init__(self, folder: Path, interpreter: str) -> None:
        self.folder = folder
        self.interpreter = interpreter
        self.site = LuaSite(
            run_dir=str(folder), stale_s=30, trusted_uids=(0, 64030), transparent="/opt/slurmext/run it"
        )
        self.beat(0)
        self.queues(QUEUES)
        (folder / "submit-wake").write_text("0")

    def beat(self, age_s: float) -> None:
        (self.folder / "heartbeat").write_text(f"{int(time.time() - age_s)}")

    def queues(self, text: str) -> None:
        (self.folder / "queues.tsv").write_text(text)

    @property
    def woken(self) -> bool:
        return (self.folder / "submit-wake").read_text() == "1"

    def submit(self, *, options: dict[str, str] | None = None, env: dict[str, str] | None = None,
               broken: dict[str, str] | None = None, uid: int = 1000, **job: object) -> Outcome:  # fmt: skip
        """`sbatch` by alice, one GPU unless said otherwise."""
        fields = {
            "user_name": "alice", "user_id": uid, "account": None, "partition": None, "priority": NO_VAL,
            "requeue": NO_VAL16, "tres_per_job": "gres:gpu:1", "num_tasks": NO_VAL, "min_nodes": NO_VAL,
            "ntasks_per_node": NO_VAL16, "time_limit": NO_VAL, "cpus_per_task": NO_VAL16, "sockets_per_node": NO_VAL16, "script": "#!/bin/sh\n", "admin_comment": None,
        } | job  # fmt: skip
        if options is not None:
            fields["spank_job_env"] = [f"{name}={value}" for name, value in options.items()]
        partitions = {"main": {"flag_default": 1}, "cpu": {"flag_default": 0}}
        return self._run(
            fields, env or {}, broken or {}, f"print('rc\\t' .. slurm_job_submit(job, {lua(partitions)}, {uid}))"
        )

    def modify(
        self, record: dict[str, object], *, uid: int = 1000, broken: dict[str, str] | None = None, **job: object
    ) -> Outcome:
        """`scontrol update` or `release` of a job."""
        fields = {"priority": NO_VAL, "requeue": NO_VAL16} | job
        call = f"print('rc\\t' .. slurm_job_modify(job, {lua(record)}, {{}}, {uid}))"
        return self._run(fields, {}, broken or {}, call)

    def _run(self, fields: dict[str, object], env: dict[str, str], broken: dict[str, str], call: str) -> Outcome:
        script = self.folder / "job_submit.lua"
        script.write_text(render(self.site))
        driver = self.folder / "driver.lua"
        text = DRIVER
        for name, value in (("BROKEN", lua(broken)), ("JOB", lua(fields)), ("ENVIRONMENT", lua(env)),
                            ("SCRIPT", lua(str(script))), ("CALL", call)):  # fmt: skip
            text = text.replace(name, value)
        driver.write_text(text)
        done = subprocess.run([self.interpreter, driver], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = Outcome(code=99)
        for kind, *rest in (entry.split("\t") for entry in done.stdout.splitlines()):
            if kind == "rc":
                found.code = int(float(rest[0]))
            elif kind == "set":
                found.set[rest[0]] = rest[1]
            else:
                getattr(found, kind).append(rest[0])
        return found


@pytest.fixture(params=LUAS, ids=[Path(path).name for path in LUAS])
def controller(request: pytest.FixtureRequest, tmp_path: Path) -> Controller:
    return Controller(tmp_path, request.param)


def test_a_gpu_job_is_annotated_and_held(controller: Controller) -> None:
    """The default queue, priority 0, and slurmextd woken."""
    outcome = controller.submit()
    assert outcome.code == 0
    assert outcome.set == {"admin_comment": "slurmext/1 queue=research held=1", "priority": "0"}
    assert controller.woken


def test_every_option_reaches_the_annotation(controller: Controller) -> None:
    """Values are percent-encoded, a checkpointing batch job becomes requeueable."""
    outcome = controller.submit(
        options={
            "SLURMEXT_QUEUE": "prod/chat", "SLURMEXT_CKPT": "auto", "SLURMEXT_CKPT_DIR": "/s/a b=50%",
            "SLURMEXT_GPU_TYPES": "h100,a100", "SLURMEXT_GANG_MIN": "2", "SLURMEXT_NO_PREEMPT": "1",
            "_SLURM_SPANK_OPTION_slurmext_queue": "ignored",
        }, num_tasks=4,
    )  # fmt: skip
    assert outcome.comment == (
        "slurmext/1 queue=prod/chat ckpt=auto ckpt_dir=/s/a%20b%3D50%25 types=h100,a100 gang_min=2 preempt=no held=1"
    )
    assert outcome.set["requeue"] == "1"


def test_no_requeue_wins_over_ckpt(controller: Controller) -> None:
    """--no-requeue is the user's word."""
    assert "requeue" not in controller.submit(options={"SLURMEXT_CKPT": "auto"}, requeue=0).set


def test_an_interactive_job_is_not_made_requeueable(controller: Controller) -> None:
    """Salloc and srun jobs cannot be requeued."""
    assert "requeue" not in controller.submit(options={"SLURMEXT_CKPT": "auto"}, script=None).set


def test_a_stale_heartbeat_lets_jobs_pass_unheld(controller: Controller) -> None:
    """Fail open: annotated for a later adoption, but not held."""
    controller.beat(31)
    outcome = controller.submit()
    assert outcome.set == {"admin_comment": "slurmext/1 queue=research held=0"}
    assert not controller.woken


@pytest.mark.parametrize("content", [None, "", "garbage", "-5"])
def test_no_usable_heartbeat_is_a_stale_one(controller: Controller, content: str | None) -> None:
    """A missing or broken heartbeat never holds a job."""
    path = controller.folder / "heartbeat"
    path.unlink() if content is None else path.write_text(content)
    assert controller.submit().set == {"admin_comment": "slurmext/1 queue=research held=0"}


def test_without_a_queue_table_nothing_is_held_or_refused(controller: Controller) -> None:
    """No policy was ever applied: what the user gave is kept for later."""
    (controller.folder / "queues.tsv").unlink()
    assert controller.submit(options={"SLURMEXT_QUEUE": "new"}).set == {"admin_comment": "slurmext/1 queue=new held=0"}


def test_without_a_default_queue_jobs_that_name_none_are_untouched(controller: Controller) -> None:
    """They are left to Slurm."""
    controller.queues(QUEUES.replace("#default\tresearch", "#default\t"))
    assert controller.submit().set == {}


def test_a_job_without_gpus_is_untouched(controller: Controller) -> None:
    """Only GPU jobs are managed."""
    assert controller.submit(tres_per_job=None).set == {}


def test_a_queue_makes_a_cpu_job_managed(controller: Controller) -> None:
    """--queue asks for it."""
    assert controller.submit(tres_per_job=None, options={"SLURMEXT_QUEUE": "lab"}).set["priority"] == "0"


def test_require_gpu_false_manages_every_job(controller: Controller) -> None:
    """managed.require_gpu: false."""
    controller.site = replace(controller.site, require_gpu=False)
    assert controller.submit(tres_per_job=None).set["priority"] == "0"


@pytest.mark.parametrize(("partition", "managed"), [(None, True), ("main", True), ("cpu", False), ("cpu,main", True)])
def test_only_managed_partitions(controller: Controller, partition: str | None, *, managed: bool) -> None:
    """The default partition counts where none is named."""
    controller.site = replace(controller.site, partitions=("main",))
    assert bool(controller.submit(partition=partition).set) is managed


def test_an_unknown_queue_is_refused_with_the_nearest(controller: Controller) -> None:
    """One line: what was given, what was meant, what may be used."""
    outcome = controller.submit(options={"SLURMEXT_QUEUE": "prod/chta"})
    assert outcome.code == -1
    assert outcome.set == {}
    assert outcome.user == [
        (
            "slurmext: --queue=prod/chta: no such queue; did you mean prod/chat? "
            "you may use research, prod/chat, prod/batch, lab"
        )
    ]


def test_a_parent_queue_is_refused_with_its_leaves(controller: Controller) -> None:
    """Jobs go into leaves."""
    outcome = controller.submit(options={"SLURMEXT_QUEUE": "prod"})
    assert outcome.code == -1
    assert "choose one of prod/chat, prod/batch" in outcome.user[0]


def test_another_users_queue_is_denied(controller: Controller) -> None:
    """The ACL names users or accounts; the message lists only what this user may use."""
    outcome = controller.submit(options={"SLURMEXT_QUEUE": "prod/chat"}, user_name="mallory", default_account="web")
    assert outcome.code == 2002
    assert "user mallory (account web) may not use it; you may use research, prod/batch, lab" in outcome.user[0]


@pytest.mark.parametrize("who", [{"user_name": "carol"}, {"user_name": "dave", "account": "ml"},
                                 {"user_name": "dave", "default_account": "ml"}])  # fmt: skip
def test_a_listed_user_or_account_is_let_in(controller: Controller, who: dict[str, object]) -> None:
    """Either is enough."""
    assert controller.submit(options={"SLURMEXT_QUEUE": "prod/chat"}, **who).code == 0


def test_a_listed_account_lets_nobody_else_in(controller: Controller) -> None:
    """An explicit account counts instead of the default one."""
    outcome = controller.submit(
        options={"SLURMEXT_QUEUE": "prod/chat"}, user_name="dave", account="web", default_account="ml"
    )
    assert outcome.code == 2002


def test_more_than_max_is_refused(controller: Controller) -> None:
    """The job could never run."""
    outcome = controller.submit(tres_per_job="gres:gpu:33")
    assert outcome.code == 2050
    assert "asks for 33 GPUs and the queue may never have more than 32" in outcome.user[0]
    assert controller.submit(tres_per_job="gres:gpu:32").code == 0


def test_more_than_max_is_held_where_the_policy_says_hold(controller: Controller) -> None:
    """over_max: hold."""
    assert controller.submit(tres_per_job="gres:gpu:33", options={"SLURMEXT_QUEUE": "lab"}).set["priority"] == "0"


@pytest.mark.parametrize(
    ("request_", "gpus"),
    [
        ({"tres_per_job": "gres:gpu:5"}, 5),
        ({"tres_per_job": "gres/gpu:5"}, 5),
        ({"tres_per_job": "gres/gpu=5"}, 5),
        ({"tres_per_job": "gres:gpu:h100:5"}, 5),
        ({"tres_per_job": "gres/gpu:h100=5"}, 5),
        ({"tres_per_job": "gres:gpu"}, 1),
        ({"tres_per_job": "gres:gpu:h100"}, 1),
        ({"tres_per_job": "gres:gpu:h100:2,gres:gpu:a100:3"}, 5),
        ({"tres_per_job": "cpu=4,gres/gpu=2,gres/nic=7"}, 2),
        ({"tres_per_node": "gres:gpu:2"}, 2),
        ({"tres_per_node": "gres:gpu:2", "min_nodes": 4}, 8),
        ({"tres_per_node": "gpu:2(S:0-1)", "min_nodes": 2}, 4),
        ({"tres_per_node": "gres:gpu:2", "num_tasks": 8, "ntasks_per_node": 2}, 8),
        ({"tres_per_node": "gres:gpu:2", "num_tasks": 7, "ntasks_per_node": 2}, 8),
        ({"tres_per_task": "gres:gpu:2", "num_tasks": 6}, 12),
        ({"tres_per_task": "gres/gpu:2", "min_nodes": 2, "ntasks_per_node": 4}, 16),
        ({"tres_per_socket": "gres:gpu:2", "min_nodes": 2, "sockets_per_node": 2}, 8),
        ({"tres_per_job": "gres:gpu:8", "tres_per_node": "gres:gpu:2"}, 8),
    ],
)
def test_gpus_are_counted_in_every_form(controller: Controller, request_: dict[str, object], gpus: int) -> None:
    """A max of one less refuses the job, and names the number."""
    controller.queues(f"#default\tq\nq\t1\t{gpus - 1}\trefuse\t\t\n")
    outcome = controller.submit(**({"tres_per_job": None} | request_))
    assert outcome.code == 2050
    assert f"asks for {gpus} GPUs" in outcome.user[0]


@pytest.mark.parametrize("tres", ["gres:nic:2", "gres:gpu_mem:1", "gres:shard:4", "license/gpu:1", "cpu=4"])
def test_other_resources_are_no_gpus(controller: Controller, tres: str) -> None:
    """Only gres/gpu counts."""
    assert controller.submit(tres_per_job=tres).set == {}


PARTS = {"gpu-slice", "gpu-mem", "gpu-compute", "gpu-share", "gpu-oom-retry"}
CASES = [(option, value) for option in OPTIONS for value in (*option.good, *option.bad) if value and "\n" not in value]


@pytest.mark.parametrize(("option", "value"), CASES, ids=lambda case: str(getattr(case, "name", case))[:20])
def test_the_same_verdict_as_python(controller: Controller, option, value: str) -> None:
    """A bad value without the SPANK plugin is refused here, in one line with rule and example."""
    (controller.folder / "queues.tsv").unlink()
    given, job = {option.env: value}, {"tres_per_job": None} if option.name.startswith("gpu-") else {}
    if option.name == "gpu-oom-retry":
        given["SLURMEXT_GPU_SLICE"] = "1g.10gb"
    outcome = controller.submit(options=given, **job)
    if is_valid(option, value) and option.name == "size":
        assert "slurmextd has not told the sizes yet; ask for what the job needs" in outcome.user[0]
    elif is_valid(option, value) and option.name in PARTS:
        assert "a job on a part of a GPU needs a policy, and none is in force here" in outcome.user[0]
    elif is_valid(option, value):
        assert (outcome.code, outcome.user) == (0, [])
    else:
        assert outcome.code == -1
        example = "" if option.argument is Argument.NONE else f"={option.example}"
        assert outcome.user[0].endswith(f"must be {option.rule}; for example --{option.name}{example}")
        assert outcome.set == {}


def test_environment_twins_work_without_the_plugin(controller: Controller) -> None:
    """A batch job sent by REST has them in its environment."""
    assert "queue=lab" in controller.submit(env={"SLURMEXT_QUEUE": "lab"}).comment


def test_the_plugins_value_wins_over_the_environment(controller: Controller) -> None:
    """It already knows the precedence."""
    outcome = controller.submit(options={"SLURMEXT_QUEUE": "lab"}, env={"SLURMEXT_QUEUE": "research"})
    assert "queue=lab" in outcome.comment


def test_a_flags_twin_can_say_no(controller: Controller) -> None:
    """SLURMEXT_NO_PREEMPT=no leaves the job preemptible."""
    assert "preempt" not in controller.submit(options={"SLURMEXT_NO_PREEMPT": "no"}).comment


def test_a_gang_larger_than_the_job_is_refused(controller: Controller) -> None:
    """It could never start."""
    outcome = controller.submit(options={"SLURMEXT_GANG_MIN": "5"}, num_tasks=4)
    assert outcome.code == -1
    assert "--gang-min=5: the job has 4 tasks" in outcome.user[0]


def test_the_sites_prefix_is_in_the_messages(controller: Controller) -> None:
    """A user sees the option as it is called here."""
    controller.site = replace(controller.site, prefix="sx-")
    assert "--sx-queue=nope" in controller.submit(options={"SLURMEXT_QUEUE": "nope"}).user[0]


def test_nobody_can_forge_an_annotation(controller: Controller) -> None:
    """An unmanaged job cannot look managed, a managed one gets our words."""
    forged = "slurmext/1 queue=prod/chat held=0"
    assert controller.submit(tres_per_job=None, admin_comment=forged).set == {"admin_comment": ""}
    assert controller.submit(admin_comment=forged).comment == "slurmext/1 queue=research held=1"


def test_another_admin_comment_is_kept(controller: Controller) -> None:
    """As the annotation's note."""
    assert "note=ticket%2042" in controller.submit(admin_comment="ticket 42").comment


def test_the_users_own_hold_is_remembered(controller: Controller) -> None:
    """Sbatch --hold: slurmextd must not release it."""
    assert "user_hold=1 held=1" in controller.submit(priority=0).comment


@pytest.mark.parametrize("field_", ["tres_per_job", "spank_job_env", "admin_comment", "user_name", "num_tasks"])
def test_a_field_that_cannot_be_read_leaves_the_job_untouched(controller: Controller, field_: str) -> None:
    """Our mistakes never cost a job."""
    outcome = controller.submit(broken={"read": field_})
    assert outcome.code == 0
    assert outcome.set == {}
    assert "the job passes untouched" in outcome.error[0]


@pytest.mark.parametrize("field_", ["admin_comment", "requeue", "priority"])
def test_a_field_that_cannot_be_written_is_rolled_back(controller: Controller, field_: str) -> None:
    """Half a decision is none: what was set before is set back."""
    outcome = controller.submit(options={"SLURMEXT_CKPT": "auto"}, broken={"write": field_})
    assert outcome.code == 0
    assert outcome.set.get("admin_comment", "") == ""
    assert outcome.set.get("requeue", str(NO_VAL16)) == str(NO_VAL16)
    assert "priority" not in outcome.set


@pytest.mark.parametrize("table", ["\t\t\t\n", "\x00\xff\n", "#default\n", "a\n", "#default\ta\na\t1\tx\ty\n"])
def test_a_broken_queue_table_costs_no_job(controller: Controller, table: str) -> None:
    """Whatever lies in queues.tsv, nothing is raised to slurmctld."""
    controller.queues(table)
    assert controller.submit().code in {0, -1}


def test_missing_wake_file_is_no_error(controller: Controller) -> None:
    """The daemon's timer finds the job anyway."""
    (controller.folder / "submit-wake").unlink()
    outcome = controller.submit()
    assert (outcome.code, outcome.error) == (0, [])


def test_the_sites_script_is_called_first(controller: Controller) -> None:
    """Its changes are seen, its refusal stands, its later edits are taken up."""
    former = controller.folder / "job_submit.site.lua"
    controller.site = replace(controller.site, former=str(former))
    former.write_text(
        "function slurm_job_submit(job, parts, uid) job.tres_per_job = nil return slurm.SUCCESS end\n"
        "function slurm_job_modify(job, rec, parts, uid) return 7 end\nreturn slurm.SUCCESS\n"
    )
    assert "priority" not in controller.submit().set
    assert controller.modify({"admin_comment": None}, uid=0).code == 7
    former.write_text("function slurm_job_submit() slurm.log_user('site says no') return slurm.ERROR end\n")
    outcome = controller.submit()
    assert (outcome.code, outcome.user, outcome.set) == (-1, ["site says no"], {})


HELD = {"admin_comment": "slurmext/1 queue=research ckpt=auto held=1", "priority": 0, "req_nodes": None}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"priority": INFINITE}, 2002),
        ({"priority": 500}, 2002),
        ({"priority": 0}, 2002),
        ({"req_nodes": "n3"}, 2002),
        ({"requeue": 0}, 2002),
        ({}, 0),
        ({"time_limit": 5}, 0),
    ],
)
def test_a_user_cannot_undo_what_was_decided(controller: Controller, change: dict[str, object], code: int) -> None:
    """Release, priority, nodes and requeue of a held job are slurmextd's; root and SlurmUser may change them."""
    assert controller.modify(HELD, **change).code == code
    assert controller.modify(HELD, uid=0, **change).code == 0
    assert controller.modify(HELD, uid=64030, **change).code == 0


@pytest.mark.parametrize("comment", [None, "", "hello", "slurmext/1 queue=research held=0", "x slurmext/1 held=1"])
def test_other_jobs_are_their_users(controller: Controller, comment: str | None) -> None:
    """Only jobs that we hold are guarded."""
    assert controller.modify({"admin_comment": comment}, priority=INFINITE).code == 0


def test_a_user_may_release_their_own_hold(controller: Controller) -> None:
    """Slurmextd is woken and has until the begin time to take the job over."""
    held = {"admin_comment": "slurmext/1 queue=research user_hold=1 held=1", "priority": 0}
    outcome = controller.modify(held, priority=INFINITE)
    assert outcome.code == 0
    assert 25 <= float(outcome.set["begin_time"]) - time.time() <= 31
    assert controller.woken
    tomorrow = int(time.time()) + 86400
    held["admin_comment"] = controller.submit(priority=0, begin_time=tomorrow).comment
    assert float(controller.modify(held, priority=INFINITE).set["begin_time"]) == tomorrow


def test_an_error_in_modify_lets_it_pass(controller: Controller) -> None:
    """Our mistakes never block an update."""
    assert controller.modify(HELD, broken={"read": "priority"}).code == 0


def test_site_values_are_quoted(controller: Controller) -> None:
    """A path or a partition cannot break out of its literal."""
    controller.site = replace(controller.site, partitions=('a"] = os.exit(3), ["b',))
    assert controller.submit().code == 0
    assert json.dumps("x") == '"x"'


def test_heterogeneous_jobs_are_left_to_slurm(controller: Controller) -> None:
    """No component is held or marked as ours: nobody would release it. It waits behind what queues have released."""
    outcome = controller.submit(het_job_offset=1, admin_comment="slurmext/1 queue=prod held=0")
    assert outcome.code == 0
    assert outcome.set == {"admin_comment": "", "priority": "1"}
    assert not controller.woken
    assert controller.submit(het_job_offset=0, priority=0).set == {}
    assert controller.submit(het_job_offset=NO_VAL).comment.endswith("held=1")


def test_a_heterogeneous_job_cannot_name_a_queue(controller: Controller) -> None:
    """One line that says what to do instead."""
    outcome = controller.submit(het_job_offset=0, options={"SLURMEXT_QUEUE": "research"})
    assert outcome.code != 0
    assert "--queue=research: queues do not take heterogeneous jobs; leave it out" in outcome.user[0]


def test_a_site_may_refuse_heterogeneous_jobs_with_gpus(controller: Controller) -> None:
    """Those would be outside all queues; ones without GPUs are nobody's business."""
    controller.queues(QUEUES + "#het\trefuse\n")
    outcome = controller.submit(het_job_offset=0)
    assert outcome.code != 0
    assert "not taken here" in outcome.user[0]
    assert controller.submit(het_job_offset=0, tres_per_job=None).code == 0


def _sized(controller: Controller, size: str, **job: object) -> Outcome:
    controller.queues(QUEUES + SIZES)
    return controller.submit(options={"SLURMEXT_SIZE": size}, **{"tres_per_job": None, **job})


def test_a_size_fills_in_the_whole_request(controller: Controller) -> None:
    """GPUs of its one type, nodes, CPUs, memory and time; the spelling of TRES is the release's own."""
    outcome = _sized(controller, "small")
    assert outcome.code == 0
    assert outcome.set == {
        "gres": "gpu:h100:1", "min_nodes": "1", "max_nodes": "1", "cpus_per_tres": "gres/gpu:8",
        "mem_per_tres": "gres/gpu:65536", "time_limit": "240", "priority": "0",
        "admin_comment": "slurmext/1 queue=research types=h100 size=small held=1",
    }  # fmt: skip


def test_a_size_of_several_nodes_starts_its_tasks_on_each(controller: Controller) -> None:
    """What the size does not say is left to Slurm."""
    fields = _sized(controller, "large").set
    assert {key: fields[key] for key in ("gres", "min_nodes", "ntasks_per_node", "num_tasks")} == {
        "gres": "gpu:8", "min_nodes": "2", "ntasks_per_node": "4", "num_tasks": "8"
    }  # fmt: skip
    assert not {"cpus_per_tres", "mem_per_tres", "time_limit"} & fields.keys()


@pytest.mark.parametrize(
    ("job", "absent", "present"),
    [
        ({"time_limit": 10}, {"time_limit"}, {"gres", "min_nodes"}),
        ({"time_limit": INFINITE}, {"time_limit"}, {"gres"}),
        ({"min_nodes": 3}, {"min_nodes", "max_nodes"}, {"gres", "time_limit"}),
        ({"tres_per_node": "gres:gpu:a100:2"}, {"gres"}, {"min_nodes", "cpus_per_tres"}),
        ({"tres_per_job": "gres:gpu:2"}, {"gres", "min_nodes", "max_nodes"}, {"cpus_per_tres", "time_limit"}),
        ({"tres_per_task": "gres:gpu:2"}, {"gres", "min_nodes", "max_nodes"}, {"cpus_per_tres"}),
        ({"cpus_per_task": 4}, {"cpus_per_tres"}, {"gres"}),
        ({"cpus_per_tres": "gres:gpu:2"}, {"cpus_per_tres"}, {"gres"}),
        ({"min_mem_per_node": 1000}, {"mem_per_tres"}, {"gres"}),
        ({"min_mem_per_cpu": 1000}, {"mem_per_tres"}, {"gres"}),
        ({"mem_per_tres": "gres:gpu:1000"}, {"mem_per_tres"}, {"gres"}),
    ],
)
def test_what_the_user_asks_for_himself_wins_over_the_size(
    controller: Controller, job: dict[str, object], absent: set[str], present: set[str]
) -> None:
    """Each part of the request by itself."""
    fields = _sized(controller, "small", **job).set
    assert not absent & fields.keys()
    assert present <= fields.keys()


def test_the_users_gpu_types_win_over_the_sizes(controller: Controller) -> None:
    """By option, or in the request; several types are the daemon's to choose from."""
    controller.queues(QUEUES + SIZES)
    both = {"SLURMEXT_SIZE": "small", "SLURMEXT_GPU_TYPES": "a100"}
    outcome = controller.submit(options=both, tres_per_job=None)
    assert (outcome.set["gres"], "types=a100" in outcome.comment) == ("gpu:a100:1", True)
    assert "types" not in _sized(controller, "small", tres_per_node="gres:gpu:a100:2").comment
    mixed = _sized(controller, "mixed")
    assert (mixed.set["gres"], "types=h100,a100 size=mixed" in mixed.comment) == ("gpu:2", True)


def test_other_resources_of_the_node_are_kept_beside_the_sizes_gpus(controller: Controller) -> None:
    """`--gres=shard:2 --size=small`."""
    assert _sized(controller, "small", tres_per_node="gres:shm:1").set["gres"] == "gres:shm:1,gpu:h100:1"


def test_a_sizes_gpus_count_against_the_queues_max(controller: Controller) -> None:
    """16 GPUs into a queue of at most 4 that refuses."""
    controller.queues((QUEUES + SIZES).replace("prod/batch\t1\t\t", "prod/batch\t1\t4\t"))
    outcome = controller.submit(options={"SLURMEXT_SIZE": "large", "SLURMEXT_QUEUE": "prod/batch"}, tres_per_job=None)
    assert outcome.code != 0
    assert "asks for 16 GPUs" in outcome.user[0]


def test_an_unknown_size_is_refused_with_those_there_are(controller: Controller) -> None:
    """The nearest one first."""
    outcome = _sized(controller, "smal")
    assert outcome.code == -1
    assert outcome.user == [
        (
            "slurmext: --size=smal: no such size; did you mean small? sizes: small (1 GPU), large (2 x 8 GPUs),"
            " mixed (2 GPUs)"
        )
    ]
    assert outcome.set == {}


def test_a_size_works_while_slurmextd_is_away(controller: Controller) -> None:
    """The request is filled in, the job not held."""
    controller.beat(60)
    fields = _sized(controller, "small").set
    assert fields["gres"] == "gpu:h100:1"
    assert "priority" not in fields
    assert fields["admin_comment"].endswith("size=small held=0")


def test_when_a_field_cannot_be_set_the_job_is_as_it_was(controller: Controller) -> None:
    """All of the size or nothing of it."""
    outcome = _sized(controller, "small", broken={"write": "time_limit"})
    assert outcome.code == 0
    assert (outcome.set["gres"], outcome.set["min_nodes"]) == ("", str(NO_VAL))
    assert "admin_comment" not in outcome.set


@pytest.mark.parametrize(
    ("job", "queue"),
    [
        ({}, "research/alice"),
        ({"account": "nlp"}, "nlp"),
        ({"account": "nlp", "user_name": "eve"}, "teaching/eve"),
        ({"group_id": 700}, "teaching/alice"),
        ({"partition": "cpu", "group_id": 50}, "research/staff"),
    ],
)
def test_templates_make_the_queue_of_a_job_that_names_none(
    controller: Controller, job: dict[str, object], queue: str
) -> None:
    """User, account, group of the list or by number, primary group."""
    controller.queues(DYNAMIC.replace("\tzoe\tclass", "\t\t"))
    assert f"queue={queue} held=1" in controller.submit(**job).comment


def test_a_group_without_a_name_here_is_left_to_slurmextd(controller: Controller) -> None:
    """The job is held without a queue; the daemon finds it."""
    controller.queues(DYNAMIC)
    outcome = controller.submit(partition="cpu", group_id=51)
    assert outcome.set == {"admin_comment": "slurmext/1 held=1", "priority": "0"}


def test_a_name_that_is_no_queue_name_makes_no_queue(controller: Controller) -> None:
    """The rule does not match; without another the job is left to Slurm."""
    controller.queues(DYNAMIC)
    assert controller.submit(user_name="al@ad").set == {}
    assert controller.submit(user_name="../x").set == {}
    assert "queue=research/al.ice_1" in controller.submit(user_name="al.ice_1").comment


def test_a_user_may_ask_for_his_own_queue_and_not_for_anothers(controller: Controller) -> None:
    """Nor may the owner of the name get past the parent's ACL."""
    controller.queues(DYNAMIC)
    assert "queue=research/alice" in controller.submit(options={"SLURMEXT_QUEUE": "research/alice"}).comment
    others = controller.submit(options={"SLURMEXT_QUEUE": "research/bob"})
    assert others.code == 2002
    assert "--queue=research/bob: that queue is not yours, research/alice is" in others.user[0]
    assert controller.submit(options={"SLURMEXT_QUEUE": "teaching/alice"}).code == 2002
    class_ = {"options": {"SLURMEXT_QUEUE": "teaching/alice"}, "account": "class"}
    assert "queue=teaching/alice" in controller.submit(**class_).comment
    staff = {"options": {"SLURMEXT_QUEUE": "research/staff"}, "partition": "cpu", "group_id": 50}
    assert "queue=research/staff" in controller.submit(**staff).comment


def test_a_listed_child_of_a_dynamic_queue_is_an_ordinary_one(controller: Controller) -> None:
    """Nobody needs to be called so."""
    controller.queues(DYNAMIC)
    assert "queue=research/shared" in controller.submit(options={"SLURMEXT_QUEUE": "research/shared"}).comment


def test_the_limits_of_a_dynamic_queue_are_those_of_its_parents_children(controller: Controller) -> None:
    """Refused at submit where the parent says so, held where it says hold."""
    controller.queues(DYNAMIC)
    over = controller.submit(tres_per_job="gres:gpu:17")
    assert (
        "default queue research/alice: the job asks for 17 GPUs and the queue may never have more than 16"
        in (over.user[0])
    )
    assert controller.submit(user_name="zoe", tres_per_job="gres:gpu:5").code == 0


def test_suggestions_name_the_users_own_dynamic_queue(controller: Controller) -> None:
    """Not the pattern."""
    controller.queues(DYNAMIC)
    for wrong in ("reserch", "research"):
        said = controller.submit(options={"SLURMEXT_QUEUE": wrong}).user[0]
        assert "research/alice" in said
        assert "*" not in said


SLICES = (
    "card\th100\t81559\ncard\ta30\t24576\ncard\tl40\t46068\n"
    "profile\t1g.10gb\th100\t9984\t1\t56\nprofile\t3g.40gb\th100\t40448\t3\t16\n"
    "profile\t1g.6gb\ta30\t5952\t1\t8\nprofile\t1g.23gb\tb200\t22528\t1\t14\n"
    "profile\t1g.23gb\tb200x\t20992\t1\t14\ncard\tb200\t183359\n"
)


@pytest.fixture
def sliced(controller: Controller):
    """`sbatch` of a job without GPUs, where slurmextd has told what the GPUs can be cut into."""
    (controller.folder / "slices.tsv").write_text(SLICES)
    return lambda options, **job: controller.submit(options=options, **{"tres_per_job": None, **job})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"SLURMEXT_GPU_SLICE": "1g.10gb:2"}, "slice=1g.10gb:2"),
        ({"SLURMEXT_GPU_MEM": "18G", "SLURMEXT_GPU_COMPUTE": "30%"}, "gpu_mem=18432 gpu_compute=30"),
        ({"SLURMEXT_GPU_SHARE": "25%,mem=10G"}, "share=25,10240"),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb", "SLURMEXT_GPU_OOM_RETRY": "1"}, "slice=1g.10gb oom=retry"),
    ],
)
def test_a_job_on_a_part_of_a_gpu_is_held_although_it_asks_for_no_gpu(sliced, options, words: str) -> None:
    """It is annotated with what it needs in plain numbers, and gets a definite number of nodes."""
    outcome = sliced(options)
    assert (outcome.code, outcome.user) == (0, [])
    assert f" {words} " in outcome.comment
    assert (outcome.set["priority"], outcome.set["min_nodes"], outcome.set["max_nodes"]) == ("0", "1", "1")
    assert outcome.comment.endswith("held=1")


def test_without_slurmextd_a_job_on_a_part_of_a_gpu_waits(controller: Controller, sliced) -> None:
    """Nothing else fails closed: it could not run without a slice."""
    controller.beat(600)
    outcome = sliced({"SLURMEXT_GPU_SLICE": "1g.10gb"})
    assert outcome.set["priority"] == "0"
    assert outcome.comment.endswith("held=1")


@pytest.mark.parametrize(
    ("options", "job", "said"),
    [
        ({"SLURMEXT_GPU_SLICE": "1g.99gb"}, {}, "no GPU here has the profile 1g.99gb; there are h100: 1g.10gb, 3g.40gb; a30: 1g.6gb; b200: 1g.23gb; b200x: 1g.23gb"),
        ({"SLURMEXT_GPU_SLICE": "1g.6gb", "SLURMEXT_GPU_TYPES": "h100"}, {}, "no GPU of type h100 has the profile 1g.6gb; there are h100: 1g.10gb, 3g.40gb"),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb", "SLURMEXT_GPU_TYPES": "l40"}, {}, "there are none: those cannot be cut (ask for --gpu-share)"),
        ({"SLURMEXT_GPU_SLICE": "3g.40gb:17"}, {}, "the job wants 17 of them on a node and no node can hold more than 16; ask for at most --gpu-slice=3g.40gb:16, or for more nodes"),
        ({"SLURMEXT_GPU_SLICE": "3g.40gb"}, {"num_tasks": 17}, "wants 17 of them on a node"),
        ({"SLURMEXT_GPU_SLICE": "1g.23gb"}, {}, "that name means 20.5 GiB on one board (b200x) and 22 GiB on another (b200); choose with --gpu-types=b200x, or ask for --gpu-mem=20992M"),
        ({"SLURMEXT_GPU_MEM": "1T"}, {}, "no GPU here has so much memory; the largest (b200) has 179.06 GiB; ask for at most 183359M, or for whole GPUs"),
        ({"SLURMEXT_GPU_SHARE": "25%,mem=100G", "SLURMEXT_GPU_TYPES": "h100"}, {}, "the largest (h100) has 79.65 GiB"),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb"}, {"tres_per_node": "gres:gpu:2"}, "--gpu-slice=1g.10gb: the job asks for whole GPUs as well (2); leave out one of the two"),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb", "SLURMEXT_GPU_MEM": "1G"}, {}, "one of them says it all"),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb", "SLURMEXT_GANG_MIN": "1"}, {"num_tasks": 2}, "leave out --gang-min"),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb"}, {"het_job_offset": 0}, "a heterogeneous job cannot have parts of GPUs"),
        ({"SLURMEXT_GPU_OOM_RETRY": "1"}, {}, "it is for jobs on a part of a GPU"),
    ],
)  # fmt: skip
def test_a_part_of_a_gpu_that_cannot_be_had_is_refused_with_what_there_is(sliced, options, job, said: str) -> None:
    """One line that names the request, why not, and what would do."""
    outcome = sliced(options, **job)
    assert outcome.code != 0
    assert len(outcome.user) == 1
    assert said in outcome.user[0]
    assert outcome.set == {}


def test_types_choose_between_two_meanings_of_a_name(sliced) -> None:
    """With one type accepted the name means one size."""
    assert sliced({"SLURMEXT_GPU_SLICE": "1g.23gb", "SLURMEXT_GPU_TYPES": "b200"}).code == 0


def test_a_size_may_be_a_part_of_a_gpu(controller: Controller, sliced) -> None:
    """It brings its slice, tasks, CPUs and memory; whoever asks for whole GPUs or another slice gets that."""
    controller.queues(QUEUES + "#size\tnotebook\t1\t0\t\t4\t16384\t60\th100\t1g.10gb\t\t\t\n")
    outcome = sliced({"SLURMEXT_SIZE": "notebook"})
    assert " types=h100 slice=1g.10gb " in outcome.comment
    found = {name: outcome.set.get(name) for name in ("cpus_per_task", "min_cpus", "min_mem_per_node", "time_limit")}
    assert found == {"cpus_per_task": "4", "min_cpus": "4", "min_mem_per_node": "16384", "time_limit": "60"}
    assert "gres" not in outcome.set
    assert " slice=3g.40gb " in sliced({"SLURMEXT_SIZE": "notebook", "SLURMEXT_GPU_SLICE": "3g.40gb"}).comment
    assert " slice=" not in sliced({"SLURMEXT_SIZE": "notebook"}, tres_per_node="gres:gpu:1").comment


def test_a_placeholder_of_slurmextd_is_left_alone(controller: Controller) -> None:
    """It asks for a GPU and must start; nobody else may call a job so and pass."""
    assert controller.submit(uid=0, name="slurmext-slices-7").set == {}
    assert controller.submit(uid=1000, name="slurmext-slices-7").set["priority"] == "0"


def test_a_job_saved_from_outside_runs_under_what_saves_it(controller: Controller) -> None:
    """--ckpt=transparent: Slurm runs the keeper, which finds the job's own script behind a line of its own."""
    outcome = controller.submit(options={"SLURMEXT_CKPT": "transparent"}, script="#!/bin/bash\ntrain 'a b'\n")
    assert outcome.code == 0
    head, _, own = outcome.set["script"].partition("#slurmext: the job's own script\\n")
    assert 'exec \'/opt/slurmext/run it\' "$0" "$@"' in head
    assert own.startswith("#!/bin/bash")
    assert outcome.set["requeue"] == "1"


@pytest.mark.parametrize(
    ("job", "why"), [({"script": None}, "only a batch job"), ({"min_nodes": 2}, "only what runs on one node")]
)
def test_what_cannot_be_saved_from_outside_is_refused(controller: Controller, job: dict[str, object], why: str) -> None:
    """An interactive job and one of several nodes are told at submit, with what to use instead."""
    outcome = controller.submit(options={"SLURMEXT_CKPT": "transparent,chain"}, **job)
    assert outcome.code != 0
    assert why in outcome.user[0]
    assert "--ckpt=auto" in outcome.user[0]
