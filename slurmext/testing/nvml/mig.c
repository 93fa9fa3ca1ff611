/* MIG mode and GPU instances: what fits, creation and destruction. */
#include "driver.h"

#include <string.h>

typedef struct {
	nvmlDevice_t device;
	unsigned int id, profileId;
	nvmlGpuInstancePlacement_t placement;
} nvmlGpuInstanceInfo_t;

/* --- mode --- */

static nvmlReturn_t get_mode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
	struct target target;
	nvmlReturn_t result = resolve_gpu(device, &target);
	if (result != SUCCESS)
		return result;
	if (!target.gpu->mig_capable)
		return NOT_SUPPORTED;
	*current = target.gpu->mig_current;
	*pending = target.gpu->mig_pending;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
	return SERVED(get_mode(device, current, pending));
}

static bool has_instances(const struct gpu *gpu)
{
	for (unsigned int i = 0; i < MAX_INSTANCES; i++)
		if (gpu->instance[i].used)
			return true;
	return false;
}

/* The call succeeds where the mode does not change: the activation status tells. */
static nvmlReturn_t set_mode(nvmlDevice_t device, unsigned int mode, nvmlReturn_t *status)
{
	struct target target;
	nvmlReturn_t result = resolve_gpu(device, &target);
	if (result != SUCCESS)
		return result;
	if (!target.gpu->mig_capable)
		return NOT_SUPPORTED;
	if (mode > 1 || status == NULL)
		return INVALID_ARGUMENT;
	if (!caps_may_configure())
		return NO_PERMISSION;
	target.gpu->mig_pending = mode;
	*status = SUCCESS;
	if (mode == target.gpu->mig_current)
		return SUCCESS;
	if (has_instances(target.gpu) || bare_gpu_is_held(target.index))
		*status = IN_USE;
	else if (target.gpu->mig_needs_reset)
		*status = RESET_REQUIRED;
	else
		target.gpu->mig_current = mode;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceSetMigMode(nvmlDevice_t device, unsigned int mode, nvmlReturn_t *status)
{
	return SERVED(set_mode(device, mode, status));
}

/* --- what fits --- */

struct occupation {
	uint64_t units;
	unsigned int slices, one_media, all_media, with_media, of_profile;
};

static uint64_t units_of(const struct profile *profile, unsigned int start)
{
	return ((1ULL << profile->units) - 1) << start;
}

static void occupy(struct occupation *occupation, const struct profile *profile, unsigned int start)
{
	occupation->units |= units_of(profile, start);
	occupation->slices += profile->slices;
	occupation->one_media += profile->media == MEDIA_ONE;
	occupation->all_media += profile->media == MEDIA_ALL;
	occupation->with_media += profile->media != MEDIA_NONE;
}

static struct occupation occupation_of(const struct gpu *gpu, const struct profile *wanted)
{
	struct occupation occupation = {0};
	for (unsigned int i = 0; i < MAX_INSTANCES; i++) {
		const struct instance *instance = &gpu->instance[i];
		if (!instance->used)
			continue;
		occupy(&occupation, &gpu->profile[instance->profile], instance->start);
		occupation.of_profile += &gpu->profile[instance->profile] == wanted;
	}
	return occupation;
}

static bool fits(const struct gpu *gpu, const struct occupation *taken, const struct profile *profile,
		 unsigned int start)
{
	bool legal = false;
	for (unsigned int i = 0; i < profile->starts; i++)
		legal |= profile->start[i] == start;
	if (!legal || (taken->units & units_of(profile, start)) != 0)
		return false;
	if (taken->slices + profile->slices > gpu->compute_slices || taken->of_profile >= profile->most)
		return false;
	if (profile->media == MEDIA_ALL && taken->with_media > 0)
		return false;
	if (profile->media != MEDIA_NONE && taken->all_media > 0)
		return false;
	return profile->media != MEDIA_ONE || taken->one_media == 0;
}

static nvmlReturn_t capacity(nvmlDevice_t device, unsigned int id, unsigned int *count)
{
	const struct profile *profile;
	struct target target;
	nvmlReturn_t result = find_profile(device, id, true, &profile);
	if (result != SUCCESS)
		return result == NOT_SUPPORTED ? INVALID_ARGUMENT : result;
	resolve_gpu(device, &target);
	if (!target.gpu->mig_current)
		return NOT_SUPPORTED;
	if (!caps_may_configure())
		return NO_PERMISSION;
	struct occupation taken = occupation_of(target.gpu, profile);
	*count = 0;
	for (unsigned int i = 0; i < profile->starts; i++)
		if (fits(target.gpu, &taken, profile, profile->start[i])) {
			occupy(&taken, profile, profile->start[i]);
			taken.of_profile++;
			++*count;
		}
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceRemainingCapacity(nvmlDevice_t device, unsigned int id, unsigned int *count)
{
	return SERVED(capacity(device, id, count));
}

/* --- instances --- */

/* Ids come from a pool for each fraction of the card: the whole 0, halves 1-2, quarters 3-6, eighths 7-14. */
static int free_id(const struct gpu *gpu, const struct profile *profile)
{
	unsigned int fraction = gpu->memory_units / profile->units;
	unsigned int first = fraction - 1, last = 2 * fraction - 2;
	for (unsigned int id = first; id <= last && id < MAX_INSTANCES; id++)
		if (!gpu->instance[id].used)
			return (int)id;
	return -1;
}

static nvmlReturn_t create(nvmlDevice_t device, unsigned int id, const nvmlGpuInstancePlacement_t *place,
			   nvmlGpuInstance_t *made)
{
	struct target target;
	nvmlReturn_t result = resolve_gpu(device, &target);
	if (result != SUCCESS)
		return result;
	if (!target.gpu->mig_current)
		return NOT_SUPPORTED;
	const struct profile *profile = profile_with_id(target.gpu, id);
	if (profile == NULL || made == NULL || (place != NULL && place->size != profile->units))
		return INVALID_ARGUMENT;
	if (!caps_may_configure())
		return NO_PERMISSION;
	if (bare_gpu_is_held(target.index))
		return IN_USE;
	struct occupation taken = occupation_of(target.gpu, profile);
	int start = -1, instance_id = free_id(target.gpu, profile);
	for (unsigned int i = 0; i < profile->starts; i++)
		if (fits(target.gpu, &taken, profile, profile->start[i]) &&
		    (place == NULL || place->start == profile->start[i]))
			start = (int)profile->start[i];
	if (start < 0 || instance_id < 0)
		return INSUFFICIENT_RESOURCES;
	target.instance_id = (unsigned int)instance_id;
	target.instance = &target.gpu->instance[instance_id];
	memset(target.instance, 0, sizeof(*target.instance));
	target.instance->profile = (uint32_t)(profile - target.gpu->profile);
	target.instance->start = (uint32_t)start;
	target.instance->generation = ++target.gpu->generation;
	target.instance->used_bytes = -1;
	caps_instance_made(target.gpu, target.instance_id);
	/* Last: whoever is killed before this has made nothing. */
	__atomic_store_n(&target.instance->used, 1, __ATOMIC_SEQ_CST);
	*made = instance_handle(&target);
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceCreateGpuInstance(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *made)
{
	return SERVED(create(device, id, NULL, made));
}

EXPORT nvmlReturn_t nvmlDeviceCreateGpuInstanceWithPlacement(nvmlDevice_t device, unsigned int id,
							     const nvmlGpuInstancePlacement_t *place,
							     nvmlGpuInstance_t *made)
{
	return SERVED(place == NULL ? INVALID_ARGUMENT : create(device, id, place, made));
}

static nvmlReturn_t destroy(nvmlGpuInstance_t instance)
{
	struct target target;
	nvmlReturn_t result = resolve_instance(instance, &target);
	if (result != SUCCESS)
		return result;
	if (!caps_may_configure())
		return NO_PERMISSION;
	for (unsigned int i = 0; i < MAX_COMPUTE; i++)
		if (target.instance->compute[i].used)
			return IN_USE;
	look_for_processes(true);
	if (is_held(target.index, (int)target.instance_id, -1))
		return IN_USE;
	__atomic_store_n(&target.instance->used, 0, __ATOMIC_SEQ_CST);
	caps_instance_gone(target.gpu, target.instance_id);
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t instance)
{
	return SERVED(destroy(instance));
}

static nvmlReturn_t list(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *instances, unsigned int *count)
{
	struct target target;
	nvmlReturn_t result = resolve_gpu(device, &target);
	if (result != SUCCESS)
		return result;
	if (!target.gpu->mig_current)
		return NOT_SUPPORTED;
	if (profile_with_id(target.gpu, id) == NULL || instances == NULL || count == NULL)
		return INVALID_ARGUMENT;
	if (!caps_may_configure())
		return NO_PERMISSION;
	*count = 0;
	for (target.instance_id = 0; target.instance_id < MAX_INSTANCES; target.instance_id++) {
		target.instance = &target.gpu->instance[target.instance_id];
		if (target.instance->used && target.gpu->profile[target.instance->profile].id == id)
			instances[(*count)++] = instance_handle(&target);
	}
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *instances,
					      unsigned int *count)
{
	return SERVED(list(device, id, instances, count));
}

static nvmlReturn_t by_id(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *instance)
{
	struct target target;
	nvmlReturn_t result = resolve_gpu(device, &target);
	if (result != SUCCESS)
		return result;
	if (!target.gpu->mig_current)
		return NOT_SUPPORTED;
	if (!caps_may_configure())
		return NO_PERMISSION;
	if (id >= MAX_INSTANCES || !target.gpu->instance[id].used)
		return NOT_FOUND;
	target.instance_id = id;
	target.instance = &target.gpu->instance[id];
	*instance = instance_handle(&target);
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *instance)
{
	return SERVED(by_id(device, id, instance));
}

static nvmlReturn_t get_info(nvmlGpuInstance_t instance, nvmlGpuInstanceInfo_t *info)
{
	struct target target;
	nvmlReturn_t result = resolve_instance(instance, &target);
	if (result != SUCCESS)
		return result;
	const struct profile *profile = &target.gpu->profile[target.instance->profile];
	*info = (nvmlGpuInstanceInfo_t){
		.device = device_handle(target.index),
		.id = target.instance_id,
		.profileId = profile->id,
		.placement = {.start = target.instance->start, .size = profile->units},
	};
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t instance, nvmlGpuInstanceInfo_t *info)
{
	return SERVED(get_info(instance, info));
}
