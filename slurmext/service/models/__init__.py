"""Requests about models that can be staged: register, list, share, remove, and what nodes shall have.

requests takes one to listing, registering (with uploads of manifests), sharing or placing; caller says who asks and
what (people: who that is), quotas what users may have, desk what is asked of whoever moves models. May import what
service may.
"""

from slurmext.service.models.caller import Caller
from slurmext.service.models.desk import ModelDesk
from slurmext.service.models.people import caller_of
from slurmext.service.models.quotas import Quotas
from slurmext.service.models.requests import ModelRequests

__all__ = ["Caller", "ModelDesk", "ModelRequests", "Quotas", "caller_of"]
