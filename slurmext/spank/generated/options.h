/* Generated from slurmext/options/ by `python -m slurmext.options generate`; do not edit. */
#ifndef SLURMEXT_OPTIONS_H
#define SLURMEXT_OPTIONS_H

enum sx_kind {
	SX_PATH,
	SX_CHECKPOINT,
	SX_DIRECTORY,
	SX_NAMES,
	SX_COUNT,
	SX_SLICE,
	SX_MEMORY,
	SX_PERCENT,
	SX_SHARE,
	SX_FLAG,
};

struct sx_option {
	const char *name;     /* long option, without the site's prefix */
	const char *env;      /* environment twin, and its name in the job control environment */
	const char *metavar;  /* shown in --help; NULL = takes no value */
	const char *summary;  /* shown in --help */
	const char *rule;     /* completes "must be ..." */
	const char *example;
	const char *fallback; /* the value when given without one */
	enum sx_kind kind;
	int has_arg;          /* as in struct option of getopt_long(3) */
	int exported;         /* also set in the job's own environment */
	long low;
	long high;
};

#define SX_OPTION_COUNT 12

static const char *const sx_signals[] = {"USR1", "USR2", "TERM", "INT", "HUP", "QUIT", "CONT", "URG", "WINCH", "XCPU", 0};

static const struct sx_option sx_options[SX_OPTION_COUNT] = {
	{
		.name = "queue",
		.env = "SLURMEXT_QUEUE",
		.metavar = "path",
		.summary = "run in this quota queue, e.g. prod/chat",
		.rule = "a queue path: names of letters, digits, '_', '.' or '-' joined by '/'",
		.example = "prod/chat",
		.fallback = "",
		.kind = SX_PATH,
		.has_arg = 1,
		.exported = 1,
		.low = 1,
		.high = 255,
	},
	{
		.name = "ckpt",
		.env = "SLURMEXT_CKPT",
		.metavar = "auto|transparent|SIGNAL@SECONDS[,chain]",
		.summary = "checkpoint on this signal before the job is preempted, within so many seconds",
		.rule = "'auto', 'transparent' or SIGNAL@SECONDS with SIGNAL one of USR1, USR2, TERM, INT, HUP, QUIT, CONT, URG, WINCH, XCPU and SECONDS from 1 to 86400; ',chain' may follow",
		.example = "USR1@60",
		.fallback = "auto",
		.kind = SX_CHECKPOINT,
		.has_arg = 2,
		.exported = 1,
		.low = 1,
		.high = 86400,
	},
	{
		.name = "ckpt-dir",
		.env = "SLURMEXT_CKPT_DIR",
		.metavar = "dir",
		.summary = "keep the job's checkpoints in this directory (absolute path)",
		.rule = "an absolute directory of at most 500 bytes without '..' or control characters",
		.example = "/scratch/alice/run7",
		.fallback = "",
		.kind = SX_DIRECTORY,
		.has_arg = 1,
		.exported = 1,
		.low = 1,
		.high = 500,
	},
	{
		.name = "gpu-types",
		.env = "SLURMEXT_GPU_TYPES",
		.metavar = "type[,type...]",
		.summary = "accept these GPU types, best first; 'any' accepts all",
		.rule = "at most 16 different GPU types, best first, joined by ','; letters, digits, '_', '.' or '-'",
		.example = "h100,a100",
		.fallback = "",
		.kind = SX_NAMES,
		.has_arg = 1,
		.exported = 0,
		.low = 1,
		.high = 16,
	},
	{
		.name = "gang-min",
		.env = "SLURMEXT_GANG_MIN",
		.metavar = "tasks",
		.summary = "start with, and shrink to, no fewer than this many tasks",
		.rule = "a whole number of tasks from 1 to 100000",
		.example = "4",
		.fallback = "",
		.kind = SX_COUNT,
		.has_arg = 1,
		.exported = 0,
		.low = 1,
		.high = 100000,
	},
	{
		.name = "gpu-slice",
		.env = "SLURMEXT_GPU_SLICE",
		.metavar = "profile[:N]",
		.summary = "run on a part of a GPU: a MIG profile, e.g. 1g.10gb or 3g.40gb:2",
		.rule = "a MIG profile such as 1g.10gb, and ':N' for N of them on each node, from 1 to 64",
		.example = "1g.10gb:2",
		.fallback = "",
		.kind = SX_SLICE,
		.has_arg = 1,
		.exported = 1,
		.low = 1,
		.high = 64,
	},
	{
		.name = "gpu-mem",
		.env = "SLURMEXT_GPU_MEM",
		.metavar = "size[M|G|T]",
		.summary = "run on a part of a GPU with at least this much GPU memory",
		.rule = "a whole number and M, G or T, from 1M to 16T",
		.example = "18G",
		.fallback = "",
		.kind = SX_MEMORY,
		.has_arg = 1,
		.exported = 0,
		.low = 1,
		.high = 16777216,
	},
	{
		.name = "gpu-compute",
		.env = "SLURMEXT_GPU_COMPUTE",
		.metavar = "percent",
		.summary = "run on a part of a GPU with at least this share of its compute power",
		.rule = "a whole number of percent from 1 to 100",
		.example = "30%",
		.fallback = "",
		.kind = SX_PERCENT,
		.has_arg = 1,
		.exported = 0,
		.low = 1,
		.high = 100,
	},
	{
		.name = "gpu-share",
		.env = "SLURMEXT_GPU_SHARE",
		.metavar = "percent,mem=size",
		.summary = "share a GPU with others: so much of its compute and memory, e.g. 25%,mem=10G",
		.rule = "a percentage from 1% to 100% and a memory limit, PERCENT%,mem=SIZE with SIZE a number and M, G or T",
		.example = "25%,mem=10G",
		.fallback = "",
		.kind = SX_SHARE,
		.has_arg = 1,
		.exported = 0,
		.low = 1,
		.high = 100,
	},
	{
		.name = "gpu-oom-retry",
		.env = "SLURMEXT_GPU_OOM_RETRY",
		.metavar = 0,
		.summary = "out of GPU memory on a slice: start again once, on the next larger size",
		.rule = "1, yes or true to set it; 0, no or false to leave it",
		.example = "1",
		.fallback = "1",
		.kind = SX_FLAG,
		.has_arg = 0,
		.exported = 0,
		.low = 0,
		.high = 0,
	},
	{
		.name = "size",
		.env = "SLURMEXT_SIZE",
		.metavar = "name",
		.summary = "ask for what this size says: GPUs, nodes, CPUs, memory, time",
		.rule = "the name of a size: letters, digits, '_', '.' or '-'",
		.example = "small",
		.fallback = "",
		.kind = SX_NAMES,
		.has_arg = 1,
		.exported = 0,
		.low = 1,
		.high = 1,
	},
	{
		.name = "no-preempt",
		.env = "SLURMEXT_NO_PREEMPT",
		.metavar = 0,
		.summary = "never preempt this job; it then uses guaranteed GPUs only",
		.rule = "1, yes or true to set it; 0, no or false to leave it",
		.example = "1",
		.fallback = "1",
		.kind = SX_FLAG,
		.has_arg = 0,
		.exported = 0,
		.low = 0,
		.high = 0,
	},
};

#endif
