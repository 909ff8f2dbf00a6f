/* SPDX-License-Identifier: Apache-2.0 */
/* Which mechanism gives which format, there and back against libcrypto; what becomes of changed blobs. */
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

#include "pkcs11/probe_internal.h"
#include "pkcs11/wrap.h"

/* What CKM_AES_KEY_WRAP_PAD is in NSS; no format of ours. */
static const char padded_words[] = "RFC 3394 of PKCS#7-padded bytes, which no RFC has";

/* One direction of AES key wrap by libcrypto; the length of the result, 0 when it does not open. */
static CK_ULONG key_wrap(bool wrap, bool pad, const CK_BYTE key[32], const CK_BYTE *in, CK_ULONG n, CK_BYTE *out)
{
	int len = 0;
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	if (!c)
		return 0;
	EVP_CIPHER_CTX_set_flags(c, EVP_CIPHER_CTX_FLAG_WRAP_ALLOW);
	bool done =
		EVP_CipherInit_ex(c, pad ? EVP_aes_256_wrap_pad() : EVP_aes_256_wrap(), NULL, key, NULL, wrap) == 1 &&
		EVP_CipherUpdate(c, out, &len, in, (int)n) == 1 && len > 0;
	EVP_CIPHER_CTX_free(c);
	return done ? (CK_ULONG)len : 0;
}

/* The bytes of the target with PKCS#7 padding behind them? */
static bool is_pkcs7(const CK_BYTE *bytes, CK_ULONG n, const CK_BYTE target[32])
{
	if (n <= 32 || n > 48 || memcmp(bytes, target, 32) != 0)
		return false;
	for (CK_ULONG i = 32; i < n; i++)
		if (bytes[i] != n - 32)
			return false;
	return true;
}

/* Open what the token wrapped with libcrypto. */
static void recognise(const kt_probe *p, const kt_probe_blob *blob, kt_probe_found *f)
{
	CK_BYTE opened[KT_PROBE_BYTES];
	if (blob->n > 512)
		return;
	CK_ULONG n = key_wrap(false, true, p->kek_value, blob->bytes, blob->n, opened);
	if (n == 32 && memcmp(opened, p->target_value, 32) == 0) {
		*f = (kt_probe_found){f->mechanism, .known = true, .format = KT_BLOB_RFC5649};
		return;
	}
	n = key_wrap(false, false, p->kek_value, blob->bytes, blob->n, opened);
	if (n == 32 && memcmp(opened, p->target_value, 32) == 0)
		*f = (kt_probe_found){f->mechanism, .known = true, .format = KT_BLOB_RFC3394};
	f->padded = is_pkcs7(opened, n, p->target_value);
}

/* The token opens what libcrypto wrapped in that format. */
static CK_RV other_way(kt_probe *p, const kt_probe_found *f, bool *same)
{
	static const kt_probe_key readable = {.readable = true};
	CK_MECHANISM m = {f->mechanism->type, NULL, 0};
	CK_OBJECT_HANDLE back;
	CK_BYTE value[32];
	kt_probe_blob blob;
	*same = false;
	blob.n = key_wrap(true, f->format == KT_BLOB_RFC5649, p->kek_value, p->target_value, 32, blob.bytes);
	CK_RV rv = kt_probe_unwrap(p, &m, p->kek, &blob, &readable, &back);
	if (rv == CKR_OK)
		*same = kt_probe_value(p, back, value, 32) == 32 && memcmp(value, p->target_value, 32) == 0;
	return rv;
}

static void add_mechanism(kt_probe *p, const kt_p11_mechanism *m, kt_probe_mark mark, const char *words,
			  const char *seen)
{
	kt_probe_row row = {.mark = mark,
			    .what = "wraps under an AES key",
			    .expected = m->format == KT_BLOB_RFC5649 ? "RFC 5649" : "RFC 3394",
			    .words = words};
	(void)snprintf(row.id, sizeof row.id, "wrap.%s", m->name);
	kt_probe_add(p, &row, seen);
}

