/*
 * slurmext SPANK plugin: the extended options of sbatch, salloc and srun.
 *
 * Where the user types (srun: "local" context, sbatch and salloc: "allocator") it registers the options, checks each
 * value, takes the environment twins in with Slurm's own precedence (command line, then environment, then #SBATCH)
 * and hands the result to job_submit and Prolog through the job control environment. In slurmstepd ("remote") it
 * repeats the values in the job's environment and keeps an early checkpoint signal from killing a program that has no
 * handler yet. A SPANK failure in slurmstepd drains the node, so nothing here ever fails remotely.
 *
 * plugstack.conf arguments: prefix=P- puts P- before every option name.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <slurm/spank.h>

#include "options.h"

SPANK_PLUGIN(slurmext, 1)

/* Read by `slurmext doctor`: Slurm passes over an optional plugin of another release without a word. */
#ifndef SLURMEXT_RELEASE
#define SLURMEXT_RELEASE "unknown"
#endif
const char slurmext_built_for[] = "slurmext built for Slurm " SLURMEXT_RELEASE;

#define SX_NAME_MAX 76 /* SPANK_OPTION_MAXLEN and its end */

/* Slurm reads an option from this variable by itself, before it parses the command line. */
#define SX_SLURM_ENV "SLURM_SPANK__SLURM_SPANK_OPTION_slurmext_"

static char sx_prefix[32];
static char *sx_values[SX_OPTION_COUNT]; /* as given; NULL = not given */
static int sx_bad[SX_OPTION_COUNT];      /* the value breaks its rule */

static int is_name_char(char c, int first)
{
	if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_')
		return 1;
	return !first && (c == '.' || c == '-');
}

/* Names of is_name_char joined by `separator`; returns how many, 0 = malformed. */
static long count_names(const char *value, char separator)
{
	long names = 0;
	const char *p = value;

	for (;;) {
		if (!is_name_char(*p, 1))
			return 0;
		while (is_name_char(*p, 0))
			p++;
		names++;
		if (*p == '\0')
			return names;
		if (*p++ != separator)
			return 0;
	}
}

static int has_repeated_name(const char *value)
{
	const char *a, *b;
	size_t length;

	for (a = value; a; a = strchr(a, ',') ? strchr(a, ',') + 1 : NULL) {
		length = strcspn(a, ",");
		for (b = strchr(a, ','); b; b = strchr(b, ',')) {
			b++;
			if (strcspn(b, ",") == length && strncmp(a, b, length) == 0)
				return 1;
		}
	}
	return 0;
}

/* A decimal without sign or leading zero from low to high. */
static int is_count(const char *value, long low, long high)
{
	size_t length = strspn(value, "0123456789");
	long number;

	if (length == 0 || length > 9 || value[length] != '\0' || value[0] == '0')
		return 0;
	number = strtol(value, NULL, 10);
	return number >= low && number <= high;
}

static int is_checkpoint(const char *whole, long low, long high)
{
	static const char chain[] = ",chain";
	char value[64];
	const char *at, *start = value;
	size_t length = strlen(whole);
	int i;

	if (length >= sizeof(value))
		return 0;
	strcpy(value, whole);
	if (length >= strlen(chain) && strcmp(value + length - strlen(chain), chain) == 0)
		value[length - strlen(chain)] = '\0';
	if (strcmp(value, "auto") == 0 || strcmp(value, "transparent") == 0)
		return 1;
	at = strchr(value, '@');
	if (!at || !is_count(at + 1, low, high))
		return 0;
	if (strncmp(start, "SIG", 3) == 0)
		start += 3;
	for (i = 0; sx_signals[i]; i++) {
		if (strlen(sx_signals[i]) == (size_t)(at - start) &&
		    strncmp(start, sx_signals[i], (size_t)(at - start)) == 0)
			return 1;
	}
	return 0;
}

/* MiB of "18G", "512M", "1T" or "10240"; -1 = malformed. */
static long memory_mib(const char *value)
{
	size_t digits = strspn(value, "0123456789");
	long number, unit = 1;

	if (digits == 0 || digits > 9 || value[0] == '0')
		return -1;
	if (value[digits] == 'G')
		unit = 1024;
	else if (value[digits] == 'T')
		unit = 1024L * 1024;
	else if (value[digits] != 'M' && value[digits] != '\0')
		return -1;
	if (value[digits] != '\0' && value[digits + 1] != '\0')
		return -1;
	number = strtol(value, NULL, 10);
	return number > 16777216 / unit ? -1 : number * unit;
}

