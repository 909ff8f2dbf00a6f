/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/manifest.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char format_line[] = "keyturn-manifest 1";
static const size_t text_max = (size_t)1 << 30; /* about eight million members */

static kt_code out_of_memory(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

void kt_manifest_free(kt_manifest *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->n; i++)
		free(m->members[i].name);
	free(m->members);
	for (size_t i = 0; i < m->path_n; i++)
		free(m->paths[i]);
	free(m->paths);
	free(m->top);
	*m = KT_MANIFEST_INIT;
}

static bool good_part(const char *part, size_t n)
{
	return n > 0 && n <= NAME_MAX && !(n == 1 && part[0] == '.') && !(n == 2 && part[0] == '.' && part[1] == '.');
}

kt_code kt_manifest_check_name(const char *name, kt_err *err)
{
	size_t n = strlen(name);
	bool good = n > 0 && n < PATH_MAX;
	for (const char *p = name; good;) {
		size_t part = strcspn(p, "/");
		good = good_part(p, part);
		if (p[part] == '\0')
			break;
		p += part + 1;
	}
	if (!good)
		return kt_fail(err, KT_E_INPUT, "do not use this archive",
			       "\"%.200s\" is not a name that a backup may hold", name);
	return KT_OK;
}

kt_code kt_manifest_add(kt_manifest *m, const kt_member *member, kt_err *err)
{
	KT_TRY(kt_manifest_check_name(member->name, err));
	if (m->n == m->cap) {
		size_t cap = m->cap ? 2 * m->cap : 64;
		kt_member *grown = reallocarray(m->members, cap, sizeof *grown);
		if (!grown)
			return out_of_memory(err);
		m->members = grown;
		m->cap = cap;
	}
	char *name = strdup(member->name);
	if (!name)
		return out_of_memory(err);
	m->members[m->n] = *member;
	m->members[m->n++].name = name;
	return KT_OK;
}

kt_code kt_manifest_set_top(kt_manifest *m, const char *top, kt_err *err)
{
	KT_TRY(kt_manifest_check_name(top, err));
	char *copy = strdup(top);
	if (!copy)
		return out_of_memory(err);
	free(m->top);
	m->top = copy;
	return KT_OK;
}

kt_code kt_manifest_add_path(kt_manifest *m, const char *path, kt_err *err)
{
	KT_TRY(kt_manifest_check_name(path, err));
	char **grown = reallocarray(m->paths, m->path_n + 1, sizeof *grown);
	if (!grown)
		return out_of_memory(err);
	m->paths = grown;
	m->paths[m->path_n] = strdup(path);
	if (!m->paths[m->path_n])
		return out_of_memory(err);
	m->path_n++;
	return KT_OK;
}

static int by_name(const void *a, const void *b)
{
	const kt_member *x = a;
	const kt_member *y = b;
	return strcmp(x->name, y->name);
}

kt_code kt_manifest_sort(kt_manifest *m, kt_err *err)
{
	if (m->n)
		qsort(m->members, m->n, sizeof *m->members, by_name);
	for (size_t i = 1; i < m->n; i++)
		if (strcmp(m->members[i - 1].name, m->members[i].name) == 0)
			return kt_fail(err, KT_E_INPUT, "do not use this archive", "%s is there twice",
				       m->members[i].name);
	return KT_OK;
}

