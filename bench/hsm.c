/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run's key.wrap for 10,000 nodes with RSA-3072 keys, as the driver asks for it: pins read, the token in a process of
 * its own, blobs and proofs as JSON back. Against a bare loop, in one thread, of the C_* calls that the token cannot be
 * spared (public key in, wrap, the blob's MAC, the proof, public key out). And the memory that both processes take.
 * Prints "metric value unit goal met|missed" ("-": no goal); exits 1 when a goal is missed.
 *
 * bench_hsm [MODULE]
 */
#include <dlfcn.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <p11-kit/pkcs11.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "bench/softhsm.h"
#include "orchestrator/turn/hsm.h"
#include "orchestrator/turn/pins.h"

enum { NODES = 10000, FEW = 1000, PART = 500, NODE_BITS = 3072, ROUNDS = 5 };
static const double least_ratio = 0.9;
static const double most_growth_mib = 1;
static const char run_name[] = "20260101T000000Z-000000";

typedef struct bench {
	bench_softhsm token;
	char state[128];
	unsigned char modulus[NODE_BITS / 8], exponent[8];
	size_t modulus_len, exponent_len;
} bench;

static double now_s(void)
{
	struct timespec t;
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void node_name(int i, char out[16])
{
	(void)snprintf(out, 16, "n%d", i);
}

/* --- what a coordinator has before a run -------------------------------------------------------------------------- */

static kt_code keep_numbers(bench *b, const EVP_PKEY *pair, kt_err *err)
{
	BIGNUM *n = NULL, *e = NULL;
	if (EVP_PKEY_get_bn_param(pair, OSSL_PKEY_PARAM_RSA_N, &n) != 1 ||
	    EVP_PKEY_get_bn_param(pair, OSSL_PKEY_PARAM_RSA_E, &e) != 1)
		return kt_fail(err, KT_E_INTERNAL, NULL, "libcrypto does not give the parts of an RSA key");
	b->modulus_len = (size_t)BN_bn2bin(n, b->modulus);
	b->exponent_len = (size_t)BN_bn2bin(e, b->exponent);
	BN_free(n);
	BN_free(e);
	return KT_OK;
}

/* One pin, and links to it: a pin does not say whose it is. */
static kt_code pin_all(bench *b, EVP_PKEY *pair, kt_err *err)
{
	char pem[2048] = "", first[256], path[256], name[16];
	unsigned char *der = NULL;
	int n = i2d_PUBKEY(pair, &der);
	BIO *bio = BIO_new(BIO_s_mem());
	kt_pin pin = {.at = "file",
		      .public_pem = pem,
		      .bits = NODE_BITS,
		      .formats = kt_pin_formats(true) | kt_pin_formats(false)};
	kt_code rc = n > 0 && bio && PEM_write_bio_PUBKEY(bio, pair) == 1 && BIO_read(bio, pem, sizeof pem - 1) > 0
			     ? kt_sha256_hex(der, (size_t)n, pin.spki_sha256, err)
			     : kt_fail(err, KT_E_INTERNAL, NULL, "no RSA key can be written");
	OPENSSL_free(der);
	BIO_free(bio);
	if (rc == KT_OK)
		rc = kt_pin_save(b->state, "n0", &pin, "replaced", err);
	(void)snprintf(first, sizeof first, "%s/nodes/n0.json", b->state);
	for (int i = 1; rc == KT_OK && i < NODES; i++) {
		node_name(i, name);
		(void)snprintf(path, sizeof path, "%s/nodes/%s.json", b->state, name);
		if (link(first, path) != 0)
			rc = kt_fail(err, KT_E_IO, NULL, "no link %s", path);
	}
	return rc;
}

static kt_code make_state(bench *b, kt_err *err)
{
	char path[256];
	(void)snprintf(b->state, sizeof b->state, "%s/state", b->token.folder);
	(void)snprintf(path, sizeof path, "%s/nodes", b->state);
	KT_TRY(kt_file_mkdirs(path, 0700, err));
	EVP_PKEY *pair = EVP_RSA_gen(NODE_BITS);
	kt_code rc = pair ? keep_numbers(b, pair, err) : kt_fail(err, KT_E_INTERNAL, NULL, "no RSA key can be made");
	if (rc == KT_OK)
		rc = pin_all(b, pair, err);
	EVP_PKEY_free(pair);
	return rc;
}

/* --- ours --------------------------------------------------------------------------------------------------------- */

static kt_code act(kt_hsm *hsm, const char *verb, kt_err *err)
{
	kt_hsm_command one = {.verb = verb};
	kt_hsm_act(hsm, run_name, &one, 1);
	cJSON_Delete(one.result);
	if (one.status == KT_STATUS_OK)
		return KT_OK;
	*err = one.error;
	return err->code;
}

/* A part of the nodes at a time, as the engine keeps what comes of each and no more is to be measured here. */
static kt_code wrap_part(kt_hsm *hsm, int first, int n, kt_err *err)
{
	static char name[PART][16];
	kt_hsm_command list[PART];
	kt_code rc = KT_OK;
	for (int i = 0; i < n; i++) {
		node_name(first + i, name[i]);
		list[i] = (kt_hsm_command){.verb = "key.wrap", .node = name[i]};
	}
	kt_hsm_act(hsm, run_name, list, (size_t)n);
	for (int i = 0; i < n; i++) {
		if (list[i].status != KT_STATUS_OK && rc == KT_OK) {
			*err = list[i].error;
			rc = err->code;
		}
		cJSON_Delete(list[i].result);
	}
	return rc;
}

static kt_code wrap_nodes(kt_hsm *hsm, int n, double *per_s, kt_err *err)
{
	double began = now_s();
	for (int i = 0; i < n; i += PART)
		KT_TRY(wrap_part(hsm, i, n - i < PART ? n - i : PART, err));
	*per_s = n / (now_s() - began);
	return KT_OK;
}

/* The most that a process had in memory so far, in MiB. */
static double peak_mib(long pid)
{
	char path[64], line[256];
	long kib = 0;
	(void)snprintf(path, sizeof path, "/proc/%ld/status", pid);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "VmHWM: %ld kB", &kib) == 1)
			break;
	if (f)
		(void)fclose(f);
	return (double)kib / 1024;
}

