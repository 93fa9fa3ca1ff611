/* MIG devices: compute instances, seen as devices. */
#include "driver.h"

static nvmlReturn_t is_mig(nvmlDevice_t device, unsigned int *answer)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result == SUCCESS)
		*answer = target.compute != NULL;
	return result;
}

EXPORT nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *answer)
{
	return SERVED(is_mig(device, answer));
}

static nvmlReturn_t ids(nvmlDevice_t device, unsigned int *instance, unsigned int *compute)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result != SUCCESS)
		return result;
	if (target.compute == NULL)
		return INVALID_ARGUMENT;
	if (instance != NULL)
		*instance = target.instance_id;
	if (compute != NULL)
		*compute = target.compute_id;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id)
{
	return SERVED(ids(device, id, NULL));
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id)
{
	return SERVED(ids(device, NULL, id));
}

static nvmlReturn_t most(nvmlDevice_t device, unsigned int *count)
{
	struct target target;
	nvmlReturn_t result = resolve_gpu(device, &target);
	if (result == SUCCESS)
		*count = target.gpu->compute_slices;
	return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
	return SERVED(most(device, count));
}

static nvmlReturn_t by_index(nvmlDevice_t device, unsigned int index, nvmlDevice_t *found)
{
	struct target target;
	nvmlReturn_t result = resolve_gpu(device, &target);
	if (result != SUCCESS)
		return result;
	if (!target.gpu->mig_capable)
		return NOT_SUPPORTED;
	if (index >= target.gpu->compute_slices || found == NULL)
		return INVALID_ARGUMENT;
	for (target.instance_id = 0; target.instance_id < MAX_INSTANCES; target.instance_id++) {
		target.instance = &target.gpu->instance[target.instance_id];
		for (unsigned int c = 0; c < MAX_COMPUTE && target.instance->used; c++) {
			target.compute_id = c;
			target.compute = &target.instance->compute[c];
			if (!target.compute->used || target.compute->slot != index)
				continue;
			if (!caps_may_open(target.gpu, target.instance_id, c))
				return NO_PERMISSION;
			*found = mig_handle(&target);
			return SUCCESS;
		}
	}
	return NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *found)
{
	return SERVED(by_index(device, index, found));
}

static nvmlReturn_t parent(nvmlDevice_t device, nvmlDevice_t *found)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result == SUCCESS)
		*found = device_handle(target.index);
	return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *found)
{
	return SERVED(parent(device, found));
}
