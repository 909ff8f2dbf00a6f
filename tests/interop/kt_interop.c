/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the product does with wrapped keys, for tests that do the other half with other programs. JSON on stdout; a
 * failure's class is the exit status, its text goes to stderr.
 *
 *   kt_interop make URI WRAPPING PEM      a new key of the token, wrapped in every format that the token does: under
 * the AES key WRAPPING (escrow), and to the RSA public key in PEM (transport, custodian) kt_interop open URI WRAPPING
 * the blob on stdin, opened in the token: under WRAPPING, kt_interop open URI rsa:LABEL         or with a custodian's
 * pair, kt_interop open-node URI LABEL        or as a node does, with its transport key kt_interop open-file FILE or by
 * libcrypto, with FILE: 32 bytes, or a private key in PEM kt_interop custodian URI LABEL        make a custodian's
 * pair, or kt_interop node URI LABEL             a node's transport key: the public half in PEM
 *
 * WRAPPING is label:L (found on the token, or made there), or file:F (the 32 bytes in it become a session object). What
 * was opened is told as its check value and its proof over the nonce 00 01 .. 0f with the label "interop".
 */
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/file.h"
#include "pkcs11/internal.h"
#include "pkcs11/mac.h"
#include "pkcs11/rsa_key.h"
#include "pkcs11/wrap.h"

enum { KEY_LEN = 32, TEXT_MAX = 64 * 1024 };

