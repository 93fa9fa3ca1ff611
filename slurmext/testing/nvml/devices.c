/* What NVML says of a device: a whole GPU or, where that makes sense, a MIG device. */
#include "driver.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/types.h>
#include <unistd.h>

#define MAX_LISTED 512

typedef struct {
	unsigned int multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount,
		sharedJpegCount, sharedOfaCount, gpuInstanceSliceCount, computeInstanceSliceCount;
	unsigned long long memorySizeMB;
} nvmlDeviceAttributes_t;

static nvmlReturn_t get_count(unsigned int *count)
{
	if (count == NULL)
		return INVALID_ARGUMENT;
	*count = state->gpus;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
	return SERVED(get_count(count));
}

static nvmlReturn_t by_index(unsigned int index, nvmlDevice_t *device)
{
	if (device == NULL || index >= state->gpus)
		return INVALID_ARGUMENT;
	*device = device_handle(index);
	return state->gpu[index].fault;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
	return SERVED(by_index(index, device));
}

static nvmlReturn_t by_uuid(const char *uuid, nvmlDevice_t *device)
{
	if (uuid == NULL || device == NULL)
		return INVALID_ARGUMENT;
	for (unsigned int i = 0; i < state->gpus; i++) {
		struct target target = {.gpu = &state->gpu[i], .index = i};
		if (strcmp(target.gpu->uuid, uuid) == 0)
			return by_index(i, device);
		for (target.instance_id = 0; target.instance_id < MAX_INSTANCES; target.instance_id++) {
			target.instance = &target.gpu->instance[target.instance_id];
			for (unsigned int c = 0; c < MAX_COMPUTE && target.instance->used; c++) {
				target.compute = &target.instance->compute[c];
				target.compute_id = c;
				if (!target.compute->used || strcmp(target.compute->uuid, uuid) != 0 ||
				    !caps_may_open(target.gpu, target.instance_id, c))
					continue;
				*device = mig_handle(&target);
				return target.gpu->fault;
			}
		}
	}
	return NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
	return SERVED(by_uuid(uuid, device));
}

/* The driver takes a domain of four digits as well as its own of eight. */
static nvmlReturn_t by_bus_id(const char *bus_id, nvmlDevice_t *device)
{
	if (bus_id == NULL || device == NULL)
		return INVALID_ARGUMENT;
	for (unsigned int i = 0; i < state->gpus; i++) {
		const char *own = state->gpu[i].bus_id;
		if (strcasecmp(own, bus_id) == 0 || (strlen(own) > 4 && strcasecmp(own + 4, bus_id) == 0))
			return by_index(i, device);
	}
	return NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
	return SERVED(by_bus_id(bus_id, device));
}

static nvmlReturn_t get_index(nvmlDevice_t device, unsigned int *index)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result == SUCCESS)
		*index = target.compute == NULL ? target.index : target.compute->slot;
	return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
	return SERVED(get_index(device, index));
}

static nvmlReturn_t get_name(nvmlDevice_t device, char *name, unsigned int length)
{
	char text[160];
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result != SUCCESS)
		return result;
	if (target.compute == NULL)
		return copy(name, length, target.gpu->name);
	snprintf(text, sizeof(text), "%s MIG %s", target.gpu->name,
		 target.gpu->profile[target.instance->profile].name);
	return copy(name, length, text);
}

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
	return SERVED(get_name(device, name, length));
}

static nvmlReturn_t get_uuid(nvmlDevice_t device, char *uuid, unsigned int length)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result != SUCCESS)
		return result;
	return copy(uuid, length, target.compute == NULL ? target.gpu->uuid : target.compute->uuid);
}

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
	return SERVED(get_uuid(device, uuid, length));
}

static nvmlReturn_t get_minor(nvmlDevice_t device, unsigned int *minor)
{
	struct target target;
	nvmlReturn_t result = resolve_gpu(device, &target);
	if (result == SUCCESS)
		*minor = target.gpu->minor;
	return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor)
{
	return SERVED(get_minor(device, minor));
}

static nvmlReturn_t get_pci(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	struct target target;
	nvmlReturn_t result = resolve_gpu(device, &target);
	if (result != SUCCESS)
		return result;
	const char *bus_id = target.gpu->bus_id;
	memset(pci, 0, sizeof(*pci));
	sscanf(bus_id, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
	pci->pciDeviceId = target.gpu->pci_device_id;
	memcpy(pci->busId, bus_id, sizeof(pci->busId));
	snprintf(pci->busIdLegacy, sizeof(pci->busIdLegacy), "%s", strlen(bus_id) > 4 ? bus_id + 4 : "");
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	return SERVED(get_pci(device, pci));
}

static nvmlReturn_t get_memory(nvmlDevice_t device, nvmlMemory_t *memory)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result != SUCCESS)
		return result;
	bool whole = target.instance == NULL;
	memory->total = whole ? target.gpu->memory_bytes :
				target.gpu->profile[target.instance->profile].memory_mib * MIB;
	memory->used = memory_used(target.index, whole ? -1 : (int)target.instance_id);
	memory->free = memory->total > memory->used ? memory->total - memory->used : 0;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
	return SERVED(get_memory(device, memory));
}

