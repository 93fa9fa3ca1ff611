/*
 * The driver's capabilities: under the node's root /proc/driver/nvidia/capabilities has a file for each instance, and
 * /dev/nvidia-caps a device node. The files come and go with the instances. Nodes are made, and given the driver's
 * mode and owner, by nvidia-modprobe for whoever uses NVML as root, unless an instance's file says
 * `DeviceFileModify: 0`; nobody removes them.
 */
#include "driver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define CONFIG_MINOR 1
#define OF_GPU 135U
#define OF_INSTANCE 9U
#define FIRST 3U
#define ACCESS_MODE 0444
#define PATH 512

static unsigned int minor_of(const struct gpu *gpu, unsigned int instance, int compute)
{
	return FIRST + OF_GPU * gpu->minor + OF_INSTANCE * instance + (unsigned int)(compute + 1);
}

static void file_of(char *path, const struct gpu *gpu, unsigned int instance, int compute, const char *name)
{
	char part[32] = "";
	if (compute >= 0)
		snprintf(part, sizeof(part), "/ci%d", compute);
	snprintf(path, PATH, "%s/proc/driver/nvidia/capabilities/gpu%u/mig/gi%u%s%s", state->root, gpu->minor, instance,
		 part, name);
}

static void node_of(char *path, unsigned int minor)
{
	snprintf(path, PATH, "%s/dev/nvidia-caps/nvidia-cap%u", state->root, minor);
}

static bool may_modify(const char *path)
{
	char text[256] = "";
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return false;
	size_t size = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[size] = '\0';
	return strstr(text, "DeviceFileModify: 0") == NULL;
}

/* What nvidia-modprobe does for a client that opens a capability. */
static void modprobe(const struct gpu *gpu, unsigned int instance, int compute)
{
	char path[PATH];
	file_of(path, gpu, instance, compute, "/access");
	if (geteuid() != 0 || !may_modify(path))
		return;
	unsigned int minor = minor_of(gpu, instance, compute);
	node_of(path, minor);
	mode_t kind = state->caps_major != 0 ? S_IFCHR : S_IFREG;
	if (mknod(path, kind | ACCESS_MODE, makedev(state->caps_major, minor)) != 0 && errno != EEXIST)
		return;
	if (chmod(path, ACCESS_MODE) != 0 || chown(path, 0, 0) != 0)
		return;
}

static void make(const struct gpu *gpu, unsigned int instance, int compute)
{
	char path[PATH];
	if (state->root[0] == '\0')
		return;
	file_of(path, gpu, instance, compute, "");
	mkdir(path, 0555);
	file_of(path, gpu, instance, compute, "/access");
	unlink(path);
	FILE *file = fopen(path, "we");
	if (file == NULL)
		return;
	fprintf(file, "DeviceFileMinor: %u\nDeviceFileMode: %u\nDeviceFileModify: 1\n",
		minor_of(gpu, instance, compute), (unsigned int)ACCESS_MODE);
	fchmod(fileno(file), 0444);
	fclose(file);
	modprobe(gpu, instance, compute);
}

static void drop(const struct gpu *gpu, unsigned int instance, int compute)
{
	char path[PATH];
	if (state->root[0] == '\0')
		return;
	file_of(path, gpu, instance, compute, "/access");
	unlink(path);
	file_of(path, gpu, instance, compute, "");
	rmdir(path);
}

void caps_instance_made(const struct gpu *gpu, unsigned int instance)
{
	make(gpu, instance, -1);
}

void caps_compute_made(const struct gpu *gpu, unsigned int instance, unsigned int compute)
{
	make(gpu, instance, (int)compute);
}

void caps_instance_gone(const struct gpu *gpu, unsigned int instance)
{
	drop(gpu, instance, -1);
}

void caps_compute_gone(const struct gpu *gpu, unsigned int instance, unsigned int compute)
{
	drop(gpu, instance, (int)compute);
}

/* A plain file stands for the device where none may be made; a device of nobody's major number is opened as well. */
static bool opens(unsigned int minor)
{
	char path[PATH];
	node_of(path, minor);
	int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file >= 0)
		close(file);
	return file >= 0 || errno == ENXIO || errno == ENODEV;
}

bool caps_may_open(const struct gpu *gpu, unsigned int instance, unsigned int compute)
{
	if (state->root[0] == '\0')
		return true;
	modprobe(gpu, instance, -1);
	modprobe(gpu, instance, (int)compute);
	return opens(minor_of(gpu, instance, -1)) && opens(minor_of(gpu, instance, (int)compute));
}

bool caps_may_configure(void)
{
	/* Who cannot write the state cannot change instances here, whatever the capability says. */
	return writable && (geteuid() == 0 || (state->root[0] != '\0' && opens(CONFIG_MINOR)));
}

void caps_sweep(void)
{
	char path[PATH];
	if (state->root[0] == '\0' || geteuid() != 0)
		return;
	for (unsigned int i = 0; i < state->gpus; i++)
		for (unsigned int gi = 0; gi < MAX_INSTANCES; gi++) {
			const struct gpu *gpu = &state->gpu[i];
			file_of(path, gpu, gi, -1, "");
			if (access(path, F_OK) != 0)
				continue;
			for (unsigned int ci = 0; ci < MAX_COMPUTE; ci++)
				if (!gpu->instance[gi].used || !gpu->instance[gi].compute[ci].used)
					caps_compute_gone(gpu, gi, ci);
			if (!gpu->instance[gi].used)
				caps_instance_gone(gpu, gi);
		}
}
