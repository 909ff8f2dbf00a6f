/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/token.h"

#include <p11-kit/p11-kit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "pkcs11/internal.h"
#include "pkcs11/pin.h"

/* A token as C_GetSlotList and C_GetTokenInfo show it. */
typedef struct seen {
	CK_FUNCTION_LIST *f;
	CK_SLOT_ID slot;
	CK_FLAGS flags;
	kt_token_info info;
} seen;

typedef struct seen_list {
	seen *list;
	size_t n;
} seen_list;

/* --- Looking at tokens -------------------------------------------------------------------------------------------- */

/* A blank-padded field of CK_TOKEN_INFO as text. */
static void copy_field(char *out, const CK_UTF8CHAR *field, size_t n)
{
	size_t len = p11_kit_space_strlen(field, n);
	memcpy(out, field, len);
	out[len] = '\0';
}

static void copy_version(char out[12], CK_VERSION v)
{
	(void)snprintf(out, 12, "%u.%u", v.major, v.minor);
}

static void copy_info(kt_token_info *out, const CK_TOKEN_INFO *in, const kt_p11_module *m)
{
	*out = (kt_token_info){.flags = in->flags, .initialized = (in->flags & CKF_TOKEN_INITIALIZED) != 0};
	copy_field(out->label, in->label, sizeof in->label);
	copy_field(out->manufacturer, in->manufacturerID, sizeof in->manufacturerID);
	copy_field(out->serial, in->serialNumber, sizeof in->serialNumber);
	copy_field(out->model, in->model, sizeof in->model);
	copy_version(out->hardware, in->hardwareVersion);
	copy_version(out->firmware, in->firmwareVersion);
	(void)snprintf(out->module, sizeof out->module, "%s", m->name);
}

/* What the module says of itself; a module that does not say it has empty texts. */
static void copy_library(kt_token_info *out, const kt_p11_module *m)
{
	CK_INFO info;
	if (P11_RV(m->f, C_GetInfo, &info) != CKR_OK)
		return;
	copy_field(out->library, info.libraryDescription, sizeof info.libraryDescription);
	copy_field(out->library_manufacturer, info.manufacturerID, sizeof info.manufacturerID);
	copy_version(out->library_version, info.libraryVersion);
	copy_version(out->cryptoki, info.cryptokiVersion);
}

/* The slots of a module that have a token; the list may grow between the two calls. *out is the caller's. */
static kt_code slots_of(const kt_p11_module *m, CK_SLOT_ID **out, CK_ULONG *n, kt_err *err)
{
	*out = NULL;
	for (int tries = 0; tries < 5; tries++) {
		CK_RV rv = P11_RV(m->f, C_GetSlotList, CK_TRUE, NULL, n);
		if (rv != CKR_OK)
			return kt_p11_fail(m->name, "C_GetSlotList", rv, err);
		free(*out);
		*out = calloc(*n ? *n : 1, sizeof **out);
		if (!*out)
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		if (*n == 0)
			return KT_OK;
		rv = P11_RV(m->f, C_GetSlotList, CK_TRUE, *out, n);
		if (rv == CKR_OK)
			return KT_OK;
		if (rv != CKR_BUFFER_TOO_SMALL)
			return kt_p11_fail(m->name, "C_GetSlotList", rv, err);
	}
	return kt_fail(err, KT_E_HSM, "try again once it has settled", "%s: its list of slots keeps growing", m->name);
}

static kt_code add_seen(seen_list *l, const kt_p11_module *m, CK_SLOT_ID slot, const CK_TOKEN_INFO *info, kt_err *err)
{
	seen *grown = realloc(l->list, (l->n + 1) * sizeof *grown);
	if (!grown)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	l->list = grown;
	l->list[l->n] = (seen){.f = m->f, .slot = slot, .flags = info->flags};
	copy_info(&l->list[l->n].info, info, m);
	copy_library(&l->list[l->n++].info, m);
	return KT_OK;
}

