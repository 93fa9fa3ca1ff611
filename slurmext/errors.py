"""The one exception root. An exception's message says what is wrong and how to mend it."""

from __future__ import annotations


class SlurmextError(Exception):
    """Something slurmext can explain: the message is one line naming the value, the rule and the remedy."""


class UsageError(SlurmextError):
    """What was asked for cannot be understood or is not allowed; the command line exits with 2."""


class SlurmUnavailable(SlurmextError):
    """Slurm did not answer; the cycle is skipped and tried again."""


class SlurmRefused(SlurmextError):
    """Slurm answered and refused the request; its own words are in the message."""


class StoreUnavailable(SlurmextError):
    """The state database did not answer; nothing is done until it does."""


class StoreConflict(SlurmextError):
    """Another daemon holds the controller lease (its fencing token is newer); this one must stop acting."""


class GpuDriverError(SlurmextError):
    """The GPU driver refused or did not answer; its own words are in the message."""


class GpuPlaceTaken(GpuDriverError):
    """No such instance fits there: the place is taken or not a legal one. NVML does not tell which."""


class GpuInUse(GpuDriverError):
    """A process still has the GPU or instance open. Nobody is killed for it; try again later."""


class GpuNeedsReset(GpuDriverError):
    """The mode changes only with a reset of the GPU, which is the administrator's to do: `nvidia-smi --gpu-reset`."""


class GpuOtherInstance(GpuDriverError):
    """What is at that place is not what was made there; it is left alone."""


class DeviceAccessError(SlurmextError):
    """Access to a slice's devices could not be limited to its user."""
