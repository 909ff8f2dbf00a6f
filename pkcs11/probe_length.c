/* SPDX-License-Identifier: Apache-2.0 */
/* Lengths: keys that are no multiple of 8 bytes, what a size query says, CKA_VALUE_LEN at unwrap; the KCV attribute. */
#include <stdio.h>
#include <string.h>

#include "pkcs11/probe_internal.h"

#ifndef CKA_CHECK_VALUE
#define CKA_CHECK_VALUE (0x90UL)
#endif

/* What became of a generic secret of some length that went through the token. */
typedef enum fate { EXACT, REFUSED, PADDED, CHANGED } fate;

static fate through(kt_probe *p, CK_ULONG bytes)
{
	const kt_probe_key spec = {.generic = true, .readable = true, .bytes = bytes};
	CK_MECHANISM m = {p->now->mechanism->type, NULL, 0};
	CK_OBJECT_HANDLE key, back;
	CK_BYTE before[64], after[96] = {0};
	kt_probe_blob blob;
	if (kt_probe_generate(p, &spec, &key) != CKR_OK || kt_probe_value(p, key, before, sizeof before) != bytes ||
	    kt_probe_wrap(p, &m, p->kek, key, &blob) != CKR_OK ||
	    kt_probe_unwrap(p, &m, p->kek, &blob, &spec, &back) != CKR_OK)
		return REFUSED;
	CK_ULONG n = kt_probe_value(p, back, after, sizeof after);
	if (n < bytes || memcmp(before, after, bytes) != 0)
		return CHANGED;
	for (CK_ULONG i = bytes; i < n; i++)
		if (after[i])
			return CHANGED;
	return n == bytes ? EXACT : PADDED;
}

static kt_probe_answer odd_lengths(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	static const CK_ULONG lengths[] = {17, 18, 19, 20, 21, 22, 23, 33};
	static const char *const words[] = {"come back as they were", "refused", "come back longer, with zeros",
					    "come back changed"};
	size_t count[4] = {0}, n = 0;
	if (!p->readable)
		return KT_PROBE_SKIPPED;
	for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
		count[through(p, lengths[i])]++;
	for (size_t i = 0; i < 4 && n < KT_PROBE_SEEN; i++)
		if (count[i])
			n += (size_t)snprintf(seen + n, KT_PROBE_SEEN - n, "%s%zu of 8 lengths %s", n ? ", " : "",
					      count[i], words[i]);
	return count[PADDED] || count[CHANGED] ? KT_PROBE_BAD : KT_PROBE_GOOD;
}

static kt_probe_answer size_query(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	CK_MECHANISM m = {p->now->mechanism->type, NULL, 0};
	CK_ULONG said = 0;
	kt_probe_blob blob;
	CK_RV rv = P11_RV(p->t->f, C_WrapKey, p->t->session, &m, p->kek, p->target, NULL, &said);
	CK_RV real = kt_probe_wrap(p, &m, p->kek, p->target, &blob);
	if (rv != CKR_OK || real != CKR_OK) {
		(void)snprintf(seen, KT_PROBE_SEEN, "%s", kt_p11_rv_name(rv != CKR_OK ? rv : real));
		return KT_PROBE_BAD;
	}
	(void)snprintf(seen, KT_PROBE_SEEN, "says %lu, gives %lu", said, blob.n);
	return said == blob.n ? KT_PROBE_GOOD : KT_PROBE_BAD;
}

/* CKA_VALUE_LEN in the template of C_UnwrapKey: some demand it, some refuse it. Both are done. */
static kt_probe_answer value_len(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	CK_MECHANISM m = {p->now->mechanism->type, NULL, 0};
	CK_ULONG len = 32;
	const CK_ATTRIBUTE with = {CKA_VALUE_LEN, &len, sizeof len};
	CK_OBJECT_HANDLE back;
	kt_probe_blob blob;
	if (kt_probe_wrap(p, &m, p->kek, p->target, &blob) != CKR_OK)
		return KT_PROBE_SKIPPED;
	CK_RV rv = kt_probe_unwrap(p, &m, p->kek, &blob, &(kt_probe_key){.extra = &with}, &back);
	CK_RV bare = kt_probe_unwrap(p, &m, p->kek, &blob, &(kt_probe_key){.bytes = 32}, &back);
	(void)snprintf(seen, KT_PROBE_SEEN, "without: %s, with: %s", bare == CKR_OK ? "taken" : kt_p11_rv_name(bare),
		       rv == CKR_OK ? "taken" : kt_p11_rv_name(rv));
	return bare == CKR_OK || rv == CKR_OK ? KT_PROBE_GOOD : KT_PROBE_BAD;
}

/* The first 3 bytes of AES-ECB over a block of zeros (PKCS#11 v2.40 §4.9); true when the token gives these. */
static bool is_check_value(const kt_probe *p, const CK_BYTE got[3])
{
	CK_BYTE block[16] = {0}, out[32];
	int len = 0;
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	bool done = c && EVP_EncryptInit_ex(c, EVP_aes_256_ecb(), NULL, p->target_value, NULL) == 1 &&
		    EVP_EncryptUpdate(c, out, &len, block, sizeof block) == 1;
	EVP_CIPHER_CTX_free(c);
	return done && memcmp(out, got, 3) == 0;
}

static const char *check_value(kt_probe *p, CK_OBJECT_HANDLE key)
{
	CK_BYTE kcv[8];
	CK_ATTRIBUTE a = {CKA_CHECK_VALUE, kcv, sizeof kcv};
	CK_RV rv = P11_RV(p->t->f, C_GetAttributeValue, p->t->session, key, &a, 1);
	if (rv != CKR_OK || a.ulValueLen == CK_UNAVAILABLE_INFORMATION || a.ulValueLen == 0)
		return a.ulValueLen == 0 && rv == CKR_OK ? "empty" : "none";
	if (!p->readable)
		return "given";
	return a.ulValueLen == 3 && is_check_value(p, kcv) ? "AES-ECB of zeros" : "of another method";
}

static kt_probe_answer kcv(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	CK_OBJECT_HANDLE back = 0;
	kt_probe_blob blob;
	CK_MECHANISM m = {p->use ? p->use->type : 0, NULL, 0};
	const char *made = check_value(p, p->target), *unwrapped = "not tried";
	if (p->use && kt_probe_wrap(p, &m, p->kek, p->target, &blob) == CKR_OK &&
	    kt_probe_unwrap(p, &m, p->kek, &blob, &(kt_probe_key){.bytes = 32}, &back) == CKR_OK)
		unwrapped = check_value(p, back);
	(void)snprintf(seen, KT_PROBE_SEEN, "of a key that was made: %s; unwrapped: %s", made, unwrapped);
	return KT_PROBE_GOOD;
}

const kt_probe_question kt_probe_lengths[] = {
	{"length", "keys that are no multiple of 8 bytes", "as they were, or refused", "",
	 "a key of such a length comes back other than it was; keyturn wraps 32 bytes, and nothing else",
	 KT_PROBE_WARNING, .each = true, .ask = odd_lengths},
	{"size-query", "how long a wrapped key will be", "the true length", "",
	 "its size query is wrong; keyturn wraps into a large buffer and believes the call itself", KT_PROBE_WARNING,
	 .each = true, .ask = size_query},
	{"value-len", "VALUE_LEN in the template of an unwrap", "taken or not needed", "",
	 "it unwraps by this mechanism neither with nor without", KT_PROBE_WARNING, .each = true, .ask = value_len},
	{"kcv", "the CHECK_VALUE attribute", "", "", "", KT_PROBE_WARNING, .ask = kcv},
	{.id = NULL},
};