static void add_found(kt_probe *p, const kt_probe_found *f)
{
	char seen[KT_PROBE_SEEN];
	bool same;
	if (!f->known) {
		add_mechanism(p, f->mechanism, KT_PROBE_WARNING, "keyturn does not use this mechanism of this token",
			      f->padded ? padded_words : "in no format that libcrypto knows");
		return;
	}
	CK_RV rv = other_way(p, f, &same);
	const char *format = f->format == KT_BLOB_RFC5649 ? "RFC 5649" : "RFC 3394";
	if (same) {
		(void)snprintf(seen, sizeof seen, "%s, there and back", format);
		add_mechanism(p, f->mechanism, KT_PROBE_OK, "", seen);
		return;
	}
	(void)snprintf(seen, sizeof seen, "%s there; what libcrypto wrapped does not come back (%s)", format,
		       kt_p11_rv_name(rv));
	add_mechanism(p, f->mechanism, KT_PROBE_WARNING,
		      "a key wrapped elsewhere, by openssl or another token, may not open here", seen);
}

/* A token that shows no key cannot be checked: its own round trip, and the standard's name, have to do. */
static void add_believed(kt_probe *p, const kt_p11_mechanism *m, kt_probe_found *f)
{
	*f = (kt_probe_found){m, .known = m->named, .format = m->format};
	add_mechanism(p, m, m->named ? KT_PROBE_OK : KT_PROBE_WARNING,
		      m->named ? "" : "keyturn does not use this mechanism of this token",
		      m->named ? "there and back in the token; believed by its name, for the token shows no key"
			       : "there and back in the token, in a format that cannot be checked");
}

static void try_mechanism(kt_probe *p, const kt_p11_mechanism *row)
{
	static const kt_probe_key plain = {.bytes = 32};
	CK_MECHANISM m = {row->type, NULL, 0};
	CK_OBJECT_HANDLE back;
	kt_probe_blob blob;
	char seen[KT_PROBE_SEEN];
	CK_RV rv = kt_probe_wrap(p, &m, p->kek, p->target, &blob);
	const char *call = "C_WrapKey";
	if (rv == CKR_OK) {
		call = "C_UnwrapKey";
		rv = kt_probe_unwrap(p, &m, p->kek, &blob, &plain, &back);
	}
	if (rv != CKR_OK) {
		(void)snprintf(seen, sizeof seen, "no: %s gave %s (0x%lx)", call, kt_p11_rv_name(rv), rv);
		add_mechanism(p, row, KT_PROBE_OK, "", seen);
		return;
	}
	if (p->n_found == KT_PROBE_MECHANISMS)
		return;
	kt_probe_found *f = &p->found[p->n_found++];
	*f = (kt_probe_found){.mechanism = row};
	if (!p->readable) {
		add_believed(p, row, f);
		return;
	}
	recognise(p, &blob, f);
	add_found(p, f);
}

/* --- to an RSA key ------------------------------------------------------------------------------------------------ */

/* What an error says, without the token's name in front. */
static void tell_error(const kt_probe *p, const kt_err *err, char seen[KT_PROBE_SEEN])
{
	const char *name = strstr(err->msg, p->t->name);
	(void)snprintf(seen, KT_PROBE_SEEN, "no: %.180s", name ? name + strlen(p->t->name) + 2 : err->msg);
}

