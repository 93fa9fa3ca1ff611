"""The command `slurmext`: one module per noun, loaded when used; `render` prints rows, `session` answers questions.

Nothing imports this package.
"""