/* "30%" or "30" of which `length` bytes count; -1 = malformed. */
static long percent_of(const char *value, size_t length)
{
	size_t digits = strspn(value, "0123456789");

	if (digits == 0 || digits > 3 || value[0] == '0')
		return -1;
	if (digits != length && !(digits + 1 == length && value[digits] == '%'))
		return -1;
	return strtol(value, NULL, 10);
}

static int is_memory(const char *value, long low, long high)
{
	long mib = memory_mib(value);

	return mib >= low && mib <= high;
}

static int is_share(const char *value, long low, long high)
{
	const char *comma = strchr(value, ',');
	long part;

	if (!comma || strncmp(comma, ",mem=", 5) != 0)
		return 0;
	part = percent_of(value, (size_t)(comma - value));
	return part >= low && part <= high && memory_mib(comma + 5) >= 1;
}

/* Passes over 1 to `most` digits, the first not 0; NULL = there are none. */
static const char *skip_digits(const char *p, size_t most)
{
	size_t digits = strspn(p, "0123456789");

	return digits >= 1 && digits <= most && *p != '0' ? p + digits : NULL;
}

/* 1g.10gb, 1c.3g.40gb, 1g.10gb+me, 1g.24gb-me, each perhaps with :N */
static int is_slice(const char *value, long low, long high)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
	const char *p = skip_digits(value, 2);

	if (p && strncmp(p, "c.", 2) == 0)
		p = skip_digits(p + 2, 2);
	if (!p || strncmp(p, "g.", 2) != 0)
		return 0;
	p = skip_digits(p + 2, 4);
	if (!p || strncmp(p, "gb", 2) != 0)
		return 0;
	p += 2;
	if (*p == '+' || *p == '-') {
		size_t length = strspn(p + 1, "abcdefghijklmnopqrstuvwxyz.");

		if (length < 1 || length > 16 || !strchr(letters, p[1]))
			return 0;
		p += 1 + length;
	}
	return *p == '\0' || (*p == ':' && is_count(p + 1, low, high));
}

static int is_directory(const char *value, long high)
{
	const unsigned char *p;
	const char *part = value;

	if (value[0] != '/' || strlen(value) > (size_t)high)
		return 0;
	for (p = (const unsigned char *)value; *p; p++) {
		if (*p < 0x20 || *p == 0x7f)
			return 0;
	}
	while (part) {
		part++;
		if (strcspn(part, "/") == 2 && strncmp(part, "..", 2) == 0)
			return 0;
		part = strchr(part, '/');
	}
	return 1;
}

/* 1 = on, 0 = off, -1 = neither */
static int flag_value(const char *value)
{
	if (!strcmp(value, "1") || !strcmp(value, "yes") || !strcmp(value, "true"))
		return 1;
	if (!strcmp(value, "0") || !strcmp(value, "no") || !strcmp(value, "false"))
		return 0;
	return -1;
}

static int is_valid(const struct sx_option *option, const char *value)
{
	long names;

	switch (option->kind) {
	case SX_PATH:
		return strlen(value) <= (size_t)option->high && count_names(value, '/') > 0;
	case SX_CHECKPOINT:
		return is_checkpoint(value, option->low, option->high);
	case SX_DIRECTORY:
		return is_directory(value, option->high);
	case SX_NAMES:
		names = count_names(value, ',');
		return names >= 1 && names <= option->high && !has_repeated_name(value);
	case SX_COUNT:
		return is_count(value, option->low, option->high);
	case SX_SLICE:
		return is_slice(value, option->low, option->high);
	case SX_MEMORY:
		return is_memory(value, option->low, option->high);
	case SX_PERCENT:
		return percent_of(value, strlen(value)) >= option->low &&
		       percent_of(value, strlen(value)) <= option->high;
	case SX_SHARE:
		return is_share(value, option->low, option->high);
	case SX_FLAG:
		return flag_value(value) >= 0;
	}
	return 0;
}