const kt_member *kt_manifest_find(const kt_manifest *m, const char *name)
{
	size_t low = 0;
	size_t high = m->n;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int order = strcmp(m->members[mid].name, name);
		if (order == 0)
			return &m->members[mid];
		if (order < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

/* Control characters and the backslash as \ooo, so that a member is one line whatever its name is. */
static kt_code print_name(const char *name, kt_buf *out, kt_err *err)
{
	for (const char *p = name; *p; p++) {
		uint8_t c = (uint8_t)*p;
		if (c < 0x20 || c == 0x7f || c == '\\')
			KT_TRY(kt_buf_printf(out, err, "\\%03o", c));
		else
			KT_TRY(kt_buf_append(out, p, 1, err));
	}
	return kt_buf_append(out, "\n", 1, err);
}

static kt_code print_root(const char *word, const char *name, kt_buf *out, kt_err *err)
{
	KT_TRY(kt_buf_printf(out, err, "%s ", word));
	return print_name(name, out, err);
}

kt_code kt_manifest_print(const kt_manifest *m, kt_buf *out, kt_err *err)
{
	KT_TRY(kt_buf_printf(out, err, "%s\n", format_line));
	if (m->top)
		KT_TRY(print_root("top", m->top, out, err));
	for (size_t i = 0; i < m->path_n; i++)
		KT_TRY(print_root("path", m->paths[i], out, err));
	for (size_t i = 0; i < m->n; i++) {
		const kt_member *e = &m->members[i];
		KT_TRY(kt_buf_printf(out, err, "%c%s %04o %u %u %" PRIu64 " %s ", (int)e->kind, e->database ? "+" : "",
				     (unsigned)e->mode, (unsigned)e->uid, (unsigned)e->gid, e->size, e->sha256));
		KT_TRY(print_name(e->name, out, err));
	}
	return kt_buf_printf(out, err, "end %zu\n", m->n);
}

/* A line being taken apart; each take_* moves past the field and its one space. */
typedef struct line {
	const char *p;
	const char *end;
} line;

static bool take_number(line *l, unsigned base, uint64_t max, uint64_t *out)
{
	uint64_t value = 0;
	const char *start = l->p;
	for (; l->p < l->end && *l->p >= '0' && *l->p < (char)('0' + (int)base); l->p++) {
		uint64_t digit = (uint64_t)(*l->p - '0');
		if (value > (max - digit) / base)
			return false;
		value = value * base + digit;
	}
	*out = value;
	return l->p > start && l->p < l->end && *l->p++ == ' ';
}

static bool take_sum(line *l, bool folder, char out[KT_SHA256_HEX])
{
	size_t n = folder ? 1 : KT_SHA256_HEX - 1;
	if ((size_t)(l->end - l->p) < n + 1 || l->p[n] != ' ')
		return false;
	memcpy(out, l->p, n);
	out[n] = '\0';
	l->p += n + 1;
	return folder ? out[0] == '-' : strspn(out, "0123456789abcdef") == n;
}

static bool take_name(line *l, char out[PATH_MAX])
{
	size_t n = 0;
	while (l->p < l->end) {
		unsigned c = (uint8_t)*l->p++;
		if (c == '\\') {
			if (l->end - l->p < 3 || l->p[0] < '0' || l->p[0] > '3' || l->p[1] < '0' || l->p[1] > '7' ||
			    l->p[2] < '0' || l->p[2] > '7')
				return false;
			c = (unsigned)(l->p[0] - '0') << 6 | (unsigned)(l->p[1] - '0') << 3 | (unsigned)(l->p[2] - '0');
			l->p += 3;
		} else if (c < 0x20 || c == 0x7f) {
			return false;
		}
		if (c == 0 || n + 1 >= PATH_MAX)
			return false;
		out[n++] = (char)c;
	}
	out[n] = '\0';
	return n > 0;
}

static bool take_kind(line *l, kt_member *member)
{
	if (l->p == l->end || !strchr("fsdlh", *l->p) || !*l->p)
		return false;
	member->kind = (kt_member_kind)*l->p++;
	if (l->p < l->end && *l->p == '+') {
		member->database = true;
		l->p++;
	}
	return l->p < l->end && *l->p++ == ' ';
}

static kt_code parse_member(kt_manifest *m, line l, char name[PATH_MAX], kt_err *err)
{
	kt_member member = {.name = name};
	uint64_t mode;
	uint64_t uid;
	uint64_t gid;
	if (!take_kind(&l, &member) || !take_number(&l, 8, 07777, &mode) || !take_number(&l, 10, UINT32_MAX, &uid) ||
	    !take_number(&l, 10, UINT32_MAX, &gid) || !take_number(&l, 10, INT64_MAX, &member.size) ||
	    !take_sum(&l, member.kind == KT_MEMBER_FOLDER, member.sha256) || !take_name(&l, name))
		return kt_fail(err, KT_E_INPUT, "do not use this archive", "not a line of a manifest");
	member.mode = (mode_t)mode;
	member.uid = (uid_t)uid;
	member.gid = (gid_t)gid;
	return kt_manifest_add(m, &member, err);
}

static bool begins(const line *l, const char *word)
{
	size_t n = strlen(word);
	return (size_t)(l->end - l->p) >= n && memcmp(l->p, word, n) == 0;
}

static kt_code parse_root(kt_manifest *m, line l, char name[PATH_MAX], kt_err *err)
{
	bool top = begins(&l, "top ");
	l.p += top ? 4 : 5;
	if (!take_name(&l, name) || (top && m->top))
		return kt_fail(err, KT_E_INPUT, "do not use this archive", "not a line of a manifest");
	return top ? kt_manifest_set_top(m, name, err) : kt_manifest_add_path(m, name, err);
}

/* One line; *done when it was the closing one. */
static kt_code parse_line(kt_manifest *m, line l, size_t number, bool *done, char name[PATH_MAX], kt_err *err)
{
	if (number == 1) {
		if (!begins(&l, format_line) || l.end - l.p != (ptrdiff_t)strlen(format_line))
			return kt_fail(err, KT_E_INPUT, "it was written by another version: use that one", "not \"%s\"",
				       format_line);
		return KT_OK;
	}
	if (begins(&l, "end ")) {
		char want[32];
		int n = snprintf(want, sizeof want, "end %zu", m->n);
		if (n != l.end - l.p || memcmp(want, l.p, (size_t)n) != 0)
			return kt_fail(err, KT_E_INPUT, "do not use this archive", "lines are missing: there are %zu",
				       m->n);
		*done = true;
		return KT_OK;
	}
	if (begins(&l, "top ") || begins(&l, "path "))
		return parse_root(m, l, name, err);
	return parse_member(m, l, name, err);
}

static kt_code parse_lines(const char *text, size_t len, kt_manifest *m, kt_err *err)
{
	char name[PATH_MAX];
	size_t number = 1;
	bool done = false;
	for (const char *p = text; p < text + len; number++) {
		const char *eol = memchr(p, '\n', (size_t)(text + len - p));
		kt_code rc = KT_OK;
		if (done || !eol)
			rc = kt_fail(err, KT_E_INPUT, "do not use this archive",
				     done ? "text after its end" : "cut off");
		else
			rc = parse_line(m, (line){.p = p, .end = eol}, number, &done, name, err);
		if (rc != KT_OK)
			return kt_err_prefix(err, rc, "%s:%zu", KT_MANIFEST_MEMBER, number);
		p = eol + 1;
	}
	if (!done)
		return kt_fail(err, KT_E_INPUT, "do not use this archive", "%s: cut off", KT_MANIFEST_MEMBER);
	return kt_manifest_sort(m, err);
}

kt_code kt_manifest_parse(const void *text, size_t len, kt_manifest *m, kt_err *err)
{
	*m = KT_MANIFEST_INIT;
	if (len > text_max)
		return kt_fail(err, KT_E_INPUT, NULL, "%s is too large", KT_MANIFEST_MEMBER);
	kt_code rc = len ? parse_lines(text, len, m, err)
			 : kt_fail(err, KT_E_INPUT, "do not use this archive", "%s is empty", KT_MANIFEST_MEMBER);
	if (rc != KT_OK)
		kt_manifest_free(m);
	return rc;
}

/* What is different, for people; NULL when nothing is. */
static const char *difference(const kt_member *want, const kt_member *is, const kt_manifest_compare *options)
{
	if (want->kind != is->kind)
		return "is of another kind";
	if (want->size != is->size)
		return "has another size";
	if (strcmp(want->sha256, is->sha256) != 0)
		return "has other content";
	if (want->kind != KT_MEMBER_LINK && want->mode != is->mode)
		return "has another mode";
	if (options->owner && (want->uid != is->uid || want->gid != is->gid))
		return "has another owner";
	return NULL;
}

typedef struct differences {
	kt_buf text;
	size_t count;
} differences;

static void note_difference(differences *d, const char *name, const char *what)
{
	enum { SHOWN = 5 };
	if (d->count++ < SHOWN)
		KT_IGNORE(kt_buf_printf(&d->text, NULL, "%s%.120s %s", d->text.len ? "; " : "", name, what));
}

kt_code kt_manifest_equal(const kt_manifest *want, const kt_manifest *is, const kt_manifest_compare *options,
			  kt_err *err)
{
	differences d = {.text = KT_BUF_INIT};
	size_t i = 0;
	size_t j = 0;
	while (i < want->n || j < is->n) {
		int order = i == want->n ? 1 : j == is->n ? -1 : strcmp(want->members[i].name, is->members[j].name);
		if (order < 0) {
			note_difference(&d, want->members[i++].name, "is missing");
		} else if (order > 0) {
			note_difference(&d, is->members[j++].name, "was not expected");
		} else {
			const char *what = difference(&want->members[i++], &is->members[j], options);
			if (what)
				note_difference(&d, is->members[j].name, what);
			j++;
		}
	}
	kt_code rc = KT_OK;
	if (d.count)
		rc = kt_fail(err, KT_E_INPUT, "do not use this backup; make a new one",
			     "the content is not what the manifest says, %zu differences: %s", d.count,
			     kt_buf_cstr(&d.text));
	kt_buf_free(&d.text);
	return rc;
}

void kt_manifest_totals(const kt_manifest *m, uint64_t *files, uint64_t *bytes)
{
	*files = *bytes = 0;
	for (size_t i = 0; i < m->n; i++) {
		if (m->members[i].kind != KT_MEMBER_FILE && m->members[i].kind != KT_MEMBER_SPARSE)
			continue;
		++*files;
		*bytes += m->members[i].size;
	}
}