static kt_code look_into(const kt_p11_module *m, seen_list *l, kt_err *err)
{
	CK_SLOT_ID *slots;
	CK_ULONG n = 0;
	kt_code rc = slots_of(m, &slots, &n, err);
	for (CK_ULONG i = 0; rc == KT_OK && i < n; i++) {
		CK_TOKEN_INFO info;
		/* A slot whose token cannot be read now is no candidate; the others still are. */
		if (P11_RV(m->f, C_GetTokenInfo, slots[i], &info) == CKR_OK)
			rc = add_seen(l, m, slots[i], &info, err);
	}
	free(slots);
	return rc;
}

/* All tokens of the modules. A module that cannot list its slots is noted in m->failed, as one that did not start. */
static kt_code look(kt_p11_modules *m, seen_list *l, kt_err *err)
{
	*l = (seen_list){0};
	for (size_t i = 0; i < m->n; i++) {
		kt_err why = KT_ERR_INIT;
		if (!m->list[i].ready || look_into(&m->list[i], l, &why) == KT_OK)
			continue;
		if (why.code == KT_E_INTERNAL) {
			free(l->list);
			*l = (seen_list){0};
			return kt_fail(err, why.code, NULL, "%s", why.msg);
		}
		if (m->failed.code == KT_OK)
			m->failed = why;
	}
	return KT_OK;
}

kt_code kt_token_list(const char *uri, kt_token_info **out, size_t *n, kt_err *err)
{
	kt_uri parsed = {0};
	kt_p11_modules modules;
	seen_list l;
	*out = NULL;
	*n = 0;
	if (uri)
		KT_TRY(kt_uri_parse(uri, &parsed, err));
	KT_TRY(kt_p11_modules_open(&parsed, &modules, err));
	kt_code rc;
	KT_TRY_GOTO(look(&modules, &l, err), out);
	*out = calloc(l.n ? l.n : 1, sizeof **out);
	if (!*out)
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (size_t i = 0; *out && i < l.n; i++)
		(*out)[(*n)++] = l.list[i].info;
	free(l.list);
out:
	kt_p11_modules_close(&modules);
	return rc;
}

/* --- Telling of them ---------------------------------------------------------------------------------------------- */

void kt_token_flags(const kt_token_info *info, char *out, size_t size)
{
	static const struct {
		CK_FLAGS flag;
		const char *word;
	} words[] = {
		{CKF_LOGIN_REQUIRED, "login required"},
		{CKF_PROTECTED_AUTHENTICATION_PATH, "PIN typed at the reader"},
		{CKF_WRITE_PROTECTED, "write-protected"},
		{CKF_RNG, "random numbers"},
		{CKF_CLOCK_ON_TOKEN, "clock"},
		{0x01000000UL, "in an error state"}, /* CKF_ERROR_STATE, v2.30 §6.5; p11-kit's header lacks it */
	};
	size_t n = 0;
	out[0] = '\0';
	for (size_t i = 0; i < sizeof words / sizeof words[0] && n < size; i++)
		if (info->flags & words[i].flag)
			n += (size_t)snprintf(out + n, size - n, "%s%s", n ? ", " : "", words[i].word);
}

const char *kt_token_pin_state(const kt_token_info *info)
{
	if (!(info->flags & CKF_USER_PIN_INITIALIZED))
		return "unset";
	if (info->flags & CKF_USER_PIN_LOCKED)
		return "locked";
	if (info->flags & CKF_USER_PIN_FINAL_TRY)
		return "last";
	return info->flags & CKF_USER_PIN_COUNT_LOW ? "low" : "ok";
}

static kt_code module_json(const kt_token_info *i, cJSON *o, kt_err *err)
{
	KT_TRY(kt_json_add_str(o, "path", i->module, err));
	KT_TRY(kt_json_add_str(o, "library", i->library, err));
	KT_TRY(kt_json_add_str(o, "manufacturer", i->library_manufacturer, err));
	KT_TRY(kt_json_add_str(o, "version", i->library_version, err));
	return kt_json_add_str(o, "cryptoki", i->cryptoki, err);
}

kt_code kt_token_info_json(const kt_token_info *i, cJSON *o, kt_err *err)
{
	KT_TRY(kt_json_add_str(o, "label", i->label, err));
	KT_TRY(kt_json_add_str(o, "serial", i->serial, err));
	KT_TRY(kt_json_add_str(o, "manufacturer", i->manufacturer, err));
	KT_TRY(kt_json_add_str(o, "model", i->model, err));
	KT_TRY(kt_json_add_str(o, "hardware", i->hardware, err));
	KT_TRY(kt_json_add_str(o, "firmware", i->firmware, err));
	cJSON *module = cJSON_CreateObject();
	KT_TRY(kt_json_add(o, "module", module, err));
	return module_json(i, module, err);
}

