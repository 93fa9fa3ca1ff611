/* What goes wrong: failures, delays and deaths at calls, as a test asks for; and a record of the calls made. */
#include "driver.h"

#include <fnmatch.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The first rule that fits and whose turn has come (else one that is not armed); counts the call with every rule that fits. */
static struct rule rule_for(const char *name)
{
	struct rule found = {0};
	for (unsigned int i = 0; i < MAX_RULES; i++) {
		struct rule *rule = &state->rule[i];
		if (!rule->armed || (rule->pid != 0 && rule->pid != (uint32_t)getpid()) ||
		    fnmatch(rule->call, name, 0) != 0)
			continue;
		uint32_t seen = rule->seen + 1;
		if (writable)
			rule->seen = seen;
		if (!found.armed && seen > rule->skip && (rule->times == 0 || seen <= rule->skip + rule->times))
			found = *rule;
	}
	return found;
}

void kill_somebody(unsigned int victim)
{
	kill(victim == 0 ? getpid() : (pid_t)victim, SIGKILL);
}

nvmlReturn_t rules_before(struct call *call)
{
	lock();
	struct rule rule = rule_for(call->name);
	unsigned int delay_ms = state->delay_ms + rule.delay_ms;
	nvmlReturn_t result = state->fault;
	unlock();
	if (rule.death == DIES_BEFORE)
		kill_somebody(rule.victim);
	if (delay_ms > 0)
		usleep(delay_ms * 1000);
	call->death = rule.death;
	call->victim = rule.victim;
	return result != SUCCESS ? result : rule.result;
}

void record(const char *name, nvmlReturn_t result)
{
	if (!writable)
		return;
	lock();
	struct record *entry = &state->record[state->recorded % MAX_RECORDS];
	entry->at_us = now_us();
	entry->pid = (uint32_t)getpid();
	entry->result = result;
	snprintf(entry->call, sizeof(entry->call), "%s", name);
	state->recorded++;
	unlock();
}
