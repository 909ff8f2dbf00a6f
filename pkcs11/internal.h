/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of pkcs11/ share; nobody outside includes this. */
#ifndef KT_PKCS11_INTERNAL_H
#define KT_PKCS11_INTERNAL_H

#include <p11-kit/pkcs11.h>

#include "pkcs11/key.h"
#include "pkcs11/mechanism.h"
#include "pkcs11/token.h"
#include "pkcs11/transport.h"
#include "pkcs11/watch.h"
#include "wire/blob.h"

/* --- errors.c ----------------------------------------------------------------------------------------------------- */

/* The call that kt_watch_begin noted has ended: write it and its result to the trace (never its arguments), and note
 * whether it says that session or device are lost; returns rv. */
CK_RV kt_p11_trace(const char *call, CK_RV rv);
/* What this thread's calls said since the last kt_p11_forget: was the session or the device lost, was a PIN refused? */
bool kt_p11_lost(void);
bool kt_p11_pin_refused(void);
bool kt_p11_pin_locked(void); /* refused, but by a token that did not even look at it */
void kt_p11_forget(void);
/* The token itself was seen to be gone, though the call said nothing of the kind. */
void kt_p11_note_lost(void);
/* "CKR_PIN_INCORRECT"; for a value without a name "CKR_VENDOR_DEFINED" or "an unknown CKR". Static. */
const char *kt_p11_rv_name(CK_RV rv);
/* The error that (call, rv) stands for, with its likely cause and remedy; `where` names the module's file, and the
 * token where there is one. */
KT_MUST_CHECK kt_code kt_p11_fail(const char *where, const char *call, CK_RV rv, kt_err *err);
/* Trace; KT_OK for CKR_OK, else kt_p11_fail. */
KT_MUST_CHECK kt_code kt_p11_check(const char *where, const char *call, CK_RV rv, kt_err *err);

/* Every call of a C_ function is one of these two. P11_RV gives the CK_RV, P11 a kt_code. */
#define P11_RV(f, call, ...) (kt_watch_begin(#call), kt_p11_trace(#call, (f)->call(__VA_ARGS__)))
#define P11(t, err, call, ...) (kt_watch_begin(#call), kt_p11_check((t)->name, #call, (t)->f->call(__VA_ARGS__), err))

/* --- module.c ----------------------------------------------------------------------------------------------------- */

typedef struct kt_p11_module {
	CK_FUNCTION_LIST *f;
	bool ready; /* C_Initialize done */
	char name[KT_URI_PATH];
} kt_p11_module;

/* Invariant: list and, unless a single one was loaded by path, `loaded` are owned. */
typedef struct kt_p11_modules {
	kt_p11_module *list;
	size_t n;
	CK_FUNCTION_LIST **loaded; /* p11-kit's array */
	kt_err failed;             /* why the first module that did not start did not; KT_OK when all did */
} kt_p11_modules;

/* Load and initialise the modules that the URI allows. With module-path, failure of that one is an error; else modules
 * that do not start are left out and `failed` says why. */
KT_MUST_CHECK kt_code kt_p11_modules_open(const kt_uri *uri, kt_p11_modules *out, kt_err *err);
/* Finalise all but one. */
void kt_p11_modules_keep(kt_p11_modules *m, const CK_FUNCTION_LIST *f);
void kt_p11_modules_close(kt_p11_modules *m);

/* --- token.c ------------------------------------------------------------------------------------------------------ */

struct kt_token {
	kt_p11_modules modules;
	CK_FUNCTION_LIST *f; /* of the chosen module */
	CK_SLOT_ID slot;
	CK_SESSION_HANDLE session;
	kt_token_info info;
	char name[160]; /* for messages */
	bool probed_aes, probed_oaep;
	kt_p11_maker maker;
	kt_p11_mechanism by_format[KT_BLOB_FORMATS]; /* what was found to give it, name NULL: nothing */
	/* Of kt_token_working_key: names and check value of the key, handle of the copy; 0: none in this session. Its
	 * MAC key is kept once it was asked for. */
	kt_token_key working;
	kt_secret working_mac_key;
};

