/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pinned transport keys: what the coordinator knows of each node's key (docs/FORMATS.md, section 4). `nodes/NODE.json`
 * in the state folder is the pin, a record, replaced as a whole; `nodes/NODE.pem` beside it is a copy of the public
 * half for other tools, which nothing here reads. Pins that were replaced stay in it as history.
 */
#ifndef KT_TURN_PINS_H
#define KT_TURN_PINS_H

#include "base/codec.h"
#include "base/json.h"
#include "wire/blob.h"

typedef struct kt_pin {
	char *at;                        /* where the node has it: "file", or a pkcs11: URI without its query */
	char *public_pem;                /* SubjectPublicKeyInfo */
	char spki_sha256[KT_SHA256_HEX]; /* of its DER, hex */
	int64_t bits;
	unsigned formats; /* bits 1 << kt_blob_format of what the node opens; tried at enrolment */
	int64_t since_ms; /* when it was pinned */
} kt_pin;

/* The pin of a node; *found is false when there is none. KT_E_AUDIT: it is damaged, the message names it. Free with
 * kt_pin_free, also when nothing was found. */
KT_MUST_CHECK kt_code kt_pin_load(const char *state, const char *node, bool *found, kt_pin *out, kt_err *err);
/*
 * Pin a key, durably, since now; `at` and `public_pem` are borrowed. What was pinned before goes into the history with
 * `why` ("rotated", "replaced"); the same key again keeps its date.
 */
KT_MUST_CHECK kt_code kt_pin_save(const char *state, const char *node, const kt_pin *pin, const char *why, kt_err *err);
void kt_pin_free(kt_pin *pin);

/* What a node opens whose key does OAEP with this hash: the RSA formats with it. */
unsigned kt_pin_formats(bool sha256);

/* The transport keys that a plan names, to be found by node. Borrows the plan. One thread at a time. */
typedef struct kt_plan_pins kt_plan_pins;
KT_MUST_CHECK kt_code kt_plan_pins_new(const cJSON *plan, kt_plan_pins **out, kt_err *err);
/* The digest of a node's key; NULL when the plan names none. */
const char *kt_plan_pins_find(kt_plan_pins *p, const char *node);
/* Is each of them still the pinned one? KT_E_REFUSED names the first node where it is not. */
KT_MUST_CHECK kt_code kt_plan_pins_check(const kt_plan_pins *p, const char *state, kt_err *err);
void kt_plan_pins_free(kt_plan_pins *p);

#endif