/* --- Choosing one ------------------------------------------------------------------------------------------------- */

static bool fits_field(const char *wanted, const char *is)
{
	return !wanted[0] || strcmp(wanted, is) == 0;
}

static bool fits(const kt_uri *uri, const kt_token_info *info)
{
	return fits_field(uri->token, info->label) && fits_field(uri->serial, info->serial) &&
	       fits_field(uri->model, info->model) && fits_field(uri->manufacturer, info->manufacturer);
}

/* "label" (serial s, module m), ... of the tokens that fit (or all when uri is NULL), as much as has room. */
static void name_tokens(const seen_list *l, const kt_uri *uri, char *out, size_t size)
{
	size_t n = 0;
	out[0] = '\0';
	for (size_t i = 0; i < l->n; i++) {
		const kt_token_info *t = &l->list[i].info;
		if (!t->initialized || (uri && !fits(uri, t)))
			continue;
		int w = snprintf(out + n, size - n, "%s\"%s\" (serial %s, %s)", n ? ", " : "", t->label, t->serial,
				 t->module);
		if (w < 0 || (size_t)w >= size - n) {
			(void)snprintf(out + n, size - n, "%s", n + 8 < size ? ", ..." : "");
			return;
		}
		n += (size_t)w;
	}
	if (n == 0)
		(void)snprintf(out, size, "none");
}

static kt_code none_fits(const kt_p11_modules *m, const seen_list *l, const kt_uri *uri, kt_err *err)
{
	char visible[512];
	size_t fresh = 0;
	kt_buf wanted = KT_BUF_INIT;
	KT_TRY(kt_uri_format(uri, &wanted, err));
	name_tokens(l, NULL, visible, sizeof visible);
	for (size_t i = 0; i < l->n; i++)
		fresh += !l->list[i].info.initialized;
	kt_code rc;
	if (m->failed.code != KT_OK)
		rc = kt_fail(err, KT_E_HSM, m->failed.remedy,
			     "no token fits %.200s; there are: %s; and a module failed: %s", kt_buf_cstr(&wanted),
			     visible, m->failed.msg);
	else
		rc = kt_fail(
			err, KT_E_HSM,
			fresh ? "correct token= and serial= in the URI; a module that looks in the wrong place shows "
				"a token that is not initialised: see SOFTHSM2_CONF, TPM2_PKCS11_STORE, or configdir "
				"in x-init-reserved; else initialise it with its own tool"
			      : "correct token= and serial= in the URI, or connect the token",
			"no token fits %.200s; there are: %s; not initialised: %zu", kt_buf_cstr(&wanted), visible,
			fresh);
	kt_buf_free(&wanted);
	return rc;
}

static kt_code choose(const kt_p11_modules *m, const seen_list *l, const kt_uri *uri, seen *out, kt_err *err)
{
	size_t found = 0;
	for (size_t i = 0; i < l->n; i++) {
		if (!l->list[i].info.initialized || !fits(uri, &l->list[i].info))
			continue;
		if (found++ == 0)
			*out = l->list[i];
	}
	if (found == 0)
		return none_fits(m, l, uri, err);
	if (found == 1)
		return KT_OK;
	char candidates[640];
	name_tokens(l, uri, candidates, sizeof candidates);
	return kt_fail(err, KT_E_HSM, "add serial= (and module-path= where one module is not enough) to the URI",
		       "%zu tokens fit the URI, and keyturn does not guess: %s", found, candidates);
}

/* --- Logging in --------------------------------------------------------------------------------------------------- */

/* What the token says about the tries that are left; "" when nothing. */
static const char *tries_left(CK_FLAGS flags)
{
	if (flags & CKF_USER_PIN_LOCKED)
		return "; the PIN is locked now";
	if (flags & CKF_USER_PIN_FINAL_TRY)
		return "; only one try is left before the token locks";
	return flags & CKF_USER_PIN_COUNT_LOW ? "; the token counts wrong PINs and locks after a few" : "";
}

