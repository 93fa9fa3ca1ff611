"""Why a job waits, what must happen and when, and what a queue may count on, in words with the numbers that decide.

books, stakes: the world counted once. reasons: a sentence for each reason. job, queue, start: what is asked about;
account: a queue's account as text.
Pure, like all of policy; may import model and policy.
"""

from slurmext.policy.explain.account import explain_queue
from slurmext.policy.explain.job import explain, messages

__all__ = ["explain", "explain_queue", "messages"]
