/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one table of wrapping mechanisms: which number may give which format, in order of preference. A row is a
 * candidate, never a promise: it is used once a throw-away key has gone there and back by it (probe.c). PKCS#1 v1.5 and
 * CBC are in no row: the one leaks by its padding, the other does not show that a blob was changed
 * (kt_blob_refuse_mechanism refuses blobs that name them).
 */
#ifndef KT_PKCS11_MECHANISM_H
#define KT_PKCS11_MECHANISM_H

#include <p11-kit/pkcs11.h>

#include "base/result.h"
#include "wire/blob.h"

/* PKCS#11 v3.0 §2.14.3; p11-kit 0.24's header ends at v2.40. */
#ifndef CKM_AES_KEY_WRAP_KWP
#define CKM_AES_KEY_WRAP_KWP (0x210BUL)
#endif
/* PKCS#11 v2.40 §2.1.21 */
#ifndef CKM_RSA_AES_KEY_WRAP
#define CKM_RSA_AES_KEY_WRAP (0x1054UL)
#endif

/* Whose number it is. The maker of a module is told by its own words (CK_INFO, CK_TOKEN_INFO). */
typedef enum kt_p11_maker {
	KT_P11_ANYBODY, /* the standard's number */
	KT_P11_CLOUDHSM,
	KT_P11_LUNA,
	KT_P11_NSHIELD,
	KT_P11_YUBIHSM,
	KT_P11_MAKERS
} kt_p11_maker;

/* The parameter of the mechanism. */
typedef enum kt_p11_parameter {
	KT_P11_NO_PARAMETER, /* the RFC's own initial value: a given one is refused by some */
	KT_P11_OAEP,         /* hash and MGF1 hash of the format, no label (CloudHSM takes no other) */
	KT_P11_RSA_AES       /* the same, and an ephemeral key of 256 bits */
} kt_p11_parameter;

typedef struct kt_p11_mechanism {
	CK_MECHANISM_TYPE type;
	const char *name; /* as blobs and reports say it; NULL: none */
	kt_blob_format format;
	bool named; /* the number promises the format; believed only where a token gives no key away to check it with */
	kt_p11_maker maker;
	kt_p11_parameter parameter;
	bool tested; /* against a token of this project's tests; else *untested here*, from the maker's documentation */
	const char *note;
} kt_p11_mechanism;

/* All rows, the better of a format first; ends with a NULL name. */
const kt_p11_mechanism *kt_p11_mechanisms(void);
/* The first row for a format on a module of this maker; where there is none, the row with the NULL name. */
const kt_p11_mechanism *kt_p11_mechanism_of(kt_blob_format format, kt_p11_maker maker);
/* Whose module says this of itself: any of the texts (NULL-terminated) has one of the maker's words in it. */
kt_p11_maker kt_p11_maker_of(const char *const *texts);
/* "AWS CloudHSM"; "" for KT_P11_ANYBODY. */
const char *kt_p11_maker_name(kt_p11_maker maker);
/* Is the row worth a try on a module of this maker? */
bool kt_p11_applies(const kt_p11_mechanism *mechanism, kt_p11_maker maker);

#endif