static kt_code login_failed(const kt_token *t, CK_RV rv, kt_err *err)
{
	CK_TOKEN_INFO info = {0};
	if (rv != CKR_PIN_INCORRECT && rv != CKR_PIN_LEN_RANGE && rv != CKR_PIN_INVALID)
		return kt_p11_fail(t->name, "C_Login", rv, err);
	if (P11_RV(t->f, C_GetTokenInfo, t->slot, &info) != CKR_OK)
		info.flags = 0;
	return kt_fail(err, KT_E_HSM,
		       "correct the PIN where pin-source points before the next try; keyturn never tries a PIN twice",
		       "%s: the PIN is wrong (%s); one try was used, and it was not tried again%s", t->name,
		       kt_p11_rv_name(rv), tries_left(info.flags));
}

/* Refuse before a PIN is even read, where a try would be the last or is none. */
static kt_code may_try(const kt_token *t, CK_FLAGS flags, bool asked, kt_err *err)
{
	if (!(flags & CKF_USER_PIN_INITIALIZED))
		return kt_fail(err, KT_E_HSM, "set one as security officer, with the token's own tool",
			       "%s: the token has no user PIN yet", t->name);
	if (flags & CKF_USER_PIN_LOCKED)
		return kt_fail(err, KT_E_HSM, "have the security officer unlock it with the token's own tool",
			       "%s: the user PIN is locked; the PIN was not tried", t->name);
	if ((flags & CKF_USER_PIN_FINAL_TRY) && !asked)
		return kt_fail(
			err, KT_E_HSM,
			"log in once with the token's own tool, which resets the count, or leave pin-source out and "
			"type the PIN",
			"%s: only one try is left before the token locks; the PIN was not tried", t->name);
	if (flags & CKF_USER_PIN_COUNT_LOW)
		kt_log(KT_LOG_WARN, "%s: a wrong PIN was used since the last login", t->name);
	return KT_OK;
}

/* The one C_Login. */
static kt_code login_with(const kt_token *t, kt_secret *pin, kt_err *err)
{
	CK_RV rv = P11_RV(t->f, C_Login, t->session, CKU_USER, pin->data, pin->len);
	kt_secret_free(pin);
	return rv == CKR_OK || rv == CKR_USER_ALREADY_LOGGED_IN ? KT_OK : login_failed(t, rv, err);
}

static kt_code login(const kt_token *t, const char *pin_source, CK_FLAGS flags, kt_err *err)
{
	CK_SESSION_INFO session;
	kt_secret pin = KT_SECRET_INIT;
	char prompt[256];
	KT_TRY(P11(t, err, C_GetSessionInfo, t->session, &session));
	if (session.state == CKS_RW_USER_FUNCTIONS || !(flags & CKF_LOGIN_REQUIRED))
		return KT_OK;
	KT_TRY(may_try(t, flags, !pin_source[0], err));
	if (flags & CKF_PROTECTED_AUTHENTICATION_PATH && !pin_source[0])
		return login_with(t, &pin, err); /* the reader has its own keys: no PIN passes through here */
	(void)snprintf(prompt, sizeof prompt, "PIN of %s%s: ", t->name, tries_left(flags));
	KT_TRY(kt_pin_read(pin_source, prompt, &pin, err));
	return login_with(t, &pin, err);
}

/* --- Open, close, check ------------------------------------------------------------------------------------------- */

static kt_code open_session(kt_token *t, const kt_uri *uri, kt_err *err)
{
	seen_list l;
	seen chosen = {0};
	KT_TRY(look(&t->modules, &l, err));
	kt_code rc = choose(&t->modules, &l, uri, &chosen, err);
	free(l.list);
	KT_TRY(rc);
	kt_p11_modules_keep(&t->modules, chosen.f);
	t->f = chosen.f;
	t->slot = chosen.slot;
	t->info = chosen.info;
	t->maker = kt_p11_maker_of(
		(const char *const[]){t->info.library, t->info.library_manufacturer, t->info.manufacturer, NULL});
	const char *file = strrchr(t->info.module, '/');
	(void)snprintf(t->name, sizeof t->name, "token \"%s\" (serial %s, %.64s)", t->info.label, t->info.serial,
		       file ? file + 1 : t->info.module);
	KT_TRY(P11(t, err, C_OpenSession, t->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &t->session));
	return login(t, uri->pin_source, chosen.flags, err);
}