/* The argument that Slurm hands over: absent, empty and "(null)" (some releases) all mean "no value given". */
static const char *given_value(const struct sx_option *option, const char *optarg)
{
	if (option->has_arg == 1)
		return optarg ? optarg : "";
	if (!optarg || !*optarg || !strcmp(optarg, "(null)"))
		return option->fallback;
	return optarg;
}

static void keep_value(int index, const char *value)
{
	free(sx_values[index]);
	sx_values[index] = strdup(value);
}

/*
 * A job with --ckpt goes on after a requeue, and so does its output, which Slurm would else begin anew. sbatch takes
 * SBATCH_OPEN_MODE in after the #SBATCH lines and before the command line, so it is set while those are read, and gone
 * before the job gets its environment. What the user says with --open-mode or the variable stands.
 */
static int sx_append;

static void offer_append(void)
{
	if (spank_context() == S_CTX_ALLOCATOR && !getenv("SBATCH_OPEN_MODE")) {
		setenv("SBATCH_OPEN_MODE", "append", 1);
		sx_append = 1;
	}
}

static void withdraw_append(void)
{
	if (sx_append)
		unsetenv("SBATCH_OPEN_MODE");
	sx_append = 0;
}

/* Whether an argument of this command is the option; one of the job script's own does no harm. */
static int is_argument(const char *name)
{
	char wanted[160], line[32768];
	size_t size, length, at = 0;
	FILE *file = fopen("/proc/self/cmdline", "r");

	if (!file)
		return 0;
	size = fread(line, 1, sizeof(line) - 1, file);
	fclose(file);
	line[size] = '\0';
	length = (size_t)snprintf(wanted, sizeof(wanted), "--%s%s", sx_prefix, name);
	for (; at < size; at += strlen(line + at) + 1) {
		if (strncmp(line + at, wanted, length) == 0 && (line[at + length] == '\0' || line[at + length] == '='))
			return 1;
	}
	return 0;
}

/*
 * Called by Slurm for each option it finds, in rising order of precedence: the last call wins. A bad value is only
 * noted here, because one of higher precedence may still replace it.
 */
static int take_option(int index, const char *optarg, int remote)
{
	const char *value;

	(void)remote;
	if (index < 0 || index >= SX_OPTION_COUNT)
		return ESPANK_SUCCESS;
	value = given_value(&sx_options[index], optarg);
	sx_bad[index] = !is_valid(&sx_options[index], value);
	keep_value(index, value);
	if (sx_options[index].kind == SX_CHECKPOINT)
		offer_append();
	return ESPANK_SUCCESS;
}

/* One line in the user's terms. Ends sbatch, salloc or srun here: an `optional` plugin has no gentler way to refuse. */
static void refuse(int index)
{
	const struct sx_option *option = &sx_options[index];
	const char *twin = getenv(option->env);

	if (twin && strcmp(twin, sx_values[index]) == 0)
		slurm_error("slurmext: %s=%s: must be %s; for example %s=%s", option->env, twin, option->rule,
			    option->env, option->example);
	else
		slurm_error("slurmext: --%s%s=%s: must be %s; for example --%s%s=%s", sx_prefix, option->name,
			    sx_values[index], option->rule, sx_prefix, option->name, option->example);
	exit(1);
}

static int is_client(void)
{
	spank_context_t context = spank_context();

	return context == S_CTX_LOCAL || context == S_CTX_ALLOCATOR;
}

/* SX_SLURM_ENV plus the option's name, spelled as Slurm spells it; returns 0 when it does not fit. */
static int slurm_env_name(const char *name, char *buffer, size_t size)
{
	char *p;
	int n = snprintf(buffer, size, "%s%s%s", SX_SLURM_ENV, sx_prefix, name);

	if (n < 0 || (size_t)n >= size)
		return 0;
	for (p = buffer + strlen(SX_SLURM_ENV); *p; p++) {
		if (*p == '-')
			*p = '_';
	}
	return 1;
}

/*
 * Environment twins. Slurm calls us for its own variable name between #SBATCH and the command line, which is exactly
 * the precedence a user expects, so the twin is passed on under that name and taken away again afterwards.
 */
