/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/envfile.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One assignment. */
typedef struct entry {
	size_t start, end; /* its bytes in the text, the closing newline among them */
	char name[KT_ENVFILE_NAME];
	bool exported; /* `export NAME=...`: the shell's, systemd ignores it */
	bool in_force; /* the last one of its name */
	kt_secret value;
} entry;

struct kt_envfile {
	char *path;
	kt_secret text;
	entry *entries;
	size_t n;
	int to_close; /* newlines to write at the end before another line can follow */
};

static const char whitespace[] = " \t\r\n";

static bool is_one_of(int c, const char *set)
{
	return c && strchr(set, c);
}

static bool is_newline(int c)
{
	return c == '\n' || c == '\r';
}

bool kt_envfile_name_ok(const char *name)
{
	static const char first[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";
	size_t n = strnlen(name, KT_ENVFILE_NAME);
	return n > 0 && n < KT_ENVFILE_NAME && is_one_of(name[0], first) &&
	       strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789") == n;
}

/* --- Parsing --------------------------------------------------------------------------------------------------------
 */

typedef struct reader {
	const char *path;
	const uint8_t *p;
	size_t n, at;
	size_t line;
	kt_envfile *f;
} reader;

static int peek(const reader *r)
{
	return r->at < r->n ? r->p[r->at] : -1;
}

static int next(reader *r)
{
	int c = peek(r);
	if (c >= 0)
		r->at++;
	r->line += c == '\n';
	return c;
}

/* Up to the end of the line, which is taken too ("\r\n" is two ends, the second of a blank line). */
static void skip_line(reader *r)
{
	for (int c = next(r); c >= 0 && !is_newline(c); c = next(r))
		;
}

static kt_code skip_comment(reader *r, kt_err *err)
{
	int last = 0;
	for (int c = next(r); c >= 0 && !is_newline(c); c = next(r))
		last = c;
	if (last == '\\')
		return kt_fail(
			err, KT_E_INPUT, "end the comment without a backslash",
			"%s:%zu: a comment that ends with a backslash (versions of systemd differ in what they do "
			"with the next line)",
			r->path, r->line - 1);
	return KT_OK;
}

/* The value, into `out` (room for all that is left), as systemd's parse_env_file() would. */
typedef struct value {
	uint8_t *out;
	size_t len;
	size_t solid; /* length without the white space at its end that is not quoted or escaped */
} value;

static void put(value *v, int c)
{
	v->out[v->len++] = (uint8_t)c;
}

static kt_code not_closed(const reader *r, size_t line, kt_err *err)
{
	return kt_fail(err, KT_E_INPUT, "close the quote", "%s:%zu: a quote that is not closed", r->path, line);
}

static kt_code single_quoted(reader *r, value *v, kt_err *err)
{
	size_t line = r->line;
	for (int c = next(r); c != '\''; c = next(r)) {
		if (c < 0)
			return not_closed(r, line, err);
		put(v, c);
	}
	return KT_OK;
}

static kt_code double_quoted(reader *r, value *v, kt_err *err)
{
	size_t line = r->line;
	for (int c = next(r); c != '"'; c = next(r)) {
		if (c == '\\') {
			c = next(r);
			if (c >= 0 && !is_one_of(c, "\"\\`$") && c != '\n')
				put(v, '\\');
			if (c == '\n')
				continue;
		}
		if (c < 0)
			return not_closed(r, line, err);
		put(v, c);
	}
	return KT_OK;
}

/* Unquoted text; quotes in it are ordinary characters. At the end of the file a line may still be continued: what is
 * added behind it would become a part of the value. */
static void bare(reader *r, value *v)
{
	int c;
	for (c = next(r); c >= 0 && !is_newline(c); c = next(r)) {
		bool escaped = c == '\\';
		if (escaped) {
			c = next(r);
			v->solid = v->len;
			r->f->to_close += c < 0;
			if (c < 0 || is_newline(c))
				continue;
		}
		put(v, c);
		if (escaped || !is_one_of(c, whitespace))
			v->solid = v->len;
	}
	r->f->to_close += c < 0;
	v->len = v->solid;
}

static kt_code read_value(reader *r, value *v, kt_err *err)
{
	for (;;) {
		int c = peek(r);
		if (c < 0)
			return KT_OK;
		if (c == '\'' || c == '"') {
			(void)next(r);
			KT_TRY(c == '"' ? double_quoted(r, v, err) : single_quoted(r, v, err));
			v->solid = v->len;
		} else if (is_newline(c)) {
			(void)next(r);
			return KT_OK;
		} else if (is_one_of(c, whitespace)) {
			(void)next(r);
		} else {
			bare(r, v);
			return KT_OK;
		}
	}
}

/* The value into a secret of its own length. */
static kt_code take_value(reader *r, kt_secret *out, kt_err *err)
{
	kt_secret room;
	KT_TRY(kt_secret_new(&room, r->n - r->at + 1, err));
	value v = {.out = room.data};
	kt_code rc = read_value(r, &v, err);
	*out = KT_SECRET_INIT;
	if (rc == KT_OK && v.len)
		rc = kt_secret_copy(out, room.data, v.len, err);
	kt_secret_free(&room);
	return rc;
}

/* The key's text is [from, to); false when it is no name that anybody assigns. */
static bool take_name(const uint8_t *p, size_t from, size_t to, entry *e)
{
	while (to > from && is_one_of(p[to - 1], whitespace))
		to--;
	e->exported = to - from > 7 && memcmp(p + from, "export", 6) == 0 && is_one_of(p[from + 6], " \t");
	if (e->exported)
		for (from += 6; from < to && is_one_of(p[from], " \t"); from++)
			;
	if (to - from >= sizeof e->name)
		return false;
	memcpy(e->name, p + from, to - from);
	e->name[to - from] = '\0';
	return kt_envfile_name_ok(e->name);
}

static kt_code add_entry(kt_envfile *f, const entry *e, kt_err *err)
{
	entry *more = reallocarray(f->entries, f->n + 1, sizeof *more);
	if (!more)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	f->entries = more;
	f->entries[f->n++] = *e;
	return KT_OK;
}

static kt_code read_line(reader *r, kt_err *err)
{
	entry e = {.start = r->at};
	while (is_one_of(peek(r), " \t"))
		(void)next(r);
	int c = peek(r);
	if (c == '#' || c == ';')
		return skip_comment(r, err);
	size_t from = r->at;
	while (r->at < r->n && r->p[r->at] != '=' && !is_newline(r->p[r->at]))
		r->at++;
	if (peek(r) != '=') {
		skip_line(r);
		return KT_OK;
	}
	bool named = take_name(r->p, from, r->at, &e);
	(void)next(r);
	KT_TRY(take_value(r, &e.value, err));
	e.end = r->at;
	kt_code rc = named ? add_entry(r->f, &e, err) : KT_OK;
	if (!named || rc != KT_OK)
		kt_secret_free(&e.value);
	return rc;
}

static void mark_in_force(kt_envfile *f)
{
	for (size_t i = 0; i < f->n; i++) {
		bool last = !f->entries[i].exported;
		for (size_t k = i + 1; last && k < f->n; k++)
			last = f->entries[k].exported || strcmp(f->entries[i].name, f->entries[k].name) != 0;
		f->entries[i].in_force = last;
	}
}

static void drop_entries(kt_envfile *f)
{
	for (size_t i = 0; i < f->n; i++)
		kt_secret_free(&f->entries[i].value);
	free(f->entries);
	f->entries = NULL;
	f->n = 0;
}

static kt_code read_all(kt_envfile *f, kt_err *err)
{
	reader r = {.path = f->path, .p = f->text.data, .n = f->text.len, .line = 1, .f = f};
	if (r.n && memchr(r.p, '\0', r.n))
		return kt_fail(err, KT_E_INPUT, "it is no text file", "%s: a NUL byte", f->path);
	f->to_close = 0;
	while (r.at < r.n)
		KT_TRY(read_line(&r, err));
	if (!f->to_close && r.n && r.p[r.n - 1] != '\n')
		f->to_close = 1;
	mark_in_force(f);
	return KT_OK;
}

/* `text` is taken over, also on failure. */
static kt_code from_text(const char *path, kt_secret *text, kt_envfile **out, kt_err *err)
{
	*out = NULL;
	kt_envfile *f = calloc(1, sizeof *f);
	char *copy = strdup(path);
	if (!f || !copy) {
		free(f);
		free(copy);
		kt_secret_free(text);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	f->path = copy;
	f->text = *text;
	*text = KT_SECRET_INIT;
	kt_code rc = read_all(f, err);
	if (rc == KT_OK)
		*out = f;
	else
		kt_envfile_free(f);
	return rc;
}

static kt_code too_large(const char *path, kt_err *err)
{
	return kt_fail(err, KT_E_INPUT, "move what is no variable of the service elsewhere",
		       "%s: larger than %d bytes, which is what is read into locked memory", path, (int)KT_ENVFILE_MAX);
}

kt_code kt_envfile_parse(const char *name, const void *text, size_t n, kt_envfile **out, kt_err *err)
{
	kt_secret copy = KT_SECRET_INIT;
	*out = NULL;
	if (n > KT_ENVFILE_MAX)
		return too_large(name, err);
	if (n)
		KT_TRY(kt_secret_copy(&copy, text, n, err));
	return from_text(name, &copy, out, err);
}

static kt_code read_fd(int fd, const char *path, kt_secret *text, kt_err *err)
{
	struct stat st;
	if (fstat(fd, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	if (!S_ISREG(st.st_mode))
		return kt_fail(err, KT_E_IO, "give the path of a regular file", "%s: not a regular file", path);
	if (st.st_size > KT_ENVFILE_MAX)
		return too_large(path, err);
	return kt_secret_read_fd(text, fd, (size_t)st.st_size + 1, path, err);
}

kt_code kt_envfile_load(const char *path, kt_envfile **out, kt_err *err)
{
	kt_secret text = KT_SECRET_INIT;
	*out = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	kt_code rc = read_fd(fd, path, &text, err);
	(void)close(fd);
	if (rc != KT_OK)
		return rc;
	return from_text(path, &text, out, err);
}

void kt_envfile_free(kt_envfile *f)
{
	if (!f)
		return;
	drop_entries(f);
	kt_secret_free(&f->text);
	free(f->path);
	free(f);
}

/* --- Reading --------------------------------------------------------------------------------------------------------
 */

size_t kt_envfile_count(const kt_envfile *f)
{
	size_t n = 0;
	for (size_t i = 0; i < f->n; i++)
		n += f->entries[i].in_force;
	return n;
}

static const entry *nth(const kt_envfile *f, size_t i)
{
	for (size_t k = 0; k < f->n; k++)
		if (f->entries[k].in_force && i-- == 0)
			return &f->entries[k];
	return NULL;
}

const char *kt_envfile_name(const kt_envfile *f, size_t i)
{
	const entry *e = nth(f, i);
	return e ? e->name : NULL;
}

const kt_secret *kt_envfile_value(const kt_envfile *f, size_t i)
{
	const entry *e = nth(f, i);
	return e ? &e->value : NULL;
}

const kt_secret *kt_envfile_get(const kt_envfile *f, const char *name)
{
	for (size_t i = 0; i < f->n; i++)
		if (f->entries[i].in_force && strcmp(f->entries[i].name, name) == 0)
			return &f->entries[i].value;
	return NULL;
}

const kt_secret *kt_envfile_text(const kt_envfile *f)
{
	return &f->text;
}

/* --- Changing -------------------------------------------------------------------------------------------------------
 */

static kt_code check_change(const kt_envfile *f, const char *name, kt_err *err)
{
	if (!kt_envfile_name_ok(name))
		return kt_fail(err, KT_E_INPUT, NULL, "\"%.64s\" is no name of a variable", name);
	for (size_t i = 0; i < f->n; i++)
		if (f->entries[i].exported && strcmp(f->entries[i].name, name) == 0)
			return kt_fail(err, KT_E_INPUT, "write it without `export`",
				       "%s: `export %s=` there is read by a shell but not by systemd, so it is not "
				       "certain what the service gets",
				       f->path, name);
	return KT_OK;
}

/* 0 when it can be written, else the character that cannot. */
static int bad_character(const kt_secret *v)
{
	for (size_t i = 0; i < v->len; i++)
		if ((v->data[i] < 0x20 && v->data[i] != '\t') || v->data[i] == 0x7f)
			return v->data[i] ? v->data[i] : 0x100;
	return 0;
}

static bool is_bare(const kt_secret *v)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:@%+,=-";
	for (size_t i = 0; i < v->len; i++)
		if (!is_one_of(v->data[i], plain))
			return false;
	return true;
}

/* Writes into locked memory that is large enough. */
typedef struct writer {
	uint8_t *p;
	size_t n;
} writer;

static void write_bytes(writer *w, const void *bytes, size_t n)
{
	if (n)
		memcpy(w->p + w->n, bytes, n);
	w->n += n;
}

static void write_assignment(writer *w, const char *name, const kt_secret *v)
{
	bool quote = !is_bare(v);
	write_bytes(w, name, strlen(name));
	write_bytes(w, quote ? "=\"" : "=", quote ? 2 : 1);
	for (size_t i = 0; i < v->len; i++) {
		if (quote && is_one_of(v->data[i], "\"\\`$"))
			write_bytes(w, "\\", 1);
		write_bytes(w, &v->data[i], 1);
	}
	write_bytes(w, quote ? "\"\n" : "\n", quote ? 2 : 1);
}

/* The text without the assignments of `name`; with `v` a new one in place of the last of them, or at the end. */
static void write_changed(const kt_envfile *f, writer *w, const char *name, const kt_secret *v)
{
	size_t at = 0;
	bool written = !v;
	for (size_t i = 0; i < f->n; i++) {
		const entry *e = &f->entries[i];
		if (e->exported || strcmp(e->name, name) != 0)
			continue;
		write_bytes(w, f->text.data + at, e->start - at);
		at = e->end;
		if (e->in_force && v) {
			write_assignment(w, name, v);
			written = true;
		}
	}
	if (f->text.len > at)
		write_bytes(w, f->text.data + at, f->text.len - at);
	if (written)
		return;
	write_bytes(w, "\n\n", (size_t)f->to_close);
	write_assignment(w, name, v);
}

/* Put the changed text in place of the old one, by reading it again: what was written is what is understood. */
static kt_code change(kt_envfile *f, const char *name, const kt_secret *v, kt_err *err)
{
	kt_secret text;
	kt_envfile *fresh;
	size_t room = f->text.len + strlen(name) + (v ? 2 * v->len : 0) + 8;
	KT_TRY(kt_secret_new(&text, room, err));
	writer w = {.p = text.data};
	write_changed(f, &w, name, v);
	if (w.n > KT_ENVFILE_MAX) {
		kt_secret_free(&text);
		return too_large(f->path, err);
	}
	text.len = w.n;
	text.data[w.n] = '\0';
	drop_entries(f);
	kt_secret_free(&f->text);
	KT_TRY(from_text(f->path, &text, &fresh, err));
	f->text = fresh->text;
	f->entries = fresh->entries;
	f->n = fresh->n;
	f->to_close = fresh->to_close;
	free(fresh->path);
	free(fresh);
	return KT_OK;
}

static size_t assignments(const kt_envfile *f, const char *name)
{
	size_t n = 0;
	for (size_t i = 0; i < f->n; i++)
		n += !f->entries[i].exported && strcmp(f->entries[i].name, name) == 0;
	return n;
}

kt_code kt_envfile_set(kt_envfile *f, const char *name, const kt_secret *v, kt_err *err)
{
	KT_TRY(check_change(f, name, err));
	int bad = bad_character(v);
	if (bad)
		return kt_fail(err, KT_E_INPUT, NULL,
			       "the value for %s has a %s, which such a file cannot hold on one line", name,
			       bad == '\n' ? "newline" : "control character");
	const kt_secret *now = kt_envfile_get(f, name);
	if (now && kt_secret_equal(now, v) && assignments(f, name) == 1)
		return KT_OK;
	return change(f, name, v, err);
}

kt_code kt_envfile_unset(kt_envfile *f, const char *name, kt_err *err)
{
	KT_TRY(check_change(f, name, err));
	return assignments(f, name) ? change(f, name, NULL, err) : KT_OK;
}
