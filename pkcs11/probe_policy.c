/* SPDX-License-Identifier: Apache-2.0 */
/* Which attributes of a key a token enforces, which it drops, which it keeps and ignores. */
#include <stdio.h>
#include <string.h>

#include "pkcs11/probe_internal.h"

#ifndef CKA_ALLOWED_MECHANISMS
#define CKA_ALLOWED_MECHANISMS (CKF_ARRAY_ATTRIBUTE | 0x600UL)
#endif

static const kt_probe_key wrapping = {.wraps = true};

/* The result of something that ought to be refused. */
static kt_probe_answer refused(CK_RV rv, char *seen)
{
	(void)snprintf(seen, KT_PROBE_SEEN, rv == CKR_OK ? "done" : "refused, with %s", kt_p11_rv_name(rv));
	return rv == CKR_OK ? KT_PROBE_BAD : KT_PROBE_GOOD;
}

static kt_probe_answer skip(const char *why, CK_RV rv, char *seen)
{
	if (rv == CKR_OK)
		(void)snprintf(seen, KT_PROBE_SEEN, "not tried: %s", why);
	else
		(void)snprintf(seen, KT_PROBE_SEEN, "not tried: %s (%s)", why, kt_p11_rv_name(rv));
	return KT_PROBE_SKIPPED;
}

/* The token does not even make a key with the attribute. */
static kt_probe_answer not_made(CK_RV rv, char *seen)
{
	(void)snprintf(seen, KT_PROBE_SEEN, "no key is made with it (%s)", kt_p11_rv_name(rv));
	return KT_PROBE_BAD;
}

/* Wrap by the mechanism that is used for the escrow, else the first that works. */
static CK_RV wrap(kt_probe *p, CK_OBJECT_HANDLE under, CK_OBJECT_HANDLE key, kt_probe_blob *out)
{
	const kt_p11_mechanism *used = p->use ? p->use : p->n_found ? p->found[0].mechanism : NULL;
	CK_MECHANISM m = {used ? used->type : CKM_AES_KEY_WRAP, NULL, 0};
	return kt_probe_wrap(p, &m, under, key, out);
}

static CK_RV unwrap(kt_probe *p, CK_OBJECT_HANDLE under, const kt_probe_blob *blob, const kt_probe_key *key,
		    CK_OBJECT_HANDLE *out)
{
	const kt_p11_mechanism *used = p->use ? p->use : p->n_found ? p->found[0].mechanism : NULL;
	CK_MECHANISM m = {used ? used->type : CKM_AES_KEY_WRAP, NULL, 0};
	return kt_probe_unwrap(p, &m, under, blob, key, out);
}

/* --- what may leave ----------------------------------------------------------------------------------------------- */

static kt_probe_answer sensitive_read(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	CK_BYTE value[32];
	CK_OBJECT_HANDLE key;
	CK_RV rv = kt_probe_generate(p, &(kt_probe_key){.fixed = true}, &key);
	if (rv != CKR_OK)
		return skip("no such key is made", rv, seen);
	CK_ATTRIBUTE a = {CKA_VALUE, value, sizeof value};
	rv = P11_RV(p->t->f, C_GetAttributeValue, p->t->session, key, &a, 1);
	if (rv == CKR_OK && a.ulValueLen == CK_UNAVAILABLE_INFORMATION)
		rv = CKR_ATTRIBUTE_SENSITIVE;
	return refused(rv, seen);
}

static kt_probe_answer extractable_wrap(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	CK_OBJECT_HANDLE key;
	kt_probe_blob blob;
	CK_RV rv = kt_probe_generate(p, &(kt_probe_key){.fixed = true}, &key);
	if (rv != CKR_OK || !p->n_found)
		return skip(p->n_found ? "no such key is made" : "nothing wraps", rv, seen);
	return refused(wrap(p, p->kek, key, &blob), seen);
}

