/*
 * The daemon. Its servers are processes of its own that do nothing. One user at a time has a server: others wait until
 * its clients are gone. A limit of memory is one of each client, as with the real one.
 */
#include "mps.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_SERVERS 16
#define MAX_PEERS 64
#define MAX_CLIENTS 48
#define MAX_DEVICES 16
#define READY 3
#define NO_LIMIT (-1L)

struct limits {
	double percent;
	long memory_mib[MAX_DEVICES];
};

struct server {
	pid_t pid; /* 0: none here */
	uid_t uid;
	bool fault;
	char name[64];
	struct limits limits;
};

struct peer {
	int connection; /* -1: nobody here */
	struct ucred who;
	bool client, in_flight;
	int server; /* -1: waits for one */
	long memory_mib;
	char text[LINE];
	size_t length;
};

static struct server servers[MAX_SERVERS];
static struct peer peers[MAX_PEERS];
static struct limits defaults;
static bool multiuser, quitting;
static time_t quit_at;

/* --- limits --- */

static long mebibytes(const char *text)
{
	char *unit;
	double value = strtod(text, &unit);
	return (long)(*unit == 'G' || *unit == 'g' ? value * 1024 : *unit == 'K' || *unit == 'k' ? value / 1024 : value);
}

static void set_defaults(void)
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

/* --- servers --- */

static struct server *server_of_pid(pid_t pid)
{
	for (int i = 0; i < MAX_SERVERS; i++)
		if (pid > 0 && servers[i].pid == pid)
			return &servers[i];
	return NULL;
}

static int clients_of(int server)
{
	int count = 0;
	for (int i = 0; i < MAX_PEERS; i++)
		count += peers[i].connection >= 0 && peers[i].client && peers[i].server == server;
	return count;
}

static struct server *start_server(uid_t uid, const char *name)
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

static void drop_peer(struct peer *peer)
{
	close(peer->connection);
	peer->connection = -1;
}

/* Its clients learn it by the end of their connections. */
static void drop_server(struct server *server)
{
	for (int i = 0; i < MAX_PEERS; i++)
		if (peers[i].connection >= 0 && peers[i].client && peers[i].server == server - servers)
			drop_peer(&peers[i]);
	if (server->pid > 0)
		kill(server->pid, SIGKILL);
	server->pid = 0;
}

static void bury(void)
{
	for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) > 0;) {
		struct server *server = server_of_pid(pid);
		if (server != NULL)
			drop_server(server);
	}
}

/* --- clients --- */

static void say(struct peer *peer, const char *format, ...)
{
	char text[LINE];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (send(peer->connection, text, strlen(text), MSG_NOSIGNAL) < 0)
		return;
}

/* Gives a client a server: its user's, one of root's, or a new one once nobody else's is in use. */
static void seat(struct peer *peer)
{
	int own = -1, busy = 0;
	for (int i = 0; i < MAX_SERVERS; i++) {
		if (servers[i].pid == 0)
			continue;
		if (servers[i].uid == peer->who.uid || servers[i].uid == 0)
			own = i;
		else if (!multiuser && clients_of(i) > 0)
			busy++;
		else if (!multiuser && servers[i].name[0] == '\0')
			drop_server(&servers[i]);
	}
	if (busy > 0 && own < 0)
		return;
	struct server *server = own >= 0 ? &servers[own] : start_server(peer->who.uid, "");
	if (server == NULL || server->fault || quitting || clients_of((int)(server - servers)) >= MAX_CLIENTS) {
		say(peer, "%s\n", server != NULL && server->fault ? "MPS_SERVER_FAULT" : "MPS_CONNECTION_REFUSED");
		drop_peer(peer);
		return;
	}
	peer->server = (int)(server - servers);
	say(peer, "OK server %d percent %g\n", (int)server->pid, server->limits.percent);
}

static void seat_waiting(void)
{
	for (int i = 0; i < MAX_PEERS; i++)
		if (peers[i].connection >= 0 && peers[i].client && peers[i].server < 0)
			seat(&peers[i]);
}