static nvmlReturn_t get_memory_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
	nvmlMemory_t plain;
	nvmlReturn_t result = get_memory(device, &plain);
	if (result != SUCCESS)
		return result;
	memory->total = plain.total;
	memory->reserved = 0;
	memory->free = plain.free;
	memory->used = plain.used;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
	return SERVED(get_memory_v2(device, memory));
}

static nvmlReturn_t get_processes(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *processes, bool mps)
{
	static struct use found[MAX_LISTED];
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result != SUCCESS)
		return result;
	if (count == NULL)
		return INVALID_ARGUMENT;
	bool whole = target.compute == NULL;
	unsigned int seen = uses_of(target.index, whole ? -1 : (int)target.instance_id,
				    whole ? -1 : (int)target.compute_id, found, MAX_LISTED);
	unsigned int room = *count, kept = 0;
	for (unsigned int i = 0; i < seen && i < MAX_LISTED; i++)
		if (!mps || found[i].mps)
			found[kept++] = found[i];
	*count = kept;
	if (kept == 0)
		return SUCCESS;
	if (kept > room || processes == NULL)
		return INSUFFICIENT_SIZE;
	for (unsigned int i = 0; i < kept; i++)
		processes[i] = (nvmlProcessInfo_t){
			.pid = found[i].pid,
			.usedGpuMemory = memory_of(&found[i]),
			.gpuInstanceId = found[i].instance < 0 ? NO_INSTANCE : (unsigned int)found[i].instance,
			.computeInstanceId = found[i].compute < 0 ? NO_INSTANCE : (unsigned int)found[i].compute,
		};
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
							    nvmlProcessInfo_t *processes)
{
	return SERVED(get_processes(device, count, processes, false));
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
							    nvmlProcessInfo_t *processes)
{
	return SERVED(get_processes(device, count, processes, false));
}

EXPORT nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
							       nvmlProcessInfo_t *processes)
{
	return SERVED(get_processes(device, count, processes, true));
}

static nvmlReturn_t no_processes(nvmlDevice_t device, unsigned int *count)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result == SUCCESS)
		*count = 0;
	return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
							     nvmlProcessInfo_t *processes)
{
	(void)processes;
	return SERVED(no_processes(device, count));
}

static nvmlReturn_t get_attributes(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result != SUCCESS)
		return result;
	if (target.compute == NULL)
		return NOT_SUPPORTED;
	const struct profile *profile = &target.gpu->profile[target.instance->profile];
	*attributes = (nvmlDeviceAttributes_t){
		.multiprocessorCount = profile->sm * target.compute->slices / profile->slices,
		.sharedCopyEngineCount = profile->copy_engines,
		.sharedDecoderCount = profile->decoders,
		.sharedEncoderCount = profile->encoders,
		.sharedJpegCount = profile->jpegs,
		.sharedOfaCount = profile->ofas,
		.gpuInstanceSliceCount = profile->slices,
		.computeInstanceSliceCount = target.compute->slices,
		.memorySizeMB = profile->memory_mib,
	};
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
	return SERVED(get_attributes(device, attributes));
}

static nvmlReturn_t get_capability(nvmlDevice_t device, int *major, int *minor)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result != SUCCESS)
		return result;
	*major = (int)(target.gpu->architecture / 10);
	*minor = (int)(target.gpu->architecture % 10);
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
	return SERVED(get_capability(device, major, minor));
}

static nvmlReturn_t get_cores(nvmlDevice_t device, unsigned int *cores)
{
	struct target target;
	nvmlReturn_t result = resolve_gpu(device, &target);
	if (result == SUCCESS)
		*cores = target.gpu->sm * (target.gpu->architecture == 80 || target.gpu->architecture == 75 ? 64 : 128);
	return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned int *cores)
{
	return SERVED(get_cores(device, cores));
}

static nvmlReturn_t get_compute_mode(nvmlDevice_t device, unsigned int *mode)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result == SUCCESS)
		*mode = target.gpu->compute_mode;
	return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, unsigned int *mode)
{
	return SERVED(get_compute_mode(device, mode));
}

static nvmlReturn_t set_compute_mode(nvmlDevice_t device, unsigned int mode)
{
	struct target target;
	nvmlReturn_t result = resolve_gpu(device, &target);
	if (result != SUCCESS)
		return result;
	if (!writable || geteuid() != 0)
		return NO_PERMISSION;
	if (mode > 3)
		return INVALID_ARGUMENT;
	target.gpu->compute_mode = mode;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceSetComputeMode(nvmlDevice_t device, unsigned int mode)
{
	return SERVED(set_compute_mode(device, mode));
}