/* May an attribute be made weaker after the key was made? */
static kt_probe_answer weaken(kt_probe *p, const kt_probe_key *key, CK_ATTRIBUTE_TYPE type, CK_BBOOL value, char *seen)
{
	CK_OBJECT_HANDLE h;
	CK_ATTRIBUTE a = {type, &value, sizeof value};
	CK_RV rv = kt_probe_generate(p, key, &h);
	if (rv != CKR_OK)
		return skip("no such key is made", rv, seen);
	rv = P11_RV(p->t->f, C_SetAttributeValue, p->t->session, h, &a, 1);
	if (rv == CKR_OK && kt_probe_flag(p, h, type) != value) {
		(void)snprintf(seen, KT_PROBE_SEEN, "said to be done, and not done");
		return KT_PROBE_GOOD;
	}
	return refused(rv, seen);
}

static kt_probe_answer sensitive_unset(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	return weaken(p, &(kt_probe_key){.bytes = 32}, CKA_SENSITIVE, CK_FALSE, seen);
}

static kt_probe_answer extractable_set(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	return weaken(p, &(kt_probe_key){.fixed = true}, CKA_EXTRACTABLE, CK_TRUE, seen);
}

static kt_probe_answer history(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	CK_OBJECT_HANDLE always, never;
	CK_RV rv = kt_probe_generate(p, &(kt_probe_key){.fixed = true}, &always);
	if (rv == CKR_OK)
		rv = kt_probe_generate(p, &(kt_probe_key){.readable = true}, &never);
	if (rv != CKR_OK)
		return skip("no such keys are made", rv, seen);
	int a = kt_probe_flag(p, always, CKA_ALWAYS_SENSITIVE), b = kt_probe_flag(p, always, CKA_NEVER_EXTRACTABLE);
	int c = kt_probe_flag(p, never, CKA_ALWAYS_SENSITIVE), d = kt_probe_flag(p, never, CKA_NEVER_EXTRACTABLE);
	bool told = a >= 0 && b >= 0 && c >= 0 && d >= 0, right = a == 1 && b == 1 && c == 0 && d == 0;
	(void)snprintf(seen, KT_PROBE_SEEN,
		       !told   ? "not told"
		       : right ? "right"
			       : "wrong: %d %d of a key that never left, %d %d of one that may",
		       a, b, c, d);
	return right ? KT_PROBE_GOOD : KT_PROBE_BAD;
}

/* --- what comes out of an unwrap ---------------------------------------------------------------------------------- */

static kt_probe_answer unwrap_attributes(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	static const struct {
		CK_ATTRIBUTE_TYPE type;
		const char *name;
		int must;
	} asked[] = {{CKA_TOKEN, "TOKEN", 0},
		     {CKA_PRIVATE, "PRIVATE", 1},
		     {CKA_SENSITIVE, "SENSITIVE", 1},
		     {CKA_EXTRACTABLE, "EXTRACTABLE", 0},
		     {CKA_DECRYPT, "DECRYPT", 0},
		     {CKA_SIGN, "SIGN", 1},
		     {CKA_WRAP, "WRAP", 0}};
	CK_OBJECT_HANDLE key;
	kt_probe_blob blob;
	size_t n = 0;
	CK_RV rv = p->n_found ? wrap(p, p->kek, p->target, &blob) : CKR_MECHANISM_INVALID;
	if (rv == CKR_OK)
		rv = unwrap(p, p->kek, &blob, &(kt_probe_key){.fixed = true, .macs = true}, &key);
	if (rv != CKR_OK)
		return skip("nothing to unwrap by", rv, seen);
	for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++)
		if (kt_probe_flag(p, key, asked[i].type) != asked[i].must && n < KT_PROBE_SEEN)
			n += (size_t)snprintf(seen + n, KT_PROBE_SEEN - n, "%s%s",
					      n ? ", " : "ignored: ", asked[i].name);
	if (n)
		return KT_PROBE_BAD;
	(void)snprintf(seen, KT_PROBE_SEEN, "as asked");
	return KT_PROBE_GOOD;
}

static kt_probe_answer unwrap_sensitive(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	CK_OBJECT_HANDLE key;
	kt_probe_blob blob;
	CK_BYTE value[64];
	CK_RV rv = p->n_found ? wrap(p, p->kek, p->target, &blob) : CKR_MECHANISM_INVALID;
	if (rv == CKR_OK)
		rv = unwrap(p, p->kek, &blob, &(kt_probe_key){.fixed = true}, &key);
	if (rv != CKR_OK)
		return skip("nothing to unwrap by", rv, seen);
	bool read = kt_probe_value(p, key, value, sizeof value) != 0;
	(void)snprintf(seen, KT_PROBE_SEEN, read ? "its value can be read" : "its value cannot be read");
	return read ? KT_PROBE_BAD : KT_PROBE_GOOD;
}

