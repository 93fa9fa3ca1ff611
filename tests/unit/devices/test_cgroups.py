"""What a job's cgroup lets it open, decided by the real kernel, on top of what Slurm puts there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slurmext.adapters.devices import NvidiaDevices, bpf
from slurmext.adapters.devices.cgroups import Hierarchies, gpu_nodes
from slurmext.adapters.devices.gres import devices_of_gres
from slurmext.adapters.nvml import NvmlSliceDriver
from slurmext.model.mig import GpuCard, MigInstance
from slurmext.testing.nvml import SimulatedGpus
from slurmext.testing.nvml.tree import minor_of
from tests.unit.devices.conftest import HOSTILE, OWNER, as_user, needs_root, try_each

pytestmark = needs_root

JOB = 7
HERE = Hierarchies.of_this_node() if Path("/proc/self/mounts").exists() else Hierarchies(unified=None, devices=None)


def writable(mount: Path | None) -> bool:
    return mount is not None and os.access(mount, os.W_OK)


needs_v2 = pytest.mark.skipif(not (writable(HERE.unified) and bpf.works()), reason="no cgroup v2 with BPF here")
needs_v1 = pytest.mark.skipif(not writable(HERE.devices), reason="no cgroup v1 of devices here")


@contextmanager
def job_cgroup(mount: Path, job_id: int = JOB) -> Iterator[list[Path]]:
    """Job, step and task as Slurm nests them."""
    top = mount / f"slurmext-test-{os.getpid()}"
    levels = [top, top / f"job_{job_id}", top / f"job_{job_id}/step_0", top / f"job_{job_id}/step_0/task_0"]
    for level in levels:
        level.mkdir()
    try:
        yield levels[1:]
    finally:
        for level in reversed(levels):
            level.rmdir()


class Task:
    """A process in a cgroup, of a user, that opens paths when asked."""

    def __init__(self, cgroup: Path, uid: int = OWNER) -> None:
        self._cgroup, self._uid = cgroup, uid

    def opens(self, *paths: Path) -> list[str]:
        """`opened`, or why not."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                (self._cgroup / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
                os.write(write, as_user(self._uid, lambda: try_each(paths))[1].encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, encoding="utf-8") as told:
            said = told.read()
        os.waitpid(pid, 0)
        return said.split()


@contextmanager
def waiting_in(cgroup: Path) -> Iterator[int]:
    """A process that stays there: the task whose job is admitted."""
    pid, _ = as_user(OWNER, lambda: "here", stays=True)
    (cgroup / "cgroup.procs").write_text(str(pid), encoding="ascii")
    try:
        yield pid
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@pytest.fixture
def slices(node: SimulatedGpus, driver: NvmlSliceDriver) -> tuple[GpuCard, MigInstance, MigInstance]:
    """The first GPU and two slices of it. Everybody may open their nodes: only cgroups decide."""
    if not node._state.caps_major:
        pytest.skip("no device can be made here")
    card = driver.cards()[0]
    return card, driver.create(card.uuid, "1g.10gb", 0), driver.create(card.uuid, "3g.40gb", 4)


def paths(node: SimulatedGpus, card: GpuCard, instance: MigInstance) -> tuple[Path, Path]:
    """A GPU's node and the slice's."""
    dev = node.root / "dev"
    return dev / f"nvidia{card.minor}", dev / f"nvidia-caps/nvidia-cap{minor_of(card.minor, instance.gi, instance.ci)}"


def deny_gpus(cgroup: Path, node: SimulatedGpus, flags: int) -> None:
    """What Slurm attaches for a job without GPUs."""
    major, minors = gpu_nodes(node.root / "dev")
    assert major is not None
    rules = bpf.DeviceRules(only={}, never=[(major, minor) for minor in minors])
    loaded, folder = bpf.load(bpf.program(rules)), os.open(cgroup, os.O_RDONLY)
    bpf.attach(folder, loaded, flags)
    os.close(loaded)
    os.close(folder)


Slices = tuple[GpuCard, MigInstance, MigInstance]


