/* What nvidia-cuda-mps-control is told: one command, its answer. */
#include "serving.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void list_clients(struct peer *peer, const struct server *only, bool table)
{
	if (table)
		say(peer, "PID\tID\tSERVER\tDEVICE\tNAMESPACE\tCOMMAND\n");
	for (int i = 0; i < MAX_PEERS; i++) {
		const struct peer *one = &peers[i];
		if (one->connection < 0 || !one->client || one->server < 0 ||
		    (only != NULL && only != &servers[one->server]))
			continue;
		if (table)
			say(peer, "%d\t%d\t%d\tGPU-0\t4026531836\tcuda\n", one->who.pid, i,
			    (int)servers[one->server].pid);
		else
			say(peer, "%d\n", one->who.pid);
	}
}

static void terminate(struct peer *peer, const struct server *server, pid_t pid)
{
	for (int i = 0; i < MAX_PEERS; i++)
		if (server != NULL && peers[i].connection >= 0 && peers[i].client &&
		    peers[i].server == server - servers && peers[i].who.pid == pid) {
			leave(&peers[i], true);
			return;
		}
	say(peer, "Client %d not found\n", (int)pid);
}

static void set_memory(struct peer *peer, struct limits *limits, const char *device, const char *value)
{
	int number = atoi(device);
	if (number < 0 || number >= MAX_DEVICES || value[0] == '\0') {
		say(peer, "Invalid argument\n");
		return;
	}
	limits->memory_mib[number] = mebibytes(value);
}

static void set_percent(struct peer *peer, struct limits *limits, const char *value)
{
	double percent = atof(value);
	if (percent <= 0 || percent > 100)
		say(peer, "Invalid argument\n");
	else
		limits->percent = percent;
}

/* Of 1 GiB and more the real one tells whole GiB, rounded down. */
static void tell_memory(struct peer *peer, const struct limits *limits, const char *device)
{
	long memory_mib = limits->memory_mib[(unsigned int)atoi(device) % MAX_DEVICES];
	if (memory_mib == NO_LIMIT)
		say(peer, "0G\n");
	else if (memory_mib >= 1024)
		say(peer, "%ldG\n", memory_mib / 1024);
	else
		say(peer, "%ldM\n", memory_mib);
}

void obey(struct peer *peer, char *command)
{
	char words[5][LINE] = {"", "", "", "", ""};
	int count = sscanf(command, "%511s %511s %511s %511s %511s", words[0], words[1], words[2], words[3], words[4]);
	const char *verb = words[0];
	struct server *server = server_of_pid(atoi(words[1]));
	if (peer->who.uid != 0 && peer->who.uid != geteuid())
		say(peer, "Permission denied\n");
	else if (strcmp(verb, "get_server_list") == 0 || strncmp(command, "server list", 11) == 0) {
		for (int i = 0; i < MAX_SERVERS; i++)
			if (servers[i].pid != 0)
				say(peer, "%d\n", (int)servers[i].pid);
	} else if (strcmp(verb, "ps") == 0 || strncmp(command, "client list", 11) == 0)
		list_clients(peer, NULL, true);
	else if (strcmp(verb, "start_server") == 0) {
		if (count < 3 || start_server((uid_t)atoi(words[2]), "") == NULL)
			say(peer, "Failed to start server\n");
	} else if (strcmp(verb, "set_default_active_thread_percentage") == 0)
		set_percent(peer, &defaults, words[1]);
	else if (strcmp(verb, "get_default_active_thread_percentage") == 0)
		say(peer, "%.1f\n", defaults.percent);
	else if (strcmp(verb, "set_default_device_pinned_mem_limit") == 0)
		set_memory(peer, &defaults, words[1], words[2]);
	else if (strcmp(verb, "get_default_device_pinned_mem_limit") == 0)
		tell_memory(peer, &defaults, words[1]);
	else if (strcmp(verb, "quit") == 0) {
		quitting = !fault("quit hang", NULL);
		quit_at = strcmp(words[1], "-f") == 0 ? 1 : count > 1 ? time(NULL) + atoi(words[count - 1]) : 0;
	} else if (server == NULL && strstr("get_server_status get_client_list terminate_client shutdown_server "
					    "set_active_thread_percentage get_active_thread_percentage "
					    "set_device_pinned_mem_limit get_device_pinned_mem_limit", verb) != NULL)
		say(peer, "Server %s not found\n", words[1]);
	else if (strcmp(verb, "get_server_status") == 0)
		say(peer, "%s\n", server->fault ? "FAULT" : "ACTIVE");
	else if (strcmp(verb, "get_client_list") == 0)
		list_clients(peer, server, false);
	else if (strcmp(verb, "terminate_client") == 0)
		terminate(peer, server, atoi(words[2]));
	else if (strcmp(verb, "shutdown_server") == 0)
		drop_server(server);
	else if (strcmp(verb, "set_active_thread_percentage") == 0)
		set_percent(peer, &server->limits, words[2]);
	else if (strcmp(verb, "get_active_thread_percentage") == 0)
		say(peer, "%.1f\n", server->limits.percent);
	else if (strcmp(verb, "set_device_pinned_mem_limit") == 0)
		set_memory(peer, &server->limits, words[2], words[3]);
	else if (strcmp(verb, "get_device_pinned_mem_limit") == 0)
		tell_memory(peer, &server->limits, words[2]);
	else
		say(peer, "Unrecognized command: %s\n", command);
}
