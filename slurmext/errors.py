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
