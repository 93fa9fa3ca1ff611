/* What the parts of the daemon share: its servers and who talks to it. */
#pragma once

#include "mps.h"

#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#define MAX_SERVERS 16
#define MAX_PEERS 64
#define MAX_CLIENTS 48
#define MAX_DEVICES 16
#define NO_LIMIT (-1L)

/* --- limits.c --- */

struct limits {
	double percent;
	long memory_mib[MAX_DEVICES];
};

extern struct limits defaults; /* of servers that are started from now on */

long mebibytes(const char *text);
/* As the daemon's environment has them. */
void set_defaults(void);

/* --- servers.c --- */

struct server {
	pid_t pid; /* 0: none here */
	uid_t uid;
	bool fault;
	char name[64];
	struct limits limits;
};

extern struct server servers[MAX_SERVERS];

struct server *server_of_pid(pid_t pid);
struct server *start_server(uid_t uid, const char *name);
/* Its clients learn it by the end of their connections. */
void drop_server(struct server *server);
/* Those that have died. */
void bury(void);
/* Starts what the configuration of MPS v3 in that file names. */
void apply(const char *path);

/* --- peers.c --- */

struct peer {
	int connection; /* -1: nobody here */
	struct ucred who;
	bool client, in_flight;
	int server; /* -1: waits for one */
	long memory_mib;
	char text[LINE];
	size_t length;
};

extern struct peer peers[MAX_PEERS];

void say(struct peer *peer, const char *format, ...) __attribute__((format(printf, 2, 3)));
void drop_peer(struct peer *peer);
int clients_of(int server);
/* Ends the connections of a server's clients. */
void drop_clients(const struct server *server);
/* Gives a client a server: its user's, one of root's, or a new one once nobody else's is in use. */
void seat(struct peer *peer);
void leave(struct peer *peer, bool clean);
void allocate(struct peer *peer, long memory_mib);

/* --- commands.c --- */

void obey(struct peer *peer, char *command);

/* --- daemon.c --- */

extern bool multiuser, quitting;
extern time_t quit_at;
