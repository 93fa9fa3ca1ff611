"""Copies of checkpoints in this node's memory, for its own jobs and for those of another node.

`store` keeps them as files of root in a memory file system; `peers` sends them to another node's agent and fetches them
from there; `service` puts both together for the handlers. Jobs hand their files in as open descriptors and get
descriptors back, so that the agent opens no path of a user's and no user can change a copy.
"""