static void try_rsa(kt_probe *p, const kt_p11_mechanism *m, EVP_PKEY *pair, const kt_token_node_key *node)
{
	char seen[KT_PROBE_SEEN];
	kt_err err = KT_ERR_INIT;
	kt_blob blob;
	kt_secret opened = KT_SECRET_INIT;
	kt_code rc = kt_p11_wrap(p->t, m->format, m, node->handle, p->target, &blob, &err);
	if (rc == KT_OK)
		rc = kt_blob_open_rsa(m->format, pair, blob.wrapped, blob.wrapped_len, &opened, &err);
	bool same = rc == KT_OK && opened.len == 32 &&
		    (!p->readable || CRYPTO_memcmp(opened.data, p->target_value, 32) == 0);
	kt_secret_free(&opened);
	if (rc != KT_OK)
		tell_error(p, &err, seen);
	else
		(void)snprintf(seen, sizeof seen, "%s", same ? "opened with libcrypto" : "another key comes out");
	kt_probe_row row = {.mark = rc == KT_OK && !same ? KT_PROBE_WARNING : KT_PROBE_OK,
			    .what = "wraps to an RSA key",
			    .expected = kt_blob_format_name(m->format),
			    .words = rc == KT_OK && !same ? "keyturn does not use this mechanism of this token" : ""};
	(void)snprintf(row.id, sizeof row.id, "wrap.%s.%s", m->name, kt_blob_format_name(m->format));
	kt_probe_add(p, &row, seen);
}

/* The public half of the probe's pair, as a node's. */
static kt_code import_pair(kt_probe *p, kt_token_node_key *out, kt_err *err)
{
	unsigned char *der = NULL;
	EVP_PKEY *pair = kt_p11_probe_pair();
	int n = pair ? i2d_PUBKEY(pair, &der) : 0;
	*out = (kt_token_node_key){0};
	kt_code rc = n > 0 ? kt_token_import_node_key(p->t, der, (size_t)n, out, err)
			   : kt_fail(err, KT_E_INTERNAL, NULL, "libcrypto does not make an RSA key");
	OPENSSL_free(der);
	return rc;
}

static void try_rsa_mechanisms(kt_probe *p)
{
	kt_token_node_key node;
	kt_err err = KT_ERR_INIT;
	char seen[KT_PROBE_SEEN];
	if (import_pair(p, &node, &err) == KT_OK) {
		for (const kt_p11_mechanism *m = kt_p11_mechanisms(); m->name; m++)
			if (m->parameter != KT_P11_NO_PARAMETER && kt_p11_applies(m, p->t->maker))
				try_rsa(p, m, kt_p11_probe_pair(), &node);
		kt_token_drop_node_key(p->t, &node);
		return;
	}
	tell_error(p, &err, seen);
	kt_probe_add(p,
		     &(kt_probe_row){.id = "wrap.import",
				     .what = "takes a node's public key for a session",
				     .expected = "taken",
				     .words = "it cannot wrap to a node's key",
				     .mark = KT_PROBE_UNFIT},
		     seen);
}

void kt_probe_mechanisms(kt_probe *p)
{
	for (const kt_p11_mechanism *m = kt_p11_mechanisms(); m->name; m++)
		if (m->parameter == KT_P11_NO_PARAMETER && kt_p11_applies(m, p->t->maker))
			try_mechanism(p, m);
	try_rsa_mechanisms(p);
}

/* --- what is used, and what is wrong with it ---------------------------------------------------------------------- */

static kt_probe_answer used(const kt_p11_mechanism *const candidates[], size_t n, kt_probe *p, char *seen)
{
	for (size_t i = 0; i < n; i++)
		if (candidates[i]->name) {
			(void)snprintf(seen, KT_PROBE_SEEN, "%s by %s (0x%lx)",
				       kt_blob_format_name(candidates[i]->format), candidates[i]->name,
				       candidates[i]->type);
			if (!p->use)
				p->use = candidates[i];
			return KT_PROBE_GOOD;
		}
	(void)snprintf(seen, KT_PROBE_SEEN, "none");
	return KT_PROBE_BAD;
}

static kt_probe_answer without_mac(char seen[KT_PROBE_SEEN])
{
	(void)snprintf(seen, KT_PROBE_SEEN, "not tried: without AES-CMAC nothing shows which key comes back");
	return KT_PROBE_SKIPPED;
}

