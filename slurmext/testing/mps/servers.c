/* Servers: processes of their own that do nothing. */
#include "serving.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct server servers[MAX_SERVERS];

struct server *server_of_pid(pid_t pid)
{
	for (int i = 0; i < MAX_SERVERS; i++)
		if (pid > 0 && servers[i].pid == pid)
			return &servers[i];
	return NULL;
}

struct server *start_server(uid_t uid, const char *name)
{
	struct server *server = NULL;
	for (int i = 0; i < MAX_SERVERS && server == NULL; i++)
		if (servers[i].pid == 0)
			server = &servers[i];
	if (server == NULL)
		return NULL;
	pid_t parent = getpid(), pid = fork();
	if (pid == 0) {
		for (int file = 3; file < 256; file++)
			close(file);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "nvidia-cuda-mps");
		signal(SIGCHLD, SIG_DFL);
		if (getppid() != parent || (uid != geteuid() && setuid(uid) != 0))
			_exit(1);
		for (;;)
			pause();
	}
	if (pid < 0)
		return NULL;
	*server = (struct server){.pid = pid, .uid = uid, .limits = defaults};
	snprintf(server->name, sizeof(server->name), "%s", name);
	return server;
}

void drop_server(struct server *server)
{
	drop_clients(server);
	if (server->pid > 0)
		kill(server->pid, SIGKILL);
	server->pid = 0;
}

void bury(void)
{
	for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) > 0;) {
		struct server *server = server_of_pid(pid);
		if (server != NULL)
			drop_server(server);
	}
}

void apply(const char *path)
{
	char line[LINE], name[64] = "", key[64], value[128];
	struct limits limits = defaults, before = defaults;
	long uid = -1;
	FILE *file = fopen(path, "re");
	for (bool more = file != NULL; more;) {
		more = fgets(line, sizeof(line), file) != NULL;
		if ((!more || line[0] == '[') && name[0] != '\0') {
			defaults = limits;
			start_server(uid < 0 ? geteuid() : (uid_t)uid, name);
			defaults = before;
			name[0] = '\0';
		}
		if (!more)
			break;
		if (sscanf(line, "[servers.%63[a-zA-Z0-9_-]]", name) == 1) {
			limits = before;
			uid = -1;
		} else if (sscanf(line, " %63[a-z_] = \"%127[^\"]\"", key, value) == 2) {
			if (strcmp(key, "pinned_memory_limit") == 0)
				limits.memory_mib[0] = mebibytes(value);
			else if (strcmp(key, "active_thread_percentage") == 0)
				limits.percent = atof(value);
		} else {
			sscanf(line, " uid = %ld", &uid);
		}
	}
	if (file != NULL)
		fclose(file);
}
