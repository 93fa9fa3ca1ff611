/*
 * Who has a GPU or a slice: the processes that a test told of, and those of this node's jobs, as their environment
 * tells. CUDA_VISIBLE_DEVICES names slices and GPUs by UUID; else Slurm's variables name whole GPUs.
 * SLURMEXT_SIMULATED_WORK=memory_mib=5000,percent=40 in a process's environment says what it does there.
 */
#include "driver.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AGE_US 200000ULL
#define MAX_USES 1024
#define MAX_ENVIRONMENT (256 * 1024)
/* What the driver itself needs. */
#define RESERVED_BYTES (4 * MIB)
/* The job that holds a GPU in Slurm's books while it is in sliced use: it touches no GPU. */
#define PLACEHOLDER "slurmext-slices"
/* A process under MPS of which nobody said what it has in use has this part of its limit: a job has several of them. */
#define SHARES_OF_A_LIMIT 16

static struct use uses[MAX_USES];
static unsigned int use_count;
static uint64_t looked_at_us;

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

static void add(struct use use)
{
	if (use_count < MAX_USES)
		uses[use_count++] = use;
}

/* A GPU's or slice's UUID of CUDA_VISIBLE_DEVICES. */
static void add_named(const char *uuid, size_t length, struct use use)
{
	for (unsigned int index = 0; index < state->gpus; index++) {
		const struct gpu *gpu = &state->gpu[index];
		use.gpu = index;
		if (strlen(gpu->uuid) == length && strncmp(gpu->uuid, uuid, length) == 0) {
			add(use);
			return;
		}
		for (int i = 0; i < MAX_INSTANCES; i++)
			for (int c = 0; c < MAX_COMPUTE && gpu->instance[i].used; c++) {
				const struct compute *compute = &gpu->instance[i].compute[c];
				if (!compute->used || strlen(compute->uuid) != length ||
				    strncmp(compute->uuid, uuid, length) != 0)
					continue;
				use.instance = i;
				use.compute = c;
				add(use);
				return;
			}
	}
}

static void add_work(struct use *use, const char *work)
{
	const char *memory = work == NULL ? NULL : strstr(work, "memory_mib=");
	const char *percent = work == NULL ? NULL : strstr(work, "percent=");
	use->used_bytes = memory == NULL ? -1 : (int64_t)(strtoull(memory + strlen("memory_mib="), NULL, 10) * MIB);
	use->percent = percent == NULL ? 100 : atoi(percent + strlen("percent="));
}

