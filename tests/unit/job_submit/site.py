"""slurmctld with job_submit.lua, as far as the script can tell."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from slurmext.spank.job_submit import LuaSite, render

LUAS = [path for name in ("lua5.1", "lua5.4", "lua") if (path := shutil.which(name))]
NO_VAL, NO_VAL16, INFINITE = 4294967294, 65534, 4294967295
QUEUES = (
    "#default\tresearch\n"
    "research\t1\t32\trefuse\t\t\n"
    "prod\t0\t32\trefuse\t\t\n"
    "prod/chat\t1\t16\trefuse\talice,carol\tml\n"
    "prod/batch\t1\t\trefuse\t\t\n"
    "lab\t1\t4\thold\t\t\n"
)
DRIVER = """
slurm = { SUCCESS = 0, ERROR = -1, NO_VAL = 4294967294, NO_VAL16 = 65534, ESLURM_ACCESS_DENIED = 2002,
  ESLURM_ACCOUNTING_POLICY = 2050 }
local function line(kind) return function(f, ...) print(kind .. "\\t" .. string.format(f, ...)) end end
slurm.log_user, slurm.log_error, slurm.log_info = line("user"), line("error"), function() end
local broken = BROKEN
local fields = JOB
local environment = setmetatable({}, {
  __index = function(_, k) return (ENVIRONMENT)[k] end,
  __newindex = function(_, k, v) print("set\\tenvironment." .. k .. "\\t" .. v) end,
})
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
