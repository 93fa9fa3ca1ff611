"""Agents in memory that make slices at once: what the controller is told is what the real ones tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from slurmext.adapters.tcp.wire import AgentEvent
from slurmext.model.slice_state import SliceRecord
from slurmext.model.slicing import GpuUse
from slurmext.testing.slicing import gpus


class FakeAgents:
    """Implements `ports.SliceAgents`. `tell` takes events as the daemon does. Who is in `away` hears nothing, who is in
    `mute` does not answer; `broken` names GPUs on which nothing can be made.
    """

    def __init__(self, nodes: Collection[str], gpu_type: str, count: int, now: Any) -> None:
        self._now, self._seq = now, 0
        self.tell: Any = None
        self.away: set[str] = set()
        self.mute: set[str] = set()
        self.broken: set[str] = set()
        self.slow: set[str] = set()
        self.nodes = {node: {gpu.uuid: gpu for gpu in gpus(node, gpu_type, count, GpuUse.WHOLE)} for node in nodes}
        self.use: dict[str, GpuUse] = {uuid: GpuUse.WHOLE for node in self.nodes.values() for uuid in node}
        self.reserved: dict[tuple[str, str], tuple[str, Sequence[SliceRecord]]] = {}
        self.live: dict[tuple[str, str], tuple[str, Sequence[SliceRecord]]] = {}
        self.log: list[tuple[str, ...]] = []

    # orders

    def connected(self) -> Collection[str]:
        """Whose agents are there."""
        return self.nodes.keys() - self.away

    def reserve(
        self, slices: Sequence[SliceRecord], *, raw_id: str, uid: int, restarts: int, asked: Mapping[str, str]
    ) -> bool:
        """Answered at once."""
        del uid, restarts, asked
        node, name = slices[0].node, slices[0].reservation
        if node in self.away:
            return False
        self.log.append(("reserve", node, name))
        if node not in self.mute:
            self.reserved[node, name] = raw_id, slices
            self._say(node, "slice_reserved", raw_id, reservation=name)
        return True

    def withdraw(self, node: str, reservation: str) -> bool:
        """Forgotten, or freed."""
        if node in self.away:
            return False
        self.log.append(("withdraw", node, reservation))
        self.reserved.pop((node, reservation), None)
        self.live.pop((node, reservation), None)
        self._say(node, "slice_freed", None, reservation=reservation)
        return True

    def free_warm(self, node: str, gpu: str, profile: str, start: int) -> bool:
        """There are none."""
        self.log.append(("free_warm", node, gpu, profile, str(start)))
        return True

    def set_use(self, node: str, gpu: str, use: GpuUse) -> bool:
        """Done, unless somebody is on it."""
        if node in self.away:
            return False
        self.log.append(("set_use", node, gpu, use.value))
        busy = any(each.gpu == gpu for _, slices in self.live.values() for each in slices)
        if not busy:
            self.use[gpu] = use
        self._say(node, "gpu_use", None, gpu=gpu, use=use.value, ok=not busy, why="busy" if busy else "")
        self.inventory(node)
        return True

    # what happens on nodes

    def prolog(self, node: str, raw_id: str) -> str:
        """A job starts on the node: `made`, `missed` or, without a reservation, `unknown`."""
        found = next((key for key, (job, _) in self.reserved.items() if job == raw_id and key[0] == node), None)
        if found is None:
            self._say(node, "slice_missed", raw_id, reservation=None, reason="no reservation of slices is known here")
            return "unknown"
        _, slices = self.reserved.pop(found)
        for each in slices:
            if each.gpu in self.broken:
                self._say(node, "slice_missed", raw_id, reservation=found[1], reason="the driver refused")
                return "missed"
            if self.use[each.gpu] is not (GpuUse.MIG if each.profile else GpuUse.SHARED):
                raise AssertionError(f"{each} on a GPU in {self.use[each.gpu]} use")
        self.live[found] = raw_id, slices
        items = [{"gpu": each.gpu, "start": each.start, "uuid": f"MIG-{each.gpu}-{each.start}"} for each in slices]
        self._say(node, "slice_made", raw_id, reservation=found[1], items=items, ms=12.5)
        self.inventory(node)
        return "made"

    def epilog(self, node: str, raw_id: str) -> None:
        """The job has ended on the node; on a `slow` one its slices are not free yet."""
        for key in [key for key, (job, _) in self.live.items() if job == raw_id and key[0] == node not in self.slow]:
            del self.live[key]
            self._say(node, "slice_freed", raw_id, reservation=key[1], items=[])
        self.inventory(node)

    def inventory(self, node: str) -> None:
        """Tell everything of the node's GPUs."""
        self._say(node, "gpus", None, gpus=[self._described(uuid) for uuid in self.nodes[node]])

    def started(self, node: str, raw_id: str, minor: int) -> None:
        """A whole-GPU job, or a placeholder, started with that GPU."""
        self._say(node, "job_start", raw_id, gpus=str(minor))

    def sampled(self, node: str, raw_id: str, reservation: str, **values: object) -> None:
        """What a job used."""
        self._say(node, "slice_sample", raw_id, reservation=reservation, samples=3, final=True, **values)

    def _described(self, uuid: str) -> Mapping[str, Any]:
        gpu = next(node[uuid] for node in self.nodes.values() if uuid in node)
        live = [each for _, slices in self.live.values() for each in slices if each.gpu == uuid and each.profile]
        return {
            "uuid": uuid, "minor": gpu.minor, "index": gpu.minor, "name": gpu.gpu_type, "memory_mib": gpu.memory_mib,
            "sm": gpu.sm, "mig_capable": gpu.geometry is not None, "use": self.use[uuid].value,
            "geometry": [
                {"name": each.name, "id": each.profile_id, "size": each.memory_units, "compute": each.compute_slices,
                 "memory_mib": each.memory_mib, "sm": each.sm, "starts": list(each.starts), "max": each.most}
                for each in (gpu.geometry.profiles if gpu.geometry else ())
            ],
            "instances": [
                {"profile": each.profile, "start": each.start, "gi": 1, "ci": 0, "uuid": f"MIG-{uuid}-{each.start}",
                 "job_id": int(each.job.job_id.partition("_")[0]), "state": "busy"}
                for each in live
            ],
            "shares": [],
        }  # fmt: skip

    def _say(self, node: str, event: str, job_id: str | None, **detail: object) -> None:
        self._seq += 1
        self.tell(AgentEvent(node=node, boot="b", seq=self._seq, event=event, at_s=self._now(), job_id=job_id,
                             uid=0, detail=detail))  # fmt: skip
