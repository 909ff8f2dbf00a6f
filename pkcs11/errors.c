/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"
#include "pkcs11/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME(rv)                                                                                                       \
	{                                                                                                              \
		rv, #rv                                                                                                \
	}
static const struct {
	CK_RV rv;
	const char *name;
} names[] = {
	NAME(CKR_OK),
	NAME(CKR_CANCEL),
	NAME(CKR_HOST_MEMORY),
	NAME(CKR_SLOT_ID_INVALID),
	NAME(CKR_GENERAL_ERROR),
	NAME(CKR_FUNCTION_FAILED),
	NAME(CKR_ARGUMENTS_BAD),
	NAME(CKR_NO_EVENT),
	NAME(CKR_NEED_TO_CREATE_THREADS),
	NAME(CKR_CANT_LOCK),
	NAME(CKR_ATTRIBUTE_READ_ONLY),
	NAME(CKR_ATTRIBUTE_SENSITIVE),
	NAME(CKR_ATTRIBUTE_TYPE_INVALID),
	NAME(CKR_ATTRIBUTE_VALUE_INVALID),
	NAME(CKR_DATA_INVALID),
	NAME(CKR_DATA_LEN_RANGE),
	NAME(CKR_DEVICE_ERROR),
	NAME(CKR_DEVICE_MEMORY),
	NAME(CKR_DEVICE_REMOVED),
	NAME(CKR_ENCRYPTED_DATA_INVALID),
	NAME(CKR_ENCRYPTED_DATA_LEN_RANGE),
	NAME(CKR_FUNCTION_CANCELED),
	NAME(CKR_FUNCTION_NOT_PARALLEL),
	NAME(CKR_FUNCTION_NOT_SUPPORTED),
	NAME(CKR_KEY_HANDLE_INVALID),
	NAME(CKR_KEY_SIZE_RANGE),
	NAME(CKR_KEY_TYPE_INCONSISTENT),
	NAME(CKR_KEY_NOT_NEEDED),
	NAME(CKR_KEY_CHANGED),
	NAME(CKR_KEY_NEEDED),
	NAME(CKR_KEY_INDIGESTIBLE),
	NAME(CKR_KEY_FUNCTION_NOT_PERMITTED),
	NAME(CKR_KEY_NOT_WRAPPABLE),
	NAME(CKR_KEY_UNEXTRACTABLE),
	NAME(CKR_MECHANISM_INVALID),
	NAME(CKR_MECHANISM_PARAM_INVALID),
	NAME(CKR_OBJECT_HANDLE_INVALID),
	NAME(CKR_OPERATION_ACTIVE),
	NAME(CKR_OPERATION_NOT_INITIALIZED),
	NAME(CKR_PIN_INCORRECT),
	NAME(CKR_PIN_INVALID),
	NAME(CKR_PIN_LEN_RANGE),
	NAME(CKR_PIN_EXPIRED),
	NAME(CKR_PIN_LOCKED),
	NAME(CKR_SESSION_CLOSED),
	NAME(CKR_SESSION_COUNT),
	NAME(CKR_SESSION_HANDLE_INVALID),
	NAME(CKR_SESSION_PARALLEL_NOT_SUPPORTED),
	NAME(CKR_SESSION_READ_ONLY),
	NAME(CKR_SESSION_EXISTS),
	NAME(CKR_SESSION_READ_ONLY_EXISTS),
	NAME(CKR_SESSION_READ_WRITE_SO_EXISTS),
	NAME(CKR_SIGNATURE_INVALID),
	NAME(CKR_SIGNATURE_LEN_RANGE),
	NAME(CKR_TEMPLATE_INCOMPLETE),
	NAME(CKR_TEMPLATE_INCONSISTENT),
	NAME(CKR_TOKEN_NOT_PRESENT),
	NAME(CKR_TOKEN_NOT_RECOGNIZED),
	NAME(CKR_TOKEN_WRITE_PROTECTED),
	NAME(CKR_UNWRAPPING_KEY_HANDLE_INVALID),
	NAME(CKR_UNWRAPPING_KEY_SIZE_RANGE),
	NAME(CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT),
	NAME(CKR_USER_ALREADY_LOGGED_IN),
	NAME(CKR_USER_NOT_LOGGED_IN),
	NAME(CKR_USER_PIN_NOT_INITIALIZED),
	NAME(CKR_USER_TYPE_INVALID),
	NAME(CKR_USER_ANOTHER_ALREADY_LOGGED_IN),
	NAME(CKR_USER_TOO_MANY_TYPES),
	NAME(CKR_WRAPPED_KEY_INVALID),
	NAME(CKR_WRAPPED_KEY_LEN_RANGE),
	NAME(CKR_WRAPPING_KEY_HANDLE_INVALID),
	NAME(CKR_WRAPPING_KEY_SIZE_RANGE),
	NAME(CKR_WRAPPING_KEY_TYPE_INCONSISTENT),
	NAME(CKR_RANDOM_SEED_NOT_SUPPORTED),
	NAME(CKR_RANDOM_NO_RNG),
	NAME(CKR_DOMAIN_PARAMS_INVALID),
	NAME(CKR_BUFFER_TOO_SMALL),
	NAME(CKR_SAVED_STATE_INVALID),
	NAME(CKR_INFORMATION_SENSITIVE),
	NAME(CKR_STATE_UNSAVEABLE),
	NAME(CKR_CRYPTOKI_NOT_INITIALIZED),
	NAME(CKR_CRYPTOKI_ALREADY_INITIALIZED),
	NAME(CKR_MUTEX_BAD),
	NAME(CKR_MUTEX_NOT_LOCKED),
	NAME(CKR_FUNCTION_REJECTED),
	{0xCE534351UL, "NSS's CKR_NSS_CERTDB_FAILED"},
};

