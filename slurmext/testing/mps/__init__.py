"""A fake nvidia-cuda-mps-control, classic (protocol 2) and v3, and CUDA programs that are its clients.

`build` compiles it; `set_faults` says what goes wrong on a simulated node. In C: main (the program), daemon (servers,
limits, commands), client (`fake-cuda-client`, a CUDA program).
"""

from slurmext.testing.mps.build import CLIENT, CONTROL, build, set_faults

__all__ = ["CLIENT", "CONTROL", "build", "set_faults"]
