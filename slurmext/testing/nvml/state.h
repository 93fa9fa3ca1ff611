/* What a simulated node's GPUs are, in one file that every process of the node maps. gpus.py has the same layout. */
#pragma once

#include <stdint.h>

#define STATE_MAGIC "slxnvml"
#define STATE_VERSION 1
#define MAX_GPUS 64
#define MAX_CHANGES 32
/* Utilisation: 100 while a process of a job has the GPU, else 0. */
#define WORKS_WHILE_HELD (-1)

struct change {
	uint64_t at_us;
	int32_t percent;
	uint32_t unused;
};

struct gpu {
	char name[96];
	char uuid[96];
	char bus_id[32];
	uint32_t minor;
	uint32_t pci_device_id;
	uint64_t memory_bytes;
	int64_t used_bytes; /* negative: half of it while a process of a job has the GPU */
	int32_t fault;      /* what every call about this GPU returns; 0: nothing is wrong */
	uint32_t mig_capable;
	uint32_t mig_current;
	uint32_t mig_pending;
	uint32_t changes; /* of the utilisation, ever; the last MAX_CHANGES are in history, in a ring */
	uint32_t unused;
	struct change history[MAX_CHANGES];
};

struct state {
	char magic[8];
	uint32_t version;
	uint32_t size; /* of this struct */
	uint32_t gpus;
	int32_t fault;     /* what every call returns; 0: nothing is wrong */
	uint32_t delay_ms; /* how long every call about a GPU takes */
	uint32_t unused;
	char driver[80];
	char cluster[64];
	char node[64];
	struct gpu gpu[MAX_GPUS];
};
