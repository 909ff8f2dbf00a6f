/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/key.h"

#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "base/codec.h"
#include "base/log.h"
#include "pkcs11/internal.h"

enum { KEY_LEN = 32, NEW_ID_LEN = 16 };

static const kt_p11_policy wrapping_key = {"wrapping key", CK_TRUE, CK_TRUE, CK_FALSE, CK_TRUE, CK_TRUE};
const kt_p11_policy kt_p11_cluster_on_token = {"cluster key", CK_TRUE, CK_TRUE, CK_TRUE, CK_FALSE, CK_TRUE};
const kt_p11_policy kt_p11_cluster_session = {"cluster key", CK_FALSE, CK_TRUE, CK_TRUE, CK_FALSE, CK_TRUE};
const kt_p11_policy kt_p11_readable = {"session key", CK_FALSE, CK_FALSE, CK_TRUE, CK_FALSE, CK_TRUE};

/* --- Templates ---------------------------------------------------------------------------------------------------- */

void kt_p11_template_add(kt_p11_template *tpl, CK_ATTRIBUTE_TYPE type, const void *value, size_t n)
{
	/* PKCS#11 has no const; a template is only read. */
	union {
		const void *in;
		void *out;
	} v = {.in = value};
	if (tpl->n < KT_P11_TEMPLATE)
		tpl->a[tpl->n++] = (CK_ATTRIBUTE){type, v.out, n};
}

static void add_flag(kt_p11_template *tpl, CK_ATTRIBUTE_TYPE type, CK_BBOOL value)
{
	kt_p11_template_add(tpl, type, value ? &tpl->yes : &tpl->no, sizeof tpl->yes);
}

static void add_class(kt_p11_template *tpl)
{
	*tpl = (kt_p11_template){
		.yes = CK_TRUE, .no = CK_FALSE, .class = CKO_SECRET_KEY, .type = CKK_AES, .value_len = KEY_LEN};
	kt_p11_template_add(tpl, CKA_CLASS, &tpl->class, sizeof tpl->class);
	kt_p11_template_add(tpl, CKA_KEY_TYPE, &tpl->type, sizeof tpl->type);
}

void kt_p11_template_key(kt_p11_template *tpl, const kt_p11_policy *policy)
{
	add_class(tpl);
	add_flag(tpl, CKA_TOKEN, policy->on_token);
	add_flag(tpl, CKA_PRIVATE, CK_TRUE);
	add_flag(tpl, CKA_SENSITIVE, policy->sensitive);
	add_flag(tpl, CKA_EXTRACTABLE, policy->extractable);
	add_flag(tpl, CKA_WRAP, policy->wrap);
	add_flag(tpl, CKA_UNWRAP, policy->wrap);
	add_flag(tpl, CKA_SIGN, policy->sign);
	add_flag(tpl, CKA_VERIFY, policy->sign);
	add_flag(tpl, CKA_ENCRYPT, CK_FALSE);
	add_flag(tpl, CKA_DECRYPT, CK_FALSE);
	add_flag(tpl, CKA_DERIVE, CK_FALSE);
}

void kt_p11_template_name(kt_p11_template *tpl, const kt_token_key_name *name)
{
	if (name->label)
		kt_p11_template_add(tpl, CKA_LABEL, name->label, strlen(name->label));
	if (name->id_len)
		kt_p11_template_add(tpl, CKA_ID, name->id, name->id_len);
}

/* --- Reading back ------------------------------------------------------------------------------------------------- */

typedef struct expectation {
	CK_ATTRIBUTE_TYPE type;
	const char *name;
	CK_ULONG must;
} expectation;

enum { FLAGS = 10, NUMBERS = 3 };

/* PKCS#11 wants one call with many attributes; a token that does not know one says so in its length. */
static kt_code compare(const kt_token *t, const CK_ATTRIBUTE *a, const expectation *e, CK_ULONG is, const char *what,
		       kt_err *err)
{
	if (a->ulValueLen == CK_UNAVAILABLE_INFORMATION)
		return kt_fail(err, KT_E_REFUSED, "use a key made by keyturn, or another token",
			       "%s: it does not tell %s of this %s", t->name, e->name, what);
	if (is != e->must)
		return kt_fail(err, KT_E_REFUSED,
			       "use a key made by keyturn; a token that ignores attributes is not fit",
			       "%s: this %s has %s %lu where it must be %lu", t->name, what, e->name, is, e->must);
	return KT_OK;
}

