"""GPU slices on this node: reservations become MIG instances or MPS shares in a job's prolog and are gone after it.

`records` and `journal` (what is reserved, made and for whom, over any crash), `maker` (create, take over, destroy),
`keeper` (orders, prolog, epilog), `reconcile` (journal against driver), `inventory` (what the controller is told),
`usage` (what slices are used for), `uses` (what a GPU is for), `taskfile` (what a job's tasks read). Uses ports only.
"""