static void leave(struct peer *peer, bool clean)
{
	struct server *server = peer->client && peer->server >= 0 ? &servers[peer->server] : NULL;
	bool harm = server != NULL && !clean && peer->in_flight;
	drop_peer(peer);
	if (harm && server->pid > 0) {
		server->fault = true;
		for (int i = 0; i < MAX_PEERS; i++)
			if (peers[i].connection >= 0 && peers[i].client && peers[i].server == server - servers)
				drop_peer(&peers[i]);
	}
	seat_waiting();
}

static void allocate(struct peer *peer, long memory_mib)
{
	if (peer->server < 0)
		return;
	long limit = servers[peer->server].limits.memory_mib[0];
	if (limit != NO_LIMIT && peer->memory_mib + memory_mib > limit) {
		say(peer, "CUDA_ERROR_OUT_OF_MEMORY\n");
		return;
	}
	peer->memory_mib += memory_mib;
	say(peer, "OK memory %ld\n", peer->memory_mib);
}

/* --- commands --- */

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

static void obey(struct peer *peer, char *command)
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

/* --- configuration of MPS v3 --- */

static void apply(const char *path)
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

/* --- the daemon --- */

static int listen_on(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", name);
	unlink(name);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(listener, 64) != 0)
		return -1;
	chmod(name, 0666);
	return listener;
}

static void welcome(int listener)
{
	int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	socklen_t size = sizeof(struct ucred);
	for (int i = 0; i < MAX_PEERS && connection >= 0; i++)
		if (peers[i].connection < 0) {
			peers[i] = (struct peer){.connection = connection, .server = -1};
			getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peers[i].who, &size);
			return;
		}
	if (connection >= 0)
		close(connection);
}

static void hear(struct peer *peer)
{
	ssize_t got = read(peer->connection, peer->text + peer->length, sizeof(peer->text) - peer->length - 1);
	if (got <= 0) {
		leave(peer, false);
		return;
	}
	peer->length += (size_t)got;
	peer->text[peer->length] = '\0';
	char *end = strchr(peer->text, '\n');
	if (end == NULL)
		return;
	*end = '\0';
	peer->length = 0;
	if (strncmp(peer->text, "DO ", 3) == 0) {
		obey(peer, peer->text + 3);
		drop_peer(peer);
		bury();
	} else if (strncmp(peer->text, "CLIENT", 6) == 0) {
		peer->client = true;
		peer->in_flight = strstr(peer->text, "in-flight") != NULL;
		seat(peer);
	} else if (strncmp(peer->text, "ALLOCATE ", 9) == 0) {
		allocate(peer, atol(peer->text + 9));
	} else {
		leave(peer, true);
	}
}

static bool done(void)
{
	if (!quitting)
		return false;
	for (int i = 0; i < MAX_SERVERS; i++)
		if (servers[i].pid != 0 && clients_of(i) > 0)
			return quit_at != 0 && time(NULL) >= quit_at;
	return true;
}

static void ignore(int number)
{
	(void)number;
}

int run_daemon(int protocol, const char *config)
{
	int listener = listen_on("control");
	FILE *file = listener < 0 ? NULL : fopen(PID_FILE, "we");
	if (file == NULL)
		return 1;
	fprintf(file, "%d\n", (int)getpid());
	fclose(file);
	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGCHLD, &(struct sigaction){.sa_handler = ignore}, NULL);
	for (int i = 0; i < MAX_PEERS; i++)
		peers[i].connection = -1;
	set_defaults();
	multiuser = protocol == 3;
	if (protocol == 3 && config != NULL)
		apply(config);
	if (write(READY, "", 1) == 1)
		close(READY);
	while (!done()) {
		struct pollfd waits[MAX_PEERS + 1] = {{.fd = listener, .events = POLLIN}};
		for (int i = 0; i < MAX_PEERS; i++)
			waits[i + 1] = (struct pollfd){.fd = peers[i].connection, .events = POLLIN};
		int news = poll(waits, MAX_PEERS + 1, 200);
		bury();
		for (int i = 0; news > 0 && i < MAX_PEERS; i++)
			if (waits[i + 1].revents != 0 && peers[i].connection == waits[i + 1].fd)
				hear(&peers[i]);
		if (news > 0 && waits[0].revents != 0)
			welcome(listener);
	}
	for (int i = 0; i < MAX_SERVERS; i++)
		if (servers[i].pid != 0)
			drop_server(&servers[i]);
	unlink("control");
	unlink(PID_FILE);
	return 0;
}