/* --- what only some keys may do ----------------------------------------------------------------------------------- */

static kt_probe_answer with_trusted(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	static CK_BBOOL yes = CK_TRUE;
	const CK_ATTRIBUTE extra = {CKA_WRAP_WITH_TRUSTED, &yes, sizeof yes};
	CK_OBJECT_HANDLE key;
	kt_probe_blob blob;
	CK_RV rv = kt_probe_generate(p, &(kt_probe_key){.extra = &extra}, &key);
	if (rv != CKR_OK)
		return not_made(rv, seen);
	int kept = kt_probe_flag(p, key, CKA_WRAP_WITH_TRUSTED);
	rv = p->n_found ? wrap(p, p->kek, key, &blob) : CKR_MECHANISM_INVALID;
	(void)snprintf(seen, KT_PROBE_SEEN, "%s; wrapping it under an untrusted key: %s",
		       kept == 1 ? "kept"
		       : kept    ? "dropped, not told"
				 : "dropped",
		       rv == CKR_OK ? "done" : kt_p11_rv_name(rv));
	return kept == 1 && rv == CKR_KEY_NOT_WRAPPABLE ? KT_PROBE_GOOD : KT_PROBE_BAD;
}

/* A wrapping key that may be used by a mechanism which is not the one that is tried then. */
static kt_probe_answer allowed_mechanisms(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	CK_MECHANISM_TYPE only[] = {CKM_AES_CMAC};
	const CK_ATTRIBUTE extra = {CKA_ALLOWED_MECHANISMS, only, sizeof only};
	kt_probe_key spec = wrapping;
	CK_OBJECT_HANDLE key;
	kt_probe_blob blob;
	CK_BYTE kept[64];
	spec.extra = &extra;
	CK_RV rv = kt_probe_generate(p, &spec, &key);
	if (rv != CKR_OK)
		return not_made(rv, seen);
	CK_ATTRIBUTE a = {CKA_ALLOWED_MECHANISMS, kept, sizeof kept};
	rv = P11_RV(p->t->f, C_GetAttributeValue, p->t->session, key, &a, 1);
	bool is_kept = rv == CKR_OK && a.ulValueLen == sizeof only;
	rv = p->n_found ? wrap(p, key, p->target, &blob) : CKR_MECHANISM_INVALID;
	(void)snprintf(seen, KT_PROBE_SEEN, "%s; wrapping by another mechanism: %s", is_kept ? "kept" : "dropped",
		       rv == CKR_OK ? "done" : kt_p11_rv_name(rv));
	return is_kept && rv != CKR_OK ? KT_PROBE_GOOD : KT_PROBE_BAD;
}

/* A wrapping key whose unwrapped keys must not be extractable, and an unwrap that asks for one that is. */
static kt_probe_answer unwrap_template(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	CK_BBOOL no = CK_FALSE;
	CK_ATTRIBUTE inner[] = {{CKA_EXTRACTABLE, &no, sizeof no}};
	const CK_ATTRIBUTE extra = {CKA_UNWRAP_TEMPLATE, inner, sizeof inner};
	kt_probe_key spec = wrapping;
	CK_OBJECT_HANDLE key, back;
	kt_probe_blob blob;
	spec.extra = &extra;
	CK_RV rv = kt_probe_generate(p, &spec, &key);
	if (rv != CKR_OK)
		return not_made(rv, seen);
	rv = p->n_found ? wrap(p, key, p->target, &blob) : CKR_MECHANISM_INVALID;
	if (rv == CKR_OK) /* what the template allows must still be done */
		rv = unwrap(p, key, &blob, &(kt_probe_key){.fixed = true}, &back);
	if (rv != CKR_OK)
		return skip("nothing to unwrap by", rv, seen);
	rv = unwrap(p, key, &blob, &(kt_probe_key){.bytes = 32}, &back);
	if (rv == CKR_OK && kt_probe_flag(p, back, CKA_EXTRACTABLE) == 0) {
		(void)snprintf(seen, KT_PROBE_SEEN, "an unwrapped key gets what the template says");
		return KT_PROBE_GOOD;
	}
	(void)snprintf(seen, KT_PROBE_SEEN, "unwrapping a key against it: %s",
		       rv == CKR_OK ? "done" : kt_p11_rv_name(rv));
	return rv == CKR_OK ? KT_PROBE_BAD : KT_PROBE_GOOD;
}

