"""Who may open the devices of GPUs and MIG instances: a DeviceAccess over device nodes and cgroups.

`nodes` gives an instance's capability nodes to one user; `cgroups` lets a job open its own GPUs and no others, by a BPF
program (`bpf`) or cgroup v1's lists, and keeps from it what `gres` finds in gres.conf. The kernel enforces both.
`DRIVER_ROOT` is where the driver's /proc and /dev are.
"""

from slurmext.adapters.devices.access import DRIVER_ROOT, NvidiaDevices

__all__ = ["DRIVER_ROOT", "NvidiaDevices"]
