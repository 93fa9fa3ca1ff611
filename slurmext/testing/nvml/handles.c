/*
 * Handles. An instance that is made anew has the ids of the one before it but another generation: a handle of the old
 * one is not found, as with the real driver.
 *
 *   bits 60-63 kind | 32-59 generation | 16-23 compute instance | 8-15 GPU instance | 0-7 GPU
 */
#include "driver.h"

#include <string.h>

enum kind { GPU = 1, MIG = 2, INSTANCE = 3, COMPUTE = 4 };

static uintptr_t packed(enum kind kind, unsigned int gpu, unsigned int instance, unsigned int compute,
			unsigned int generation)
{
	return (uintptr_t)kind << 60 | (uintptr_t)(generation & 0xfffffff) << 32 | compute << 16 | instance << 8 | gpu;
}

nvmlDevice_t device_handle(unsigned int gpu)
{
	return (nvmlDevice_t)packed(GPU, gpu, 0, 0, 0);
}

nvmlDevice_t mig_handle(const struct target *target)
{
	return (nvmlDevice_t)packed(MIG, target->index, target->instance_id, target->compute_id,
				    target->compute->generation);
}

nvmlGpuInstance_t instance_handle(const struct target *target)
{
	return (nvmlGpuInstance_t)packed(INSTANCE, target->index, target->instance_id, 0, target->instance->generation);
}

nvmlComputeInstance_t compute_handle(const struct target *target)
{
	return (nvmlComputeInstance_t)packed(COMPUTE, target->index, target->instance_id, target->compute_id,
					     target->compute->generation);
}

static nvmlReturn_t resolve(uintptr_t bits, struct target *target)
{
	enum kind kind = bits >> 60;
	unsigned int generation = bits >> 32 & 0xfffffff;
	memset(target, 0, sizeof(*target));
	target->index = bits & 0xff;
	target->instance_id = bits >> 8 & 0xff;
	target->compute_id = bits >> 16 & 0xff;
	if (kind < GPU || kind > COMPUTE || target->index >= state->gpus || target->instance_id >= MAX_INSTANCES ||
	    target->compute_id >= MAX_COMPUTE)
		return INVALID_ARGUMENT;
	target->gpu = &state->gpu[target->index];
	if (target->gpu->fault != SUCCESS)
		return target->gpu->fault;
	if (kind == GPU)
		return SUCCESS;
	target->instance = &target->gpu->instance[target->instance_id];
	if (!target->instance->used)
		return NOT_FOUND;
	if (kind == INSTANCE)
		return target->instance->generation == generation ? SUCCESS : NOT_FOUND;
	target->compute = &target->instance->compute[target->compute_id];
	return target->compute->used && target->compute->generation == generation ? SUCCESS : NOT_FOUND;
}

static bool is_a(const void *handle, enum kind kind)
{
	return (uintptr_t)handle >> 60 == kind;
}

nvmlReturn_t resolve_device(nvmlDevice_t handle, struct target *target)
{
	return is_a(handle, GPU) || is_a(handle, MIG) ? resolve((uintptr_t)handle, target) : INVALID_ARGUMENT;
}

nvmlReturn_t resolve_gpu(nvmlDevice_t handle, struct target *target)
{
	return is_a(handle, GPU) ? resolve((uintptr_t)handle, target) : INVALID_ARGUMENT;
}

nvmlReturn_t resolve_instance(nvmlGpuInstance_t handle, struct target *target)
{
	return is_a(handle, INSTANCE) ? resolve((uintptr_t)handle, target) : INVALID_ARGUMENT;
}

nvmlReturn_t resolve_compute(nvmlComputeInstance_t handle, struct target *target)
{
	return is_a(handle, COMPUTE) ? resolve((uintptr_t)handle, target) : INVALID_ARGUMENT;
}