static const char proof_label[] = "interop";
static const uint8_t nonce[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static kt_code usage(kt_err *err)
{
	return kt_fail(err, KT_E_USAGE, NULL, "see the head of tests/interop/kt_interop.c");
}

static kt_code say(cJSON *o, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_json_print(o, &text, err);
	if (rc == KT_OK)
		(void)printf("%s\n", kt_buf_cstr(&text));
	kt_buf_free(&text);
	cJSON_Delete(o);
	return rc;
}

static kt_code say_key(const char *kcv, const uint8_t proof[KT_PROOF_LEN], cJSON *o, kt_err *err)
{
	kt_buf hex = KT_BUF_INIT;
	kt_code rc = kt_hex_encode(proof, KT_PROOF_LEN, &hex, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "kcv", kcv, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "proof", kt_buf_cstr(&hex), err);
	kt_buf_free(&hex);
	return rc == KT_OK ? say(o, err) : rc;
}

static kt_code say_token_key(kt_token *t, const kt_token_key *key, cJSON *o, kt_err *err)
{
	uint8_t proof[KT_PROOF_LEN];
	char kcv[KT_KCV_TEXT];
	KT_TRY(kt_token_kcv(t, key, kcv, err));
	KT_TRY(kt_token_proof(t, key, proof_label, nonce, sizeof nonce, proof, err));
	return say_key(kcv, proof, o, err);
}

static kt_code say_secret(kt_secret *key, kt_err *err)
{
	uint8_t proof[KT_PROOF_LEN];
	char kcv[KT_KCV_TEXT];
	kt_code rc = kt_kcv_of(key, kcv, err);
	if (rc == KT_OK)
		rc = kt_proof_of(key, proof_label, nonce, sizeof nonce, proof, err);
	kt_secret_free(key);
	return rc == KT_OK ? say_key(kcv, proof, cJSON_CreateObject(), err) : rc;
}

static kt_code read_blob(kt_blob *out, kt_err *err)
{
	char text[TEXT_MAX];
	size_t n = fread(text, 1, sizeof text, stdin);
	return kt_blob_from_text("stdin", text, n, out, err);
}

static kt_code read_key(const char *path, kt_secret *out, kt_err *err)
{
	FILE *f = fopen(path, "rb");
	if (!f)
		return kt_fail(err, KT_E_IO, NULL, "%s cannot be read", path);
	kt_code rc = kt_secret_read_fd(out, fileno(f), TEXT_MAX / 8, path, err);
	(void)fclose(f);
	return rc;
}

static kt_code wrapping_key(kt_token *t, const char *what, kt_token_key *out, kt_err *err)
{
	static const kt_p11_policy policy = {"test key", CK_FALSE, CK_FALSE, CK_TRUE, CK_TRUE, CK_TRUE};
	kt_p11_template tpl;
	kt_secret value;
	*out = (kt_token_key){.label = "test"};
	if (strncmp(what, "label:", 6) == 0) {
		const kt_token_key_name name = {.label = what + 6};
		return kt_token_find_wrapping_key(t, &name, out, NULL) == KT_OK
			       ? KT_OK
			       : kt_token_create_wrapping_key(t, &name, out, err);
	}
	if (strncmp(what, "file:", 5) != 0)
		return usage(err);
	KT_TRY(read_key(what + 5, &value, err));
	kt_p11_template_key(&tpl, &policy);
	kt_p11_template_add(&tpl, CKA_VALUE, value.data, value.len);
	kt_code rc = P11(t, err, C_CreateObject, t->session, tpl.a, tpl.n, &out->handle);
	kt_secret_free(&value);
	return rc == KT_OK ? kt_p11_kcv(t, out->handle, out->kcv, err) : rc;
}

/* --- make --------------------------------------------------------------------------------------------------------- */

static kt_code add_blob(cJSON *to, kt_code rc, const kt_blob *b, kt_err *err)
{
	cJSON *json;
	if (rc == KT_E_HSM) {
		*err = KT_ERR_INIT;
		return KT_OK; /* the token does not do the format; the test knows which it must do */
	}
	KT_TRY(rc);
	KT_TRY(kt_blob_to_json(b, &json, err));
	return kt_json_add(to, kt_blob_format_name(b->format), json, err);
}

static kt_code wrap_all(kt_token *t, const kt_token_key *key, const kt_token_key *wrapping,
			const kt_token_node_key *node, cJSON *blobs, kt_err *err)
{
	kt_blob b;
	for (unsigned f = 0; f < KT_BLOB_FORMATS; f++) {
		bool composed = kt_blob_is_composed((kt_blob_format)f), rsa = kt_blob_is_rsa((kt_blob_format)f);
		const kt_blob_address escrow = {.purpose = KT_BLOB_ESCROW, .run = "R1", .accepts = 1U << f},
				      transport = {.purpose = KT_BLOB_TRANSPORT,
						   .run = "R1",
						   .node = "web01",
						   .accepts = 1U << f},
				      custodian = {.purpose = KT_BLOB_CUSTODIAN,
						   .run = "R1",
						   .custodian = "alice",
						   .accepts = 1U << f};
		kt_code rc = rsa ? kt_token_wrap_for_node(t, key, node, composed ? &custodian : &transport, &b, err)
				 : kt_token_wrap_under(t, key, wrapping, &escrow, &b, err);
		KT_TRY(add_blob(blobs, rc, &b, err));
	}
	return KT_OK;
}

static kt_code act_make(kt_token *t, char **args, kt_err *err)
{
	kt_buf pem = {.max = TEXT_MAX};
	kt_token_key key, wrapping;
	kt_token_node_key node;
	bool made;
	cJSON *o = cJSON_CreateObject(), *blobs = cJSON_CreateObject();
	const kt_token_key_name name = {.label = "interop", .id = (const uint8_t *)"i", .id_len = 1};
	KT_TRY(kt_json_add(o, "blobs", blobs, err));
	KT_TRY(kt_file_read(args[1], &pem, err));
	KT_TRY(kt_token_import_node_key(t, pem.data, pem.len, &node, err));
	KT_TRY(wrapping_key(t, args[0], &wrapping, err));
	KT_TRY(kt_token_ensure_cluster_key(t, &name, false, &key, &made, err));
	KT_TRY(wrap_all(t, &key, &wrapping, &node, blobs, err));
	return say_token_key(t, &key, o, err);
}

/* --- open --------------------------------------------------------------------------------------------------------- */

static kt_code act_open(kt_token *t, char **args, kt_err *err)
{
	kt_blob b;
	kt_token_key wrapping, key;
	kt_token_rsa_key pair;
	KT_TRY(read_blob(&b, err));
	if (strncmp(args[0], "rsa:", 4) == 0) {
		KT_TRY(kt_token_custodian_find(t, &(kt_token_key_name){.label = args[0] + 4}, &pair, err));
		KT_TRY(kt_token_unwrap_rsa(t, &b, &pair, &key, err));
	} else {
		KT_TRY(wrapping_key(t, args[0], &wrapping, err));
		KT_TRY(kt_token_unwrap_under(t, &b, &wrapping, &key, err));
	}
	return say_token_key(t, &key, cJSON_CreateObject(), err);
}

static kt_code act_open_file(kt_token *t, char **args, kt_err *err)
{
	(void)t;
	kt_blob b;
	kt_secret own, key;
	KT_TRY(read_blob(&b, err));
	KT_TRY(read_key(args[0], &own, err));
	if (own.len == KEY_LEN) {
		KT_TRY(kt_blob_unwrap_aes(&b, &own, &key, err));
	} else {
		BIO *bio = BIO_new_mem_buf(own.data, (int)own.len);
		EVP_PKEY *priv = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
		if (!priv)
			return kt_fail(err, KT_E_INPUT, NULL, "%s holds no private key", args[0]);
		KT_TRY(kt_blob_unwrap_rsa(&b, priv, &key, err));
		EVP_PKEY_free(priv);
		BIO_free(bio);
	}
	kt_secret_free(&own);
	return say_secret(&key, err);
}

/* --- A node's and a custodian's pair ------------------------------------------------------------------------------ */

typedef struct opener {
	kt_token *t;
	kt_token_transport pair;
} opener;

static kt_code open_oaep(void *cookie, kt_blob_format oaep, const uint8_t *wrapped, size_t n, kt_secret *out,
			 kt_err *err)
{
	const opener *o = cookie;
	return kt_token_transport_open(o->t, &o->pair, oaep == KT_BLOB_RSA_OAEP_SHA256, wrapped, n, out, err);
}

static kt_code act_open_node(kt_token *t, char **args, kt_err *err)
{
	kt_blob b;
	kt_secret key;
	kt_token_transport pairs[KT_TRANSPORT_KEYS_MAX];
	size_t n;
	KT_TRY(read_blob(&b, err));
	KT_TRY(kt_token_transport_list(t, &(kt_token_key_name){.label = args[0]}, pairs, &n, err));
	if (n != 1)
		return kt_fail(err, KT_E_KEY, NULL, "%zu transport keys are named %s", n, args[0]);
	opener o = {.t = t, .pair = pairs[0]};
	KT_TRY(kt_blob_unwrap_rsa_by(&b, o.pair.spki_sha256, open_oaep, &o, &key, err));
	return say_secret(&key, err);
}

static kt_code say_public(const kt_token_transport *pair, kt_err *err)
{
	const unsigned char *at = pair->spki;
	EVP_PKEY *key = d2i_PUBKEY(NULL, &at, (long)pair->spki_len);
	bool done = key && PEM_write_PUBKEY(stdout, key) == 1;
	EVP_PKEY_free(key);
	return done ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "the public half cannot be written");
}

