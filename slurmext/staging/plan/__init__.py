"""Who sends what to whom, so that a model is everywhere as soon as possible. Pure: no I/O, no clock, no randomness.

`fabric` are the values (hosts, links by direction, replicas), `multicast` makes the plan, `conduct` follows a transfer
and plans again when a host is lost or slow. Standard library only; imports nothing but its own package.
"""
