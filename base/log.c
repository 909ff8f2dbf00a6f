/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"

enum { SECRETS = 64, SHAPES = 4, SHORTEST = 8, LINE = 4096 };

static const char mark[] = "[redacted]";

static struct {
	pthread_mutex_t lock;
	kt_log_level level;
	int fd;
	size_t n;
	kt_secret shape[SECRETS * SHAPES]; /* raw, base64, lower-case hex, upper-case hex */
} g = {.lock = PTHREAD_MUTEX_INITIALIZER, .level = KT_LOG_WARN, .fd = STDERR_FILENO};

void kt_log_setup(kt_log_level level, int fd)
{
	g.level = level;
	g.fd = fd;
}

kt_log_level kt_log_get_level(void)
{
	return g.level;
}

static kt_code to_hex(const kt_secret *s, const char *digits, kt_secret *out, kt_err *err)
{
	KT_TRY(kt_secret_new(out, 2 * s->len, err));
	for (size_t i = 0; i < s->len; i++) {
		out->data[2 * i] = (uint8_t)digits[s->data[i] >> 4];
		out->data[2 * i + 1] = (uint8_t)digits[s->data[i] & 15];
	}
	return KT_OK;
}

static bool known(const kt_secret *s)
{
	for (size_t i = 0; i < g.n; i++)
		if (kt_secret_equal(&g.shape[i], s))
			return true;
	return false;
}

static kt_code add_shapes(const kt_secret *s, kt_err *err)
{
	if (g.n + SHAPES > SECRETS * SHAPES)
		return kt_fail(err, KT_E_INTERNAL, NULL, "too many secrets to redact");
	size_t first = g.n;
	kt_code rc = kt_secret_copy(&g.shape[first], s->data, s->len, err);
	if (rc == KT_OK)
		rc = kt_secret_to_base64(s, &g.shape[first + 1], err);
	if (rc == KT_OK)
		rc = to_hex(s, "0123456789abcdef", &g.shape[first + 2], err);
	if (rc == KT_OK)
		rc = to_hex(s, "0123456789ABCDEF", &g.shape[first + 3], err);
	if (rc == KT_OK)
		g.n += SHAPES;
	else
		for (size_t i = first; i < first + SHAPES; i++)
			kt_secret_free(&g.shape[i]);
	return rc;
}

kt_code kt_log_redact(const kt_secret *s, kt_err *err)
{
	if (s->len < SHORTEST)
		return KT_OK;
	pthread_mutex_lock(&g.lock);
	kt_code rc = known(s) ? KT_OK : add_shapes(s, err);
	pthread_mutex_unlock(&g.lock);
	return rc;
}

void kt_log_forget_all(void)
{
	pthread_mutex_lock(&g.lock);
	for (size_t i = 0; i < g.n; i++)
		kt_secret_free(&g.shape[i]);
	g.n = 0;
	pthread_mutex_unlock(&g.lock);
}

size_t kt_log_scrub_reach(void)
{
	size_t most = 0;
	for (size_t i = 0; i < g.n; i++)
		if (g.shape[i].len > most)
			most = g.shape[i].len;
	return most;
}

/* The length of the longest secret that begins at p, 0 when none does. */
static size_t secret_at(const uint8_t *p, size_t left)
{
	size_t best = 0;
	for (size_t i = 0; i < g.n; i++) {
		const kt_secret *s = &g.shape[i];
		if (s->len <= left && s->len > best && p[0] == s->data[0] && CRYPTO_memcmp(p, s->data, s->len) == 0)
			best = s->len;
	}
	return best;
}

size_t kt_log_scrub(uint8_t *bytes, size_t n)
{
	size_t w = 0;
	pthread_mutex_lock(&g.lock);
	for (size_t r = 0; r < n;) {
		size_t hit = g.n ? secret_at(bytes + r, n - r) : 0;
		if (!hit) {
			bytes[w++] = bytes[r++];
			continue;
		}
		size_t put = hit < sizeof mark - 1 ? hit : sizeof mark - 1;
		memcpy(bytes + w, mark, put);
		w += put;
		r += hit;
	}
	if (w < n)
		OPENSSL_cleanse(bytes + w, n - w);
	pthread_mutex_unlock(&g.lock);
	return w;
}

/* Does a registered secret begin with these bytes, and go on? */
static bool begins_secret(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < g.n; i++) {
		const kt_secret *s = &g.shape[i];
		if (s->len > n && p[0] == s->data[0] && CRYPTO_memcmp(p, s->data, n) == 0)
			return true;
	}
	return false;
}

size_t kt_log_open_end(const uint8_t *bytes, size_t n)
{
	pthread_mutex_lock(&g.lock);
	size_t reach = kt_log_scrub_reach();
	size_t held = reach && n > reach - 1 ? reach - 1 : reach ? n : 0;
	while (held && !begins_secret(bytes + n - held, held))
		held--;
	pthread_mutex_unlock(&g.lock);
	return held;
}

void kt_log(kt_log_level level, const char *fmt, ...)
{
	static const char *const word[] = {"error", "warning", "info", "debug", "trace"};
	if (level > g.level)
		return;
	char line[LINE];
	char when[KT_TIME_TEXT];
	kt_clock_format(kt_clock_wall_ms(), when);
	int head = snprintf(line, sizeof line, "%s %s: ", when, word[level]);
	size_t n = (size_t)head;
	va_list ap;
	va_start(ap, fmt);
	int body = vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
	va_end(ap);
	if (body < 0)
		return;
	bool cut = (size_t)body >= sizeof line - n - 1;
	n += cut ? sizeof line - n - 2 : (size_t)body;
	n = kt_log_scrub((uint8_t *)line, n);
	/* What was cut may have been the second half of a secret: its first half goes too. */
	size_t reach = cut ? kt_log_scrub_reach() : 0;
	n = n > (size_t)head + reach ? n - reach : cut ? (size_t)head : n;
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	line[n++] = '\n';
	/* A log that cannot be written must not stop the work that it describes. */
	KT_IGNORE(kt_file_write_all(g.fd, line, n, "log", NULL));
}
