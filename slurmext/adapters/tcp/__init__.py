"""Agents to controller over TCP: newline-delimited JSON after a handshake with munge credentials both ways.

`wire` is what both ends share; `agent_server` is the controller's end. May import ports, model and other adapters.
"""
