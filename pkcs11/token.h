/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A token: one module, one token of it, one logged-in read-write session. One thread at a time may use a kt_token;
 * open one for each thread (a session shared by two threads crashes common modules).
 *
 * What the program must see to:
 * - SIGPIPE is ignored (p11-kit remoting dies by it);
 * - no fork() after kt_token_open in a process that goes on to use the token; children are exec'd;
 * - kt_secret_setup() was called.
 */
#ifndef KT_PKCS11_TOKEN_H
#define KT_PKCS11_TOKEN_H

#include "base/json.h"
#include "pkcs11/uri.h"

typedef struct kt_token kt_token;

/* What names a token, and what it runs on. Texts are without their padding; label and serial together identify it
 * within a module. */
typedef struct kt_token_info {
	char label[KT_URI_TOKEN];
	char manufacturer[KT_URI_MANUFACTURER];
	char serial[KT_URI_SERIAL];
	char model[KT_URI_MODEL];
	char module[KT_URI_PATH]; /* file or name of the module */
	char hardware[12];        /* versions as "2.61" */
	char firmware[12];
	char library[33]; /* CK_INFO of the module: description, manufacturer, version, version of the standard */
	char library_manufacturer[33];
	char library_version[12];
	char cryptoki[12];
	unsigned long flags; /* CK_TOKEN_INFO.flags, for kt_token_flags and kt_token_pin_state */
	bool initialized;    /* CKF_TOKEN_INITIALIZED; kt_token_open takes no other */
} kt_token_info;

/* The flags that matter, in words: "login required, write-protected"; "" when none is set. Cut to `size`. */
void kt_token_flags(const kt_token_info *info, char *out, size_t size);
/* What the token says of the user PIN: "ok", "low" (a wrong one was used), "last" (one try is left), "locked", "unset".
 * Static. */
const char *kt_token_pin_state(const kt_token_info *info);

/*
 * Load the module, choose the token that a pkcs11: URI names (KT_E_HSM when none or more than one fits; the message
 * lists the candidates), open a session and log in as the user. The PIN (pkcs11/pin.h) is used for exactly one C_Login
 * and wiped; it is never tried again. Where the process is logged in to the token already, no PIN is asked for. The
 * last try that a token allows is not spent, unless a person types the PIN. KT_E_INPUT for a malformed URI. *out is the
 * caller's: kt_token_close. `object`, `id` and `type` of the URI play no part here.
 */
KT_MUST_CHECK kt_code kt_token_open(const char *uri, kt_token **out, kt_err *err);
/* Session objects end here; other sessions of the process stay. NULL is fine. */
void kt_token_close(kt_token *t);

/* One more session of an open token, for another thread; what was found out about the token is known to it, too. Close
 * it before the one that it came from. */
KT_MUST_CHECK kt_code kt_token_another(const kt_token *t, const char *uri, kt_token **out, kt_err *err);
/*
 * The session was lost: open another one, and log in again where the process is not logged in any more, with the PIN of
 * the same source (the URI that it was opened by). Keys found before are not valid any more. Where the PIN could be
 * read only once it is not asked for again: KT_E_HSM. Otherwise errors as for kt_token_open.
 */
KT_MUST_CHECK kt_code kt_token_again(kt_token *t, const char *uri, kt_err *err);

/* Who it is, as read when it was opened. Owned by the token. */
const kt_token_info *kt_token_get_info(const kt_token *t);
/* Ask again whether the very same token is still there (C_GetTokenInfo): a vanished SoftHSM folder shows only here.
 * KT_E_HSM when it is not. */
KT_MUST_CHECK kt_code kt_token_check(kt_token *t, kt_err *err);

/* Describe it in new members of `o`: label, serial, manufacturer, model, hardware, firmware, and `module` with path,
 * library, manufacturer, version, cryptoki. */
KT_MUST_CHECK kt_code kt_token_info_json(const kt_token_info *info, cJSON *o, kt_err *err);

/* All tokens that can be seen, uninitialised ones included; of the URI's module when `uri` is not NULL, else of all
 * that p11-kit is configured for. No login. *out is the caller's: free(). */
KT_MUST_CHECK kt_code kt_token_list(const char *uri, kt_token_info **out, size_t *n, kt_err *err);

#endif
