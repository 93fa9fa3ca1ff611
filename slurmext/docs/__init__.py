"""Reference pages and JSON Schemas, generated from the code: `python -m slurmext.docs generate [--check]`.

The one package besides entry points that looks at `cli`; nothing imports it.
"""