static kt_code read_attributes(kt_token *t, CK_OBJECT_HANDLE key, CK_ATTRIBUTE *a, CK_ULONG n, kt_err *err)
{
	CK_RV rv = P11_RV(t->f, C_GetAttributeValue, t->session, key, a, n);
	if (rv == CKR_OK || rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_ATTRIBUTE_SENSITIVE)
		return KT_OK; /* what could not be told has length CK_UNAVAILABLE_INFORMATION (v3.0 §5.7.5) */
	return kt_p11_fail(t->name, "C_GetAttributeValue", rv, err);
}

/* A key must not be wrapped under one that is easier to guess (SP 800-57 Part 1, 5.6.1.2). */
static kt_code strong_enough(const kt_token *t, const kt_p11_policy *p, CK_ULONG bytes, kt_err *err)
{
	if (!p->wrap || bytes >= KEY_LEN)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED,
		       "use a wrapping key of 256 bits; `keyturn enroll --create-escrow-key` makes one",
		       "%s: this %s has %lu bits, and would be weaker than the keys of 256 bits that it wraps", t->name,
		       p->what, 8 * bytes);
}

kt_code kt_p11_policy_check(kt_token *t, CK_OBJECT_HANDLE key, const kt_p11_policy *p, kt_err *err)
{
	const expectation flags[FLAGS] = {
		{CKA_TOKEN, "CKA_TOKEN", p->on_token},
		{CKA_PRIVATE, "CKA_PRIVATE", CK_TRUE},
		{CKA_SENSITIVE, "CKA_SENSITIVE", p->sensitive},
		{CKA_EXTRACTABLE, "CKA_EXTRACTABLE", p->extractable},
		{CKA_WRAP, "CKA_WRAP", p->wrap},
		{CKA_UNWRAP, "CKA_UNWRAP", p->wrap},
		{CKA_SIGN, "CKA_SIGN", p->sign},
		{CKA_ENCRYPT, "CKA_ENCRYPT", CK_FALSE},
		{CKA_DECRYPT, "CKA_DECRYPT", CK_FALSE},
		{CKA_DERIVE, "CKA_DERIVE", CK_FALSE},
	};
	const expectation numbers[NUMBERS] = {
		{CKA_CLASS, "CKA_CLASS", CKO_SECRET_KEY},
		{CKA_KEY_TYPE, "CKA_KEY_TYPE", CKK_AES},
		{CKA_VALUE_LEN, "CKA_VALUE_LEN", KEY_LEN},
	};
	CK_BBOOL flag[FLAGS] = {0};
	CK_ULONG number[NUMBERS] = {0};
	CK_ATTRIBUTE a[FLAGS + NUMBERS];
	for (size_t i = 0; i < FLAGS; i++)
		a[i] = (CK_ATTRIBUTE){flags[i].type, &flag[i], sizeof flag[i]};
	for (size_t i = 0; i < NUMBERS; i++)
		a[FLAGS + i] = (CK_ATTRIBUTE){numbers[i].type, &number[i], sizeof number[i]};
	KT_TRY(read_attributes(t, key, a, FLAGS + NUMBERS, err));
	for (size_t i = 0; i < FLAGS; i++)
		KT_TRY(compare(t, &a[i], &flags[i], flag[i], p->what, err));
	/* SoftHSM leaves CKA_VALUE_LEN 0 at unwrap; there check value and MAC show that the key is the whole one.
	 * Wrapping keys on the token are never unwrapped. */
	if (number[NUMBERS - 1] == 0 && !(p->wrap && p->on_token))
		number[NUMBERS - 1] = KEY_LEN;
	if (a[FLAGS + NUMBERS - 1].ulValueLen == sizeof number[0])
		KT_TRY(strong_enough(t, p, number[NUMBERS - 1], err));
	for (size_t i = 0; i < NUMBERS; i++)
		KT_TRY(compare(t, &a[FLAGS + i], &numbers[i], number[i], p->what, err));
	return KT_OK;
}

