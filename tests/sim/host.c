/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine under the agent's code, in place of agent/process.c and base/clock.c: who is alive, and what time it is;
 * and a cheap checksum for SHA-256.
 * The one simulated process that runs is that of sim_enter.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/process.h"
#include "base/clock.h"
#include "base/codec.h"
#include "tests/sim/sim.h"

static sim_node *here;
static pid_t self;

void sim_enter(sim_node *n, pid_t as)
{
	here = n;
	self = as;
	sim_disk_use(n ? n->disk : NULL);
}

pid_t __wrap_getpid(void);
pid_t __wrap_getpid(void)
{
	return self;
}

sim_process *sim_process_new(sim_node *n)
{
	sim_process *p = &n->process[n->processes++ % SIM_PROCESSES];
	*p = (sim_process){.pid = ++n->next_pid, .start = n->s->now + 1, .alive = true};
	return p;
}

static sim_process *find(sim_node *n, pid_t pid)
{
	for (size_t i = 0; i < SIM_PROCESSES; i++)
		if (n->process[i].pid == pid && n->process[i].alive)
			return &n->process[i];
	return NULL;
}

void sim_process_end(sim_node *n, pid_t pid)
{
	sim_process *p = find(n, pid);
	if (p)
		p->alive = false;
}

kt_code kt_boot_id(char out[KT_BOOT_ID], kt_err *err)
{
	(void)err;
	memcpy(out, here->boot_id, KT_BOOT_ID);
	return KT_OK;
}

kt_code kt_process_of(pid_t pid, kt_process *out, kt_err *err)
{
	const sim_process *p = find(here, pid);
	*out = (kt_process){.pid = pid};
	if (!p)
		return kt_fail(err, KT_E_IO, NULL, "/proc/%d/stat cannot be read", (int)pid);
	out->start = p->start;
	return kt_boot_id(out->boot_id, err);
}

bool kt_process_alive(const kt_process *p)
{
	const sim_process *now = find(here, p->pid);
	return strcmp(p->boot_id, here->boot_id) == 0 && now && now->start == p->start;
}

bool kt_process_session_alive(const kt_process *leader)
{
	return kt_process_alive(leader);
}

/* The checksums of records: here it is enough that they differ. */
kt_code __wrap_kt_sha256_hex(const void *bytes, size_t n, char out[KT_SHA256_HEX], kt_err *err);
kt_code __wrap_kt_sha256_hex(const void *bytes, size_t n, char out[KT_SHA256_HEX], kt_err *err)
{
	static const char digit[] = "0123456789abcdef";
	const uint8_t *p = bytes;
	uint64_t h = n ^ UINT64_C(0xcbf29ce484222325);
	(void)err;
	for (; n; n -= n < 8 ? n : 8, p += 8) { /* FNV-1a of words */
		uint64_t word = 0;
		memcpy(&word, p, n < 8 ? n : 8);
		h = (h ^ word) * UINT64_C(0x100000001b3);
		h ^= h >> 32;
	}
	for (size_t i = 0; i < 16; i++)
		out[i] = digit[h >> 4 * i & 15];
	memset(out + 16, '-', KT_SHA256_HEX - 17);
	out[KT_SHA256_HEX - 1] = '\0';
	return KT_OK;
}

int64_t kt_clock_mono_ms(void)
{
	return here ? here->s->now : 0;
}

int64_t kt_clock_wall_ms(void)
{
	return kt_clock_mono_ms();
}

void kt_clock_format(int64_t wall_ms, char out[KT_TIME_TEXT])
{
	(void)snprintf(out, KT_TIME_TEXT, "%lld", (long long)wall_ms);
}
