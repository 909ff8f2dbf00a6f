/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PKCS#11 module that passes every call to SoftHSM, except where a test told it to behave as other tokens do (see
 * docs of the tokens: NSS, openCryptoki, Luna, CloudHSM). The test finds the control block of the loaded module by
 * shim_get().
 *
 * Where it is loaded into another process than the test's, a folder tells it what goes wrong: KT_SHIM/C_WrapKey says
 * what the next C_WrapKey does, and is removed before it does that:
 *   hang            never comes back
 *   crash           SIGSEGV
 *   rv NUMBER       returns that value without asking SoftHSM
 *   print TEXT      to stderr, then as usual
 * "always " before it: every call, and the file stays. "after N " (first): the N calls before it are as usual. Calls
 * that look: C_Initialize, C_OpenSession, C_Login, C_GetTokenInfo, C_FindObjectsInit, C_GenerateKey, C_CreateObject,
 * C_WrapKey, C_UnwrapKey, C_SignInit, C_Sign. Each C_Login leaves a line in KT_SHIM/logins.
 */
#ifndef KT_TESTS_UNIT_PKCS11_SHIM_H
#define KT_TESTS_UNIT_PKCS11_SHIM_H

#include <p11-kit/pkcs11.h>
#include <stdbool.h>

typedef struct shim_control {
	CK_FLAGS add_flags;             /* added to the token's */
	CK_FLAGS drop_flags;            /* removed from the token's */
	CK_RV initialize_rv;            /* C_Initialize fails with this */
	CK_RV login_rv;                 /* C_Login returns this without asking SoftHSM */
	unsigned logins;                /* calls of C_Login */
	CK_MECHANISM_TYPE deny_wrap[4]; /* C_WrapKey: CKR_MECHANISM_INVALID */
	CK_MECHANISM_TYPE deny_sign;    /* C_SignInit: CKR_MECHANISM_INVALID */
	bool pad_is_long;      /* CKM_AES_KEY_WRAP_PAD gives 48 bytes, as RFC 3394 of PKCS#7-padded bytes does (NSS) */
	bool pad_is_rfc3394;   /* CKM_AES_KEY_WRAP_PAD is CKM_AES_KEY_WRAP in truth */
	bool oaep_is_sha1;     /* OAEP with SHA-256 is accepted, and done with SHA-1 */
	bool unwrap_wants_len; /* C_UnwrapKey without CKA_VALUE_LEN: CKR_TEMPLATE_INCOMPLETE */
	bool no_readable;      /* C_GenerateKey with CKA_SENSITIVE false: CKR_TEMPLATE_INCONSISTENT */
	bool finds_nothing;    /* C_FindObjects: none */
	bool hide_attributes;  /* C_GetAttributeValue does not know CKA_DECRYPT */
	bool rsa_aes;          /* C_WrapKey and C_UnwrapKey do CKM_RSA_AES_KEY_WRAP (SoftHSM 2.7, YubiHSM 2) */
	unsigned rsa_aes_calls;
	CK_ATTRIBUTE_TYPE lie_about; /* C_GetAttributeValue gives the opposite of this CK_BBOOL */
	CK_RV token_info_rv;         /* C_GetTokenInfo fails with this */
	CK_RV create_rv;             /* C_CreateObject fails with this */
	CK_RV unwrap_rv;             /* C_UnwrapKey fails with this */
	CK_RV random_rv;             /* C_GenerateRandom fails with this */
	unsigned randoms;            /* calls of C_GenerateRandom */
	bool shows_sensitive;        /* C_GetAttributeValue gives a CKA_VALUE of zeros where there is none to be had */
	bool wraps_all;              /* C_WrapKey gives 40 bytes for a key that may not be wrapped */
	bool takes_changed;          /* C_UnwrapKey makes some other key out of what does not open */
	bool mixes_threads;          /* C_Sign answers wrongly in every thread but the first one that asked */
	CK_ATTRIBUTE_TYPE flip_at_generate, flip_at_unwrap; /* this CK_BBOOL of the template becomes its opposite */
	long session_limit;                                 /* C_OpenSession beyond it: CKR_SESSION_COUNT; 0: none */
	_Atomic long objects;                               /* generated, created and unwrapped, less destroyed */
	_Atomic long sessions;                              /* opened, less closed */
} shim_control;

/* The control block of the shim at `path`, all zero: ordinary behaviour. */
shim_control *shim_get(const char *path);

#endif