/* Was the key ever otherwise? False where the token does not tell. */
static bool was_ever(kt_token *t, CK_OBJECT_HANDLE key, CK_ATTRIBUTE_TYPE type)
{
	CK_BBOOL value = CK_TRUE;
	CK_ATTRIBUTE a = {type, &value, sizeof value};
	CK_RV rv = P11_RV(t->f, C_GetAttributeValue, t->session, key, &a, 1);
	return rv == CKR_OK && a.ulValueLen == sizeof value && value == CK_FALSE;
}

/* A key that was made just now was never readable, nor extractable, unless it was made so. */
static kt_code check_history(kt_token *t, CK_OBJECT_HANDLE key, const kt_p11_policy *p, kt_err *err)
{
	const char *name = NULL;
	if (p->sensitive && was_ever(t, key, CKA_ALWAYS_SENSITIVE))
		name = "CKA_ALWAYS_SENSITIVE";
	else if (!p->extractable && was_ever(t, key, CKA_NEVER_EXTRACTABLE))
		name = "CKA_NEVER_EXTRACTABLE";
	if (!name)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "use another token", "%s: it says %s 0 of a %s that it has just made",
		       t->name, name, p->what);
}

kt_code kt_p11_read_value(kt_token *t, CK_OBJECT_HANDLE key, kt_secret *out, kt_err *err)
{
	KT_TRY(kt_secret_new(out, KEY_LEN, err));
	CK_ATTRIBUTE a = {CKA_VALUE, out->data, out->len};
	kt_code rc = P11(t, err, C_GetAttributeValue, t->session, key, &a, 1);
	if (rc == KT_OK && a.ulValueLen != KEY_LEN)
		rc = kt_fail(err, KT_E_KEY, NULL, "%s: the key does not have %d bytes", t->name, KEY_LEN);
	if (rc != KT_OK)
		kt_secret_free(out);
	return rc;
}

/* Label, id and check value of a key into *out. */
static kt_code read_key(kt_token *t, CK_OBJECT_HANDLE handle, bool on_token, kt_token_key *out, kt_err *err)
{
	*out = (kt_token_key){.handle = handle, .on_token = on_token};
	CK_ATTRIBUTE a[] = {{CKA_LABEL, out->label, sizeof out->label - 1}, {CKA_ID, out->id, sizeof out->id}};
	CK_RV rv = P11_RV(t->f, C_GetAttributeValue, t->session, handle, a, 2);
	if (rv == CKR_BUFFER_TOO_SMALL)
		return kt_fail(err, KT_E_REFUSED, "name keys with at most 128 bytes, ids with at most 64",
			       "%s: the key's label or id is too long", t->name);
	if (rv != CKR_OK)
		return kt_p11_fail(t->name, "C_GetAttributeValue", rv, err);
	out->label[a[0].ulValueLen] = '\0';
	out->id_len = a[1].ulValueLen;
	return kt_p11_kcv(t, handle, out->kcv, err);
}

/* --- Finding ------------------------------------------------------------------------------------------------------ */

/* How a search is told in messages: "label", id hex. */
static void tell_name(const kt_token_key_name *name, char *out, size_t size)
{
	kt_buf hex = KT_BUF_INIT;
	if (name->id_len)
		KT_IGNORE(kt_hex_encode(name->id, name->id_len, &hex, NULL));
	(void)snprintf(out, size, "%s%s%s%s%s", name->label ? "\"" : "", name->label ? name->label : "",
		       name->label ? "\"" : "",
		       !name->id_len ? ""
		       : name->label ? " with id "
				     : "with id ",
		       kt_buf_cstr(&hex));
	kt_buf_free(&hex);
}

static kt_code check_name(const kt_token_key_name *name, kt_err *err)
{
	size_t n = name->label ? strnlen(name->label, KT_URI_OBJECT) : 0;
	if ((name->label && (n == 0 || n >= KT_URI_OBJECT)) || name->id_len > KT_URI_ID)
		return kt_fail(err, KT_E_INPUT, NULL, "a key's label must have 1 to %d bytes, its id at most %d",
			       KT_URI_OBJECT - 1, KT_URI_ID);
	if (!name->label && !name->id_len)
		return kt_fail(err, KT_E_INPUT, "give object= or id= in the URI", "no label and no id names the key");
	return KT_OK;
}

