"""The transfer code over real RDMA verbs: soft-RoCE in a small virtual machine, for hosts without such a network card."""
