/* SPDX-License-Identifier: Apache-2.0 */
/* Who a process is, so that it can be recognised later: its number alone is used again by others. */
#ifndef KT_AGENT_PROCESS_H
#define KT_AGENT_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/result.h"

enum { KT_BOOT_ID = 37 };

typedef struct kt_process {
	char boot_id[KT_BOOT_ID]; /* /proc/sys/kernel/random/boot_id */
	pid_t pid;
	int64_t start; /* clock ticks after the boot, field 22 of proc(5)'s stat */
} kt_process;

/* The boot id of this machine. KT_E_IO. */
KT_MUST_CHECK kt_code kt_boot_id(char out[KT_BOOT_ID], kt_err *err);
/* Describe a process that is alive. KT_E_IO when there is none. */
KT_MUST_CHECK kt_code kt_process_of(pid_t pid, kt_process *out, kt_err *err);
/* Does that very process still run (a zombie does not)? False after a reboot. */
bool kt_process_alive(const kt_process *p);
/* Does any process of the session that `leader` began still run? True also when /proc cannot be read. */
bool kt_process_session_alive(const kt_process *leader);

#endif
