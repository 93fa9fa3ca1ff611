/* What a simulated node's GPUs are, in one file that every process of the node maps. layout.py has the same layout. */
#pragma once

#include <stdint.h>

#define STATE_MAGIC "slxnvml"
#define STATE_VERSION 3
#define MAX_GPUS 64
#define MAX_CHANGES 32
#define MAX_PROFILES 18
#define MAX_STARTS 12
/* Ids of GPU instances are 0 to 14, of compute instances in one 0 to 7: the driver has a capability for each. */
#define MAX_INSTANCES 15
#define MAX_COMPUTE 8
#define MAX_HOLDERS 128
#define MAX_RULES 32
#define MAX_RECORDS 2048
/* Utilisation: what the processes that have it do, else 0. */
#define WORKS_WHILE_HELD (-1)

struct change {
	uint64_t at_us;
	int32_t percent;
	uint32_t unused;
};

struct meter {
	uint32_t changes; /* ever; the last MAX_CHANGES are in history, in a ring */
	uint32_t unused;
	struct change history[MAX_CHANGES];
};

enum media { MEDIA_OWN = 0, MEDIA_NONE = 1, MEDIA_ONE = 2, MEDIA_ALL = 3 };

struct profile {
	char name[32];
	uint32_t number; /* NVML_GPU_INSTANCE_PROFILE_*: what one asks about */
	uint32_t id;     /* what one creates */
	uint32_t slices;
	uint32_t most;
	uint32_t sm;
	uint32_t units;
	uint32_t memory_mib;
	uint32_t copy_engines, decoders, encoders, jpegs, ofas;
	uint32_t media;
	uint32_t starts;
	uint32_t start[MAX_STARTS];
};

struct compute {
	uint32_t used;
	uint32_t profile; /* NVML_COMPUTE_INSTANCE_PROFILE_* */
	uint32_t start;
	uint32_t slices;
	uint32_t slot; /* its index among the GPU's MIG devices */
	uint32_t generation;
	char uuid[48];
};

struct instance {
	uint32_t used;
	uint32_t profile; /* place in the GPU's table */
	uint32_t start;
	uint32_t generation;
	int64_t used_bytes; /* negative: what its processes have */
	struct meter work;
	struct compute compute[MAX_COMPUTE];
};

struct gpu {
	char name[96];
	char uuid[96];
	char bus_id[32];
	uint32_t minor;
	uint32_t pci_device_id;
	uint64_t memory_bytes;
	int64_t used_bytes; /* negative: what its processes have */
	int32_t fault;      /* what every call about this GPU returns; 0: nothing is wrong */
	uint32_t mig_capable;
	uint32_t mig_current;
	uint32_t mig_pending;
	uint32_t mig_needs_reset; /* the mode changes with a reset only (Ampere) */
	uint32_t gpm;
	uint32_t architecture;
	uint32_t compute_mode;
	uint32_t memory_units;
	uint32_t compute_slices;
	uint32_t sm;
	uint32_t profiles;
	uint32_t generation; /* of the last instance made */
	uint32_t unused;
	struct meter work;
	struct profile profile[MAX_PROFILES];
	struct instance instance[MAX_INSTANCES];
};

/* A process that has a GPU (or a slice of it) open, told by a test. */
struct holder {
	uint32_t pid; /* 0: nobody */
	uint32_t gpu;
	int32_t instance; /* -1: the bare GPU */
	int32_t compute;
	int64_t used_bytes; /* negative: half of what there is */
	int32_t percent;
	uint32_t unused;
};

enum death { LIVES = 0, DIES_BEFORE = 1, DIES_AFTER = 2 };

/* What happens to calls whose name fits the pattern: the first `skip` of them pass. */
struct rule {
	uint32_t armed;
	uint32_t pid;   /* 0: whoever calls */
	uint32_t skip;
	uint32_t times; /* 0: for ever */
	uint32_t seen;
	int32_t result; /* 0: the call is carried out */
	uint32_t delay_ms;
	uint32_t death;
	uint32_t victim; /* who dies; 0: whoever calls */
	uint32_t unused;
	char call[64];
};

struct record {
	uint64_t at_us;
	uint32_t pid;
	int32_t result;
	char call[64];
};

struct state {
	char magic[8];
	uint32_t version;
	uint32_t size; /* of this struct */
	uint32_t gpus;
	int32_t fault;     /* what every call returns; 0: nothing is wrong */
	uint32_t delay_ms; /* how long every call about a GPU takes */
	uint32_t caps_major; /* of the capabilities' device nodes; 0: they are plain files */
	char driver[80];
	char cluster[64];
	char node[64];
	char root[256]; /* has the node's /proc/driver and /dev; empty: none */
	uint32_t recorded; /* calls, ever; the last MAX_RECORDS are in records, in a ring */
	uint32_t unused;
	struct rule rule[MAX_RULES];
	struct holder holder[MAX_HOLDERS];
	struct record record[MAX_RECORDS];
	struct gpu gpu[MAX_GPUS];
};
