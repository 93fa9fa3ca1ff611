/* The daemon: who comes, what they say, and when it is over. */
#include "serving.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define READY 3

bool multiuser, quitting;
time_t quit_at;

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
