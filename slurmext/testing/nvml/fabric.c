/* The NVLink fabric between nodes: described by `<UUID in hex> <clique>` in a file beside the GPUs'. */
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
	unsigned char clusterUuid[16];
	nvmlReturn_t status;
	unsigned int cliqueId, state;
} nvmlGpuFabricInfo_t;

enum { COMPLETED = 3 };

static nvmlReturn_t fabric(nvmlDevice_t device, nvmlGpuFabricInfo_t *info)
{
	struct target target;
	nvmlReturn_t result = resolve_gpu(device, &target);
	if (result != SUCCESS)
		return result;
	if (info == NULL)
		return INVALID_ARGUMENT;
	char path[600];
	snprintf(path, sizeof(path), "%s.fabric", getenv("SLURMEXT_SIMULATED_GPUS"));
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return NOT_SUPPORTED;
	memset(info, 0, sizeof(*info));
	bool whole = true;
	for (size_t i = 0; i < sizeof(info->clusterUuid); i++)
		whole &= fscanf(file, "%2hhx", &info->clusterUuid[i]) == 1;
	whole &= fscanf(file, "%u", &info->cliqueId) == 1;
	fclose(file);
	info->state = COMPLETED;
	return whole ? SUCCESS : UNKNOWN;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, nvmlGpuFabricInfo_t *info)
{
	return SERVED(fabric(device, info));
}
