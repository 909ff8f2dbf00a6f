/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Wrapping a cluster key to an RSA-3072 node key: our API against a bare loop of C_WrapKey over the same module, token,
 * key and node key, in turns within one run. Prints "metric value unit goal met|missed" ("-": no goal); exits 1 when
 * the goal is missed.
 *
 * bench_wrap [MODULE]: its own SoftHSM token in a temporary folder.
 */
#include <dlfcn.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <p11-kit/pkcs11.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bench/softhsm.h"
#include "pkcs11/internal.h"
#include "pkcs11/wrap.h"

enum { ROUNDS = 41, PER_ROUND = 500, IMPORTS = 2000, NODE_BITS = 3072 };
static const double goal = 0.9;
static const kt_blob_address address = {.purpose = KT_BLOB_TRANSPORT, .run = "bench", .node = "node"};

typedef struct bench {
	bench_softhsm token;
	kt_token *t;
	CK_FUNCTION_LIST *raw; /* of the module itself, without p11-kit between */
	CK_SESSION_HANDLE raw_session;
	kt_token_key key;
	kt_token_node_key node;
	unsigned char *spki;
	int spki_len;
} bench;

/* --- Keys --------------------------------------------------------------------------------------------------------- */

static kt_code make_keys(bench *b, kt_err *err)
{
	bool made;
	const kt_token_key_name name = {.label = "bench", .id = (const uint8_t *)"b", .id_len = 1};
	KT_TRY(kt_token_ensure_cluster_key(b->t, &name, false, &b->key, &made, err));
	EVP_PKEY *pair = EVP_RSA_gen(NODE_BITS);
	b->spki_len = pair ? i2d_PUBKEY(pair, &b->spki) : 0;
	EVP_PKEY_free(pair);
	if (b->spki_len <= 0)
		return kt_fail(err, KT_E_INTERNAL, NULL, "no RSA key can be made");
	KT_TRY(kt_token_import_node_key(b->t, b->spki, (size_t)b->spki_len, &b->node, err));
	kt_blob warm;
	return kt_token_wrap_for_node(b->t, &b->key, &b->node, &address, &warm, err); /* does the probing */
}

/* A session of the module's own, in the process that p11-kit has logged in already. */
static kt_code open_raw(bench *b, const char *module, kt_err *err)
{
	void *loaded = dlopen(module, RTLD_NOW | RTLD_LOCAL);
	union {
		void *object;
		CK_RV (*function)(CK_FUNCTION_LIST **);
	} get = {.object = loaded ? dlsym(loaded, "C_GetFunctionList") : NULL};
	if (!get.object || get.function(&b->raw) != CKR_OK)
		return kt_fail(err, KT_E_HSM, NULL, "%s cannot be loaded", module);
	if (b->raw->C_OpenSession(b->t->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &b->raw_session))
		return kt_fail(err, KT_E_HSM, NULL, "C_OpenSession has failed");
	return KT_OK;
}

/* --- What is compared --------------------------------------------------------------------------------------------- */

static kt_code ours(const bench *b, int n, kt_err *err)
{
	kt_blob blob;
	for (int i = 0; i < n; i++)
		KT_TRY(kt_token_wrap_for_node(b->t, &b->key, &b->node, &address, &blob, err));
	return KT_OK;
}

/* No tracing, no checks, no blob: the least that the same wrapping takes. */
static kt_code bare(const bench *b, int n, kt_err *err)
{
	bool sha256 = b->t->by_format[KT_BLOB_RSA_OAEP_SHA256].name != NULL;
	CK_RSA_PKCS_OAEP_PARAMS oaep = {.hashAlg = sha256 ? CKM_SHA256 : CKM_SHA_1,
					.mgf = sha256 ? CKG_MGF1_SHA256 : CKG_MGF1_SHA1,
					.source = CKZ_DATA_SPECIFIED};
	CK_MECHANISM m = {CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep};
	CK_BYTE out[1024];
	for (int i = 0; i < n; i++) {
		CK_ULONG len = sizeof out;
		if (b->raw->C_WrapKey(b->raw_session, &m, b->node.handle, b->key.handle, out, &len) != CKR_OK)
			return kt_fail(err, KT_E_HSM, NULL, "C_WrapKey has failed");
	}
	return KT_OK;
}

/* A node's share of a run's HSM work when its key is new: import, wrap, drop. */
static kt_code whole_node(const bench *b, int n, kt_err *err)
{
	kt_blob blob;
	kt_token_node_key node;
	for (int i = 0; i < n; i++) {
		KT_TRY(kt_token_import_node_key(b->t, b->spki, (size_t)b->spki_len, &node, err));
		KT_TRY(kt_token_wrap_for_node(b->t, &b->key, &node, &address, &blob, err));
		kt_token_drop_node_key(b->t, &node);
	}
	return KT_OK;
}

static kt_code rate(kt_code (*what)(const bench *, int, kt_err *), const bench *b, int n, double *per_s, kt_err *err)
{
	struct timespec from, to;
	(void)clock_gettime(CLOCK_MONOTONIC, &from);
	KT_TRY(what(b, n, err));
	(void)clock_gettime(CLOCK_MONOTONIC, &to);
	*per_s = n / ((double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9);
	return KT_OK;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Median of the rounds; the two take turns, so that a busy machine hits both alike. */
static kt_code measure(const bench *b, bool *met, kt_err *err)
{
	double o[ROUNDS], r[ROUNDS], ratio[ROUNDS], node;
	for (int i = 0; i < ROUNDS; i++) {
		bool first = i % 2 == 0;
		KT_TRY(rate(first ? ours : bare, b, PER_ROUND, first ? &o[i] : &r[i], err));
		KT_TRY(rate(first ? bare : ours, b, PER_ROUND, first ? &r[i] : &o[i], err));
		ratio[i] = o[i] / r[i];
	}
	KT_TRY(rate(whole_node, b, IMPORTS, &node, err));
	qsort(o, ROUNDS, sizeof *o, by_size);
	qsort(r, ROUNDS, sizeof *r, by_size);
	qsort(ratio, ROUNDS, sizeof *ratio, by_size);
	*met = ratio[ROUNDS / 2] >= goal;
	printf("wrap_bare_rate %.0f per_s - -\n", r[ROUNDS / 2]);
	printf("wrap_rate %.0f per_s - -\n", o[ROUNDS / 2]);
	printf("wrap_ratio %.3f ratio %.2f %s\n", ratio[ROUNDS / 2], goal, *met ? "met" : "missed");
	printf("wrap_new_node_rate %.0f per_s - -\n", node);
	return KT_OK;
}

int main(int argc, char **argv)
{
	bench b = {.t = NULL};
	kt_err err = KT_ERR_INIT;
	bool met = false;
	const char *module = argc > 1 ? argv[1] : BENCH_MODULE;
	kt_code rc = kt_secret_setup(&err);
	if (rc == KT_OK)
		rc = bench_softhsm_make(&b.token, module, &err);
	if (rc == KT_OK)
		rc = kt_token_open(b.token.uri, &b.t, &err);
	if (rc == KT_OK)
		rc = open_raw(&b, module, &err);
	if (rc == KT_OK)
		rc = make_keys(&b, &err);
	if (rc == KT_OK)
		rc = measure(&b, &met, &err);
	kt_token_close(b.t);
	OPENSSL_free(b.spki);
	bench_softhsm_remove(&b.token);
	if (rc != KT_OK)
		(void)fprintf(stderr, "bench_wrap: %s\n", err.msg);
	return rc != KT_OK ? (int)rc : !met;
}
