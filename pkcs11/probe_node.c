/* SPDX-License-Identifier: Apache-2.0 */
/* As a node's token: an RSA key pair of it opens what libcrypto wrapped to its public half, and refuses what was
 * changed.
 */
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

#include "pkcs11/probe_internal.h"
#include "pkcs11/transport.h"

static const char opens[] = "opens what is wrapped to a key of its own";

static void add(kt_probe *p, const char *id, const char *what, const char *expected, kt_probe_mark mark,
		const char *words, const char *seen)
{
	kt_probe_row row = {.role = KT_PROBE_NODE, .what = what, .expected = expected, .mark = mark, .words = words};
	(void)snprintf(row.id, sizeof row.id, "%s", id);
	kt_probe_add(p, &row, seen);
}

/* --- The pair ----------------------------------------------------------------------------------------------------- */

/* A throw-away pair, on the token where that is allowed and needed; false with a row that says why there is none. */
static bool throw_away(kt_probe *p, bool *on_token, kt_token_transport *out)
{
	static const kt_p11_pair of_session = {.what = "throw-away key", .on_token = false};
	static const kt_p11_pair of_token = {.what = "throw-away key", .on_token = true};
	static const kt_token_key_name name = {.label = "keyturn-probe"};
	char seen[KT_PROBE_SEEN];
	kt_err err = KT_ERR_INIT;
	bool allowed = *on_token;
	*on_token = false;
	if (kt_p11_pair_make(p->t, &of_session, &name, KT_TRANSPORT_KEY_MIN_BITS, out, &err) == KT_OK)
		return true;
	*on_token = allowed;
	if (allowed && kt_p11_pair_make(p->t, &of_token, &name, KT_TRANSPORT_KEY_MIN_BITS, out, &err) == KT_OK)
		return true;
	const char *call = strstr(err.msg, "C_");
	(void)snprintf(seen, sizeof seen, "not tried: it makes no RSA pair that does not stay (%.110s)",
		       call ? call : err.msg);
	add(p, "node.opens", opens, "RSA-OAEP", KT_PROBE_NOT_TRIED,
	    "it can be tried with a key that is there (object= in the URI), or with --key-on-token", seen);
	return false;
}

static kt_code named(kt_probe *p, const kt_token_key_name *name, kt_token_transport *out, kt_err *err)
{
	static kt_token_transport found[KT_TRANSPORT_KEYS_MAX];
	size_t n;
	KT_TRY(kt_token_transport_list(p->t, name, found, &n, err));
	if (n != 1)
		return kt_fail(err, KT_E_KEY, "correct object= or id= in the URI, or leave them out",
			       "%s: %zu RSA key pairs have this name", p->t->name, n);
	*out = found[0];
	return KT_OK;
}

/* --- What it opens ------------------------------------------------------------------------------------------------ */

typedef struct opened {
	bool decrypt, unwrap;
	char why_not[2][80];
	kt_blob blob; /* what was opened, or not */
} opened;

/* By one of the two calls; true when the very key comes out. */
static bool open_by(kt_probe *p, const kt_token_transport *pair, bool decrypt, const kt_blob *blob,
		    const kt_secret *value, char why_not[80])
{
	kt_token_transport k = *pair;
	kt_secret out;
	kt_err err = KT_ERR_INIT;
	if (!(decrypt ? pair->decrypt : pair->unwrap)) {
		(void)snprintf(why_not, 80, "the key may not");
		return false;
	}
	k.decrypt = decrypt;
	k.unwrap = !decrypt;
	kt_code rc = kt_token_transport_open(p->t, &k, kt_blob_is_sha256(blob->format), blob->wrapped,
					     blob->wrapped_len, &out, &err);
	bool same = rc == KT_OK && value && kt_secret_equal(&out, value);
	kt_secret_free(&out);
	const char *ckr = strstr(err.msg, "CKR_");
	(void)snprintf(why_not, 80, "%.*s", ckr ? (int)strcspn(ckr, " ),") : 12, ckr ? ckr : "another key");
	return value ? same : rc == KT_OK;
}

static opened try_format(kt_probe *p, const kt_token_transport *pair, EVP_PKEY *pub, kt_blob_format format)
{
	const kt_blob_address address = {.purpose = KT_BLOB_REHEARSAL, .run = "-", .node = "probe"};
	opened o = {.decrypt = false};
	kt_secret value = KT_SECRET_INIT;
	if (kt_secret_new(&value, 32, NULL) != KT_OK || RAND_bytes(value.data, 32) != 1 ||
	    kt_blob_begin(&address, &o.blob, NULL) != KT_OK ||
	    kt_blob_wrap_rsa(&o.blob, pub, format, &value, NULL) != KT_OK) {
		kt_secret_free(&value);
		return o;
	}
	o.decrypt = open_by(p, pair, true, &o.blob, &value, o.why_not[0]);
	o.unwrap = open_by(p, pair, false, &o.blob, &value, o.why_not[1]);
	kt_secret_free(&value);
	return o;
}

