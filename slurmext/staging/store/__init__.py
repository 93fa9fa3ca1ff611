"""What a node holds: staged models in memory (/dev/shm) and on local disk, and which of their chunks are good.

A staged model is a directory of real files, named as the model's, that jobs map and agents serve and receive into:
the file is the transfer buffer. `ready` is the truth about its chunks. Standard library and xxhash.
"""