static kt_code act_custodian(kt_token *t, char **args, kt_err *err)
{
	kt_token_rsa_key pair;
	KT_TRY(kt_token_custodian_make(t, &(kt_token_key_name){.label = args[0]}, &pair, err));
	return say_public(&pair, err);
}

static kt_code act_node(kt_token *t, char **args, kt_err *err)
{
	kt_token_transport pair;
	KT_TRY(kt_token_transport_make(t, &(kt_token_key_name){.label = args[0]}, 2048, &pair, err));
	return say_public(&pair, err);
}

/* --- main --------------------------------------------------------------------------------------------------------- */

static const struct verb {
	const char *name;
	bool token;
	int args; /* after the URI */
	kt_code (*act)(kt_token *t, char **args, kt_err *err);
} verbs[] = {
	{"make", true, 2, act_make},
	{"open", true, 1, act_open},
	{"open-file", false, 1, act_open_file},
	{"open-node", true, 1, act_open_node},
	{"custodian", true, 1, act_custodian},
	{"node", true, 1, act_node},
};

static kt_code run(int argc, char **argv, kt_err *err)
{
	for (size_t i = 0; argc > 1 && i < sizeof verbs / sizeof verbs[0]; i++) {
		const struct verb *v = &verbs[i];
		if (strcmp(argv[1], v->name) != 0 || argc != 2 + v->token + v->args)
			continue;
		kt_token *t = NULL;
		if (v->token)
			KT_TRY(kt_token_open(argv[2], &t, err));
		kt_code rc = v->act(t, argv + 2 + v->token, err);
		kt_token_close(t);
		return rc;
	}
	return usage(err);
}

int main(int argc, char **argv)
{
	kt_err err = KT_ERR_INIT;
	(void)signal(SIGPIPE, SIG_IGN);
	kt_code rc = kt_secret_setup(&err);
	if (rc == KT_OK)
		rc = run(argc, argv, &err);
	if (rc != KT_OK)
		(void)fprintf(stderr, "%s: %s\n", kt_code_name(rc), err.msg);
	return (int)rc;
}
