"""What can go wrong with a checkpoint, for the person who runs the job."""

from slurmext.checkpoint.engine.errors import BadCheckpointError, CheckpointError, MismatchError, write_error

__all__ = ["BadCheckpointError", "CheckpointError", "MismatchError", "write_error"]