/* --- the bare loop ------------------------------------------------------------------------------------------------ */

typedef struct raw {
	CK_FUNCTION_LIST *f;
	CK_SESSION_HANDLE s;
	CK_OBJECT_HANDLE key;
} raw;

static kt_code raw_open(const char *module, raw *r, kt_err *err)
{
	static CK_BBOOL yes = CK_TRUE;
	CK_ULONG len = 32, n = 8;
	CK_SLOT_ID slot[8];
	CK_MECHANISM gen = {CKM_AES_KEY_GEN, NULL, 0};
	CK_ATTRIBUTE key[] = {{CKA_VALUE_LEN, &len, sizeof len},
			      {CKA_TOKEN, &yes, 1},
			      {CKA_SENSITIVE, &yes, 1},
			      {CKA_EXTRACTABLE, &yes, 1},
			      {CKA_SIGN, &yes, 1}};
	void *loaded = dlopen(module, RTLD_NOW | RTLD_LOCAL);
	union {
		void *object;
		CK_RV (*function)(CK_FUNCTION_LIST **);
	} get = {.object = loaded ? dlsym(loaded, "C_GetFunctionList") : NULL};
	if (!get.object || get.function(&r->f) || r->f->C_Initialize(NULL) || r->f->C_GetSlotList(CK_TRUE, slot, &n) ||
	    r->f->C_OpenSession(slot[0], CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &r->s) ||
	    r->f->C_Login(r->s, CKU_USER, (CK_UTF8CHAR *)"1234-bench", 10) ||
	    r->f->C_GenerateKey(r->s, &gen, key, sizeof key / sizeof key[0], &r->key))
		return kt_fail(err, KT_E_HSM, NULL, "%s cannot be used", module);
	return KT_OK;
}

