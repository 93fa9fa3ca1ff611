/*
 * libnvidia-ml.so.1 of a machine without GPUs: what NVML says about the GPUs that are described in the file named by
 * SLURMEXT_SIMULATED_GPUS. Structures and return codes are NVML's (nvml.h, driver 550); a call that is not here is one
 * that an older driver does not have.
 */
#include "state.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	SUCCESS = 0,
	UNINITIALIZED = 1,
	INVALID_ARGUMENT = 2,
	NOT_SUPPORTED = 3,
	NOT_FOUND = 6,
	INSUFFICIENT_SIZE = 7,
	DRIVER_NOT_LOADED = 9,
	UNKNOWN = 999,
};

#define EXPORT __attribute__((visibility("default")))
#define MIB (1024ULL * 1024)
/* NVML looks at the utilisation six times a second and keeps about 20 s of it. */
#define SAMPLE_US 166667ULL
#define SAMPLES_KEPT 120
#define HOLDERS_AGE_US 200000ULL
#define MAX_HOLDERS 512
#define MAX_ENVIRONMENT (256 * 1024)

struct device {
	unsigned int index;
};
typedef struct device *nvmlDevice_t;
typedef int nvmlReturn_t;

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

struct holder {
	unsigned int pid;
	uint64_t minors;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct state *state;
static unsigned int users;
static struct device devices[MAX_GPUS];
static struct holder holders[MAX_HOLDERS];
static unsigned int holder_count;
static uint64_t holders_at_us;

static uint64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static nvmlReturn_t attach(void)
{
	const char *path = getenv("SLURMEXT_SIMULATED_GPUS");
	if (path == NULL)
		return DRIVER_NOT_LOADED;
	int file = open(path, O_RDWR | O_CLOEXEC);
	if (file < 0)
		file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return DRIVER_NOT_LOADED;
	struct stat info;
	nvmlReturn_t result = DRIVER_NOT_LOADED;
	if (fstat(file, &info) == 0 && (size_t)info.st_size >= sizeof(struct state)) {
		struct state *found = mmap(NULL, sizeof(struct state), PROT_READ, MAP_SHARED, file, 0);
		if (found != MAP_FAILED) {
			bool ours = memcmp(found->magic, STATE_MAGIC, sizeof(STATE_MAGIC)) == 0 &&
				    found->version == STATE_VERSION && found->size == sizeof(struct state);
			if (ours) {
				state = found;
				result = SUCCESS;
			} else {
				munmap(found, sizeof(struct state));
			}
		}
	}
	close(file);
	return result;
}

/* The GPU behind a handle; NULL with the reason in `result`. */
static const struct gpu *gpu_of(nvmlDevice_t device, nvmlReturn_t *result)
{
	*result = UNINITIALIZED;
	if (state == NULL)
		return NULL;
	*result = state->fault;
	if (state->fault != SUCCESS)
		return NULL;
	*result = INVALID_ARGUMENT;
	if (device < devices || device >= devices + state->gpus)
		return NULL;
	if (state->delay_ms > 0)
		usleep(state->delay_ms * 1000);
	const struct gpu *gpu = &state->gpu[device->index];
	*result = gpu->fault;
	return gpu->fault == SUCCESS ? gpu : NULL;
}

static nvmlReturn_t ready(void)
{
	return state == NULL ? UNINITIALIZED : state->fault;
}

/* --- who has a GPU: the processes of this node's jobs, as their environment tells --- */

static const char *variable(const char *environment, const char *end, const char *name)
{
	size_t length = strlen(name);
	for (const char *item = environment; item < end; item += strlen(item) + 1)
		if (strncmp(item, name, length) == 0 && item[length] == '=')
			return item + length + 1;
	return NULL;
}

static uint64_t minors_in(const char *list)
{
	uint64_t minors = 0;
	while (list != NULL && *list != '\0') {
		char *rest;
		unsigned long first = strtoul(list, &rest, 10), last = first;
		if (rest == list)
			break;
		if (*rest == '-')
			last = strtoul(rest + 1, &rest, 10);
		for (unsigned long minor = first; minor <= last && minor < MAX_GPUS; minor++)
			minors |= 1ULL << minor;
		list = *rest == ',' ? rest + 1 : NULL;
	}
	return minors;
}

static void look_at(unsigned int pid)
{
	static char environment[MAX_ENVIRONMENT + 1];
	char path[64];
	snprintf(path, sizeof(path), "/proc/%u/environ", pid);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return;
	size_t size = 0;
	ssize_t got;
	while (size < MAX_ENVIRONMENT && (got = read(file, environment + size, MAX_ENVIRONMENT - size)) > 0)
		size += (size_t)got;
	close(file);
	environment[size] = '\0';
	const char *end = environment + size;
	const char *node = variable(environment, end, "SLURMD_NODENAME");
	const char *cluster = variable(environment, end, "SLURM_CLUSTER_NAME");
	if (node == NULL || cluster == NULL || strcmp(node, state->node) != 0 || strcmp(cluster, state->cluster) != 0)
		return;
	const char *gpus = variable(environment, end, "SLURM_STEP_GPUS");
	uint64_t minors = minors_in(gpus != NULL ? gpus : variable(environment, end, "SLURM_JOB_GPUS"));
	if (minors != 0 && holder_count < MAX_HOLDERS)
		holders[holder_count++] = (struct holder){.pid = pid, .minors = minors};
}

static void find_holders(void)
{
	uint64_t now = now_us();
	if (now - holders_at_us < HOLDERS_AGE_US)
		return;
	holder_count = 0;
	DIR *proc = opendir("/proc");
	if (proc != NULL) {
		for (struct dirent *entry; (entry = readdir(proc)) != NULL;)
			if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
				look_at((unsigned int)strtoul(entry->d_name, NULL, 10));
		closedir(proc);
	}
	holders_at_us = now_us();
}

static bool is_held(const struct gpu *gpu)
{
	pthread_mutex_lock(&lock);
	find_holders();
	bool held = false;
	for (unsigned int i = 0; i < holder_count && !held; i++)
		held = gpu->minor < MAX_GPUS && (holders[i].minors >> gpu->minor & 1) != 0;
	pthread_mutex_unlock(&lock);
	return held;
}

/* --- utilisation --- */

static int percent_at(const struct gpu *gpu, uint64_t at_us)
{
	uint32_t oldest = gpu->changes > MAX_CHANGES ? gpu->changes - MAX_CHANGES : 0;
	int percent = WORKS_WHILE_HELD;
	for (uint32_t i = oldest; i < gpu->changes; i++) {
		const struct change *change = &gpu->history[i % MAX_CHANGES];
		if (change->at_us <= at_us || (i == oldest && oldest > 0))
			percent = change->percent;
	}
	return percent;
}

static unsigned int working(const struct gpu *gpu, uint64_t at_us)
{
	int percent = percent_at(gpu, at_us);
	return percent == WORKS_WHILE_HELD ? (is_held(gpu) ? 100 : 0) : (unsigned int)percent;
}

static unsigned long long used_bytes(const struct gpu *gpu)
{
	if (gpu->used_bytes >= 0)
		return (unsigned long long)gpu->used_bytes;
	return is_held(gpu) ? gpu->memory_bytes / 2 : 4 * MIB;
}

/* --- the library --- */

static nvmlReturn_t copy(char *to, unsigned int length, const char *from)
{
	if (to == NULL || length == 0)
		return INVALID_ARGUMENT;
	if (strlen(from) >= length)
		return INSUFFICIENT_SIZE;
	memcpy(to, from, strlen(from) + 1);
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
	(void)flags;
	pthread_mutex_lock(&lock);
	nvmlReturn_t result = state != NULL ? SUCCESS : attach();
	if (result == SUCCESS && state->fault != SUCCESS)
		result = state->fault;
	if (result == SUCCESS)
		users++;
	for (unsigned int i = 0; i < MAX_GPUS; i++)
		devices[i].index = i;
	if (users == 0 && state != NULL) {
		munmap(state, sizeof(struct state));
		state = NULL;
	}
	pthread_mutex_unlock(&lock);
	return result;
}

EXPORT nvmlReturn_t nvmlInit_v2(void)
{
	return nvmlInitWithFlags(0);
}

EXPORT nvmlReturn_t nvmlInit(void)
{
	return nvmlInitWithFlags(0);
}

EXPORT nvmlReturn_t nvmlShutdown(void)
{
	pthread_mutex_lock(&lock);
	nvmlReturn_t result = users > 0 ? SUCCESS : UNINITIALIZED;
	if (users > 0 && --users == 0) {
		munmap(state, sizeof(struct state));
		state = NULL;
	}
	pthread_mutex_unlock(&lock);
	return result;
}

EXPORT const char *nvmlErrorString(nvmlReturn_t result)
{
	switch (result) {
	case SUCCESS: return "Success";
	case UNINITIALIZED: return "Uninitialized";
	case INVALID_ARGUMENT: return "Invalid Argument";
	case NOT_SUPPORTED: return "Not Supported";
	case 4: return "Insufficient Permissions";
	case NOT_FOUND: return "Not Found";
	case INSUFFICIENT_SIZE: return "Insufficient Size";
	case DRIVER_NOT_LOADED: return "Driver Not Loaded";
	case 10: return "Timeout";
	case 12: return "NVML Shared Library Not Found";
	case 13: return "Function Not Found";
	case 15: return "GPU is lost";
	case 16: return "GPU requires reset";
	case 18: return "Driver/library version mismatch";
	case 19: return "In use by another client";
	case 23: return "Insufficient Resources";
	default: return "Unknown Error";
	}
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
	nvmlReturn_t result = ready();
	return result == SUCCESS ? copy(version, length, state->driver) : result;
}

EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
	char text[96];
	nvmlReturn_t result = ready();
	if (result != SUCCESS)
		return result;
	snprintf(text, sizeof(text), "12.%s", state->driver);
	return copy(version, length, text);
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
	nvmlReturn_t result = ready();
	if (result != SUCCESS)
		return result;
	if (count == NULL)
		return INVALID_ARGUMENT;
	*count = state->gpus;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
	nvmlReturn_t result = ready();
	if (result != SUCCESS)
		return result;
	if (device == NULL || index >= state->gpus)
		return INVALID_ARGUMENT;
	*device = &devices[index];
	return state->gpu[index].fault;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
	nvmlReturn_t result = ready();
	if (result != SUCCESS)
		return result;
	if (uuid == NULL || device == NULL)
		return INVALID_ARGUMENT;
	for (unsigned int i = 0; i < state->gpus; i++)
		if (strcmp(state->gpu[i].uuid, uuid) == 0)
			return nvmlDeviceGetHandleByIndex_v2(i, device);
	return NOT_FOUND;
}

