/* SPDX-License-Identifier: Apache-2.0 */
/* The states of a key, and which may follow which (SP 800-57 Part 1 Rev. 5, section 7). */
#ifndef KT_LEDGER_STATES_H
#define KT_LEDGER_STATES_H

#include <stdbool.h>

#include "base/result.h"

/* In the order in which they win where two sources speak about one key. */
typedef enum kt_key_state {
	KT_KEY_PRE_ACTIVE,  /* made, protects nothing yet */
	KT_KEY_ACTIVE,      /* data is, or may be, under it */
	KT_KEY_DEACTIVATED, /* protects nothing new; opens what is old (backups) */
	KT_KEY_COMPROMISED, /* somebody else may have it */
	KT_KEY_DESTROYED,   /* gone, its metadata stays */
	KT_KEY_STATES
} kt_key_state;

/* "pre-active", "active", "deactivated", "compromised", "destroyed", and back (KT_E_INPUT). */
const char *kt_key_state_name(kt_key_state s);
KT_MUST_CHECK kt_code kt_key_state_parse(const char *name, kt_key_state *out, kt_err *err);

/*
 * May a person move a key from `from` to `to`? Section 7's transitions, but two: an active key is deactivated before it
 * is destroyed (S5), and a suspended state is not kept.
 */
bool kt_key_state_may(kt_key_state from, kt_key_state to);

#endif
