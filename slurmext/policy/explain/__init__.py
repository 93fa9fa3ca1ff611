"""Why a job waits, what must happen and when, and what a queue may count on, in words with the numbers that decide.

books: the world counted once. reasons: a sentence for each reason. job, queue, start: what is asked about.
Pure, like all of policy; may import model and policy.
"""

from slurmext.policy.explain.job import explain, messages
from slurmext.policy.explain.queue import explain_queue

__all__ = ["explain", "explain_queue", "messages"]
