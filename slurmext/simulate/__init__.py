"""What-if: replays a trace of jobs through the daemon's own plan() in an event-driven clock.

workload.py   jobs of a trace and the file they are kept in
engine.py     the clock: submits, ends, evictions, saves, requeues, node failures
report.py     utilisation, waits, evictions, lost work, guarantees kept, fairness
peers.py      other ways to decide, to compare with: static partitions, one pool, QOS preemption
"""