/* How many AES keys have this name, up to 2, and the first. */
static kt_code count(kt_token *t, const kt_token_key_name *name, CK_OBJECT_HANDLE *first, CK_ULONG *n, kt_err *err)
{
	kt_p11_template tpl;
	CK_OBJECT_HANDLE found[2] = {0, 0};
	CK_ULONG got = 1;
	*n = 0;
	KT_TRY(check_name(name, err));
	add_class(&tpl);
	kt_p11_template_name(&tpl, name);
	KT_TRY(P11(t, err, C_FindObjectsInit, t->session, tpl.a, tpl.n));
	kt_code rc = KT_OK;
	while (rc == KT_OK && got && *n < 2) {
		rc = P11(t, err, C_FindObjects, t->session, found + *n, 2 - *n, &got);
		*n += rc == KT_OK ? got : 0;
	}
	CK_RV rv = P11_RV(t->f, C_FindObjectsFinal, t->session);
	KT_TRY(rc);
	if (rv != CKR_OK)
		return kt_p11_fail(t->name, "C_FindObjectsFinal", rv, err);
	*first = found[0];
	/* A token whose store vanished finds nothing and reports success; nothing may be concluded from that. */
	return *n == 0 ? kt_token_check(t, err) : KT_OK;
}

static kt_code find_one(kt_token *t, const char *what, const kt_token_key_name *name, CK_OBJECT_HANDLE *out,
			kt_err *err)
{
	CK_ULONG n = 0;
	char told[320];
	KT_TRY(count(t, name, out, &n, err));
	if (n == 1)
		return KT_OK;
	tell_name(name, told, sizeof told);
	if (n == 0)
		return kt_fail(err, KT_E_KEY, "correct its name, or make it first", "%s: it has no %s %s", t->name,
			       what, told);
	return kt_fail(err, KT_E_KEY, "name the key by its id as well, or remove the ones that nothing needs",
		       "%s: it has more than one %s %s, and keyturn does not guess", t->name, what, told);
}

static kt_code find_checked(kt_token *t, const kt_p11_policy *policy, const kt_token_key_name *name, kt_token_key *out,
			    kt_err *err)
{
	CK_OBJECT_HANDLE h = 0;
	*out = (kt_token_key){0};
	KT_TRY(find_one(t, policy->what, name, &h, err));
	KT_TRY(kt_p11_policy_check(t, h, policy, err));
	if (!policy->extractable && was_ever(t, h, CKA_NEVER_EXTRACTABLE))
		kt_log(KT_LOG_WARN, "%s: the %s was imported, or could once leave the token: somebody may have a copy",
		       t->name, policy->what);
	return read_key(t, h, policy->on_token, out, err);
}

kt_code kt_token_has_key(kt_token *t, const kt_token_key_name *name, bool *has, kt_err *err)
{
	CK_OBJECT_HANDLE h = 0;
	CK_ULONG n = 0;
	kt_code rc = count(t, name, &h, &n, err);
	*has = n > 0;
	return rc;
}

kt_code kt_token_find_wrapping_key(kt_token *t, const kt_token_key_name *name, kt_token_key *out, kt_err *err)
{
	return find_checked(t, &wrapping_key, name, out, err);
}

kt_code kt_token_find_cluster_key(kt_token *t, const kt_token_key_name *name, kt_token_key *out, kt_err *err)
{
	return find_checked(t, &kt_p11_cluster_on_token, name, out, err);
}

/* --- Making and destroying ---------------------------------------------------------------------------------------- */

void kt_p11_discard(kt_token *t, CK_OBJECT_HANDLE object)
{
	CK_RV rv = object ? P11_RV(t->f, C_DestroyObject, t->session, object) : CKR_OK;
	if (rv != CKR_OK)
		kt_log(KT_LOG_WARN, "%s: an object could not be destroyed: %s", t->name, kt_p11_rv_name(rv));
}

kt_code kt_p11_generate(kt_token *t, kt_p11_template *tpl, const kt_p11_policy *policy, CK_OBJECT_HANDLE *out,
			kt_err *err)
{
	CK_MECHANISM m = {CKM_AES_KEY_GEN, NULL, 0};
	*out = 0;
	/* Not in templates of C_UnwrapKey: SoftHSM answers them with CKR_ATTRIBUTE_READ_ONLY. */
	add_flag(tpl, CKA_MODIFIABLE, CK_FALSE);
	kt_p11_template_add(tpl, CKA_VALUE_LEN, &tpl->value_len, sizeof tpl->value_len);
	KT_TRY(P11(t, err, C_GenerateKey, t->session, &m, tpl->a, tpl->n, out));
	kt_code rc = kt_p11_policy_check(t, *out, policy, err);
	if (rc == KT_OK)
		rc = check_history(t, *out, policy, err);
	if (rc == KT_OK)
		return KT_OK;
	kt_p11_discard(t, *out);
	*out = 0;
	return kt_err_prefix(err, rc, "the new %s was destroyed", policy->what);
}

