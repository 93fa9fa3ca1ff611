/* The program: starts the daemon, passes commands to it, or is a CUDA program (called by the name fake-cuda-client). */
#include "mps.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CLIENT_NAME "fake-cuda-client"

bool enter_pipe_directory(bool make)
{
	const char *path = getenv("CUDA_MPS_PIPE_DIRECTORY");
	if (path == NULL)
		path = "/tmp/nvidia-mps";
	if (make)
		mkdir(path, 0755);
	return chdir(path) == 0;
}

int connect_to(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", name);
	if (connect(connection, (struct sockaddr *)&address, sizeof(address)) == 0)
		return connection;
	close(connection);
	return -1;
}

bool fault(const char *name, int *value)
{
	char path[LINE], line[LINE];
	const char *gpus = getenv(FAULTS_VARIABLE);
	if (gpus == NULL)
		return false;
	snprintf(path, sizeof(path), "%s%s", gpus, FAULTS_ENDING);
	FILE *file = fopen(path, "re");
	bool found = false;
	while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, name, strlen(name)) == 0 && strchr(" \n", line[strlen(name)]) != NULL) {
			found = true;
			if (value != NULL)
				*value = atoi(line + strlen(name));
		}
	if (file != NULL)
		fclose(file);
	return found;
}

static int help(void)
{
	puts("usage: nvidia-cuda-mps-control [options]\n"
	     "  -d, --daemon            start the daemon in the background\n"
	     "  -f, --foreground        start the daemon in the foreground");
#ifdef WITH_V3
	puts("  -a, --apply <file>      apply a configuration file (TOML)\n"
	     "  -p, --protocol <2|3>    protocol 2 (legacy, default) or 3\n"
	     "  -q, --quit              stop the daemon");
#endif
	return 0;
}

static int pass_on(const char *command)
{
	char text[LINE + 8];
	int connection = connect_to("control");
	if (connection < 0) {
		puts("Cannot find MPS control daemon process");
		return 1;
	}
	int length = snprintf(text, sizeof(text), "DO %s\n", command);
	if (write(connection, text, (size_t)length) != length)
		return 1;
	ssize_t got;
	while ((got = read(connection, text, sizeof(text))) > 0)
		fwrite(text, 1, (size_t)got, stdout);
	close(connection);
	return 0;
}

static int pass_lines(void)
{
	char line[LINE];
	int result = 0;
	while (fgets(line, sizeof(line), stdin) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		if (line[0] != '\0')
			result |= pass_on(line);
	}
	return result;
}

static int pass_words(int count, char **words)
{
	char line[LINE] = "";
	for (int i = 0; i < count; i++) {
		strncat(line, words[i], sizeof(line) - strlen(line) - 2);
		strcat(line, " ");
	}
	return pass_on(line);
}

static int start(bool background, int protocol, const char *config)
{
	int error = 0;
	if (fault("start fail", NULL)) {
		puts("Failed to start the MPS control daemon");
		return 1;
	}
	if (fault("start hang", NULL))
		pause();
	int other = connect_to("control");
	if (other >= 0) {
		close(other);
		puts("An instance of this daemon is already running");
		return 1;
	}
	if (!background && close(3) <= 0)
		return run_daemon(protocol, config);
	int ends[2];
	if (pipe(ends) != 0)
		return 1;
	if (fork() == 0) {
		setsid();
		if (fork() != 0)
			_exit(0);
		close(ends[0]);
		/* The daemon closes the pipe when it listens; what the caller gave it to write on, at once. */
		if (freopen("/dev/null", "r", stdin) == NULL || freopen("/dev/null", "w", stdout) == NULL ||
		    freopen("/dev/null", "w", stderr) == NULL)
			_exit(1);
		dup2(ends[1], 3);
		for (int file = 4; file < 256; file++)
			close(file);
		_exit(run_daemon(protocol, config));
	}
	close(ends[1]);
	if (read(ends[0], &error, 1) != 1)
		return 1;
	return 0;
}

int main(int count, char **arguments)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"daemon", no_argument, NULL, 'd'},
		{"foreground", no_argument, NULL, 'f'},
#ifdef WITH_V3
		{"apply", required_argument, NULL, 'a'},
		{"protocol", required_argument, NULL, 'p'},
		{"quit", no_argument, NULL, 'q'},
#endif
		{0},
	};
	const char *name = strrchr(arguments[0], '/'), *config = NULL;
	char *found = NULL;
	if (strcmp(name == NULL ? arguments[0] : name + 1, CLIENT_NAME) == 0)
		return run_client(count, arguments);
	int protocol = 2, delay_ms = 0;
	char action = ' ';
#ifdef WITH_V3
	const char *letters = "hdfa:p:qS";
#else
	const char *letters = "hdfS";
#endif
	for (int option; (option = getopt_long(count, arguments, letters, options, NULL)) != -1;) {
		if (option == '?')
			return 1;
		if (option == 'p')
			protocol = atoi(optarg);
		else if (option == 'a')
			config = found = realpath(optarg, NULL);
		else
			action = (char)option;
	}
	if (getenv("CUDA_MPS_PROTOCOL_VERSION") != NULL)
		protocol = atoi(getenv("CUDA_MPS_PROTOCOL_VERSION"));
	if (action == 'h')
		return help();
	if (fault("delay", &delay_ms))
		usleep((unsigned int)delay_ms * 1000);
	if (!enter_pipe_directory(action == 'd' || action == 'f')) {
		puts("Cannot find MPS control daemon process");
		return 1;
	}
	int result;
	if (action == 'd' || action == 'f')
		result = start(action == 'd', protocol, config);
	else if (action == 'q')
		result = pass_on("quit");
	else if (optind < count)
		result = pass_words(count - optind, arguments + optind);
	else
		result = pass_lines();
	free(found);
	return result;
}
