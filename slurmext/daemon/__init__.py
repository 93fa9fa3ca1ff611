"""slurmextd: the controller process. One is active at a time, by a lease in the state store."""