@needs_v2
def test_v2_a_job_opens_its_own_slice_and_gpu_only(node: SimulatedGpus, slices: Slices) -> None:
    """Where Slurm constrains nothing: other GPUs and other slices are out of reach, shared devices are not."""
    card, ours, theirs = slices
    assert HERE.unified is not None
    devices = NvidiaDevices(node.root, hierarchies=Hierarchies(unified=HERE.unified, devices=None))
    gpu, cap = paths(node, card, ours)
    other = paths(node, card, theirs)[1]
    second = node.root / "dev/nvidia1"
    tries = (gpu, cap, other, second, node.root / "dev/nvidiactl", node.root / "dev/nvidia-uvm", Path("/dev/null"))
    with job_cgroup(HERE.unified) as (job, step, task):
        assert Task(task).opens(*tries) == ["opened"] * 7
        with waiting_in(task) as pid:
            assert devices.admit(pid, [(card, ours)], job_id=JOB) == "v2"
            assert devices.admit(pid, [(card, ours)], job_id=JOB) == "v2"
        expected = ["opened", "opened", "EPERM", "EPERM", "opened", "opened", "opened"]
        assert Task(task).opens(*tries) == expected
        assert Task(task, uid=HOSTILE).opens(*tries) == expected
        assert Task(step).opens(*tries) == expected
        (later := job / "step_1").mkdir()
        assert Task(later).opens(*tries) == expected
        later.rmdir()


@needs_v2
def test_v2_slurms_program_is_replaced_in_kind(node: SimulatedGpus, slices: Slices) -> None:
    """ConstrainDevices=yes keeps all GPUs from a job that asked Slurm for none; after admission it has its own."""
    card, ours, theirs = slices
    assert HERE.unified is not None
    devices = NvidiaDevices(node.root, hierarchies=Hierarchies(unified=HERE.unified, devices=None))
    (gpu, cap), other, second = paths(node, card, ours), paths(node, card, theirs)[1], node.root / "dev/nvidia1"
    with job_cgroup(HERE.unified) as (job, step, task):
        deny_gpus(job, node, bpf.ALLOW_OVERRIDE)
        deny_gpus(step, node, bpf.ALLOW_OVERRIDE)
        deny_gpus(task, node, 0)
        assert Task(task).opens(gpu, cap, second) == ["EPERM", "opened", "EPERM"]
        with waiting_in(task) as pid:
            assert devices.admit(pid, [(card, ours)], job_id=JOB) == "v2"
        assert Task(task).opens(gpu, cap, other, second) == ["opened", "opened", "EPERM", "EPERM"]
        assert Task(step).opens(gpu, second) == ["opened", "EPERM"]
        for level, kind in ((job, bpf.ALLOW_OVERRIDE), (step, bpf.ALLOW_OVERRIDE), (task, 0)):
            folder = os.open(level, os.O_RDONLY)
            ids, flags = bpf.attached(folder)
            os.close(folder)
            assert (len(ids), flags) == (1, kind)


@needs_v2
def test_v2_other_devices_of_gres_conf_stay_out_of_reach(node: SimulatedGpus, slices: Slices, tmp_path: Path) -> None:
    """What Slurm's program kept from the job, the one in its place keeps too; where there was none, nothing is."""
    card, ours, _ = slices
    assert HERE.unified is not None
    major, _ = gpu_nodes(node.root / "dev")
    cards = [tmp_path / "card0", tmp_path / "card1"]
    for minor, path in enumerate(cards):
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major - 1, 300 + minor))
        path.chmod(0o666)
    gres = tmp_path / "gres.conf"
    gres.write_text(f"# File=/dev/zero\nNodeName=n1 Name=nic File={tmp_path}/card[0-1],/dev/null\nName=gpu Count=2\n")
    assert devices_of_gres([tmp_path / "none", gres]) == ((major - 1, 300), (major - 1, 301))
    found = Hierarchies(unified=HERE.unified, devices=None)
    devices = NvidiaDevices(node.root, hierarchies=found, slurm_conf=tmp_path / "slurm.conf")
    for constrained, expected in ((True, "EPERM"), (False, "opened")):
        with job_cgroup(HERE.unified) as (_, _, task):
            if constrained:
                deny_gpus(task, node, 0)
            with waiting_in(task) as pid:
                devices.admit(pid, [(card, ours)], job_id=JOB)
            assert Task(task, uid=0).opens(*cards) == [expected, expected]
            assert Task(task).opens(Path("/dev/null")) == ["opened"]


