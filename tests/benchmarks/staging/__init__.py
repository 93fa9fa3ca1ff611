"""Parts of bench_staging: nodes with shaped links, what others do on them, and what happens on one node."""
