/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t now_ms(clockid_t id)
{
	struct timespec ts;
	(void)clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t kt_clock_wall_ms(void)
{
	return now_ms(CLOCK_REALTIME);
}

int64_t kt_clock_mono_ms(void)
{
	return now_ms(CLOCK_MONOTONIC);
}

void kt_clock_format(int64_t wall_ms, char out[KT_TIME_TEXT])
{
	int64_t ms = wall_ms % 1000;
	if (ms < 0)
		ms += 1000;
	time_t s = (time_t)(wall_ms / 1000 - (wall_ms % 1000 < 0));
	struct tm tm;
	if (!gmtime_r(&s, &tm)) {
		out[0] = '\0';
		return;
	}
	size_t n = strftime(out, KT_TIME_TEXT, "%Y-%m-%dT%H:%M:%S", &tm);
	(void)snprintf(out + n, KT_TIME_TEXT - n, ".%03dZ", (int)ms);
}
