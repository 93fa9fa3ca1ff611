/*
 * What a value of each kind of option looks like. The same rules stand in Python (slurmext/options) and in Lua
 * (job_submit): a test puts the same values before all three.
 */
#ifndef SLURMEXT_RULES_H
#define SLURMEXT_RULES_H

#include <stdlib.h>
#include <string.h>

#include "options.h"

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

static int is_model_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* org/name@revision of `length` bytes */
static int is_model(const char *value, size_t length)
{
	size_t at = 0, begin = 0, parts = 1;

	for (; at < length && value[at] != '@'; at++) {
		char c = value[at];

		if (c == '/') {
			if (at == begin || ++parts > 3)
				return 0;
			begin = at + 1;
			continue;
		}
		if (!is_model_char(c) && (at == begin || (c != '.' && c != '_' && c != '-')))
			return 0;
		if ((c == '-' && value[at - 1] == '-') || at - begin >= 96)
			return 0;
	}
	if (at == begin)
		return 0;
	if (at == length)
		return 1;
	begin = ++at; /* the revision */
	for (; at < length; at++) {
		if (!is_model_char(value[at]) && (at == begin || !strchr("._-", value[at])))
			return 0;
	}
	return at > begin && at - begin <= 64;
}

static int is_models(const char *value, long low, long high)
{
	const char *p = value;
	long models = 0;

	for (;;) {
		size_t length = strcspn(p, ",");

		if (!is_model(p, length))
			return 0;
		models++;
		if (p[length] == '\0')
			break;
		p += length + 1;
	}
	return models >= low && models <= high && !has_repeated_name(value);
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
	case SX_MODELS:
		return is_models(value, option->low, option->high);
	case SX_FLAG:
		return flag_value(value) >= 0;
	}
	return 0;
}

#endif
