"""Checkpoints of unmodified programs with CRIU: `--ckpt=transparent`. Standard library only, no privilege needed.

`wrapper` is what the job runs in place of its script: it keeps the program in namespaces of its user (`run`, `keeper`,
`namespaces`), dumps it with `criu` when the checkpoint signal comes, confirms, and restores the newest good one of the
`dumps` in the next run. `obstacles` says what cannot be saved, `files` treats logs that grew after a dump, `gpu` has
the driver save its memory.
"""
