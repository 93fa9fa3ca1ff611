"""The agent's model cache: receives, checks, relays and serves staged models.

`engine` is the whole; `reception` receives one model from one or several sources, `serving` pushes one to one
receiver. They speak through `slurmext.staging.transport` and keep models in `slurmext.staging.store`.
"""
