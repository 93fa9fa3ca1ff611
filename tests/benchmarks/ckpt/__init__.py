"""Parts of bench_ckpt: the state, the ways to save it, the loop that trains meanwhile."""
