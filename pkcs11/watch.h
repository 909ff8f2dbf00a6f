/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which C_* call is under way in which thread: noted before each call where a watch can see it. The watch is the parent
 * of a token owner (pkcs11/owner.h), or a thread of a program that opens a token itself.
 */
#ifndef KT_PKCS11_WATCH_H
#define KT_PKCS11_WATCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/result.h"

/*
 * Start a thread that looks after this process's own C_* calls: one that is under way for longer than call_ms is told
 * to `hung` (once, in that thread; it must end the process, for the call cannot be ended otherwise). For the verbs that
 * open a token in their own process; call it before the token is opened. KT_E_INTERNAL when no thread can be had.
 */
KT_MUST_CHECK kt_code kt_watch_start(int64_t call_ms, void (*hung)(const kt_err *err), kt_err *err);

/* --- for pkcs11/ -------------------------------------------------------------------------------------------------- */

enum { KT_WATCH_SLOTS = 64, KT_WATCH_NAME = 48 };

/* Invariant: stamp is 0 while the slot is free, and another one for each call; the name is whole while it is even. */
typedef struct kt_watch_slot {
	_Atomic uint64_t stamp;
	char call[KT_WATCH_NAME];
} kt_watch_slot;

/* May lie in memory that two processes share. All zero: no call is under way. */
typedef struct kt_watch_table {
	_Atomic uint64_t calls;
	kt_watch_slot slot[KT_WATCH_SLOTS];
} kt_watch_table;

/* What an observer has seen of a table so far, by its own clock; all zero at first. */
typedef struct kt_watch_seen {
	uint64_t stamp[KT_WATCH_SLOTS];
	int64_t since_ms[KT_WATCH_SLOTS];
} kt_watch_seen;

/* A call under way. */
typedef struct kt_watch_call {
	char name[KT_WATCH_NAME];
	int64_t ms; /* for how long it was seen */
} kt_watch_call;

/* This process notes its calls in `table` from now on (a table of its own before); call it before any other thread. */
void kt_watch_use(kt_watch_table *table);
/* A call begins, and ends, in this thread. `name` is "C_WrapKey", or says what is done ("loading the module"). Where
 * more calls are under way than there are slots, the rest is not seen. */
void kt_watch_begin(const char *name);
void kt_watch_end(void);
/* Look at the table; false when no call is under way. *out is the one that was seen for the longest time. */
bool kt_watch_look(kt_watch_table *table, kt_watch_seen *seen, kt_watch_call *out);
/* Is a call of this name under way? */
bool kt_watch_has(kt_watch_table *table, const char *name);
/* The error of a call that was given up: what it was, for how long, what to do. `where` names the token. */
KT_MUST_CHECK kt_code kt_watch_hung(const kt_watch_call *call, const char *where, kt_err *err);

#endif
