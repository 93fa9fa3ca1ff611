"""The checkpoint engine: snapshot, write, commit, verify, restore, reshard, for one process or many.

    engine = Engine("/scratch/run7", rank=rank, world=world)
    found = engine.restore(state)                   # fills the arrays in place
    ticket = engine.save(step, state)               # the snapshot is taken; training goes on
    ticket.result()                                 # on disk

The standard library only; NumPy, xxhash, PyTorch and JAX when the state has what they make. Imports nothing else of the
package. `tree.put` loads what `restore` returned into a state's objects.
"""

from slurmext.checkpoint.engine.arrays import Sharded, replicated
from slurmext.checkpoint.engine.engine import Engine
from slurmext.checkpoint.engine.errors import BadCheckpointError, CheckpointError, MismatchError
from slurmext.checkpoint.engine.ticket import Ticket

__all__ = ["BadCheckpointError", "CheckpointError", "Engine", "MismatchError", "Sharded", "Ticket", "replicated"]