static void offer_twin(const struct sx_option *option)
{
	char variable[160];
	const char *value = getenv(option->env);

	if (!value || !*value || (option->kind == SX_FLAG && flag_value(value) == 0))
		return;
	if (slurm_env_name(option->name, variable, sizeof(variable)))
		setenv(variable, value, 1);
}

/* Slurm repeats every option in the job's environment, where a nested sbatch would take them up as its own. */
static void forget_in_job(spank_t spank, const struct sx_option *option)
{
	char variable[160];

	if (slurm_env_name(option->name, variable, sizeof(variable)))
		spank_unsetenv(spank, variable);
	snprintf(variable, sizeof(variable), "SLURM_SPANK_%s", option->env);
	spank_unsetenv(spank, variable);
}

static void withdraw_twin(const struct sx_option *option)
{
	char variable[160];

	if (slurm_env_name(option->name, variable, sizeof(variable)))
		unsetenv(variable);
}

static void read_arguments(int argc, char **argv)
{
	int i;

	for (i = 0; i < argc; i++) {
		if (strncmp(argv[i], "prefix=", 7) == 0 && strlen(argv[i] + 7) < sizeof(sx_prefix))
			strcpy(sx_prefix, argv[i] + 7);
	}
}

int slurm_spank_init(spank_t spank, int argc, char *argv[])
{
	static char names[SX_OPTION_COUNT][SX_NAME_MAX];
	spank_context_t context = spank_context();
	int i;

	if (context != S_CTX_LOCAL && context != S_CTX_ALLOCATOR && context != S_CTX_REMOTE)
		return ESPANK_SUCCESS;
	read_arguments(argc, argv);
	for (i = 0; i < SX_OPTION_COUNT; i++) {
		const struct sx_option *option = &sx_options[i];
		struct spank_option registered = {
			.name = names[i],
			.arginfo = (char *)option->metavar,
			.usage = (char *)option->summary,
			.has_arg = option->has_arg,
			.val = i,
			.cb = take_option,
		};

		snprintf(names[i], sizeof(names[i]), "%s%s", sx_prefix, option->name);
		if (spank_option_register(spank, &registered) != ESPANK_SUCCESS)
			slurm_debug("slurmext: option --%s could not be registered", names[i]);
		if (is_client())
			offer_twin(option);
		if (option->kind == SX_CHECKPOINT && context == S_CTX_ALLOCATOR &&
		    ((getenv(option->env) && *getenv(option->env)) || is_argument(option->name)))
			offer_append();
	}
	return ESPANK_SUCCESS;
}

static int is_on(int index)
{
	return sx_values[index] && !sx_bad[index];
}

static void hand_to_controller(spank_t spank)
{
	int i;

	withdraw_append();
	for (i = 0; i < SX_OPTION_COUNT; i++) {
		withdraw_twin(&sx_options[i]);
		if (sx_bad[i])
			refuse(i);
		if (is_on(i))
			spank_job_control_setenv(spank, sx_options[i].env, sx_values[i], 1);
	}
}

static void hand_to_job(spank_t spank)
{
	int i;

	for (i = 0; i < SX_OPTION_COUNT; i++) {
		if (sx_options[i].exported && is_on(i))
			spank_setenv(spank, sx_options[i].env, sx_values[i], 1);
	}
}

int slurm_spank_init_post_opt(spank_t spank, int argc, char *argv[])
{
	(void)argc;
	(void)argv;
	if (is_client())
		hand_to_controller(spank);
	else if (spank_context() == S_CTX_REMOTE)
		hand_to_job(spank);
	return ESPANK_SUCCESS;
}

/* Runs as the user, between fork and exec of each task: a disposition of "ignore" survives exec, a handler would not. */
int slurm_spank_task_init(spank_t spank, int argc, char *argv[])
{
	int i;

	(void)argc;
	(void)argv;
	for (i = 0; i < SX_OPTION_COUNT; i++) {
		forget_in_job(spank, &sx_options[i]);
		if (sx_options[i].kind == SX_CHECKPOINT && is_on(i) && !strchr(sx_values[i], '@'))
			signal(SIGUSR1, SIG_IGN); /* auto and transparent */
	}
	return ESPANK_SUCCESS;
}
