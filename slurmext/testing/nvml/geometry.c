/* What a card can be cut into: profiles and their placements. */
#include "driver.h"

#include <stdio.h>
#include <string.h>

#define GPU_PROFILES 18
#define V2 0x02000098U

typedef struct {
	unsigned int id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount, copyEngineCount, decoderCount,
		encoderCount, jpegCount, ofaCount;
	unsigned long long memorySizeMB;
} nvmlGpuInstanceProfileInfo_t;
typedef struct {
	unsigned int version, id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount, copyEngineCount,
		decoderCount, encoderCount, jpegCount, ofaCount;
	unsigned long long memorySizeMB;
	char name[96];
} nvmlGpuInstanceProfileInfo_v2_t;

const struct profile *profile_with_id(const struct gpu *gpu, unsigned int id)
{
	for (unsigned int i = 0; i < gpu->profiles; i++)
		if (gpu->profile[i].id == id)
			return &gpu->profile[i];
	return NULL;
}

nvmlReturn_t find_profile(nvmlDevice_t device, unsigned int number, bool by_id, const struct profile **found)
{
	struct target target;
	nvmlReturn_t result = resolve_gpu(device, &target);
	if (result != SUCCESS)
		return result;
	if (!target.gpu->mig_capable)
		return NOT_SUPPORTED;
	if (!by_id && number >= GPU_PROFILES)
		return INVALID_ARGUMENT;
	/* Newer cards tell in whatever mode they are (NVML_FI_DEV_IS_MIG_MODE_INDEPENDENT_MIG_QUERY_CAPABLE). */
	if (target.gpu->mig_needs_reset && !target.gpu->mig_current)
		return NOT_SUPPORTED;
	*found = NULL;
	for (unsigned int i = 0; i < target.gpu->profiles; i++) {
		const struct profile *profile = &target.gpu->profile[i];
		if ((by_id ? profile->id : profile->number) == number)
			*found = profile;
	}
	return *found != NULL ? SUCCESS : NOT_SUPPORTED;
}

static nvmlReturn_t describe(nvmlDevice_t device, unsigned int number, nvmlGpuInstanceProfileInfo_t *info)
{
	const struct profile *profile;
	nvmlReturn_t result = find_profile(device, number, false, &profile);
	if (result != SUCCESS)
		return result;
	*info = (nvmlGpuInstanceProfileInfo_t){
		.id = profile->id, .sliceCount = profile->slices, .instanceCount = profile->most,
		.multiprocessorCount = profile->sm, .copyEngineCount = profile->copy_engines,
		.decoderCount = profile->decoders, .encoderCount = profile->encoders, .jpegCount = profile->jpegs,
		.ofaCount = profile->ofas, .memorySizeMB = profile->memory_mib,
	};
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, unsigned int number,
							nvmlGpuInstanceProfileInfo_t *info)
{
	return SERVED(describe(device, number, info));
}

static nvmlReturn_t describe_v(nvmlDevice_t device, unsigned int number, bool by_id,
			       nvmlGpuInstanceProfileInfo_v2_t *info)
{
	const struct profile *profile;
	nvmlReturn_t result = find_profile(device, number, by_id, &profile);
	if (result != SUCCESS)
		return result;
	if (info->version != V2)
		return ARGUMENT_VERSION_MISMATCH;
	*info = (nvmlGpuInstanceProfileInfo_v2_t){
		.version = V2, .id = profile->id, .sliceCount = profile->slices, .instanceCount = profile->most,
		.multiprocessorCount = profile->sm, .copyEngineCount = profile->copy_engines,
		.decoderCount = profile->decoders, .encoderCount = profile->encoders, .jpegCount = profile->jpegs,
		.ofaCount = profile->ofas, .memorySizeMB = profile->memory_mib,
	};
	snprintf(info->name, sizeof(info->name), "MIG %s", profile->name);
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, unsigned int number,
							 nvmlGpuInstanceProfileInfo_v2_t *info)
{
	return SERVED(describe_v(device, number, false, info));
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoByIdV(nvmlDevice_t device, unsigned int id,
							     nvmlGpuInstanceProfileInfo_v2_t *info)
{
	return SERVED(describe_v(device, id, true, info));
}

static nvmlReturn_t placements(nvmlDevice_t device, unsigned int id, nvmlGpuInstancePlacement_t *places,
			       unsigned int *count)
{
	const struct profile *profile;
	nvmlReturn_t result = find_profile(device, id, true, &profile);
	if (result != SUCCESS)
		return result == NOT_SUPPORTED ? INVALID_ARGUMENT : result;
	if (count == NULL)
		return INVALID_ARGUMENT;
	unsigned int room = *count;
	*count = profile->starts;
	if (places == NULL)
		return SUCCESS;
	if (room < profile->starts)
		return INSUFFICIENT_SIZE;
	for (unsigned int i = 0; i < profile->starts; i++)
		places[i] = (nvmlGpuInstancePlacement_t){.start = profile->start[i], .size = profile->units};
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t device, unsigned int id,
								  nvmlGpuInstancePlacement_t *places,
								  unsigned int *count)
{
	return SERVED(placements(device, id, places, count));
}