static void add_format(kt_probe *p, const opened *o)
{
	char seen[KT_PROBE_SEEN], id[KT_PROBE_ID];
	if (o->decrypt || o->unwrap)
		(void)snprintf(seen, sizeof seen, "by %s%s%s", o->decrypt ? "C_Decrypt" : "",
			       o->decrypt && o->unwrap ? " and " : "", o->unwrap ? "C_UnwrapKey" : "");
	else
		(void)snprintf(seen, sizeof seen, "no: C_Decrypt: %s, C_UnwrapKey: %s", o->why_not[0], o->why_not[1]);
	(void)snprintf(id, sizeof id, "node.%s", kt_blob_format_name(o->blob.format));
	add(p, id, kt_blob_is_sha256(o->blob.format) ? "opens RSA-OAEP with SHA-256" : "opens RSA-OAEP with SHA-1",
	    "by C_Decrypt or C_UnwrapKey", KT_PROBE_OK, "", seen);
}

/* --- What it refuses ---------------------------------------------------------------------------------------------- */

/* And whether the session still opens anything afterwards. */
static void add_changed(kt_probe *p, const kt_token_transport *pair, const opened *o)
{
	char seen[KT_PROBE_SEEN], ignored[80];
	int taken = 0, all = 0;
	for (size_t i = 0; i < o->blob.wrapped_len; i += 32, all++) {
		kt_blob bad = o->blob;
		bad.wrapped[i] ^= i ? 0x01 : 0x40; /* the number stays below the modulus, or is refused for that */
		taken += open_by(p, pair, o->decrypt, &bad, NULL, ignored);
	}
	(void)snprintf(seen, sizeof seen, "%d of %d refused", all - taken, all);
	add(p, "node.corrupt", "a blob that was changed", "refused", taken ? KT_PROBE_UNFIT : KT_PROBE_OK,
	    taken ? "it opens changed blobs" : "", seen);
	bool on = open_by(p, pair, o->decrypt, &o->blob, NULL, ignored);
	add(p, "node.goes-on", "opening the next one after a refusal", "opened", on ? KT_PROBE_OK : KT_PROBE_WARNING,
	    on ? "" : "once it has refused a blob, its session opens nothing more; keyturn takes a new one",
	    on ? "opened" : ignored);
}

/* Unwrapping with the attributes of a cluster key, which are read back. */
static void add_attributes(kt_probe *p, const kt_token_transport *pair, const opened *o)
{
	CK_OBJECT_HANDLE key = 0;
	kt_err err = KT_ERR_INIT;
	const kt_p11_mechanism *m = kt_p11_mechanisms();
	while (m->name && m->format != o->blob.format)
		m++;
	kt_code rc = m->name ? kt_p11_unwrap(p->t, o->blob.format, m, pair->handle, o->blob.wrapped,
					     o->blob.wrapped_len, &kt_p11_cluster_session, NULL, &key, &err)
			     : KT_E_INTERNAL;
	kt_p11_discard(p->t, key);
	const char *what = strstr(err.msg, "this ");
	add(p, "node.unwrap-attributes", "attributes asked for at C_UnwrapKey", "as asked",
	    rc == KT_OK ? KT_PROBE_OK : KT_PROBE_WARNING,
	    rc == KT_OK ? "" : "what it unwraps is not as it was asked to be; a node reads its key at once anyway",
	    rc == KT_OK ? "as asked"
	    : what      ? what
			: err.msg);
}

/* spare: the pair must be destroyed afterwards, which tpm2-pkcs11 1.9 does not do once it has refused a blob. */
static void add_summary(kt_probe *p, const kt_token_transport *pair, bool spare, const opened *sha256,
			const opened *sha1)
{
	bool best = sha256->decrypt || sha256->unwrap, some = best || sha1->decrypt || sha1->unwrap;
	const opened *o = best ? sha256 : sha1;
	add(p, "node.opens", opens, "RSA-OAEP", some ? KT_PROBE_OK : KT_PROBE_UNFIT,
	    some ? "" : "it does not open RSA-OAEP, so no key can be wrapped for it",
	    some ? kt_blob_format_name(o->blob.format) : "no");
	if (some && !spare)
		add_changed(p, pair, o);
	if (o->unwrap)
		add_attributes(p, pair, o);
}

static void ask_pair(kt_probe *p, const kt_token_transport *pair, bool spare, EVP_PKEY *pub)
{
	const opened sha256 = try_format(p, pair, pub, KT_BLOB_RSA_OAEP_SHA256);
	const opened sha1 = try_format(p, pair, pub, KT_BLOB_RSA_OAEP_SHA1);
	add_format(p, &sha256);
	add_format(p, &sha1);
	add_summary(p, pair, spare, &sha256, &sha1);
}

kt_code kt_probe_node(kt_probe *p, const kt_probe_options *options, kt_err *err)
{
	kt_token_transport pair = {0};
	bool on_token = options->on_token && !options->node_key;
	if (options->node_key)
		KT_TRY(named(p, options->node_key, &pair, err));
	else if (!throw_away(p, &on_token, &pair))
		return KT_OK;
	const unsigned char *der = pair.spki;
	EVP_PKEY *pub = d2i_PUBKEY(NULL, &der, (long)pair.spki_len);
	if (pub)
		ask_pair(p, &pair, on_token, pub);
	EVP_PKEY_free(pub);
	if (!options->node_key)
		KT_TRY(kt_token_transport_destroy(p->t, &pair, err));
	return pub ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "a public key cannot be read again");
}