static void look_at(unsigned int pid)
{
	static char environment[MAX_ENVIRONMENT + 1];
	char name[64];
	snprintf(name, sizeof(name), "/proc/%u/environ", pid);
	int file = open(name, O_RDONLY | O_CLOEXEC);
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
	const char *job = variable(environment, end, "SLURM_JOB_NAME");
	if (job != NULL && strncmp(job, PLACEHOLDER, strlen(PLACEHOLDER)) == 0)
		return;
	struct use use = {.pid = pid, .instance = -1, .compute = -1};
	use.mps = variable(environment, end, "CUDA_MPS_PIPE_DIRECTORY") != NULL;
	add_work(&use, variable(environment, end, "SLURMEXT_SIMULATED_WORK"));
	const char *limit = variable(environment, end, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT");
	if (use.mps && use.used_bytes < 0 && limit != NULL && strncmp(limit, "0=", 2) == 0)
		use.used_bytes = (int64_t)(strtoull(limit + 2, NULL, 10) * MIB / SHARES_OF_A_LIMIT);
	const char *visible = variable(environment, end, "CUDA_VISIBLE_DEVICES");
	if (visible != NULL && (strncmp(visible, "MIG-", 4) == 0 || strncmp(visible, "GPU-", 4) == 0)) {
		while (*visible != '\0') {
			size_t length = strcspn(visible, ",");
			add_named(visible, length, use);
			visible += length + (visible[length] == ',');
		}
		return;
	}
	const char *gpus = variable(environment, end, "SLURM_STEP_GPUS");
	uint64_t minors = minors_in(gpus != NULL ? gpus : variable(environment, end, "SLURM_JOB_GPUS"));
	for (unsigned int index = 0; index < state->gpus; index++) {
		unsigned int minor = state->gpu[index].minor;
		use.gpu = index;
		if (minor < MAX_GPUS && (minors >> minor & 1) != 0)
			add(use);
	}
}

static void add_told(void)
{
	for (unsigned int i = 0; i < MAX_HOLDERS; i++) {
		const struct holder *holder = &state->holder[i];
		if (holder->pid == 0 || (kill((pid_t)holder->pid, 0) != 0 && errno == ESRCH))
			continue;
		add((struct use){.pid = holder->pid, .gpu = holder->gpu, .instance = holder->instance,
				 .compute = holder->compute, .used_bytes = holder->used_bytes,
				 .percent = holder->percent});
	}
}

/* All of /proc is read a few times a second only, unless `anew`; what a test told is always up to date. */
void look_for_processes(bool anew)
{
	static unsigned int of_jobs;
	uint64_t now = now_us();
	use_count = of_jobs;
	if (anew || now - looked_at_us >= AGE_US) {
		use_count = 0;
		DIR *proc = opendir("/proc");
		if (proc != NULL) {
			for (struct dirent *entry; (entry = readdir(proc)) != NULL;)
				if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
					look_at((unsigned int)strtoul(entry->d_name, NULL, 10));
			closedir(proc);
		}
		of_jobs = use_count;
		looked_at_us = now_us();
	}
	add_told();
}

unsigned int uses_of(unsigned int gpu, int instance, int compute, struct use *found, unsigned int room)
{
	unsigned int count = 0;
	look_for_processes(false);
	for (unsigned int i = 0; i < use_count; i++) {
		if (uses[i].gpu != gpu || (instance >= 0 && uses[i].instance != instance) ||
		    (compute >= 0 && uses[i].compute != compute))
			continue;
		if (count < room)
			found[count] = uses[i];
		count++;
	}
	return count;
}

bool is_held(unsigned int gpu, int instance, int compute)
{
	return uses_of(gpu, instance, compute, NULL, 0) > 0;
}

bool bare_gpu_is_held(unsigned int gpu)
{
	look_for_processes(true);
	for (unsigned int i = 0; i < use_count; i++)
		if (uses[i].gpu == gpu && uses[i].instance < 0)
			return true;
	return false;
}

static unsigned long long most_of(const struct gpu *gpu, int instance)
{
	return instance < 0 ? gpu->memory_bytes : gpu->profile[gpu->instance[instance].profile].memory_mib * MIB;
}

/* Those of whom nobody said what they have in use have half of what is there, together. */
unsigned long long memory_of(const struct use *use)
{
	if (use->used_bytes >= 0)
		return (unsigned long long)use->used_bytes;
	unsigned int untold = 0;
	for (unsigned int i = 0; i < use_count; i++)
		untold += uses[i].gpu == use->gpu && uses[i].instance == use->instance && uses[i].used_bytes < 0;
	return most_of(&state->gpu[use->gpu], use->instance) / 2 / (untold > 0 ? untold : 1);
}

unsigned long long memory_used(unsigned int index, int instance_id)
{
	static struct use found[MAX_USES];
	const struct gpu *gpu = &state->gpu[index];
	int64_t told = instance_id < 0 ? gpu->used_bytes : gpu->instance[instance_id].used_bytes;
	if (told >= 0)
		return (unsigned long long)told;
	unsigned long long total = 0, most = most_of(gpu, instance_id);
	if (instance_id < 0 && gpu->mig_current) {
		for (int i = 0; i < MAX_INSTANCES; i++)
			total += gpu->instance[i].used ? memory_used(index, i) : 0;
	} else {
		unsigned int count = uses_of(index, instance_id, -1, found, MAX_USES);
		for (unsigned int i = 0; i < count && i < MAX_USES; i++)
			total += memory_of(&found[i]);
	}
	if (total < RESERVED_BYTES)
		total = RESERVED_BYTES;
	return total < most ? total : most;
}
