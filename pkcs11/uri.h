/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pkcs11: URIs (RFC 7512), parsed strictly: every attribute must be known, occur once, be non-empty and fit the field
 * that it is compared with. A token is named by label and serial (and model, manufacturer, module), never by slot
 * number. The text of a URI is never copied into an error, since a careless one may hold a PIN.
 */
#ifndef KT_PKCS11_URI_H
#define KT_PKCS11_URI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

enum {
	KT_URI_TOKEN = 33, /* sizes with the closing NUL: the fields of CK_TOKEN_INFO (PKCS#11 v3.0 §3.2) */
	KT_URI_MANUFACTURER = 33,
	KT_URI_SERIAL = 17,
	KT_URI_MODEL = 17,
	KT_URI_OBJECT = 129,
	KT_URI_ID = 64, /* bytes of CKA_ID, no NUL */
	KT_URI_PATH = 1024
};

/* An empty text means that the attribute was absent; id_len 0 the same for `id`. */
typedef struct kt_uri {
	char token[KT_URI_TOKEN];
	char manufacturer[KT_URI_MANUFACTURER];
	char serial[KT_URI_SERIAL];
	char model[KT_URI_MODEL];
	char object[KT_URI_OBJECT];
	char type[16]; /* "secret-key", "private", "public", ... */
	uint8_t id[KT_URI_ID];
	size_t id_len;
	char module_path[KT_URI_PATH];   /* the module to load, by absolute path */
	char module_name[64];            /* or the name of one that p11-kit is configured for */
	char init_reserved[KT_URI_PATH]; /* x-init-reserved: given to the module at C_Initialize as pReserved (NSS) */
	char pin_source[KT_URI_PATH];    /* where the PIN is; see pkcs11/pin.h */
} kt_uri;

/* KT_E_INPUT: not a pkcs11: URI, or one that we do not take. `pin-value` is refused; the remedy names `pin-source`. */
KT_MUST_CHECK kt_code kt_uri_parse(const char *text, kt_uri *out, kt_err *err);
/* The URI as text without its pin-source, for messages and records; appended to `out`. */
KT_MUST_CHECK kt_code kt_uri_format(const kt_uri *uri, kt_buf *out, kt_err *err);

#endif