/* --- key.c -------------------------------------------------------------------------------------------------------- */

/* The attributes that a key must have; each is set in the template and read back. */
typedef struct kt_p11_policy {
	const char *what; /* "wrapping key" */
	CK_BBOOL on_token, sensitive, extractable, wrap, sign;
} kt_p11_policy;

extern const kt_p11_policy kt_p11_cluster_on_token;
extern const kt_p11_policy kt_p11_cluster_session; /* a cluster key as a session object */
extern const kt_p11_policy kt_p11_readable;        /* a session key whose value this process may read */

enum { KT_P11_TEMPLATE = 24 };
/* A template that points into itself: do not copy it. */
typedef struct kt_p11_template {
	CK_ATTRIBUTE a[KT_P11_TEMPLATE];
	CK_ULONG n;
	CK_BBOOL yes, no;
	CK_OBJECT_CLASS class;
	CK_KEY_TYPE type;
	CK_ULONG value_len;
} kt_p11_template;

void kt_p11_template_add(kt_p11_template *tpl, CK_ATTRIBUTE_TYPE type, const void *value, size_t n);
/* Class, type and the policy's attributes of an AES key; neither CKA_VALUE_LEN nor CKA_MODIFIABLE. */
void kt_p11_template_key(kt_p11_template *tpl, const kt_p11_policy *policy);
/* Label and id. */
void kt_p11_template_name(kt_p11_template *tpl, const kt_token_key_name *name);
/* Generate an AES-256 key by a template of kt_p11_template_key, and read it back; destroyed on mismatch. */
KT_MUST_CHECK kt_code kt_p11_generate(kt_token *t, kt_p11_template *tpl, const kt_p11_policy *policy,
				      CK_OBJECT_HANDLE *out, kt_err *err);
/* Compare a key's attributes with the policy's. KT_E_REFUSED names the first that differs. */
KT_MUST_CHECK kt_code kt_p11_policy_check(kt_token *t, CK_OBJECT_HANDLE key, const kt_p11_policy *policy, kt_err *err);
/* The value of a readable key, 32 bytes. */
KT_MUST_CHECK kt_code kt_p11_read_value(kt_token *t, CK_OBJECT_HANDLE key, kt_secret *out, kt_err *err);
/* Destroy an object of ours in a cleanup; a failure is logged. 0 is fine. */
void kt_p11_discard(kt_token *t, CK_OBJECT_HANDLE object);

/* --- transport.c -------------------------------------------------------------------------------------------------- */

/* What an RSA pair is for. The tables of transport.h and rsa_key.h say what each must be. */
typedef struct kt_p11_pair {
	const char *what; /* "transport key" */
	bool on_token;
	bool unwrap_only; /* never CKA_DECRYPT */
} kt_p11_pair;

extern const kt_p11_pair kt_p11_transport_pair;

/* What kt_token_transport_list and kt_token_transport_make do, for a kind of pair. */
KT_MUST_CHECK kt_code kt_p11_pair_list(kt_token *t, const kt_p11_pair *kind, const kt_token_key_name *name,
				       kt_token_transport *out, size_t *n, kt_err *err);
KT_MUST_CHECK kt_code kt_p11_pair_make(kt_token *t, const kt_p11_pair *kind, const kt_token_key_name *name,
				       unsigned bits, kt_token_transport *out, kt_err *err);

/* --- mac.c -------------------------------------------------------------------------------------------------------- */

KT_MUST_CHECK kt_code kt_p11_kcv(kt_token *t, CK_OBJECT_HANDLE key, char out[KT_KCV_TEXT], kt_err *err);
/* Set the MAC of a blob that carries `key` and is complete otherwise; the same as kt_blob_seal. */
KT_MUST_CHECK kt_code kt_p11_seal(kt_token *t, CK_OBJECT_HANDLE key, kt_blob *blob, kt_err *err);
/* KT_OK when KCV and MAC of the blob are those of `key`, else KT_E_KEY; the same as kt_blob_check_key. */
KT_MUST_CHECK kt_code kt_p11_check_blob(kt_token *t, CK_OBJECT_HANDLE key, const kt_blob *blob, kt_err *err);

