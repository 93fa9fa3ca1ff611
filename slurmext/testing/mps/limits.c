/* Limits of servers: a percentage of the multiprocessors, and memory for each client on each device. */
#include "serving.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct limits defaults;

long mebibytes(const char *text)
{
	char *unit;
	double value = strtod(text, &unit);
	return (long)(*unit == 'G' || *unit == 'g' ? value * 1024 : *unit == 'K' || *unit == 'k' ? value / 1024 : value);
}

void set_defaults(void)
{
	const char *percent = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
	char memory[LINE] = "";
	defaults.percent = percent == NULL ? 100 : atof(percent);
	for (int device = 0; device < MAX_DEVICES; device++)
		defaults.memory_mib[device] = NO_LIMIT;
	if (getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT") != NULL)
		snprintf(memory, sizeof(memory), "%s", getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"));
	for (char *rest, *item = strtok_r(memory, ",", &rest); item != NULL; item = strtok_r(NULL, ",", &rest)) {
		char *value = strchr(item, '=');
		if (value != NULL && atoi(item) >= 0 && atoi(item) < MAX_DEVICES)
			defaults.memory_mib[atoi(item)] = mebibytes(value + 1);
	}
}