/* What a failure means. Rows with a call stand before those that hold for any (call NULL); the first that fits is
 * taken. */
typedef struct meaning {
	const char *call;
	CK_RV rv;
	kt_code code;
	const char *cause;
	const char *remedy;
} meaning;

/* What it means of one vendor's module, before all others. `file` is a part of the module's file name, `variable` one
 * of the environment that decides what the module finds: its value is told. */
typedef struct vendor_meaning {
	const char *file;
	meaning is;
	const char *variable;
} vendor_meaning;

#define SOFTHSM "softhsm"
#define TPM "tpm2_pkcs11"
#define OCK "opencryptoki"
#define NSS "softokn"

static const vendor_meaning vendor_meanings[] = {
	{SOFTHSM,
	 {"C_Initialize", CKR_GENERAL_ERROR, KT_E_HSM,
	  "SoftHSM does not find its configuration or its token folder, or may not read them",
	  "see that SOFTHSM2_CONF names a file, that directories.tokendir in it names a folder, and that this user may "
	  "read both"},
	 "SOFTHSM2_CONF"},
	{TPM,
	 {"C_Initialize", CKR_GENERAL_ERROR, KT_E_HSM, "the TPM does not answer, or its store cannot be read",
	  "start the TPM (swtpm); see that TPM2_PKCS11_TCTI says how it is reached, and that this user may write the "
	  "store (TPM2_PKCS11_STORE)"},
	 "TPM2_PKCS11_TCTI"},
	{TPM,
	 {"C_Login", CKR_GENERAL_ERROR, KT_E_HSM,
	  "handles are left in the TPM by processes that died without closing the token; the PIN may be right",
	  "tpm2_flushcontext -l and tpm2_flushcontext -t, then again; for good: reach it through the kernel's resource "
	  "manager, /dev/tpmrm0"},
	 "TPM2_PKCS11_TCTI"},
	{TPM,
	 {"C_Login", CKR_PIN_LOCKED, KT_E_HSM,
	  "the TPM is in lockout: PINs were wrong, or it lost power a few times while it was in use; the PIN may be "
	  "right",
	  "wait until it takes PINs again, or tpm2_dictionarylockout --clear-lockout"},
	 NULL},
	{OCK,
	 {"C_Initialize", CKR_HOST_MEMORY, KT_E_HSM, "openCryptoki's daemon pkcsslotd is not running",
	  "start pkcsslotd"},
	 NULL},
	{OCK,
	 {"C_Initialize", CKR_FUNCTION_FAILED, KT_E_HSM,
	  "openCryptoki's daemon pkcsslotd has crashed, or this user is not in the group pkcs11",
	  "restart pkcsslotd, or add the user to the group pkcs11"},
	 NULL},
	{NSS,
	 {"C_Initialize", CKR_ARGUMENTS_BAD, KT_E_HSM,
	  "NSS has to be told where its database is, and its parameter string is missing",
	  "add x-init-reserved=configdir%3D'sql:FOLDER' to the URI, or the line x-init-reserved to the p11-kit .module "
	  "file that module-name= names"},
	 NULL},
	{NSS,
	 {"C_Initialize", 0xCE534351UL, KT_E_HSM, "the NSS database is missing, or this user may not read it",
	  "see that configdir in x-init-reserved names its folder, or make it: certutil -N -d sql:FOLDER"},
	 NULL},
	{NSS,
	 {"C_Initialize", CKR_TOKEN_WRITE_PROTECTED, KT_E_HSM, "this user may not write the NSS database",
	  "chown or chmod the folder that configdir in x-init-reserved names, and the files in it"},
	 NULL},
};

