typedef int slurm_err_t;
