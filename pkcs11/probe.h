/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a token really does: tried with throw-away session keys, checked with libcrypto, told in plain words. Flags and
 * attribute read-back are not believed. Nothing stays on the token, whatever happens: every object is a session object
 * (but for kt_probe_options.on_token).
 */
#ifndef KT_PKCS11_PROBE_H
#define KT_PKCS11_PROBE_H

#include "pkcs11/key.h"

typedef enum kt_probe_mark {
	KT_PROBE_OK,
	KT_PROBE_NOT_TRIED, /* something before it failed; `seen` says what */
	KT_PROBE_WARNING,   /* keyturn works with it, and a person should know */
	KT_PROBE_UNFIT      /* keyturn refuses the token for this role */
} kt_probe_mark;

typedef enum kt_probe_role {
	KT_PROBE_COORDINATOR, /* makes, escrows and wraps the cluster keys */
	KT_PROBE_NODE,        /* holds a node's transport key */
	KT_PROBE_ROLES
} kt_probe_role;

enum { KT_PROBE_ROWS = 96, KT_PROBE_ID = 64, KT_PROBE_SEEN = 200, KT_PROBE_BECAUSE = 512 };

typedef struct kt_probe_row {
	char id[KT_PROBE_ID]; /* stable: "policy.extractable-wrap", "corrupt.CKM_AES_KEY_WRAP" */
	kt_probe_role role;
	kt_probe_mark mark;
	const char *what, *expected; /* static */
	char seen[KT_PROBE_SEEN];
	const char *words; /* what that means for keyturn, in one sentence; "" when nothing. Static */
} kt_probe_row;

typedef struct kt_probe_report {
	kt_token_info token;
	size_t n;
	kt_probe_row row[KT_PROBE_ROWS];
} kt_probe_report;

/* How the token is tried as a node's: with the RSA pair of this name; NULL: with a throw-away one. Where the token
 * makes none that does not stay, `on_token` allows one on the token, "keyturn-probe", which is destroyed afterwards. */
typedef struct kt_probe_options {
	const kt_token_key_name *node_key;
	bool on_token;
} kt_probe_options;

/*
 * Try everything on an open token, about a second in software. KT_E_HSM when
 * there is no more sense in going on (the token is gone), KT_E_KEY when there is no such pair; what a token cannot do
 * is a row.
 */
KT_MUST_CHECK kt_code kt_token_probe(kt_token *t, const kt_probe_options *options, kt_probe_report *out, kt_err *err);

/* The table of mechanisms that keyturn tries, in order of preference, as a new JSON array, the caller's: of each
 * `format`, `mechanism`, `number`, `maker` ("" for the standard's), `tested` and `note`. */
KT_MUST_CHECK kt_code kt_mechanisms_to_json(cJSON **out, kt_err *err);

/* "ok", "not tried", "warning", "unfit". */
const char *kt_probe_mark_name(kt_probe_mark mark);
/* The worst mark of a role's rows, KT_PROBE_OK at the least. */
kt_probe_mark kt_probe_verdict(const kt_probe_report *r, kt_probe_role role);
/* The verdict in words: "fit", "fit with warnings", "unfit because ..." with each reason. */
void kt_probe_verdict_words(const kt_probe_report *r, kt_probe_role role, char out[KT_PROBE_BECAUSE]);
/* The report as a new JSON object (docs/FORMATS.md, "Probe of a token"), the caller's. `date`: as in kt_clock_format.
 */
KT_MUST_CHECK kt_code kt_probe_to_json(const kt_probe_report *r, const char *date, cJSON **out, kt_err *err);

#endif
