/*
 * Who talks to the daemon: CUDA programs (clients), and those with commands. One user at a time has a server: others
 * wait until its clients are gone. A limit of memory is one of each client, as with the real one.
 */
#include "serving.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct peer peers[MAX_PEERS];

void drop_peer(struct peer *peer)
{
	close(peer->connection);
	peer->connection = -1;
}

int clients_of(int server)
{
	int count = 0;
	for (int i = 0; i < MAX_PEERS; i++)
		count += peers[i].connection >= 0 && peers[i].client && peers[i].server == server;
	return count;
}

void drop_clients(const struct server *server)
{
	for (int i = 0; i < MAX_PEERS; i++)
		if (peers[i].connection >= 0 && peers[i].client && peers[i].server == server - servers)
			drop_peer(&peers[i]);
}

void say(struct peer *peer, const char *format, ...)
{
	char text[LINE];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (send(peer->connection, text, strlen(text), MSG_NOSIGNAL) < 0)
		return;
}

void seat(struct peer *peer)
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

void leave(struct peer *peer, bool clean)
{
	struct server *server = peer->client && peer->server >= 0 ? &servers[peer->server] : NULL;
	bool harm = server != NULL && !clean && peer->in_flight;
	drop_peer(peer);
	if (harm && server->pid > 0) {
		server->fault = true;
		drop_clients(server);
	}
	seat_waiting();
}

void allocate(struct peer *peer, long memory_mib)
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
