/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/playbook/playbook.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "base/schema.h"
#include "orchestrator/playbook/internal.h"
#include "playbooks/embedded.h"

enum { NAME_LEN = 80 };

static const char *const phases[KT_PHASES] = {
	[KT_PHASE_PREFLIGHT] = "preflight", [KT_PHASE_APPROVE] = "approve", [KT_PHASE_STOP] = "stop",
	[KT_PHASE_QUIET] = "quiet",         [KT_PHASE_BACKUP] = "backup",   [KT_PHASE_KEY] = "key",
	[KT_PHASE_REKEY] = "rekey",         [KT_PHASE_ENV] = "env",         [KT_PHASE_START] = "start",
	[KT_PHASE_RETIRE] = "retire"};

static const char *const shipped[] = {"looker", NULL};

const char *kt_phase_name(int phase)
{
	return phase >= 0 && phase < KT_PHASES ? phases[phase] : "?";
}

int kt_phase_find(const char *name)
{
	for (int i = 0; i < KT_PHASES; i++)
		if (strcmp(phases[i], name) == 0)
			return i;
	return -1;
}

const char *const *kt_playbook_names(void)
{
	return shipped;
}

static const kt_embedded *embedded(const char *name)
{
	for (const kt_embedded *f = kt_embedded_files; f->name; f++)
		if (strcmp(f->name, name) == 0)
			return f;
	return NULL;
}

static kt_code check_schema(const kt_json_doc *doc, kt_err *err)
{
	const kt_embedded *file = embedded("playbook.schema.json");
	cJSON *schema = NULL;
	KT_TRY(kt_json_parse(file->name, file->data, file->len, &schema, err));
	kt_code rc = kt_schema_check(schema, doc, err);
	cJSON_Delete(schema);
	return rc;
}

static kt_code fingerprint(kt_playbook *p, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_json_canonical(p->doc.root, &text, err);
	if (rc == KT_OK)
		rc = kt_sha256_hex(text.data, text.len, p->sha256, err);
	kt_buf_free(&text);
	return rc;
}

/* p->doc is there. */
static kt_code read_playbook(kt_playbook *p, kt_err *err)
{
	KT_TRY(check_schema(&p->doc, err));
	KT_TRY(kt_json_str(p->doc.root, "playbook", &p->name, err));
	KT_TRY(kt_json_str(p->doc.root, "title", &p->title, err));
	KT_TRY(kt_json_int(p->doc.root, "version", 1, 1000000, &p->version, err));
	KT_TRY(fingerprint(p, err));
	return kt_playbook_check(p, err);
}

static kt_code read_or_free(kt_playbook *p, kt_err *err)
{
	kt_code rc = read_playbook(p, err);
	if (rc != KT_OK)
		kt_playbook_free(p);
	return rc;
}

kt_code kt_playbook_parse(const char *file, const void *text, size_t len, kt_playbook *out, kt_err *err)
{
	*out = (kt_playbook){0};
	KT_TRY(kt_json_doc_parse(&out->doc, file, text, len, err));
	return read_or_free(out, err);
}

static kt_code no_such(const char *name, kt_err *err)
{
	kt_nearest near = KT_NEAREST(name);
	for (size_t i = 0; shipped[i]; i++)
		kt_nearest_offer(&near, shipped[i]);
	if (near.best)
		return kt_fail(err, KT_E_INPUT, NULL, "no playbook \"%.60s\"; did you mean \"%s\"?", name, near.best);
	return kt_fail(err, KT_E_INPUT, "name a shipped one (looker), or give a path that ends in .json",
		       "no playbook \"%.60s\"", name);
}

kt_code kt_playbook_load(const char *name, kt_playbook *out, kt_err *err)
{
	*out = (kt_playbook){0};
	size_t n = strlen(name);
	if (n > 5 && strcmp(name + n - 5, ".json") == 0) {
		KT_TRY(kt_json_doc_load(&out->doc, name, err));
		return read_or_free(out, err);
	}
	for (size_t i = 0; shipped[i]; i++) {
		char file[NAME_LEN];
		(void)snprintf(file, sizeof file, "%s.json", shipped[i]);
		const kt_embedded *f = embedded(file);
		if (f && strcmp(shipped[i], name) == 0)
			return kt_playbook_parse(file, f->data, f->len, out, err);
	}
	return no_such(name, err);
}

void kt_playbook_free(kt_playbook *p)
{
	if (!p)
		return;
	kt_json_doc_free(&p->doc);
	*p = (kt_playbook){0};
}

kt_code kt_playbook_check(const kt_playbook *p, kt_err *err)
{
	kt_playbook_view v = {.p = p};
	kt_code rc = kt_playbook_check_form(p, &v, err);
	if (rc == KT_OK)
		rc = kt_playbook_check_safety(&v, err);
	free(v.steps);
	return rc;
}
