"""What can go wrong while a devcluster is booted or stopped."""

from __future__ import annotations

from slurmext.errors import SlurmextError, UsageError


class DevclusterError(SlurmextError):
    """A devcluster could not be booted, reached or stopped; the message names the log to read."""


class BadSpec(UsageError):
    """The asked-for cluster is not possible; the message names the value and what is."""
