"""Observe, plan, apply: the controller's cycle over ports.

`bootstrap` is the only module that builds adapters. May import model, policy, config and ports; only daemon and cli
import it.
"""