static const char damaged[] = "the wrapped key was damaged, or wrapped under another key";
static const char take_again[] =
	"take the blob again from where it was made, and see that the wrapping key is the one it names";
static const char no_aes[] = "the token does not make AES keys";
static const char no_cmac[] = "the token does not do AES-CMAC, by which keys are checked";
static const char no_mechanism[] = "the token does not do this";
static const char see_mechanisms[] =
	"use a token, or a firmware of it, that does; pkcs11-tool --list-mechanisms shows them";

static const meaning meanings[] = {
	{"C_Initialize", CKR_GENERAL_ERROR, KT_E_HSM,
	 "the module does not find its configuration or its token store, or may not read it",
	 "see the module's manual for where it looks, and whether a daemon of its own has to run"},
	{"C_Login", CKR_USER_ANOTHER_ALREADY_LOGGED_IN, KT_E_HSM, "the security officer is logged in to the token",
	 "end that session first"},
	{"C_Login", CKR_PIN_LOCKED, KT_E_HSM, "the user PIN is locked",
	 "have the security officer unlock it with the token's own tool"},
	{"C_Login", CKR_PIN_EXPIRED, KT_E_HSM, "the user PIN has expired", "set a new PIN with the token's own tool"},
	{"C_Login", CKR_USER_PIN_NOT_INITIALIZED, KT_E_HSM, "the token has no user PIN yet",
	 "set one as security officer, with the token's own tool"},
	{"C_UnwrapKey", CKR_GENERAL_ERROR, KT_E_KEY, damaged, take_again},
	{"C_UnwrapKey", CKR_FUNCTION_FAILED, KT_E_KEY, damaged, take_again},
	{"C_UnwrapKey", CKR_WRAPPED_KEY_INVALID, KT_E_KEY, damaged, take_again},
	{"C_UnwrapKey", CKR_WRAPPED_KEY_LEN_RANGE, KT_E_KEY, damaged, take_again},
	{"C_UnwrapKey", CKR_ENCRYPTED_DATA_INVALID, KT_E_KEY, damaged, take_again},
	{"C_UnwrapKey", CKR_ENCRYPTED_DATA_LEN_RANGE, KT_E_KEY, damaged, take_again},
	{"C_WrapKey", CKR_KEY_UNEXTRACTABLE, KT_E_REFUSED, "the key may not leave the token, not even wrapped",
	 "use a key that was made to be wrapped (CKA_EXTRACTABLE)"},
	{"C_WrapKey", CKR_KEY_NOT_WRAPPABLE, KT_E_REFUSED, "the token wraps this key only under a trusted key",
	 "use a key that was made without CKA_WRAP_WITH_TRUSTED"},
	{"C_CreateObject", CKR_ATTRIBUTE_VALUE_INVALID, KT_E_HSM, "the token does not take this key",
	 "see the token's manual for the key sizes that it takes, and whether it takes keys in the clear"},
	{"C_CreateObject", CKR_TEMPLATE_INCONSISTENT, KT_E_HSM, "the token does not take this key",
	 "see the token's manual for the key sizes that it takes, and whether it takes keys in the clear"},
	{"C_GenerateKey", CKR_MECHANISM_INVALID, KT_E_HSM, no_aes, see_mechanisms},
	{"C_GenerateKey", CKR_FUNCTION_NOT_SUPPORTED, KT_E_HSM, no_aes, see_mechanisms},
	{"C_SignInit", CKR_MECHANISM_INVALID, KT_E_HSM, no_cmac, see_mechanisms},
	{NULL, CKR_MECHANISM_INVALID, KT_E_HSM, no_mechanism, see_mechanisms},
	{NULL, CKR_MECHANISM_PARAM_INVALID, KT_E_HSM, no_mechanism, see_mechanisms},
	{NULL, CKR_FUNCTION_NOT_SUPPORTED, KT_E_HSM, no_mechanism, see_mechanisms},
	{NULL, CKR_KEY_FUNCTION_NOT_PERMITTED, KT_E_REFUSED, "the key was not made for this use",
	 "use a key whose CKA_WRAP, CKA_UNWRAP and CKA_SIGN allow it"},
	{NULL, CKR_HOST_MEMORY, KT_E_HSM, "memory is exhausted (openCryptoki: pkcsslotd is not running)",
	 "free memory, or start pkcsslotd"},
	{NULL, CKR_DEVICE_MEMORY, KT_E_HSM, "the token is full", "remove keys that nothing needs from the token"},
	{NULL, CKR_DEVICE_ERROR, KT_E_HSM, "the device has failed", "see the device's own log"},
	{NULL, CKR_DEVICE_REMOVED, KT_E_HSM, "the device was taken away", "connect it again, then repeat"},
	{NULL, CKR_TOKEN_NOT_PRESENT, KT_E_HSM, "the token is gone", "connect it again, then repeat"},
	{NULL, CKR_SLOT_ID_INVALID, KT_E_HSM, "the token is gone", "connect it again, then repeat"},
	{NULL, CKR_TOKEN_NOT_RECOGNIZED, KT_E_HSM, "the token cannot be read", "see the token's own tool"},
	{NULL, CKR_TOKEN_WRITE_PROTECTED, KT_E_HSM, "the token is write-protected",
	 "lift that with the token's own tool"},
	{NULL, CKR_SESSION_COUNT, KT_E_HSM, "the token has no session left", "end other programs that use it"},
	{NULL, CKR_SESSION_HANDLE_INVALID, KT_E_HSM, "the session has ended: the token was removed, or restarted",
	 "repeat the command, which opens a new session"},
	{NULL, CKR_SESSION_CLOSED, KT_E_HSM, "the session has ended: the token was removed, or restarted",
	 "repeat the command, which opens a new session"},
	{NULL, CKR_USER_NOT_LOGGED_IN, KT_E_HSM, "the login has ended", "repeat the command, which logs in again"},
};

