/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the deep probe (probe_*.c) share: a question is a row of a table, and asking it tries something. */
#ifndef KT_PKCS11_PROBE_INTERNAL_H
#define KT_PKCS11_PROBE_INTERNAL_H

#include <openssl/evp.h>

#include "pkcs11/internal.h"
#include "pkcs11/probe.h"

enum { KT_PROBE_BYTES = 1024, KT_PROBE_OBJECTS = 256, KT_PROBE_MECHANISMS = 8 };

/* What came out of C_WrapKey, or goes into C_UnwrapKey. */
typedef struct kt_probe_blob {
	CK_BYTE bytes[KT_PROBE_BYTES];
	CK_ULONG n;
} kt_probe_blob;

/* A mechanism that wrapped and unwrapped; `format` was found with libcrypto, `padded`: it is RFC 3394 of PKCS#7. */
typedef struct kt_probe_found {
	const kt_p11_mechanism *mechanism;
	bool known, padded;
	kt_blob_format format;
} kt_probe_found;

/* Invariant: every object that was made stands in `made` until it is destroyed at the end. */
typedef struct kt_probe {
	kt_token *t;
	kt_probe_report *report;
	CK_OBJECT_HANDLE kek;    /* throw-away AES-256 wrapping key; 0: the token makes none */
	CK_OBJECT_HANDLE target; /* throw-away AES-256 key that may be wrapped */
	bool macs;               /* it does AES-CMAC */
	bool readable;           /* the token shows the value of keys that are not sensitive */
	CK_BYTE kek_value[32], target_value[32];
	kt_probe_found found[KT_PROBE_MECHANISMS];
	size_t n_found;
	const kt_probe_found *now;   /* the mechanism that a question of each mechanism is about */
	const kt_p11_mechanism *use; /* what a key is escrowed by; NULL: nothing works */
	CK_OBJECT_HANDLE made[KT_PROBE_OBJECTS];
	size_t n_made;
} kt_probe;

typedef enum kt_probe_answer { KT_PROBE_GOOD, KT_PROBE_BAD, KT_PROBE_SKIPPED } kt_probe_answer;

typedef struct kt_probe_question {
	const char *id, *what, *expected;
	const char *good, *bad; /* what a good and a bad answer mean, in words */
	kt_probe_mark mark;     /* of a bad answer */
	kt_probe_role role;
	bool each; /* asked of every mechanism that was found; the id gets its name */
	kt_probe_answer (*ask)(kt_probe *p, char seen[KT_PROBE_SEEN]);
} kt_probe_question;

/* Ask a table of questions; it ends with a NULL id. */
void kt_probe_ask(kt_probe *p, const kt_probe_question *questions);
/* Add a row; `seen` is copied, the other texts must be static. */
void kt_probe_add(kt_probe *p, const kt_probe_row *row, const char *seen);

/* --- probe_key.c: throw-away keys --------------------------------------------------------------------------------- */

/* What a throw-away secret key is to be; all false: an AES key that is sensitive, extractable and can do nothing. */
typedef struct kt_probe_key {
	CK_ULONG bytes; /* 0: 32 */
	bool generic, readable, fixed /* not extractable */, wraps, macs, decrypts;
	const CK_ATTRIBUTE *extra; /* one more attribute, or NULL */
} kt_probe_key;

CK_RV kt_probe_generate(kt_probe *p, const kt_probe_key *key, CK_OBJECT_HANDLE *out);
CK_RV kt_probe_wrap(kt_probe *p, CK_MECHANISM *m, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, kt_probe_blob *out);
/* Without CKA_VALUE_LEN; with it where the token answers that something is missing. */
CK_RV kt_probe_unwrap(kt_probe *p, CK_MECHANISM *m, CK_OBJECT_HANDLE wrapping, const kt_probe_blob *blob,
		      const kt_probe_key *key, CK_OBJECT_HANDLE *out);
/* 1, 0, or -1 when the token does not tell. */
int kt_probe_flag(kt_probe *p, CK_OBJECT_HANDLE key, CK_ATTRIBUTE_TYPE type);
/* CKA_VALUE: how many bytes, 0 when the token does not give it. */
CK_ULONG kt_probe_value(kt_probe *p, CK_OBJECT_HANDLE key, CK_BYTE *out, CK_ULONG size);
/* The object is one of the probe's, to be destroyed at the end. */
void kt_probe_keep(kt_probe *p, CK_OBJECT_HANDLE object);
void kt_probe_destroy_all(kt_probe *p);

/* --- the topics ----------------------------------------------------------------------------------------------------*/

/* Fill found[] and use, with a row for each mechanism. */
void kt_probe_mechanisms(kt_probe *p);
extern const kt_probe_question kt_probe_mac[]; /* asked first: much depends on it */
extern const kt_probe_question kt_probe_wrapping[];
extern const kt_probe_question kt_probe_policy[];
extern const kt_probe_question kt_probe_lengths[];
extern const kt_probe_question kt_probe_sessions[];
/* As a node's token: an RSA key pair of it opens what libcrypto wrapped to it. */
KT_MUST_CHECK kt_code kt_probe_node(kt_probe *p, const kt_probe_options *options, kt_err *err);

#endif
