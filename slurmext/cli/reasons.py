"""The reason codes in words: what each means, and what the user can do."""

from __future__ import annotations

from dataclasses import dataclass

from slurmext.model.plan import Reason


@dataclass(frozen=True, slots=True)
class Words:
    """`meaning` completes 'The job waits/leaves because …'; `remedy` says what happens next or what to do."""

    meaning: str
    remedy: str


PENDING: dict[Reason, Words] = {
    Reason.QUEUE_MAX: Words(
        "its queue, or one above it, is at its max",
        "It starts when jobs of that queue end. 'slurmext queue show QUEUE' has the numbers; another may have room.",
    ),
    Reason.USER_MAX: Words(
        "its user already holds as many GPUs as one user may have in this queue",
        "It starts when one of the user's own jobs in the queue ends.",
    ),
    Reason.OVER_GUARANTEE: Words(
        "it may use only guaranteed GPUs (--no-preempt), and its queue's guarantee is in use",
        "It starts when jobs in the queue's guarantee end. Without --no-preempt it could borrow idle GPUs.",
    ),
    Reason.LENDING_LIMIT: Words(
        "the idle GPUs belong to a queue that already lends as many as its lending_limit allows",
        "It starts when borrowed GPUs come back, or when its own queue's guarantee has room.",
    ),
    Reason.QUEUE_FENCE: Words(
        "a fence keeps GPUs from crossing between the queue that owns them and this one",
        "It starts when GPUs on this side of the fence are free. Fences are set in the policy ('fence').",
    ),
    Reason.NO_NODE_FITS: Words(
        "no nodes that are up could run it even if empty: too few of them have the GPUs that a task needs, or the type",
        "It will not start as it is unless nodes come back. Ask for fewer GPUs in each task, other --gpu-types, more"
        " tasks of fewer GPUs, or for more nodes (--gpus=8 -N2).",
    ),
    Reason.NO_FREE_GPUS: Words(
        "all GPUs it could use are in use, and its queue's guarantee does not entitle it to take any back",
        "It starts when GPUs become free.",
    ),
    Reason.FRAGMENTED: Words(
        "enough GPUs are free, but spread over nodes so that its tasks do not fit",
        "It starts when GPUs on the same nodes become free. More tasks with fewer GPUs each fit sooner.",
    ),
    Reason.BEHIND_IN_QUEUE: Words(
        "jobs before it in its queue go first",
        "It starts after them. 'slurmext job list --queue QUEUE' shows the order of things.",
    ),
    Reason.RECLAIMING: Words(
        "GPUs that its queue lent out are being taken back for it",
        "It starts when the borrowers have saved their checkpoints, at the latest after their grace.",
    ),
    Reason.PREEMPTING: Words(
        "jobs of lower priority in its queue are making room for it",
        "It starts when they have saved their checkpoints, at the latest after their grace.",
    ),
    Reason.CONSOLIDATING: Words(
        "jobs are being moved together so that its tasks fit",
        "It starts when the moved jobs have saved their checkpoints.",
    ),
    Reason.WAITING_NEAR_END: Words(
        "a job that would have to make room ends soon anyway",
        "It starts when that job ends; the policy's near_end_s says what counts as soon.",
    ),
    Reason.NOT_ELIGIBLE: Words(
        "it may not start yet: a begin time, a dependency, a hold of its user, the delay after a requeue, or a model of"
        " its --preload that is not there for it",
        "'scontrol show job JOB' shows EligibleTime and Dependency; 'slurmext model list' shows the models its user may"
        " read. It goes on by itself.",
    ),
    Reason.ARRAY_MAX: Words(
        "its array was submitted with a task limit (--array=0-7%2), and as many of its tasks run already",
        "The next task starts when one ends. 'scontrol update JobId=ARRAY ArrayTaskThrottle=N' changes the limit; 0"
        " lifts it.",
    ),
    Reason.SLURM_LIMIT: Words(
        "Slurm itself starts no more jobs like it now: a limit of its QOS or account, or licenses that are in use",
        "It starts when one of them ends; whether Slurm lets more start is tried now and then. 'sacctmgr show assoc'"
        " and 'sacctmgr show qos' show the limits, 'scontrol show licenses' the licenses.",
    ),
    Reason.GROUP_MAX: Words(
        "the members of one of its user's groups already hold as many GPUs as they may in this queue",
        "It starts when a job of that group in the queue ends.",
    ),
    Reason.HEADROOM: Words(
        "the GPUs still idle are kept free for bursts of guaranteed work, and it would borrow them",
        "It starts when more GPUs are idle than the policy's headroom, or when its own queue's guarantee has room.",
    ),
    Reason.PRE_DRAIN: Words(
        "its queue gets smaller at a time the calendar knows, and the job could not end before",
        "A shorter --time lets it start now; otherwise it starts when the calendar gives its queue room again.",
    ),
    Reason.UNKNOWN_QUEUE: Words(
        "its queue is not in the policy any more",
        "Submit it to another queue ('slurmext queue list'), or have the queue put back.",
    ),
    Reason.UNKNOWN_STATE: Words(
        "something about it, its queue or the nodes could not be read, and what is not known is not acted on",
        "It is looked at again in the next cycle. If it stays, 'slurmext daemon status' and the daemon's log say why.",
    ),
    Reason.SLICE_UNKNOWN: Words(
        "no GPU of the cluster has the MIG profile it asks for, or none can be cut or shared as it needs",
        "It will not start as it is. 'slurmext slice list --profiles' shows what each type of GPU can be cut into.",
    ),
    Reason.SLICE_AMBIGUOUS: Words(
        "the MIG profile it asks for by name has different sizes on the GPUs it could use",
        "It will not start as it is. Name the type as well with --gpu-types, or ask by need: --gpu-mem, --gpu-compute.",
    ),
    Reason.SLICE_TOO_LARGE: Words(
        "it asks for more than there is even if nothing ran: slices on a node, nodes that hold them, memory or percent",
        "It will not start as it is. What is too much is said above: ask for less of that.",
    ),
    Reason.SLICE_FULL: Words(
        "every place for such a slice is in use",
        "It starts when a job ends that sits on one. 'slurmext slice map' draws who sits where.",
    ),
    Reason.SLICE_FRAGMENTED: Words(
        "enough of the GPUs is free, but in pieces that the hardware cannot join to such a slice",
        "It starts when slices beside the free pieces end, or are moved. A smaller slice fits sooner.",
    ),
    Reason.SLICE_HELD: Words(
        "the free places are held for jobs that have waited longer or come first",
        "It starts after them, or beside them as soon as it is not in their way.",
    ),
    Reason.SLICE_TAKING_GPU: Words(
        "an idle GPU is being made ready for slices",
        "It starts within seconds, as soon as the node has reported the GPU.",
    ),
    Reason.SLICE_POOL: Words(
        "GPUs are idle, but the policy or its calendar lets no more of them be cut into slices now",
        "It starts when a slice of the pool ends or the calendar makes the pool larger ('slices' in the policy).",
    ),
    Reason.SLICE_NODE: Words(
        "there is a place on a GPU, but not the CPUs or the memory it needs on that node",
        "It starts when CPUs and memory there are free. Fewer --cpus-per-task or less --mem fit sooner.",
    ),
    Reason.SLICE_MISSED: Words(
        "the slice reserved for it could not be made on the node, so it was put back",
        "It gets another place in the next cycle. 'slurmext slice history' has what the node said.",
    ),
}