static kt_probe_answer escrow_format(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	const kt_p11_mechanism *const order[] = {&p->t->by_format[KT_BLOB_RFC5649], &p->t->by_format[KT_BLOB_RFC3394]};
	kt_err err = KT_ERR_INIT;
	if (!p->macs)
		return without_mac(seen);
	if (kt_p11_probe_aes(p->t, &err) == KT_OK)
		return used(order, 2, p, seen);
	tell_error(p, &err, seen);
	return KT_PROBE_BAD;
}

static kt_probe_answer node_format(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	const kt_p11_mechanism *const order[] = {&p->t->by_format[KT_BLOB_RSA_OAEP_SHA256],
						 &p->t->by_format[KT_BLOB_RSA_OAEP_SHA1]};
	const kt_p11_mechanism *escrow = p->use;
	kt_err err = KT_ERR_INIT;
	if (!p->macs)
		return without_mac(seen);
	if (kt_p11_probe_oaep(p->t, &err) != KT_OK) {
		tell_error(p, &err, seen);
		return KT_PROBE_BAD;
	}
	kt_probe_answer answer = used(order, 2, p, seen);
	p->use = escrow;
	return answer;
}

/* RSA-AES as keyturn makes it in this token, by one call or by two: for payloads that need it, and for receivers that
 * open nothing else. */
static kt_probe_answer composed(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	const kt_blob_address address = {.purpose = KT_BLOB_REHEARSAL,
					 .run = "-",
					 .node = "probe",
					 .accepts = 1U << KT_BLOB_RSA_AES_SHA256 | 1U << KT_BLOB_RSA_AES_SHA1};
	kt_token_key target = {.handle = p->target};
	kt_token_node_key node = {0};
	kt_blob blob;
	kt_secret opened = KT_SECRET_INIT;
	kt_err err = KT_ERR_INIT;
	if (!p->macs)
		return without_mac(seen);
	kt_code rc = import_pair(p, &node, &err);
	if (rc == KT_OK)
		rc = kt_p11_kcv(p->t, p->target, target.kcv, &err);
	if (rc == KT_OK)
		rc = kt_token_wrap_for_node(p->t, &target, &node, &address, &blob, &err);
	if (rc == KT_OK)
		rc = kt_blob_unwrap_rsa(&blob, kt_p11_probe_pair(), &opened, &err);
	kt_secret_free(&opened);
	kt_token_drop_node_key(p->t, &node);
	if (rc == KT_OK)
		(void)snprintf(seen, KT_PROBE_SEEN, "%s by %s, opened with libcrypto", kt_blob_format_name(blob.format),
			       blob.mechanism);
	else
		tell_error(p, &err, seen);
	return rc == KT_OK ? KT_PROBE_GOOD : KT_PROBE_BAD;
}

static kt_probe_answer node_hash(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	bool sha256 = p->t->by_format[KT_BLOB_RSA_OAEP_SHA256].name, sha1 = p->t->by_format[KT_BLOB_RSA_OAEP_SHA1].name;
	(void)snprintf(seen, KT_PROBE_SEEN, "%s%s%s", sha256 ? "SHA-256" : "", sha256 && sha1 ? ", " : "",
		       sha1 ? "SHA-1" : "");
	if (!sha256 && !sha1) {
		(void)snprintf(seen, KT_PROBE_SEEN, "not tried");
		return KT_PROBE_SKIPPED;
	}
	return sha256 ? KT_PROBE_GOOD : KT_PROBE_BAD;
}

/* The changes that a blob may suffer. False when there are no more. */
static bool change(const kt_probe_blob *good, int i, kt_probe_blob *bad)
{
	*bad = *good;
	if ((CK_ULONG)i < good->n) {
		bad->bytes[i] ^= 0x01;
		return true;
	}
	switch (i - (int)good->n) {
	case 0:
		bad->n -= 1;
		return true;
	case 1:
		bad->n -= 8;
		return true;
	case 2:
		memset(bad->bytes + bad->n, 0, 8);
		bad->n += 8;
		return true;
	default:
		return false;
	}
}

