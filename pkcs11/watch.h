/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which C_* call is under way in which thread, and since when: noted before each call where a watch can see it. The
 * watch is the parent of a token owner (pkcs11/owner.h), or a thread of a program that opens a token itself.
 */
#ifndef KT_PKCS11_WATCH_H
#define KT_PKCS11_WATCH_H

#include "base/result.h"

#include <stdint.h>

/*
 * Start a thread that looks after this process's own C_* calls: one that is under way for longer than call_ms is told
 * to `hung` (once, in that thread; it must end the process, for the call cannot be ended otherwise). For the verbs that
 * open a token in their own process; call it before the token is opened. KT_E_INTERNAL when no thread can be had.
 */
KT_MUST_CHECK kt_code kt_watch_start(int64_t call_ms, void (*hung)(const kt_err *err), kt_err *err);

#endif
