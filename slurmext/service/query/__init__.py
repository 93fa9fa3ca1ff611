"""Read-only questions about queues, jobs and history, answered as plain JSON values and filtered by who asks.

desk takes a question to jobs, queues, history, policy or daemon; context is what they draw from, viewer who asks and
what, values how records are told. May import what service may.
"""

from slurmext.service.query.desk import Queries
from slurmext.service.query.viewer import Answer, Question, Viewer

__all__ = ["Answer", "Queries", "Question", "Viewer"]
