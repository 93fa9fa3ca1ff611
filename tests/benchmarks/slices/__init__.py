"""Parts of bench_slices: acceptance, the openb trace, planning speed, hook times."""
