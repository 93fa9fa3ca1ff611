"""Models on their way to nodes: which ones, from whom, and what jobs are told.

`desk` is the whole: asked by cycles, by events of agents and by requests of users. `conducting` has transfers run,
`hosts` keeps what agents say of their nodes, `jobs` what jobs asked for. Who sends what to whom is planned in
`slurmext.staging.plan`, which nodes are likely in `slurmext.policy.staging`.
"""