LEAVING: dict[Reason, Words] = {
    Reason.RECLAIM_GUARANTEE: Words(
        "it used GPUs that its queue had borrowed, and their owner needs its guarantee",
        "It saves a checkpoint, is requeued and goes on from there. Jobs within their queue's guarantee are not taken.",
    ),
    Reason.PREEMPT_PRIORITY: Words(
        "a job of higher priority in its queue needs the GPUs",
        "It saves a checkpoint, is requeued and goes on from there.",
    ),
    Reason.CONSOLIDATE: Words(
        "it is moved to other GPUs so that a gang fits where it ran",
        "It saves a checkpoint and goes on at its new place.",
    ),
    Reason.QUOTA_CUT: Words(
        "its queue's max was made smaller, by the policy or its calendar, and the delay for that is over",
        "It saves a checkpoint, is requeued and waits within the new quota.",
    ),
    Reason.QUEUE_REMOVED: Words(
        "its queue was removed from the policy, and the delay for that is over",
        "It saves a checkpoint, is requeued and waits until it is moved to another queue.",
    ),
    Reason.IDLE_GPUS: Words(
        "its GPUs stayed idle for longer than its queue allows, and it was warned",
        "It saves a checkpoint, is requeued and goes on from there. 'slurmext job extend JOB' keeps it longer.",
    ),
    Reason.DEFRAGMENT: Words(
        "moving it leaves whole nodes free for large jobs, which is worth more than the move costs",
        "It saves a checkpoint and goes on at its new place.",
    ),
}


def words_for(code: str) -> Words | None:
    """Words for a reason code; None for a code that is not ours, such as one of Slurm's."""
    try:
        reason = Reason(code)
    except ValueError:
        return None
    return PENDING.get(reason) or LEAVING.get(reason)