static const char *rv_name(CK_RV rv)
{
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (names[i].rv == rv)
			return names[i].name;
	return NULL;
}

const char *kt_p11_rv_name(CK_RV rv)
{
	const char *name = rv_name(rv);
	if (name)
		return name;
	return rv & CKR_VENDOR_DEFINED ? "a vendor's own CKR" : "an unknown CKR";
}

/* What this thread's calls said. */
static _Thread_local struct {
	bool lost, pin_refused, pin_locked;
} said;

/* After these nothing more is to be had from the session: a new one, or a new start of the module, may help. */
static bool means_lost(CK_RV rv)
{
	return rv == CKR_SESSION_HANDLE_INVALID || rv == CKR_SESSION_CLOSED || rv == CKR_DEVICE_REMOVED ||
	       rv == CKR_DEVICE_ERROR || rv == CKR_TOKEN_NOT_PRESENT || rv == CKR_TOKEN_NOT_RECOGNIZED ||
	       rv == CKR_SLOT_ID_INVALID || rv == CKR_CRYPTOKI_NOT_INITIALIZED || rv == CKR_USER_NOT_LOGGED_IN;
}

/* After any other failure of C_Login than these it is not known what the token made of the PIN. */
static bool pin_untried(CK_RV rv)
{
	return rv == CKR_OK || rv == CKR_USER_ALREADY_LOGGED_IN || rv == CKR_USER_ANOTHER_ALREADY_LOGGED_IN ||
	       means_lost(rv);
}

