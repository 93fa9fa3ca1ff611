"""Adapters for training frameworks: PyTorch, Lightning, the Hugging Face Trainer, submitit.

Each module imports its framework; import only those that the program uses. JAX and NumPy need none: their arrays are
part of a `Checkpointer`'s state as they are.
"""
