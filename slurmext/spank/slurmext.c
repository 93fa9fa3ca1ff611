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
#include "rules.h"

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
