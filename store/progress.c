/* SPDX-License-Identifier: Apache-2.0 */
#include "store/progress.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "store/logfile.h"

enum { EVERY_MS = 500, DELAY_MAX_MS = 600 * 1000 };

static void show(const kt_progress *p, int64_t now, const char *end)
{
	int64_t ms = now > p->start_ms ? now - p->start_ms : 1;
	(void)fprintf(stderr, "\r%s: %lld of %lld items, %.0f items/s%s", p->what, (long long)p->done,
		      (long long)p->total, (double)p->done * 1000.0 / (double)ms, end);
	(void)fflush(stderr);
}

void kt_progress_begin(kt_progress *p, const char *what, int64_t total)
{
	int64_t now = kt_clock_mono_ms();
	*p = (kt_progress){
		.what = what, .total = total, .start_ms = now, .shown_ms = now, .shows = isatty(STDERR_FILENO) == 1};
}

void kt_progress_step(kt_progress *p)
{
	if (!p)
		return;
	p->done++;
	if (!p->shows)
		return;
	int64_t now = kt_clock_mono_ms();
	if (now - p->shown_ms < EVERY_MS)
		return;
	p->shown_ms = now;
	show(p, now, " ");
}

void kt_progress_end(kt_progress *p)
{
	if (p->shows)
		show(p, kt_clock_mono_ms(), " \n");
}

kt_code kt_progress_pause(kt_err *err)
{
	const char *text = getenv("KEYTURN_STORE_REKEY_DELAY_MS");
	if (!text || !text[0])
		return KT_OK;
	char *end;
	errno = 0;
	long ms = strtol(text, &end, 10);
	if (errno || *end || ms < 0 || ms > DELAY_MAX_MS)
		return kt_fail(err, KT_E_USAGE, NULL, "KEYTURN_STORE_REKEY_DELAY_MS must be 0 to %d",
			       (int)DELAY_MAX_MS);
	kt_logfile(KT_LOG_INFO, "crypt", "Pausing for %ld ms before the commit", ms);
	struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
	while (nanosleep(&left, &left) != 0)
		;
	return KT_OK;
}
