/* Utilisation: now, in the samples that the driver keeps, and between two GPM samples. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

/* NVML looks at the utilisation six times a second and keeps about 20 s of it. */
#define SAMPLE_US 166667ULL
#define SAMPLES_KEPT 120
#define GPM_VERSION 1
#define GPM_METRICS 8192 /* far above any release's NVML_GPM_METRIC_MAX */
#define GPM_POINTS 32
#define MAX_FOUND 64

enum gpm_metric { GRAPHICS_UTIL = 1, SM_UTIL = 2, SM_OCCUPANCY = 3, DRAM_BW_UTIL = 10 };

struct gpm_sample {
	uint64_t at_us;
	unsigned int gpu;
	int instance;
	bool taken;
};
typedef struct gpm_sample *nvmlGpmSample_t;

typedef struct {
	unsigned int metricId;
	nvmlReturn_t nvmlReturn;
	double value;
	struct {
		char *shortName, *longName, *unit;
	} metricInfo;
} nvmlGpmMetric_t;
typedef struct {
	unsigned int version;
	unsigned int numMetrics;
	nvmlGpmSample_t sample1, sample2;
	nvmlGpmMetric_t metrics[];
} nvmlGpmMetricsGet_t;
typedef struct {
	unsigned int version;
	unsigned int isSupportedDevice;
} nvmlGpmSupport_t;

static int percent_at(const struct meter *meter, uint64_t at_us)
{
	uint32_t oldest = meter->changes > MAX_CHANGES ? meter->changes - MAX_CHANGES : 0;
	int percent = WORKS_WHILE_HELD;
	for (uint32_t i = oldest; i < meter->changes; i++) {
		const struct change *change = &meter->history[i % MAX_CHANGES];
		if (change->at_us <= at_us || (i == oldest && oldest > 0))
			percent = change->percent;
	}
	return percent;
}

unsigned int working(unsigned int index, int instance, uint64_t at_us)
{
	const struct gpu *gpu = &state->gpu[index];
	int percent = percent_at(instance < 0 ? &gpu->work : &gpu->instance[instance].work, at_us);
	if (percent != WORKS_WHILE_HELD)
		return (unsigned int)percent;
	struct use found[MAX_FOUND];
	unsigned int count = uses_of(index, instance, -1, found, MAX_FOUND), total = 0;
	for (unsigned int i = 0; i < count && i < MAX_FOUND; i++)
		total += (unsigned int)found[i].percent;
	return total < 100 ? total : 100;
}

static nvmlReturn_t get_rates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result != SUCCESS)
		return result;
	if (target.gpu->mig_current)
		return NOT_SUPPORTED;
	utilization->gpu = working(target.index, -1, now_us());
	utilization->memory = utilization->gpu / 2;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
	return SERVED(get_rates(device, utilization));
}

static nvmlReturn_t get_samples(nvmlDevice_t device, int type, unsigned long long last_us, int *value_type,
				unsigned int *count, nvmlSample_t *samples)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result != SUCCESS)
		return result;
	if (value_type == NULL || count == NULL)
		return INVALID_ARGUMENT;
	if (target.gpu->mig_current || (type != 1 && type != 2))
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
		samples[i].sampleValue.uiVal = working(target.index, -1, samples[i].timeStamp) / (type == 2 ? 2 : 1);
	}
	*count = fresh;
	return SUCCESS;
}

/* Samples of the utilisation since `last_us`, oldest first. */
EXPORT nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, int type, unsigned long long last_us, int *value_type,
					 unsigned int *count, nvmlSample_t *samples)
{
	return SERVED(get_samples(device, type, last_us, value_type, count, samples));
}

/* --- GPM: also of slices, on Hopper and newer --- */

static nvmlReturn_t gpm_support(nvmlDevice_t device, nvmlGpmSupport_t *support)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result != SUCCESS)
		return result;
	if (support->version != GPM_VERSION)
		return ARGUMENT_VERSION_MISMATCH;
	support->isSupportedDevice = target.gpu->gpm;
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support)
{
	return SERVED(gpm_support(device, support));
}

static nvmlReturn_t gpm_alloc(nvmlGpmSample_t *sample)
{
	if (sample == NULL)
		return INVALID_ARGUMENT;
	*sample = calloc(1, sizeof(**sample));
	return *sample != NULL ? SUCCESS : 20;
}

EXPORT nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample)
{
	return SERVED(gpm_alloc(sample));
}

EXPORT nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample)
{
	if (sample == NULL)
		return INVALID_ARGUMENT;
	free(sample);
	return SUCCESS;
}

static nvmlReturn_t gpm_sample(nvmlDevice_t device, int instance, nvmlGpmSample_t sample)
{
	struct target target;
	nvmlReturn_t result = resolve_device(device, &target);
	if (result != SUCCESS)
		return result;
	if (!target.gpu->gpm)
		return NOT_SUPPORTED;
	if (target.instance != NULL)
		instance = (int)target.instance_id;
	if (sample == NULL || (instance >= 0 && (instance >= MAX_INSTANCES || !target.gpu->instance[instance].used)))
		return INVALID_ARGUMENT;
	*sample = (struct gpm_sample){.at_us = now_us(), .gpu = target.index, .instance = instance, .taken = true};
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t sample)
{
	return SERVED(gpm_sample(device, -1, sample));
}

EXPORT nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned int instance, nvmlGpmSample_t sample)
{
	return SERVED(gpm_sample(device, (int)instance, sample));
}

static double gpm_mean(const struct gpm_sample *first, const struct gpm_sample *second)
{
	const struct gpu *gpu = &state->gpu[first->gpu];
	double total = 0;
	for (unsigned int point = 0; point < GPM_POINTS; point++) {
		uint64_t at = first->at_us + (second->at_us - first->at_us) * (2 * point + 1) / (2 * GPM_POINTS);
		if (first->instance >= 0 || !gpu->mig_current) {
			total += working(first->gpu, first->instance, at);
			continue;
		}
		/* A whole GPU that is cut works as its instances do, each by its share of the SMs. */
		for (int i = 0; i < MAX_INSTANCES; i++)
			if (gpu->instance[i].used)
				total += working(first->gpu, i, at) *
					 (double)gpu->profile[gpu->instance[i].profile].sm / gpu->sm;
	}
	return total / GPM_POINTS;
}

static nvmlReturn_t gpm_metrics(nvmlGpmMetricsGet_t *wanted)
{
	if (wanted == NULL || wanted->sample1 == NULL || wanted->sample2 == NULL || wanted->numMetrics > GPM_METRICS)
		return INVALID_ARGUMENT;
	if (wanted->version != GPM_VERSION)
		return ARGUMENT_VERSION_MISMATCH;
	const struct gpm_sample *first = wanted->sample1, *second = wanted->sample2;
	if (!first->taken || !second->taken || first->gpu != second->gpu || first->instance != second->instance ||
	    second->at_us <= first->at_us)
		return INVALID_ARGUMENT;
	double mean = gpm_mean(first, second);
	for (unsigned int i = 0; i < wanted->numMetrics; i++) {
		nvmlGpmMetric_t *metric = &wanted->metrics[i];
		metric->nvmlReturn = SUCCESS;
		switch (metric->metricId) {
		case GRAPHICS_UTIL:
		case SM_UTIL: metric->value = mean; break;
		case SM_OCCUPANCY:
		case DRAM_BW_UTIL: metric->value = mean / 2; break;
		default: metric->nvmlReturn = NOT_SUPPORTED;
		}
	}
	return SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *wanted)
{
	return SERVED(gpm_metrics(wanted));
}