bool kt_p11_lost(void)
{
	return said.lost;
}

bool kt_p11_pin_refused(void)
{
	return said.pin_refused;
}

bool kt_p11_pin_locked(void)
{
	return said.pin_locked;
}

void kt_p11_note_lost(void)
{
	said.lost = true;
}

void kt_p11_forget(void)
{
	said.lost = said.pin_refused = said.pin_locked = false;
}

CK_RV kt_p11_trace(const char *call, CK_RV rv)
{
	kt_watch_end();
	if (means_lost(rv))
		said.lost = true;
	if (strcmp(call, "C_Login") == 0 && !pin_untried(rv)) {
		said.pin_refused = true;
		said.pin_locked = rv == CKR_PIN_LOCKED;
	}
	if (kt_log_get_level() >= KT_LOG_TRACE)
		kt_log(KT_LOG_TRACE, "pkcs11: %s = %s (0x%lx)", call, kt_p11_rv_name(rv), rv);
	return rv;
}

static bool means(const meaning *m, const char *call, CK_RV rv)
{
	return m->rv == rv && (!m->call || strcmp(m->call, call) == 0);
}

static const vendor_meaning *vendor_meaning_of(const char *where, const char *call, CK_RV rv)
{
	for (size_t i = 0; i < sizeof vendor_meanings / sizeof vendor_meanings[0]; i++)
		if (means(&vendor_meanings[i].is, call, rv) && strstr(where, vendor_meanings[i].file))
			return &vendor_meanings[i];
	return NULL;
}

static const meaning *meaning_of(const char *call, CK_RV rv)
{
	for (size_t i = 0; i < sizeof meanings / sizeof meanings[0]; i++)
		if (means(&meanings[i], call, rv))
			return &meanings[i];
	return NULL;
}

/* "; NAME is VALUE", "" without a variable. */
static void tell_variable(const char *name, char *out, size_t size)
{
	const char *value = name ? getenv(name) : NULL;
	out[0] = '\0';
	if (name)
		(void)snprintf(out, size, "; %s is %s", name, value ? value : "not set");
}

kt_code kt_p11_fail(const char *where, const char *call, CK_RV rv, kt_err *err)
{
	char setting[256];
	const vendor_meaning *v = vendor_meaning_of(where, call, rv);
	const meaning *m = v ? &v->is : meaning_of(call, rv);
	tell_variable(v ? v->variable : NULL, setting, sizeof setting);
	if (!m)
		return kt_fail(err, KT_E_HSM,
			       "see the log of the token's module; run again with tracing to see the calls before",
			       "%s: %s gave %s (0x%lx)", where, call, kt_p11_rv_name(rv), rv);
	return kt_fail(err, m->code, m->remedy, "%s: %s (%s gave %s, 0x%lx%s)", where, m->cause, call,
		       kt_p11_rv_name(rv), rv, setting);
}

kt_code kt_p11_check(const char *where, const char *call, CK_RV rv, kt_err *err)
{
	return kt_p11_trace(call, rv) == CKR_OK ? KT_OK : kt_p11_fail(where, call, rv, err);
}
