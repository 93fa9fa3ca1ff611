/*
 * A fake nvidia-cuda-mps-control: daemon, servers and clients of CUDA's Multi-Process Service with nothing computed.
 *
 * All talk is lines on the socket `control` in the pipe directory. Who sends `CLIENT` is a CUDA program, and stays
 * connected; who sends `DO <command>` gets an answer and the end of file.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define LINE 512
#define PID_FILE "nvidia-cuda-mps-control.pid"
/* What goes wrong on this node: this ending to the path in SLURMEXT_SIMULATED_GPUS. */
#define FAULTS_VARIABLE "SLURMEXT_SIMULATED_GPUS"
#define FAULTS_ENDING ".mps"

/* Moves to the pipe directory, so that its name may be of any length; where it is not there, makes it. */
bool enter_pipe_directory(bool make);
int connect_to(const char *name);
/* Whether the node's faults have this line. With `value` what follows it. */
bool fault(const char *name, int *value);

int run_daemon(int protocol, const char *config);
int run_client(int count, char **arguments);