@needs_v2
def test_v2_every_task_of_a_job_is_admitted(node: SimulatedGpus, slices: Slices) -> None:
    """A job may have thousands: admission again and again leaves one program."""
    card, ours, _ = slices
    assert HERE.unified is not None
    devices = NvidiaDevices(node.root, hierarchies=Hierarchies(unified=HERE.unified, devices=None))
    with job_cgroup(HERE.unified) as (job, _, task), waiting_in(task) as pid:
        for _ in range(200):
            devices.admit(pid, [(card, ours)], job_id=JOB)
        folder = os.open(job, os.O_RDONLY)
        assert len(bpf.attached(folder)[0]) == 1
        os.close(folder)


@needs_v2
def test_v2_who_has_a_whole_gpu_shared_opens_no_slice(
    node: SimulatedGpus, driver: NvmlSliceDriver, slices: Slices
) -> None:
    """A share of the second GPU: its device, none of the first one's slices."""
    card, ours, _ = slices
    second = driver.cards()[1]
    assert HERE.unified is not None
    devices = NvidiaDevices(node.root, hierarchies=Hierarchies(unified=HERE.unified, devices=None))
    gpu, cap = paths(node, card, ours)
    with job_cgroup(HERE.unified) as (_, _, task):
        with waiting_in(task) as pid:
            devices.admit(pid, [(second, None)], job_id=JOB)
        assert Task(task).opens(gpu, cap, node.root / "dev/nvidia1") == ["EPERM", "EPERM", "opened"]


@needs_v1
def test_v1_a_job_opens_its_own_gpu_only(node: SimulatedGpus, slices: Slices) -> None:
    """Slurm's lists keep every GPU from it at each level; admission opens its own through all of them."""
    card, ours, _ = slices
    assert HERE.devices is not None
    devices = NvidiaDevices(node.root, hierarchies=Hierarchies(unified=None, devices=HERE.devices))
    (gpu, cap), second = paths(node, card, ours), node.root / "dev/nvidia1"
    major, minors = gpu_nodes(node.root / "dev")
    with job_cgroup(HERE.devices) as levels:
        task = levels[-1]
        for level in levels:
            for minor in minors:
                (level / "devices.deny").write_text(f"c {major}:{minor} rwm", encoding="ascii")
        assert Task(task).opens(gpu, cap, second) == ["EPERM", "opened", "EPERM"]
        with waiting_in(task) as pid:
            assert devices.admit(pid, [(card, ours)], job_id=JOB) == "v1"
        assert Task(task).opens(gpu, cap, second) == ["opened", "opened", "EPERM"]


@needs_v1
def test_v1_without_slurms_lists(node: SimulatedGpus, slices: Slices) -> None:
    """Where Slurm constrains nothing, other GPUs are out of reach as well."""
    card, ours, _ = slices
    assert HERE.devices is not None
    devices = NvidiaDevices(node.root, hierarchies=Hierarchies(unified=None, devices=HERE.devices))
    with job_cgroup(HERE.devices) as levels:
        with waiting_in(levels[-1]) as pid:
            assert devices.admit(pid, [(card, ours)], job_id=JOB) == "v1"
        assert Task(levels[-1]).opens(node.root / "dev/nvidia0", node.root / "dev/nvidia1") == ["opened", "EPERM"]


def test_another_jobs_process_is_not_touched(node: SimulatedGpus, slices: Slices) -> None:
    """A process id that meanwhile is somebody else's, or one in no job's cgroup, changes nothing."""
    card, ours, _ = slices
    devices = NvidiaDevices(node.root)
    assert devices.admit(os.getpid(), [(card, ours)], job_id=JOB) == ""
    if writable(HERE.unified) and HERE.unified is not None:
        with job_cgroup(HERE.unified, job_id=8) as (_, _, task), waiting_in(task) as pid:
            assert devices.admit(pid, [(card, ours)], job_id=JOB) == ""