static kt_probe_answer corrupted(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	static const kt_probe_key plain = {.bytes = 32};
	CK_MECHANISM m = {p->now->mechanism->type, NULL, 0};
	CK_OBJECT_HANDLE back;
	kt_probe_blob good, bad;
	CK_RV rv = kt_probe_wrap(p, &m, p->kek, p->target, &good), refusal = CKR_OK;
	int all = 0, taken = 0;
	if (rv != CKR_OK)
		return KT_PROBE_SKIPPED;
	for (; change(&good, all, &bad); all++) {
		rv = kt_probe_unwrap(p, &m, p->kek, &bad, &plain, &back);
		taken += rv == CKR_OK;
		refusal = rv == CKR_OK ? refusal : rv;
	}
	if (taken) {
		(void)snprintf(seen, KT_PROBE_SEEN, "%d of %d changed blobs were taken", taken, all);
		return KT_PROBE_BAD;
	}
	(void)snprintf(seen, KT_PROBE_SEEN, "%d of %d refused, with %s", all, all, kt_p11_rv_name(refusal));
	return KT_PROBE_GOOD;
}

static kt_probe_answer cmac(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	char here[KT_KCV_TEXT], there[KT_KCV_TEXT];
	kt_err err = KT_ERR_INIT;
	kt_secret value = KT_SECRET_INIT;
	if (kt_p11_kcv(p->t, p->target, here, &err) != KT_OK) {
		tell_error(p, &err, seen);
		return KT_PROBE_BAD;
	}
	p->macs = true;
	(void)snprintf(seen, KT_PROBE_SEEN, "works; not checked, for the token shows no key");
	if (!p->readable || kt_secret_new(&value, 32, NULL) != KT_OK)
		return KT_PROBE_GOOD;
	memcpy(value.data, p->target_value, 32);
	bool same = kt_kcv_of(&value, there, NULL) == KT_OK && strcmp(here, there) == 0;
	kt_secret_free(&value);
	(void)snprintf(seen, KT_PROBE_SEEN, same ? "equal to libcrypto's" : "other than libcrypto's");
	return same ? KT_PROBE_GOOD : KT_PROBE_BAD;
}

const kt_probe_question kt_probe_mac[] = {
	{"mac.cmac", "AES-CMAC: check value and proof of possession", "as libcrypto computes it", "",
	 "it does not do AES-CMAC, so keyturn cannot tell its keys apart", KT_PROBE_UNFIT, .ask = cmac},
	{.id = NULL},
};

const kt_probe_question kt_probe_wrapping[] = {
	{"wrap.composed", "an ephemeral AES key to an RSA key, and a key under that one", "RSA-AES", "",
	 "it wraps for no receiver that opens RSA-AES alone", KT_PROBE_WARNING, .ask = composed},
	{"use.escrow", "a key under an AES wrapping key (escrow)", "RFC 5649 or RFC 3394", "",
	 "it cannot wrap a key under an AES key, so there is no escrow", KT_PROBE_UNFIT, .ask = escrow_format},
	{"use.node", "a key to a node's RSA key", "RSA-OAEP", "", "it cannot wrap a key to a node's RSA key",
	 KT_PROBE_UNFIT, .ask = node_format},
	{"oaep.hash", "RSA-OAEP hashes, opened with libcrypto", "SHA-256", "",
	 "nodes get their keys by RSA-OAEP with SHA-1, which is sound in OAEP, but which some policies forbid",
	 KT_PROBE_WARNING, .ask = node_hash},
	{"corrupt", "a blob that was changed or cut", "refused", "",
	 "it takes changed blobs, so keyturn does not use this mechanism", KT_PROBE_WARNING, .each = true,
	 .ask = corrupted},
	{.id = NULL},
};
