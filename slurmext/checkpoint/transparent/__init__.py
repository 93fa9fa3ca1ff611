"""Checkpoints of unmodified programs with CRIU: `--ckpt=transparent`. Standard library only, no privilege needed.

`wrapper` is what the job runs in place of its script: it keeps the program (`run`) in namespaces of its user (`namespaces`),
dumps it with `criu` when the checkpoint signal comes, confirms, and restores the newest good `dumps` in the next run.
`obstacles` says what cannot be saved, `files` treats logs that grew after a dump, `gpu` has the driver save its memory.
"""