/* --- wrap.c, probe.c ---------------------------------------------------------------------------------------------- */

/* C_WrapKey of `key` in a format by one mechanism into out->wrapped; sets format, mechanism, mechanism_id, wrapped_len.
 */
KT_MUST_CHECK kt_code kt_p11_wrap(kt_token *t, kt_blob_format format, const kt_p11_mechanism *mechanism,
				  CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, kt_blob *out, kt_err *err);
/* C_UnwrapKey of n bytes in a format into an object of the policy, with a name unless it is NULL; read back, destroyed
 * on a mismatch. Nothing is known of the key itself: kt_p11_check_blob. */
KT_MUST_CHECK kt_code kt_p11_unwrap(kt_token *t, kt_blob_format format, const kt_p11_mechanism *mechanism,
				    CK_OBJECT_HANDLE wrapping, const uint8_t *wrapped, size_t n,
				    const kt_p11_policy *policy, const kt_token_key_name *name, CK_OBJECT_HANDLE *out,
				    kt_err *err);
/* Open a blob of an AES format (kt_p11_may_unwrap said so) into an object of the policy, as above; read back, and KCV
 * and MAC checked. */
KT_MUST_CHECK kt_code kt_p11_unwrap_under(kt_token *t, const kt_blob *blob, CK_OBJECT_HANDLE wrapping,
					  const kt_p11_policy *policy, const kt_token_key_name *name,
					  CK_OBJECT_HANDLE *out, kt_err *err);
/* KT_OK when the token does the blob's AES format and `wrapping` is the key that the blob names; probes if need be. */
KT_MUST_CHECK kt_code kt_p11_may_unwrap(kt_token *t, const kt_blob *blob, const kt_token_key *wrapping, kt_err *err);
/* Fill in what was found about AES or OAEP formats, once per token. KT_E_HSM only when probing itself cannot be done.
 */
KT_MUST_CHECK kt_code kt_p11_probe_aes(kt_token *t, kt_err *err);
KT_MUST_CHECK kt_code kt_p11_probe_oaep(kt_token *t, kt_err *err);
/* The throw-away RSA pair that probes of this process wrap to; made once. NULL when libcrypto makes none. */
EVP_PKEY *kt_p11_probe_pair(void);
/* Is it a failure of C_UnwrapKey after which CKA_VALUE_LEN may be what was missing? */
bool kt_p11_may_want_length(CK_RV rv);
/* C_WrapKey of `key` alone; *n is the room in `out`, and then what was written. */
KT_MUST_CHECK kt_code kt_p11_wrap_bytes(kt_token *t, kt_blob_format format, const kt_p11_mechanism *mechanism,
					CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, uint8_t *out, size_t *n,
					kt_err *err);
/* A blob in which `key` is wrapped already: the rest of what its MAC is over (`wrapping` is NULL for RSA), and the MAC.
 */
KT_MUST_CHECK kt_code kt_p11_finish_blob(kt_token *t, const kt_token_key *key, const kt_token_key *wrapping,
					 kt_blob *out, kt_err *err);
/* Destroy the copy of kt_token_working_key, where there is one. */
void kt_p11_drop_working(kt_token *t);
/* The same when the session that it was in has ended. */
void kt_p11_forget_working(kt_token *t);
/* Give `rc` back; unless it is KT_OK, the key is destroyed and its handle 0. */
KT_MUST_CHECK kt_code kt_p11_keep_if(kt_token *t, kt_code rc, CK_OBJECT_HANDLE *key);

/* --- wrap_rsa.c --------------------------------------------------------------------------------------------------- */

/*
 * Open a blob of an RSA format within the token that has the private key, into an object of the policy, with a name
 * unless it is NULL; read back, KCV and MAC checked. That the blob is for this key the caller has seen
 * (kt_blob_for_rsa).
 */
KT_MUST_CHECK kt_code kt_p11_unwrap_rsa(kt_token *t, const kt_blob *blob, CK_OBJECT_HANDLE private_key,
					const kt_p11_policy *policy, const kt_token_key_name *name,
					CK_OBJECT_HANDLE *out, kt_err *err);

#endif
