/* SPDX-License-Identifier: Apache-2.0 */
/* The two clocks, and times as text. Pure code (engine, plan) never calls these. */
#ifndef KT_BASE_CLOCK_H
#define KT_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

enum { KT_TIME_TEXT = 32 };

int64_t kt_clock_wall_ms(void); /* milliseconds since 1970 (CLOCK_REALTIME) */
int64_t kt_clock_mono_ms(void); /* milliseconds from an arbitrary start, never backwards */
/* RFC 3339 in UTC with milliseconds: 2026-01-31T12:00:00.000Z */
void kt_clock_format(int64_t wall_ms, char out[KT_TIME_TEXT]);

#endif
