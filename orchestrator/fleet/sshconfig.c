/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/fleet/sshconfig.h"

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/spawn.h"

enum { OUTPUT_MAX = 1024 * 1024, SSH_TIMEOUT_MS = 30000 };

static void free_all(char **list)
{
	for (size_t i = 0; list[i]; i++)
		free(list[i]);
}

void kt_sshconfig_free(kt_sshconfig *c)
{
	if (!c)
		return;
	free(c->hostname);
	free(c->user);
	free(c->identity_agent);
	free(c->proxy_jump);
	free(c->proxy_command);
	free(c->hostkey_alias);
	free_all(c->identities);
	free_all(c->user_known_hosts);
	*c = (kt_sshconfig){.hostname = NULL};
}

/* ---- values ---- */

static kt_code out_of_memory(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code set(char **to, const char *value, size_t n, kt_err *err)
{
	free(*to);
	*to = strndup(value, n);
	return *to ? KT_OK : out_of_memory(err);
}

static const char *home(void)
{
	const char *h = getenv("HOME");
	if (h && h[0])
		return h;
	const struct passwd *pw = getpwuid(getuid());
	return pw ? pw->pw_dir : "/";
}

static kt_code set_path(char **to, const char *value, size_t n, kt_err *err)
{
	kt_buf path = KT_BUF_INIT;
	kt_code rc = KT_OK;
	if (n >= 2 && value[0] == '~' && value[1] == '/') {
		rc = kt_buf_str(&path, home(), err);
		value++;
		n--;
	}
	if (rc == KT_OK)
		rc = kt_buf_append(&path, value, n, err);
	if (rc == KT_OK)
		rc = set(to, kt_buf_cstr(&path), path.len, err);
	kt_buf_free(&path);
	return rc;
}

static kt_code add_path(char **list, const char *value, size_t n, kt_err *err)
{
	size_t i = 0;
	while (list[i])
		i++;
	return i < KT_SSHCONFIG_LIST ? set_path(&list[i], value, n, err) : KT_OK;
}

static bool is_none(const char *value, size_t n)
{
	return n == 4 && memcmp(value, "none", 4) == 0;
}

static kt_code set_unless_none(char **to, const char *value, size_t n, kt_err *err)
{
	return is_none(value, n) ? KT_OK : set(to, value, n, err);
}

static kt_code set_port(const char *value, size_t n, unsigned *port, kt_err *err)
{
	char digits[8] = "";
	if (n == 0 || n > 5 || strspn(value, "0123456789") < n)
		return kt_fail(err, KT_E_INPUT, NULL, "%.*s is not a port", (int)(n & 0x3f), value);
	memcpy(digits, value, n);
	unsigned long v = strtoul(digits, NULL, 10);
	if (v == 0 || v > 65535)
		return kt_fail(err, KT_E_INPUT, NULL, "%s is not a port", digits);
	*port = (unsigned)v;
	return KT_OK;
}

static kt_code add_paths(char **list, const char *value, size_t n, kt_err *err)
{
	while (n) {
		size_t word = 0;
		while (word < n && value[word] != ' ')
			word++;
		if (word && !is_none(value, word))
			KT_TRY(add_path(list, value, word, err));
		word += word < n ? 1 : 0;
		value += word;
		n -= word;
	}
	return KT_OK;
}

/* IdentityAgent: a path, "none", "SSH_AUTH_SOCK", or $NAME of a variable. */
static kt_code set_identity_agent(kt_sshconfig *c, const char *value, size_t n, kt_err *err)
{
	if (n == strlen("SSH_AUTH_SOCK") && memcmp(value, "SSH_AUTH_SOCK", n) == 0)
		return KT_OK;
	if (value[0] != '$')
		return set_path(&c->identity_agent, value, n, err);
	char name[128];
	(void)snprintf(name, sizeof name, "%.*s", (int)(n - 1 < 127 ? n - 1 : 127), value + 1);
	const char *path = getenv(name);
	return path ? set(&c->identity_agent, path, strlen(path), err) : set(&c->identity_agent, "none", 4, err);
}

static kt_code take(kt_sshconfig *c, const char *word, size_t word_len, const char *value, size_t n, kt_err *err)
{
	static const char *const words[] = {
		"hostname",  "port",         "user",         "identityfile",  "identitiesonly",
		"proxyjump", "proxycommand", "hostkeyalias", "identityagent", "userknownhostsfile"};
	size_t k = 0;
	while (k < sizeof words / sizeof *words &&
	       (strlen(words[k]) != word_len || memcmp(words[k], word, word_len) != 0))
		k++;
	switch (k) {
	case 0:
		return set(&c->hostname, value, n, err);
	case 1:
		return set_port(value, n, &c->port, err);
	case 2:
		return set(&c->user, value, n, err);
	case 3:
		return is_none(value, n) ? KT_OK : add_path(c->identities, value, n, err);
	case 4:
		c->identities_only = n == 3 && memcmp(value, "yes", 3) == 0;
		return KT_OK;
	case 5:
		return set_unless_none(&c->proxy_jump, value, n, err);
	case 6:
		return set_unless_none(&c->proxy_command, value, n, err);
	case 7:
		return set_unless_none(&c->hostkey_alias, value, n, err);
	case 8:
		return set_identity_agent(c, value, n, err);
	case 9:
		return add_paths(c->user_known_hosts, value, n, err);
	default:
		return KT_OK;
	}
}

kt_code kt_sshconfig_parse(const char *text, size_t len, kt_sshconfig *out, kt_err *err)
{
	const char *stop = text + len;
	*out = (kt_sshconfig){.hostname = NULL};
	for (const char *at = text; at < stop;) {
		const char *end = memchr(at, '\n', (size_t)(stop - at));
		if (!end)
			end = stop;
		const char *space = memchr(at, ' ', (size_t)(end - at));
		kt_code rc = KT_OK;
		if (space && space + 1 < end)
			rc = take(out, at, (size_t)(space - at), space + 1, (size_t)(end - space) - 1, err);
		if (rc != KT_OK) {
			kt_sshconfig_free(out);
			return kt_err_prefix(err, rc, "ssh -G");
		}
		at = end + 1;
	}
	if (out->hostname && out->port && out->user)
		return KT_OK;
	kt_sshconfig_free(out);
	return kt_fail(err, KT_E_INPUT, "see what `ssh -G HOST` prints", "ssh -G told no hostname, port or user");
}

/* ---- asking ssh ---- */

static kt_code run_ssh(const char *const *argv, const char *host, kt_buf *out, kt_err *err)
{
	kt_buf errors = {.max = 4096};
	kt_spawn_end end;
	const kt_spawn_what what = {.argv = argv, .timeout_ms = SSH_TIMEOUT_MS};
	kt_code rc = kt_spawn_capture(&what, out, &errors, &end, err);
	if (rc != KT_OK)
		rc = kt_err_prefix(err, rc, "asking ssh about %s", host);
	else if (end.timed_out)
		rc = kt_fail(err, KT_E_IO, "run it by hand", "`ssh -G %s` did not end", host);
	else if (end.exit != 0)
		rc = kt_fail(err, KT_E_INPUT, "correct the ssh configuration",
			     "`ssh -G %s` failed (exit status %d): %.600s", host, end.exit, kt_buf_cstr(&errors));
	kt_buf_free(&errors);
	return rc;
}

kt_code kt_sshconfig_query(const char *file, const char *host, const char *user, unsigned port, kt_sshconfig *out,
			   kt_err *err)
{
	char number[8];
	const char *argv[12];
	size_t n = 0;
	kt_buf text = {.max = OUTPUT_MAX};
	*out = (kt_sshconfig){.hostname = NULL};
	if (host[0] == '-' || !host[0] || (user && user[0] == '-'))
		return kt_fail(err, KT_E_INPUT, NULL, "\"%.100s\" is not a host name", host);
	argv[n++] = "ssh";
	argv[n++] = "-G";
	if (file) {
		argv[n++] = "-F";
		argv[n++] = file;
	}
	if (user) {
		argv[n++] = "-l";
		argv[n++] = user;
	}
	if (port) {
		(void)snprintf(number, sizeof number, "%u", port & 0xffffU);
		argv[n++] = "-p";
		argv[n++] = number;
	}
	argv[n++] = "--";
	argv[n++] = host;
	argv[n] = NULL;
	kt_code rc = run_ssh(argv, host, &text, err);
	if (rc == KT_OK)
		rc = kt_sshconfig_parse(kt_buf_cstr(&text), text.len, out, err);
	kt_buf_free(&text);
	return rc;
}

/* ---- ProxyJump ---- */

void kt_sshjump_free(kt_sshjump *jumps, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(jumps[i].user);
		free(jumps[i].host);
		jumps[i] = (kt_sshjump){.host = NULL};
	}
}

