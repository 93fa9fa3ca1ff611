"""What in a live cluster would hurt slurmext's promises, and the line that mends it.

`facts` holds what was found, `rules` judge it (pure), `collect` does the reading. May import
config, adapters and spank.
"""
