/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a key is, as text: what coordinator, agent and keystores have in common about keystore URIs. Pure: nothing is
 * opened here.
 *   file:/absolute/path   env:NAME                                 the key itself is on the node
 *   pkcs11:… (RFC 7512)   awskms:KEY[?region=REGION][&context=TEXT]  the key stays in a token, or in AWS KMS
 *   legacy:               no key of anybody's yet: the data is in the application's legacy form, which a turn ends
 */
#ifndef KT_BASE_KEYURI_H
#define KT_BASE_KEYURI_H

#include "base/buf.h"

typedef enum kt_keyuri_kind {
	KT_KEYURI_FILE,
	KT_KEYURI_ENV,
	KT_KEYURI_PKCS11,
	KT_KEYURI_AWSKMS,
	KT_KEYURI_LEGACY,
	KT_KEYURI_KINDS
} kt_keyuri_kind;

/* "file", "env", "pkcs11", "awskms", "legacy": the scheme without its colon, and back; false for any other name. */
const char *kt_keyuri_name(kt_keyuri_kind kind);
bool kt_keyuri_named(const char *name, kt_keyuri_kind *out);
/* The kind of a URI, and where the text after its scheme begins; false when it is of none. */
bool kt_keyuri_kind_of(const char *uri, kt_keyuri_kind *out, const char **rest);
/* Does such a key never leave the place where it was made? Then nobody can copy, escrow or deliver it. What protects
 * the legacy form is in the data and the application, and stays there, too. */
bool kt_keyuri_stays(kt_keyuri_kind kind);
/* Is it none: nothing to look for, to compare, to keep or to destroy? So for the legacy form alone. */
bool kt_keyuri_none(kt_keyuri_kind kind);

enum { KT_AWSURI_NAME = 300, KT_AWSURI_REGION = 33, KT_AWSURI_CONTEXT = 257 }; /* sizes with the NUL */

/* The parts of an awskms: URI. */
typedef struct kt_awsuri {
	char name[KT_AWSURI_NAME];       /* alias/NAME, a key's id, or an ARN of either */
	char region[KT_AWSURI_REGION];   /* as said, or the ARN's; "": not said */
	char context[KT_AWSURI_CONTEXT]; /* printable UTF-8, percent-decoded; "": not said */
} kt_awsuri;

/* What follows "awskms:". KT_E_INPUT: no key, an unknown or repeated part, a region that is not that of the ARN. */
KT_MUST_CHECK kt_code kt_awsuri_parse(const char *rest, kt_awsuri *out, kt_err *err);
/* The same from its parts, NULL or "" where nothing is said; KT_E_INPUT as above. */
KT_MUST_CHECK kt_code kt_awsuri_make(const char *name, const char *region, const char *context, kt_awsuri *out,
				     kt_err *err);
/* The whole URI, appended; what is "" is left out. */
KT_MUST_CHECK kt_code kt_awsuri_format(const kt_awsuri *uri, kt_buf *out, kt_err *err);

#endif