static kt_code make(kt_token *t, const kt_p11_policy *policy, const kt_token_key_name *name, kt_token_key *out,
		    kt_err *err)
{
	kt_p11_template tpl;
	CK_OBJECT_HANDLE h = 0;
	uint8_t id[NEW_ID_LEN];
	kt_token_key_name full = *name;
	*out = (kt_token_key){0};
	if (!name->id_len) {
		if (RAND_bytes(id, sizeof id) != 1)
			return kt_fail(err, KT_E_INTERNAL, NULL, "the random generator failed");
		full.id = id;
		full.id_len = sizeof id;
	}
	kt_p11_template_key(&tpl, policy);
	kt_p11_template_name(&tpl, &full);
	KT_TRY(kt_p11_generate(t, &tpl, policy, &h, err));
	kt_code rc = read_key(t, h, policy->on_token, out, err);
	if (rc == KT_OK && (strcmp(out->label, full.label) != 0 || out->id_len != full.id_len ||
			    memcmp(out->id, full.id, full.id_len) != 0))
		rc = kt_fail(err, KT_E_REFUSED, "use another token", "%s: it changed the name of the new %s", t->name,
			     policy->what);
	if (rc == KT_OK)
		return KT_OK;
	kt_p11_discard(t, h);
	*out = (kt_token_key){0};
	return rc;
}

kt_code kt_token_create_wrapping_key(kt_token *t, const kt_token_key_name *name, kt_token_key *out, kt_err *err)
{
	CK_OBJECT_HANDLE h;
	CK_ULONG by_label = 0, by_id = 0;
	*out = (kt_token_key){0};
	if (!name->label)
		return kt_fail(err, KT_E_INPUT, NULL, "a new wrapping key needs a label");
	KT_TRY(count(t, &(kt_token_key_name){.label = name->label}, &h, &by_label, err));
	if (name->id_len)
		KT_TRY(count(t, &(kt_token_key_name){.id = name->id, .id_len = name->id_len}, &h, &by_id, err));
	if (by_label || by_id)
		return kt_fail(err, KT_E_REFUSED, "use the key that is there, or give the new one another name",
			       "%s: a key with the %s of the new wrapping key \"%s\" is there already", t->name,
			       by_label ? "label" : "id", name->label);
	return make(t, &wrapping_key, name, out, err);
}

static kt_code same_label(const kt_token *t, const kt_token_key *key, const char *label, kt_err *err)
{
	if (strcmp(key->label, label) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "see which run made it; ids of keys are never used again",
		       "%s: the key with this id is named \"%s\", not \"%s\"", t->name, key->label, label);
}

kt_code kt_token_ensure_cluster_key(kt_token *t, const kt_token_key_name *name, bool on_token, kt_token_key *out,
				    bool *made, kt_err *err)
{
	const kt_p11_policy *policy = on_token ? &kt_p11_cluster_on_token : &kt_p11_cluster_session;
	const kt_token_key_name by_id = {.id = name->id, .id_len = name->id_len};
	CK_OBJECT_HANDLE h = 0;
	CK_ULONG n = 0;
	*out = (kt_token_key){0};
	*made = false;
	if (!name->label || !name->id_len)
		return kt_fail(err, KT_E_INPUT, NULL, "a cluster key needs a label and an id");
	KT_TRY(check_name(name, err));
	KT_TRY(count(t, &by_id, &h, &n, err));
	if (n == 0) {
		*made = true;
		return make(t, policy, name, out, err);
	}
	KT_TRY(find_checked(t, policy, &by_id, out, err));
	return same_label(t, out, name->label, err);
}

kt_code kt_token_destroy_key(kt_token *t, kt_token_key *key, kt_err *err)
{
	if (strcmp(key->kcv, t->working.kcv) == 0)
		kt_p11_drop_working(t);
	if (key->handle)
		KT_TRY(P11(t, err, C_DestroyObject, t->session, key->handle));
	key->handle = 0;
	return KT_OK;
}