static CK_RV raw_mac(const raw *r)
{
	CK_MECHANISM m = {CKM_AES_CMAC, NULL, 0};
	CK_BYTE in[64] = {0}, out[16];
	CK_ULONG n = sizeof out;
	CK_RV rv = r->f->C_SignInit(r->s, &m, r->key);
	return rv == CKR_OK ? r->f->C_Sign(r->s, in, sizeof in, out, &n) : rv;
}

static CK_RV raw_node(const raw *r, bench *b)
{
	static CK_OBJECT_CLASS class = CKO_PUBLIC_KEY;
	static CK_KEY_TYPE type = CKK_RSA;
	static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	CK_ATTRIBUTE pub[] = {{CKA_CLASS, &class, sizeof class},
			      {CKA_KEY_TYPE, &type, sizeof type},
			      {CKA_TOKEN, &no, 1},
			      {CKA_PRIVATE, &no, 1},
			      {CKA_WRAP, &yes, 1},
			      {CKA_MODULUS, b->modulus, b->modulus_len},
			      {CKA_PUBLIC_EXPONENT, b->exponent, b->exponent_len}};
	CK_RSA_PKCS_OAEP_PARAMS oaep = {CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, NULL, 0};
	CK_MECHANISM m = {CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep};
	CK_OBJECT_HANDLE h;
	CK_BYTE out[1024];
	CK_ULONG n = sizeof out;
	CK_RV rv = r->f->C_CreateObject(r->s, pub, sizeof pub / sizeof pub[0], &h);
	if (rv == CKR_OK)
		rv = r->f->C_WrapKey(r->s, &m, h, r->key, out, &n);
	for (int i = 0; i < 2 && rv == CKR_OK; i++)
		rv = raw_mac(r);
	return rv == CKR_OK ? r->f->C_DestroyObject(r->s, h) : rv;
}

static kt_code raw_nodes(const raw *r, bench *b, int n, double *per_s, kt_err *err)
{
	double began = now_s();
	for (int i = 0; i < n; i++)
		if (raw_node(r, b) != CKR_OK)
			return kt_fail(err, KT_E_HSM, NULL, "the bare loop has failed");
	*per_s = n / (now_s() - began);
	return KT_OK;
}

/* --- what is measured --------------------------------------------------------------------------------------------- */

static double middle(double *x)
{
	for (int i = 1; i < ROUNDS; i++)
		for (int k = i; k > 0 && x[k] < x[k - 1]; k--) {
			double t = x[k];
			x[k] = x[k - 1];
			x[k - 1] = t;
		}
	return x[ROUNDS / 2];
}

static kt_code open_hsm(const bench *b, unsigned sessions, kt_hsm **out, kt_err *err)
{
	const kt_hsm_options o = {.uri = b->token.uri,
				  .escrow_label = "escrow",
				  .state = b->state,
				  .cluster = "bench",
				  .sessions = sessions};
	return kt_hsm_open(&o, out, err);
}

/* Rates in turns with the bare loop, so that a busy machine hits both alike. */
static kt_code measure(bench *b, const raw *r, unsigned sessions, bool judged, bool *met, kt_err *err)
{
	double o[ROUNDS], bare[ROUNDS], ratio[ROUNDS];
	kt_hsm *hsm;
	KT_TRY(open_hsm(b, sessions, &hsm, err));
	kt_code rc = act(hsm, "key.generate", err);
	for (int i = 0; rc == KT_OK && i < ROUNDS; i++) {
		rc = wrap_nodes(hsm, NODES / ROUNDS, &o[i], err);
		if (rc == KT_OK)
			rc = raw_nodes(r, b, NODES / ROUNDS, &bare[i], err);
		if (rc == KT_OK)
			ratio[i] = o[i] / bare[i];
	}
	kt_hsm_close(hsm);
	KT_TRY(rc);
	double got = middle(ratio);
	printf("hsm_bare_rate %.0f per_s - -\n", middle(bare));
	printf("hsm_wrap_rate_%u_sessions %.0f per_s - -\n", sessions, middle(o));
	if (judged) {
		*met &= got >= least_ratio;
		printf("hsm_wrap_ratio_%u_sessions %.3f ratio %.2f %s\n", sessions, got, least_ratio,
		       got >= least_ratio ? "met" : "missed");
	} else {
		printf("hsm_wrap_ratio_%u_sessions %.3f ratio - -\n", sessions, got);
	}
	return KT_OK;
}