/* host, host:port, [v6], [v6]:port */
static kt_code parse_host(const char *text, size_t n, kt_sshjump *out, kt_err *err)
{
	const char *end = text + n;
	const char *close = text[0] == '[' ? memchr(text, ']', n) : NULL;
	const char *from = close ? text + 1 : text;
	const char *to = close ? close : memchr(text, ':', n);
	const char *rest = close ? close + 1 : to ? to : end;
	if (!to)
		to = end;
	if (to == from || *from == '-' || *from == '[')
		return kt_fail(err, KT_E_INPUT, NULL, "a jump host without a name");
	KT_TRY(set(&out->host, from, (size_t)(to - from), err));
	if (rest == end)
		return KT_OK;
	if (*rest != ':')
		return kt_fail(err, KT_E_INPUT, NULL, "a jump host that cannot be read");
	return set_port(rest + 1, (size_t)(end - rest) - 1, &out->port, err);
}

static kt_code parse_jump(const char *text, size_t n, kt_sshjump *out, kt_err *err)
{
	*out = (kt_sshjump){.host = NULL};
	if (n > 6 && memcmp(text, "ssh://", 6) == 0) {
		text += 6;
		n -= 6;
	}
	const char *at = memrchr(text, '@', n);
	kt_code rc = KT_OK;
	if (at == text)
		rc = kt_fail(err, KT_E_INPUT, NULL, "a jump host with an empty user");
	else if (at)
		rc = set(&out->user, text, (size_t)(at - text), err);
	if (rc == KT_OK)
		rc = parse_host(at ? at + 1 : text, at ? n - (size_t)(at - text) - 1 : n, out, err);
	if (rc != KT_OK)
		kt_sshjump_free(out, 1);
	return rc;
}

kt_code kt_sshjump_parse(const char *text, kt_sshjump *out, size_t max, size_t *n, kt_err *err)
{
	*n = 0;
	for (const char *at = text;;) {
		const size_t len = strcspn(at, ",");
		kt_code rc = KT_OK;
		if (len == 0)
			rc = kt_fail(err, KT_E_INPUT, NULL, "a jump host without a name");
		else if (*n == max)
			rc = kt_fail(err, KT_E_INPUT, NULL, "more than %zu jump hosts", max);
		else
			rc = parse_jump(at, len, &out[*n], err);
		if (rc != KT_OK) {
			kt_sshjump_free(out, *n);
			*n = 0;
			return kt_err_prefix(err, rc, "ProxyJump %.200s", text);
		}
		(*n)++;
		if (!at[len])
			return KT_OK;
		at += len + 1;
	}
}
