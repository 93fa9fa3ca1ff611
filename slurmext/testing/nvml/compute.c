/* Compute instances. */
#include "driver.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define COMPUTE_PROFILES 9
#define V2 0x02000088U
#define ONE_SLICE_REV1 7
#define SEVEN_SLICE_NVL 8

typedef struct {
	unsigned int start, size;
} nvmlComputeInstancePlacement_t;
typedef struct {
	unsigned int id, sliceCount, instanceCount, multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount,
		sharedEncoderCount, sharedJpegCount, sharedOfaCount;
} nvmlComputeInstanceProfileInfo_t;
typedef struct {
	unsigned int version, id, sliceCount, instanceCount, multiprocessorCount, sharedCopyEngineCount,
		sharedDecoderCount, sharedEncoderCount, sharedJpegCount, sharedOfaCount;
	char name[96];
} nvmlComputeInstanceProfileInfo_v2_t;
typedef struct {
	nvmlDevice_t device;
	nvmlGpuInstance_t gpuInstance;
	unsigned int id, profileId;
	nvmlComputeInstancePlacement_t placement;
} nvmlComputeInstanceInfo_t;

/* Slices by NVML_COMPUTE_INSTANCE_PROFILE_*; the last two are there too, and are a trap (DRA driver, issue 1480). */
static const unsigned int slices_of[COMPUTE_PROFILES] = {1, 2, 3, 4, 7, 8, 6, 1, 7};

static bool offered(const struct profile *profile, unsigned int number)
{
	if (number >= COMPUTE_PROFILES)
		return false;
	unsigned int slices = slices_of[number];
	if (number == SEVEN_SLICE_NVL || number == ONE_SLICE_REV1)
		return profile->slices == 7;
	return slices <= profile->slices && slices != 6 && !(slices == 3 && profile->slices == 4);
}

static nvmlReturn_t find_compute_profile(nvmlGpuInstance_t instance, unsigned int number, unsigned int engine,
				 const struct profile **profile)
{
	struct target target;
	nvmlReturn_t result = resolve_instance(instance, &target);
	if (result != SUCCESS)
		return result;
	if (number >= COMPUTE_PROFILES || engine > 0)
		return INVALID_ARGUMENT;
	*profile = &target.gpu->profile[target.instance->profile];
	return offered(*profile, number) ? SUCCESS : NOT_SUPPORTED;
}

static nvmlReturn_t describe(nvmlGpuInstance_t instance, unsigned int number, unsigned int engine,
			     nvmlComputeInstanceProfileInfo_t *info)
{
	const struct profile *profile;
	nvmlReturn_t result = find_compute_profile(instance, number, engine, &profile);
	if (result != SUCCESS)
		return result;
	*info = (nvmlComputeInstanceProfileInfo_t){
		.id = number, .sliceCount = slices_of[number], .instanceCount = profile->slices / slices_of[number],
		.multiprocessorCount = profile->sm * slices_of[number] / profile->slices,
		.sharedCopyEngineCount = profile->copy_engines, .sharedDecoderCount = profile->decoders,
		.sharedEncoderCount = profile->encoders, .sharedJpegCount = profile->jpegs,
		.sharedOfaCount = profile->ofas,
	};
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t instance, unsigned int number,
								 unsigned int engine,
								 nvmlComputeInstanceProfileInfo_t *info)
{
	return SERVED(describe(instance, number, engine, info));
}

static nvmlReturn_t describe_v(nvmlGpuInstance_t instance, unsigned int number, unsigned int engine,
			       nvmlComputeInstanceProfileInfo_v2_t *info)
{
	nvmlComputeInstanceProfileInfo_t plain;
	const struct profile *profile;
	if (info->version != V2)
		return ARGUMENT_VERSION_MISMATCH;
	nvmlReturn_t result = describe(instance, number, engine, &plain);
	if (result != SUCCESS)
		return result;
	find_compute_profile(instance, number, engine, &profile);
	memset(info, 0, sizeof(*info));
	info->version = V2;
	memcpy(&info->id, &plain, sizeof(plain));
	if (slices_of[number] == profile->slices)
		snprintf(info->name, sizeof(info->name), "MIG %s", profile->name);
	else
		snprintf(info->name, sizeof(info->name), "MIG %uc.%s", slices_of[number], profile->name);
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t instance, unsigned int number,
								  unsigned int engine,
								  nvmlComputeInstanceProfileInfo_v2_t *info)
{
	return SERVED(describe_v(instance, number, engine, info));
}

