/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Playbooks (docs/FORMATS.md, section 7): read, validated against playbooks/playbook.schema.json, and checked for
 * safety: one that could break S1..S6 is refused when it is loaded.
 */
#ifndef KT_PLAYBOOK_PLAYBOOK_H
#define KT_PLAYBOOK_PLAYBOOK_H

#include "base/codec.h"
#include "base/json.h"

/* The phases, in their order; kt_phase_find gives -1 for an unknown name. */
enum {
	KT_PHASE_PREFLIGHT,
	KT_PHASE_APPROVE,
	KT_PHASE_STOP,
	KT_PHASE_QUIET,
	KT_PHASE_BACKUP,
	KT_PHASE_KEY,
	KT_PHASE_REKEY,
	KT_PHASE_ENV,
	KT_PHASE_START,
	KT_PHASE_RETIRE,
	KT_PHASES
};
const char *kt_phase_name(int phase);
int kt_phase_find(const char *name);

/* Texts are borrowed from doc. */
typedef struct kt_playbook {
	kt_json_doc doc;
	const char *name;
	int64_t version;
	const char *title;
	char sha256[KT_SHA256_HEX]; /* of its canonical JSON: comments and layout don't count */
} kt_playbook;

/* `name` is a shipped playbook's ("looker"), or a path ending in .json. Validated and checked. KT_E_INPUT with file,
 * line and path; a broken safety rule names it (S1..S6) and why. KT_E_IO. */
KT_MUST_CHECK kt_code kt_playbook_load(const char *name, kt_playbook *out, kt_err *err);
/* The same from memory; `file` is for messages. */
KT_MUST_CHECK kt_code kt_playbook_parse(const char *file, const void *text, size_t len, kt_playbook *out, kt_err *err);
void kt_playbook_free(kt_playbook *p);

/* The safety rules alone, on a document that fits the schema; called by the two above. */
KT_MUST_CHECK kt_code kt_playbook_check(const kt_playbook *p, kt_err *err);

/* The names of the shipped playbooks, NULL at the end. */
const char *const *kt_playbook_names(void);

/* A commented cluster.json for this playbook, appended to `out`: loads as it is (kt_cluster_parse) and needs only the
 * hosts and the token filled in. For `keyturn init`. */
KT_MUST_CHECK kt_code kt_playbook_init_text(const kt_playbook *p, kt_buf *out, kt_err *err);

#endif
