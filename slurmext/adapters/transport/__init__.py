"""How model weights move between agents: `sockets` everywhere, `nixl` where there is RDMA.

`handshake` proves both ends to each other with munge before anything is served. May import ports, model, staging and
other adapters.
"""