/* How much more memory a process took for NODES nodes than for FEW, in MiB. */
typedef struct growth {
	double coordinator, owner, bare;
} growth;

static kt_code grow_bare(const raw *r, bench *b, growth *g, kt_err *err)
{
	double rate;
	KT_TRY(raw_nodes(r, b, FEW, &rate, err));
	const double few = peak_mib((long)getpid());
	KT_TRY(raw_nodes(r, b, NODES, &rate, err));
	g->bare = peak_mib((long)getpid()) - few;
	return KT_OK;
}

static kt_code grow_ours(kt_hsm *hsm, growth *g, kt_err *err)
{
	double rate;
	KT_TRY(act(hsm, "key.generate", err));
	KT_TRY(wrap_nodes(hsm, FEW, &rate, err));
	const double few[2] = {peak_mib((long)getpid()), peak_mib((long)kt_hsm_pid(hsm))};
	KT_TRY(wrap_nodes(hsm, NODES, &rate, err));
	g->coordinator = peak_mib((long)getpid()) - few[0];
	g->owner = peak_mib((long)kt_hsm_pid(hsm)) - few[1];
	printf("hsm_owner_peak %.1f MiB - -\n", peak_mib((long)kt_hsm_pid(hsm)));
	return KT_OK;
}

/* Ten times as many nodes take no more memory, neither here nor in the owner; but SoftHSM itself keeps some 200 bytes
 * of every object that was destroyed, in the bare loop as well. */
static kt_code memory(bench *b, const raw *r, bool *met, kt_err *err)
{
	kt_hsm *hsm;
	growth g = {0};
	KT_TRY(grow_bare(r, b, &g, err));
	KT_TRY(open_hsm(b, 2, &hsm, err));
	kt_code rc = grow_ours(hsm, &g, err);
	kt_hsm_close(hsm);
	KT_TRY(rc);
	const double owner = g.owner - g.bare;
	const bool flat = g.coordinator <= most_growth_mib && owner <= most_growth_mib;
	printf("hsm_bare_growth %.1f MiB - -\n", g.bare);
	printf("hsm_coordinator_growth %.1f MiB %.0f %s\n", g.coordinator, most_growth_mib,
	       g.coordinator <= most_growth_mib ? "met" : "missed");
	printf("hsm_owner_growth_over_bare %.1f MiB %.0f %s\n", owner, most_growth_mib,
	       owner <= most_growth_mib ? "met" : "missed");
	*met &= flat;
	return KT_OK;
}

static kt_code all(bench *b, const char *module, bool *met, kt_err *err)
{
	raw r;
	KT_TRY(kt_secret_setup(err));
	KT_TRY(bench_softhsm_make(&b->token, module, err));
	KT_TRY(make_state(b, err));
	KT_TRY(raw_open(module, &r, err));
	KT_TRY(memory(b, &r, met, err));
	KT_TRY(measure(b, &r, 1, false, met, err));
	KT_TRY(measure(b, &r, 2, true, met, err));
	return measure(b, &r, 4, false, met, err);
}

int main(int argc, char **argv)
{
	bench b = {.state = ""};
	kt_err err = KT_ERR_INIT;
	bool met = true;
	if (argc > 1 && strcmp(argv[1], KT_HSM_SUBCOMMAND) == 0) {
		kt_code ended = kt_secret_setup(&err);
		return (int)(ended == KT_OK ? kt_hsm_serve(argc - 2, argv + 2, &err) : ended);
	}
	kt_code rc = all(&b, argc > 1 ? argv[1] : BENCH_MODULE, &met, &err);
	bench_softhsm_remove(&b.token);
	if (rc != KT_OK)
		(void)fprintf(stderr, "bench_hsm: %s\n", err.msg);
	return rc != KT_OK ? (int)rc : !met;
}
