"""slurmext-agent: one per node. Serves hooks and jobs on unix sockets and tells the controller what happens here.

`server` (sockets, who is asking), `handlers/` (one module per group of operations), `jobs` (what runs here),
`spool` and `forward` (events to slurmextd, at least once). May import adapters and config; nothing imports it.
"""