/* The driver takes a domain of four digits as well as its own of eight. */
EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
	nvmlReturn_t result = ready();
	if (result != SUCCESS)
		return result;
	if (bus_id == NULL || device == NULL)
		return INVALID_ARGUMENT;
	for (unsigned int i = 0; i < state->gpus; i++) {
		const char *own = state->gpu[i].bus_id;
		if (strcasecmp(own, bus_id) == 0 || (strlen(own) > 4 && strcasecmp(own + 4, bus_id) == 0))
			return nvmlDeviceGetHandleByIndex_v2(i, device);
	}
	return NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
	nvmlReturn_t result;
	if (gpu_of(device, &result) == NULL)
		return result;
	*index = device->index;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
	nvmlReturn_t result;
	const struct gpu *gpu = gpu_of(device, &result);
	return gpu == NULL ? result : copy(name, length, gpu->name);
}

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
	nvmlReturn_t result;
	const struct gpu *gpu = gpu_of(device, &result);
	return gpu == NULL ? result : copy(uuid, length, gpu->uuid);
}

EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor)
{
	nvmlReturn_t result;
	const struct gpu *gpu = gpu_of(device, &result);
	if (gpu == NULL)
		return result;
	*minor = gpu->minor;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	nvmlReturn_t result;
	const struct gpu *gpu = gpu_of(device, &result);
	if (gpu == NULL)
		return result;
	memset(pci, 0, sizeof(*pci));
	sscanf(gpu->bus_id, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
	pci->pciDeviceId = gpu->pci_device_id;
	memcpy(pci->busId, gpu->bus_id, sizeof(pci->busId));
	snprintf(pci->busIdLegacy, sizeof(pci->busIdLegacy), "%s", strlen(gpu->bus_id) > 4 ? gpu->bus_id + 4 : "");
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
	nvmlReturn_t result;
	const struct gpu *gpu = gpu_of(device, &result);
	if (gpu == NULL)
		return result;
	memory->total = gpu->memory_bytes;
	memory->used = used_bytes(gpu);
	memory->free = memory->total - memory->used;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
	nvmlMemory_t plain;
	nvmlReturn_t result = nvmlDeviceGetMemoryInfo(device, &plain);
	if (result != SUCCESS)
		return result;
	memory->total = plain.total;
	memory->reserved = 0;
	memory->free = plain.free;
	memory->used = plain.used;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
	nvmlReturn_t result;
	const struct gpu *gpu = gpu_of(device, &result);
	if (gpu == NULL)
		return result;
	if (gpu->mig_current)
		return NOT_SUPPORTED;
	utilization->gpu = working(gpu, now_us());
	utilization->memory = utilization->gpu / 2;
	return SUCCESS;
}

/* Samples of the utilisation since `last_us`, oldest first. */
EXPORT nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, int type, unsigned long long last_us, int *value_type,
					 unsigned int *count, nvmlSample_t *samples)
{
	nvmlReturn_t result;
	const struct gpu *gpu = gpu_of(device, &result);
	if (gpu == NULL)
		return result;
	if (value_type == NULL || count == NULL)
		return INVALID_ARGUMENT;
	if (gpu->mig_current || (type != 1 && type != 2))
		return NOT_SUPPORTED;
	*value_type = 1;
	if (samples == NULL) {
		*count = SAMPLES_KEPT;
		return SUCCESS;
	}
	uint64_t now = now_us(), at = now - now % SAMPLE_US;
	unsigned int fresh = 0;
	while (fresh < SAMPLES_KEPT && at - fresh * SAMPLE_US > last_us)
		fresh++;
	if (fresh == 0)
		return NOT_FOUND;
	if (fresh > *count)
		return INSUFFICIENT_SIZE;
	for (unsigned int i = 0; i < fresh; i++) {
		samples[i].timeStamp = at - (fresh - 1 - i) * SAMPLE_US;
		samples[i].sampleValue.ullVal = 0;
		samples[i].sampleValue.uiVal = working(gpu, samples[i].timeStamp) / (type == 2 ? 2 : 1);
	}
	*count = fresh;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
							    nvmlProcessInfo_t *processes)
{
	nvmlReturn_t result;
	const struct gpu *gpu = gpu_of(device, &result);
	if (gpu == NULL)
		return result;
	unsigned long long used = used_bytes(gpu);
	unsigned int room = *count, found = 0;
	pthread_mutex_lock(&lock);
	find_holders();
	for (unsigned int i = 0; i < holder_count; i++)
		found += gpu->minor < MAX_GPUS && (holders[i].minors >> gpu->minor & 1) != 0;
	*count = found;
	for (unsigned int i = 0, at = 0; i < holder_count && found <= room && processes != NULL; i++)
		if (gpu->minor < MAX_GPUS && (holders[i].minors >> gpu->minor & 1) != 0)
			processes[at++] = (nvmlProcessInfo_t){.pid = holders[i].pid,
							      .usedGpuMemory = used / found,
							      .gpuInstanceId = ~0U,
							      .computeInstanceId = ~0U};
	pthread_mutex_unlock(&lock);
	return found == 0 || (found <= room && processes != NULL) ? SUCCESS : INSUFFICIENT_SIZE;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
							    nvmlProcessInfo_t *processes)
{
	return nvmlDeviceGetComputeRunningProcesses_v3(device, count, processes);
}

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
	nvmlReturn_t result;
	const struct gpu *gpu = gpu_of(device, &result);
	if (gpu == NULL)
		return result;
	if (!gpu->mig_capable)
		return NOT_SUPPORTED;
	*current = gpu->mig_current;
	*pending = gpu->mig_pending;
	return SUCCESS;
}