static unsigned int slices_taken(const struct instance *instance)
{
	unsigned int taken = 0;
	for (unsigned int i = 0; i < MAX_COMPUTE; i++)
		if (instance->compute[i].used)
			taken |= ((1U << instance->compute[i].slices) - 1) << instance->compute[i].start;
	return taken;
}

static nvmlReturn_t capacity(nvmlGpuInstance_t instance, unsigned int number, unsigned int *count)
{
	struct target target;
	const struct profile *profile;
	nvmlReturn_t result = find_compute_profile(instance, number, 0, &profile);
	if (result != SUCCESS)
		return result;
	resolve_instance(instance, &target);
	unsigned int free_slices = profile->slices - (unsigned int)__builtin_popcount(slices_taken(target.instance));
	*count = free_slices / slices_of[number];
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceRemainingCapacity(nvmlGpuInstance_t instance, unsigned int number,
								       unsigned int *count)
{
	return SERVED(capacity(instance, number, count));
}

static nvmlReturn_t placements(nvmlGpuInstance_t instance, unsigned int number, nvmlComputeInstancePlacement_t *places,
			       unsigned int *count)
{
	const struct profile *profile;
	nvmlReturn_t result = find_compute_profile(instance, number, 0, &profile);
	if (result != SUCCESS)
		return result;
	unsigned int room = *count, slices = slices_of[number];
	*count = profile->slices / slices;
	if (places == NULL)
		return SUCCESS;
	if (room < *count)
		return INSUFFICIENT_SIZE;
	for (unsigned int i = 0; i < *count; i++)
		places[i] = (nvmlComputeInstancePlacement_t){.start = i * slices, .size = slices};
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstancePossiblePlacements(nvmlGpuInstance_t instance, unsigned int number,
									nvmlComputeInstancePlacement_t *places,
									unsigned int *count)
{
	return SERVED(placements(instance, number, places, count));
}

/* The lowest index that no MIG device of the GPU has. Destroying one leaves a hole. */
static unsigned int free_slot(const struct gpu *gpu)
{
	uint64_t taken = 0;
	for (unsigned int i = 0; i < MAX_INSTANCES; i++)
		for (unsigned int c = 0; c < MAX_COMPUTE && gpu->instance[i].used; c++)
			if (gpu->instance[i].compute[c].used)
				taken |= 1ULL << gpu->instance[i].compute[c].slot;
	return (unsigned int)__builtin_ctzll(~taken);
}

static void name(char *uuid, size_t size)
{
	unsigned char bytes[16];
	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		memset(bytes, 0, sizeof(bytes));
	bytes[6] = (bytes[6] & 0x0f) | 0x50;
	bytes[8] = (bytes[8] & 0x3f) | 0x80;
	int at = snprintf(uuid, size, "MIG-");
	for (unsigned int i = 0; i < sizeof(bytes); i++)
		at += snprintf(uuid + at, size - (size_t)at, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x",
			       bytes[i]);
}

static nvmlReturn_t create(nvmlGpuInstance_t instance, unsigned int number, const nvmlComputeInstancePlacement_t *place,
			   nvmlComputeInstance_t *made)
{
	struct target target;
	const struct profile *profile;
	nvmlReturn_t result = find_compute_profile(instance, number, 0, &profile);
	if (result != SUCCESS)
		return result;
	if (!caps_may_configure())
		return NO_PERMISSION;
	if (number == SEVEN_SLICE_NVL)
		return NOT_SUPPORTED; /* offered, and refused */
	resolve_instance(instance, &target);
	unsigned int taken = slices_taken(target.instance), slices = slices_of[number], start, id = 0;
	for (start = 0; start + slices <= profile->slices; start++)
		if ((taken & ((1U << slices) - 1) << start) == 0 && (place == NULL || place->start == start))
			break;
	while (id < MAX_COMPUTE && target.instance->compute[id].used)
		id++;
	if (start + slices > profile->slices || id == MAX_COMPUTE)
		return INSUFFICIENT_RESOURCES;
	target.compute_id = id;
	target.compute = &target.instance->compute[id];
	*target.compute = (struct compute){.profile = number, .start = start, .slices = slices,
					   .slot = free_slot(target.gpu), .generation = ++target.gpu->generation};
	name(target.compute->uuid, sizeof(target.compute->uuid));
	caps_compute_made(target.gpu, target.instance_id, id);
	__atomic_store_n(&target.compute->used, 1, __ATOMIC_SEQ_CST);
	*made = compute_handle(&target);
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceCreateComputeInstance(nvmlGpuInstance_t instance, unsigned int number,
							 nvmlComputeInstance_t *made)
{
	return SERVED(create(instance, number, NULL, made));
}

EXPORT nvmlReturn_t nvmlGpuInstanceCreateComputeInstanceWithPlacement(nvmlGpuInstance_t instance, unsigned int number,
								      const nvmlComputeInstancePlacement_t *place,
								      nvmlComputeInstance_t *made)
{
	return SERVED(place == NULL ? INVALID_ARGUMENT : create(instance, number, place, made));
}

static nvmlReturn_t destroy(nvmlComputeInstance_t compute)
{
	struct target target;
	nvmlReturn_t result = resolve_compute(compute, &target);
	if (result != SUCCESS)
		return result;
	if (!caps_may_configure())
		return NO_PERMISSION;
	look_for_processes(true);
	if (is_held(target.index, (int)target.instance_id, (int)target.compute_id))
		return IN_USE;
	__atomic_store_n(&target.compute->used, 0, __ATOMIC_SEQ_CST);
	caps_compute_gone(target.gpu, target.instance_id, target.compute_id);
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t compute)
{
	return SERVED(destroy(compute));
}

static nvmlReturn_t list(nvmlGpuInstance_t instance, unsigned int number, nvmlComputeInstance_t *instances,
			 unsigned int *count)
{
	struct target target;
	nvmlReturn_t result = resolve_instance(instance, &target);
	if (result != SUCCESS)
		return result;
	if (number >= COMPUTE_PROFILES || instances == NULL || count == NULL)
		return INVALID_ARGUMENT;
	*count = 0;
	for (target.compute_id = 0; target.compute_id < MAX_COMPUTE; target.compute_id++) {
		target.compute = &target.instance->compute[target.compute_id];
		if (target.compute->used && target.compute->profile == number)
			instances[(*count)++] = compute_handle(&target);
	}
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t instance, unsigned int number,
						       nvmlComputeInstance_t *instances, unsigned int *count)
{
	return SERVED(list(instance, number, instances, count));
}

static nvmlReturn_t by_id(nvmlGpuInstance_t instance, unsigned int id, nvmlComputeInstance_t *compute)
{
	struct target target;
	nvmlReturn_t result = resolve_instance(instance, &target);
	if (result != SUCCESS)
		return result;
	if (id >= MAX_COMPUTE || !target.instance->compute[id].used)
		return NOT_FOUND;
	target.compute_id = id;
	target.compute = &target.instance->compute[id];
	*compute = compute_handle(&target);
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t instance, unsigned int id,
							  nvmlComputeInstance_t *compute)
{
	return SERVED(by_id(instance, id, compute));
}

static nvmlReturn_t get_info(nvmlComputeInstance_t compute, nvmlComputeInstanceInfo_t *info)
{
	struct target target;
	nvmlReturn_t result = resolve_compute(compute, &target);
	if (result != SUCCESS)
		return result;
	*info = (nvmlComputeInstanceInfo_t){
		.device = mig_handle(&target),
		.gpuInstance = instance_handle(&target),
		.id = target.compute_id,
		.profileId = target.compute->profile,
		.placement = {.start = target.compute->start, .size = target.compute->slices},
	};
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t compute, nvmlComputeInstanceInfo_t *info)
{
	return SERVED(get_info(compute, info));
}