kt_code kt_token_open(const char *uri, kt_token **out, kt_err *err)
{
	kt_uri parsed;
	*out = NULL;
	KT_TRY(kt_uri_parse(uri, &parsed, err));
	kt_token *t = calloc(1, sizeof *t);
	if (!t)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = kt_p11_modules_open(&parsed, &t->modules, err);
	if (rc == KT_OK)
		rc = open_session(t, &parsed, err);
	if (rc == KT_OK)
		*out = t;
	else
		kt_token_close(t);
	return rc;
}

/* Logged in still, by another session of this process, or by a PIN that can be had again. */
static kt_code may_log_in_again(const kt_token *t, const char *pin_source, kt_err *err)
{
	CK_SESSION_INFO session;
	KT_TRY(P11(t, err, C_GetSessionInfo, t->session, &session));
	if (session.state == CKS_RW_USER_FUNCTIONS || kt_pin_repeatable(pin_source))
		return KT_OK;
	return kt_fail(err, KT_E_HSM, "repeat the command with the PIN; with pin-source=file: this goes by itself",
		       "%s: its login has ended, and the PIN was read once and is not kept", t->name);
}

/* A session for t, which has none, of the token that it was opened for. */
static kt_code session_again(kt_token *t, const char *uri, kt_err *err)
{
	kt_uri parsed;
	CK_TOKEN_INFO now;
	KT_TRY(kt_uri_parse(uri, &parsed, err));
	KT_TRY(kt_token_check(t, err));
	KT_TRY(P11(t, err, C_GetTokenInfo, t->slot, &now));
	KT_TRY(P11(t, err, C_OpenSession, t->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &t->session));
	if (now.flags & CKF_LOGIN_REQUIRED)
		KT_TRY(may_log_in_again(t, parsed.pin_source, err));
	return login(t, parsed.pin_source, now.flags, err);
}

kt_code kt_token_again(kt_token *t, const char *uri, kt_err *err)
{
	if (t->session)
		(void)P11_RV(t->f, C_CloseSession, t->session);
	t->session = 0;
	kt_p11_forget_working(t);
	return session_again(t, uri, err);
}

kt_code kt_token_another(const kt_token *t, const char *uri, kt_token **out, kt_err *err)
{
	*out = NULL;
	kt_token *another = calloc(1, sizeof *another); /* the modules are the first one's */
	if (!another)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	another->f = t->f;
	another->slot = t->slot;
	another->info = t->info;
	another->maker = t->maker;
	memcpy(another->name, t->name, sizeof another->name);
	kt_code rc = session_again(another, uri, err);
	if (rc == KT_OK)
		*out = another;
	else
		kt_token_close(another);
	return rc;
}

void kt_token_close(kt_token *t)
{
	if (!t)
		return;
	if (t->session)
		(void)P11_RV(t->f, C_CloseSession, t->session);
	kt_p11_forget_working(t);
	kt_p11_modules_close(&t->modules);
	free(t);
}

const kt_token_info *kt_token_get_info(const kt_token *t)
{
	return &t->info;
}

kt_code kt_token_check(kt_token *t, kt_err *err)
{
	CK_TOKEN_INFO raw;
	kt_token_info now;
	CK_RV rv = P11_RV(t->f, C_GetTokenInfo, t->slot, &raw);
	if (rv == CKR_OK)
		copy_info(&now, &raw, &(kt_p11_module){.f = t->f});
	if (rv == CKR_OK && now.initialized && strcmp(now.label, t->info.label) == 0 &&
	    strcmp(now.serial, t->info.serial) == 0)
		return KT_OK;
	kt_p11_note_lost();
	if (rv != CKR_OK)
		return kt_fail(
			err, KT_E_HSM,
			"bring the token back (SoftHSM: its folder under directories.tokendir, which this user must be "
			"able to write), then repeat",
			"%s: the token is gone (C_GetTokenInfo gave %s)", t->name, kt_p11_rv_name(rv));
	return kt_fail(err, KT_E_HSM, "bring the right token back, then repeat",
		       "%s: another token is in its place: \"%s\" (serial %s)", t->name, now.label, now.serial);
}