/* --- what no key should be able to do ----------------------------------------------------------------------------- */

static kt_probe_answer weak_wrapping(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	CK_OBJECT_HANDLE weak;
	kt_probe_blob blob;
	CK_RV rv = kt_probe_generate(p, &(kt_probe_key){.bytes = 16, .wraps = true}, &weak);
	if (rv != CKR_OK || !p->n_found)
		return skip(p->n_found ? "no AES-128 key is made" : "nothing wraps", rv, seen);
	return refused(wrap(p, weak, p->target, &blob), seen);
}

static kt_probe_answer wrap_and_decrypt(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	CK_OBJECT_HANDLE key;
	return refused(kt_probe_generate(p, &(kt_probe_key){.wraps = true, .decrypts = true}, &key), seen);
}

const kt_probe_question kt_probe_policy[] = {
	{"policy.sensitive-read", "reading the value of a sensitive key", "refused", "",
	 "it gives sensitive keys away in the clear", KT_PROBE_UNFIT, .ask = sensitive_read},
	{"policy.extractable-wrap", "wrapping a key that is not extractable", "refused", "",
	 "a program that has the PIN can take out even the wrapping key: whoever has the PIN has every key",
	 KT_PROBE_WARNING, .ask = extractable_wrap},
	{"policy.sensitive-unset", "making a sensitive key readable", "refused", "",
	 "a program that has the PIN can make a key readable afterwards", KT_PROBE_WARNING, .ask = sensitive_unset},
	{"policy.extractable-set", "making a key extractable afterwards", "refused", "",
	 "a program that has the PIN can make the wrapping key extractable afterwards", KT_PROBE_WARNING,
	 .ask = extractable_set},
	{"policy.history", "ALWAYS_SENSITIVE and NEVER_EXTRACTABLE", "right", "",
	 "it does not show whether a key was ever readable; keyturn relies on the keys that it made itself",
	 KT_PROBE_WARNING, .ask = history},
	{"policy.unwrap-attributes", "attributes asked for at unwrap", "as asked", "",
	 "unwrapped keys come out other than asked; keyturn destroys such a key, so no escrow can be recovered in it",
	 KT_PROBE_UNFIT, .ask = unwrap_attributes},
	{"policy.unwrap-sensitive", "reading a key that was unwrapped as sensitive", "refused", "",
	 "a recovered key could be read in the clear", KT_PROBE_UNFIT, .ask = unwrap_sensitive},
	{"policy.wrap-with-trusted", "WRAP_WITH_TRUSTED", "kept and enforced", "",
	 "it does not bind a key to trusted wrapping keys; keyturn does not rely on that", KT_PROBE_WARNING,
	 .ask = with_trusted},
	{"policy.allowed-mechanisms", "ALLOWED_MECHANISMS of a wrapping key", "kept and enforced", "",
	 "it does not bind a key to mechanisms; keyturn does not rely on that", KT_PROBE_WARNING,
	 .ask = allowed_mechanisms},
	{"policy.unwrap-template", "UNWRAP_TEMPLATE of a wrapping key", "enforced", "",
	 "it does not bind what a wrapping key unwraps; keyturn reads back and destroys instead", KT_PROBE_WARNING,
	 .ask = unwrap_template},
	{"policy.weak-wrapping", "wrapping an AES-256 key under an AES-128 key", "refused", "",
	 "it lets a weaker key wrap a stronger one; keyturn's own wrapping keys have 256 bits", KT_PROBE_WARNING,
	 .ask = weak_wrapping},
	{"policy.wrap-and-decrypt", "a key that may both wrap and decrypt", "refused", "",
	 "a program that has the PIN can wrap a key and decrypt it; keyturn's wrapping keys may not decrypt",
	 KT_PROBE_WARNING, .ask = wrap_and_decrypt},
	{.id = NULL},
};
