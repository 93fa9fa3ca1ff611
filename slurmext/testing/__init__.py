"""Public fakes and tools for tests: an in-memory store, private database servers, scenarios.

May import everything but cli and daemon; only tests and the devcluster import it.
"""
