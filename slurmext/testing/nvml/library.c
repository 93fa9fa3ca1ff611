/*
 * libnvidia-ml.so.1 of a machine without GPUs: what NVML says about the GPUs that are described in the file named by
 * SLURMEXT_SIMULATED_GPUS. A call that is not here is one that an older driver does not have.
 */
#include "driver.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct state *state;
bool writable;

static pthread_mutex_t threads = PTHREAD_MUTEX_INITIALIZER;
static char path[512];
static int file = -1;
static pid_t opened_by;
static unsigned int users;

uint64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

nvmlReturn_t copy(char *to, unsigned int length, const char *from)
{
	if (to == NULL || length == 0)
		return INVALID_ARGUMENT;
	if (strlen(from) >= length)
		return INSUFFICIENT_SIZE;
	memcpy(to, from, strlen(from) + 1);
	return SUCCESS;
}

/* The kernel gives a file's lock back when its holder is killed. A forked child shares its parent's: it opens anew. */
void lock(void)
{
	pthread_mutex_lock(&threads);
	if (opened_by != getpid()) {
		int own = open(path, O_RDONLY | O_CLOEXEC);
		if (own >= 0) {
			file = own;
			opened_by = getpid();
		}
	}
	while (flock(file, LOCK_EX) != 0 && errno == EINTR)
		;
}

void unlock(void)
{
	flock(file, LOCK_UN);
	pthread_mutex_unlock(&threads);
}

static nvmlReturn_t attach(void)
{
	const char *where = getenv("SLURMEXT_SIMULATED_GPUS");
	if (where == NULL || strlen(where) >= sizeof(path))
		return DRIVER_NOT_LOADED;
	writable = true;
	int found = open(where, O_RDWR | O_CLOEXEC);
	if (found < 0) {
		writable = false;
		found = open(where, O_RDONLY | O_CLOEXEC);
	}
	if (found < 0)
		return DRIVER_NOT_LOADED;
	struct stat info;
	struct state *map = MAP_FAILED;
	if (fstat(found, &info) == 0 && (size_t)info.st_size >= sizeof(struct state))
		map = mmap(NULL, sizeof(struct state), PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, found, 0);
	if (map == MAP_FAILED || memcmp(map->magic, STATE_MAGIC, sizeof(STATE_MAGIC)) != 0 ||
	    map->version != STATE_VERSION || map->size != sizeof(struct state)) {
		if (map != MAP_FAILED)
			munmap(map, sizeof(struct state));
		close(found);
		return DRIVER_NOT_LOADED;
	}
	snprintf(path, sizeof(path), "%s", where);
	file = found;
	opened_by = getpid();
	state = map;
	return SUCCESS;
}

static void detach(void)
{
	munmap(state, sizeof(struct state));
	state = NULL;
	if (opened_by == getpid())
		close(file);
	file = -1;
	opened_by = 0;
}

nvmlReturn_t call_begin(struct call *call, const char *name)
{
	call->name = name;
	call->death = LIVES;
	return state == NULL ? UNINITIALIZED : rules_before(call);
}

nvmlReturn_t call_end(const struct call *call, nvmlReturn_t result)
{
	if (state != NULL)
		record(call->name, result);
	if (call->death == DIES_AFTER)
		kill_somebody(call->victim);
	return result;
}

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
	(void)flags;
	pthread_mutex_lock(&threads);
	bool fresh = state == NULL;
	nvmlReturn_t result = fresh ? attach() : SUCCESS;
	if (result == SUCCESS)
		users++;
	pthread_mutex_unlock(&threads);
	if (result != SUCCESS)
		return result;
	struct call call;
	result = call_begin(&call, "nvmlInit_v2");
	if (result == SUCCESS && fresh && writable) {
		lock();
		caps_sweep();
		unlock();
	}
	result = call_end(&call, result);
	if (result != SUCCESS) {
		pthread_mutex_lock(&threads);
		if (--users == 0)
			detach();
		pthread_mutex_unlock(&threads);
	}
	return result;
}

EXPORT nvmlReturn_t nvmlInit_v2(void)
{
	return nvmlInitWithFlags(0);
}

EXPORT nvmlReturn_t nvmlInit(void)
{
	return nvmlInitWithFlags(0);
}

EXPORT nvmlReturn_t nvmlShutdown(void)
{
	pthread_mutex_lock(&threads);
	nvmlReturn_t result = users > 0 ? SUCCESS : UNINITIALIZED;
	if (users > 0 && --users == 0)
		detach();
	pthread_mutex_unlock(&threads);
	return result;
}

EXPORT const char *nvmlErrorString(nvmlReturn_t result)
{
	switch (result) {
	case SUCCESS: return "Success";
	case UNINITIALIZED: return "Uninitialized";
	case INVALID_ARGUMENT: return "Invalid Argument";
	case NOT_SUPPORTED: return "Not Supported";
	case NO_PERMISSION: return "Insufficient Permissions";
	case NOT_FOUND: return "Not Found";
	case INSUFFICIENT_SIZE: return "Insufficient Size";
	case DRIVER_NOT_LOADED: return "Driver Not Loaded";
	case 10: return "Timeout";
	case 12: return "NVML Shared Library Not Found";
	case 13: return "Function Not Found";
	case 15: return "GPU is lost";
	case RESET_REQUIRED: return "GPU requires reset";
	case 18: return "Driver/library version mismatch";
	case IN_USE: return "In use by another client";
	case INSUFFICIENT_RESOURCES: return "Insufficient Resources";
	case ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
	default: return "Unknown Error";
	}
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
	return SERVED(copy(version, length, state->driver));
}

static nvmlReturn_t own_version(char *version, unsigned int length)
{
	char text[96];
	snprintf(text, sizeof(text), "12.%s", state->driver);
	return copy(version, length, text);
}

EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
	return SERVED(own_version(version, length));
}
