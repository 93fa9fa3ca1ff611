/*
 * A CUDA program under MPS: fake-cuda-client [--memory MIB] [--seconds N] [--in-flight]. It prints what it got: the
 * server, and whether the memory. With --in-flight its server does not survive when it is killed.
 */
#include "mps.h"

#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool ask(int connection, const char *question)
{
	char answer[LINE];
	size_t length = 0;
	if (write(connection, question, strlen(question)) != (ssize_t)strlen(question))
		return false;
	while (length + 1 < sizeof(answer) && read(connection, answer + length, 1) == 1 && answer[length] != '\n')
		length++;
	answer[length] = '\0';
	puts(answer);
	fflush(stdout);
	return strncmp(answer, "OK", 2) == 0;
}

int run_client(int count, char **arguments)
{
	static const struct option options[] = {
		{"memory", required_argument, NULL, 'm'},
		{"seconds", required_argument, NULL, 's'},
		{"in-flight", no_argument, NULL, 'i'},
		{0},
	};
	char text[LINE];
	int memory_mib = 0, seconds = 0;
	bool in_flight = false;
	for (int option; (option = getopt_long(count, arguments, "m:s:i", options, NULL)) != -1;) {
		if (option == 'm')
			memory_mib = atoi(optarg);
		else if (option == 's')
			seconds = atoi(optarg);
		else if (option == 'i')
			in_flight = true;
		else
			return 2;
	}
	int connection = enter_pipe_directory(false) ? connect_to("control") : -1;
	if (connection < 0) {
		/* A CUDA program goes on without MPS then, and has all of the GPU. */
		puts("NO DAEMON");
		return 3;
	}
	if (!ask(connection, in_flight ? "CLIENT in-flight\n" : "CLIENT\n"))
		return 1;
	snprintf(text, sizeof(text), "ALLOCATE %d\n", memory_mib);
	if (memory_mib > 0 && !ask(connection, text))
		return 1;
	struct pollfd news = {.fd = connection, .events = POLLIN};
	if (poll(&news, 1, seconds * 1000) > 0) {
		/* The server is gone, or has sent us away. */
		puts("FAULT");
		return 4;
	}
	if (write(connection, "BYE\n", 4) != 4)
		return 4;
	return 0;
}
