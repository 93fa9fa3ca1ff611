/*
 * NVML's types (nvml.h, driver 550) and what the parts of the simulated driver share. Every call that NVML's clients
 * make goes through SERVED: it is counted, delayed, failed or killed as the state's rules say, and holds the node's
 * lock while it works, so that processes see each other's changes whole.
 */
#pragma once

#include "state.h"

#include <stdbool.h>
#include <stddef.h>

enum {
	SUCCESS = 0,
	UNINITIALIZED = 1,
	INVALID_ARGUMENT = 2,
	NOT_SUPPORTED = 3,
	NO_PERMISSION = 4,
	NOT_FOUND = 6,
	INSUFFICIENT_SIZE = 7,
	DRIVER_NOT_LOADED = 9,
	RESET_REQUIRED = 16,
	IN_USE = 19,
	INSUFFICIENT_RESOURCES = 23,
	ARGUMENT_VERSION_MISMATCH = 25,
	UNKNOWN = 999,
};

#define EXPORT __attribute__((visibility("default")))
#define MIB (1024ULL * 1024)
#define NO_INSTANCE (~0U)

typedef int nvmlReturn_t;
/* Opaque handles: what they stand for is in their bits, the generation of an instance included (handles.c). */
typedef struct device *nvmlDevice_t;
typedef struct instance_handle *nvmlGpuInstance_t;
typedef struct compute_handle *nvmlComputeInstance_t;

typedef struct {
	unsigned long long total, free, used;
} nvmlMemory_t;
typedef struct {
	unsigned int version;
	unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;
typedef struct {
	unsigned int gpu, memory;
} nvmlUtilization_t;
typedef struct {
	char busIdLegacy[16];
	unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
	char busId[32];
} nvmlPciInfo_t;
typedef struct {
	unsigned int pid;
	unsigned long long usedGpuMemory;
	unsigned int gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;
typedef union {
	double dVal;
	unsigned int uiVal;
	unsigned long long ullVal;
} nvmlValue_t;
typedef struct {
	unsigned long long timeStamp;
	nvmlValue_t sampleValue;
} nvmlSample_t;

typedef struct {
	unsigned int start, size;
} nvmlGpuInstancePlacement_t;

/* --- library.c --- */

extern struct state *state; /* NULL while the library is not initialised */
extern bool writable;       /* whether this process may change the state: root */

struct call {
	const char *name;
	unsigned int death;
	unsigned int victim; /* 0: the caller */
};

nvmlReturn_t call_begin(struct call *call, const char *name);
nvmlReturn_t call_end(const struct call *call, nvmlReturn_t result);
void lock(void);
void unlock(void);
uint64_t now_us(void);
nvmlReturn_t copy(char *to, unsigned int length, const char *from);

#define SERVED(work)                                                                                                   \
	({                                                                                                             \
		struct call served_call;                                                                               \
		nvmlReturn_t served = call_begin(&served_call, __func__);                                              \
		if (served == SUCCESS) {                                                                               \
			lock();                                                                                        \
			served = (work);                                                                               \
			unlock();                                                                                      \
		}                                                                                                      \
		call_end(&served_call, served);                                                                        \
	})

/* --- faults.c --- */

nvmlReturn_t rules_before(struct call *call);
void kill_somebody(unsigned int victim);
void record(const char *name, nvmlReturn_t result);

/* --- handles.c --- */

/* What a handle stands for. `instance` and `compute` are NULL where it stands for less. */
struct target {
	struct gpu *gpu;
	unsigned int index;
	struct instance *instance;
	unsigned int instance_id;
	struct compute *compute;
	unsigned int compute_id;
};

nvmlDevice_t device_handle(unsigned int gpu);
nvmlDevice_t mig_handle(const struct target *target);
nvmlGpuInstance_t instance_handle(const struct target *target);
nvmlComputeInstance_t compute_handle(const struct target *target);
/* Whole GPU or MIG device. */
nvmlReturn_t resolve_device(nvmlDevice_t handle, struct target *target);
/* Whole GPU only. */
nvmlReturn_t resolve_gpu(nvmlDevice_t handle, struct target *target);
nvmlReturn_t resolve_instance(nvmlGpuInstance_t handle, struct target *target);
nvmlReturn_t resolve_compute(nvmlComputeInstance_t handle, struct target *target);

/* --- geometry.c --- */

/* The profile with a number (by_id: with an id), on a GPU that can be cut. */
nvmlReturn_t find_profile(nvmlDevice_t device, unsigned int number, bool by_id, const struct profile **found);
const struct profile *profile_with_id(const struct gpu *gpu, unsigned int id);

/* --- processes.c --- */

struct use {
	unsigned int pid;
	unsigned int gpu;
	int instance; /* -1: the bare GPU */
	int compute;
	int64_t used_bytes;
	int percent;
	bool mps;
};

void look_for_processes(bool anew);
/* Processes on a GPU; with an instance (not -1) those on it, with a compute instance those on that. */
unsigned int uses_of(unsigned int gpu, int instance, int compute, struct use *found, unsigned int room);
bool is_held(unsigned int gpu, int instance, int compute);
bool bare_gpu_is_held(unsigned int gpu);
unsigned long long memory_of(const struct use *use);
unsigned long long memory_used(unsigned int gpu, int instance);

/* --- samples.c --- */

/* Utilisation in percent of a GPU or, with an instance (not -1), of that at a time. */
unsigned int working(unsigned int gpu, int instance, uint64_t at_us);

/* --- caps.c --- */

void caps_instance_made(const struct gpu *gpu, unsigned int instance);
void caps_compute_made(const struct gpu *gpu, unsigned int instance, unsigned int compute);
void caps_instance_gone(const struct gpu *gpu, unsigned int instance);
void caps_compute_gone(const struct gpu *gpu, unsigned int instance, unsigned int compute);
/* Whether this process may open a compute instance. */
bool caps_may_open(const struct gpu *gpu, unsigned int instance, unsigned int compute);
/* Whether this process may change instances: root, or who can open the configuration's capability. */
bool caps_may_configure(void);
/* Remove what an instance left that a killed process was making or destroying. */
void caps_sweep(void);
