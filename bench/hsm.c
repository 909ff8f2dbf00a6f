/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Wrapping a cluster's new key for 10,000 nodes with RSA-3072 keys, as a turn's key.wrap does it: the pinned key is
 * read from the coordinator's state folder, goes to the token's owner, is imported there, wrapped to, and dropped;
 * blob, MAC and the proof that is expected of the node come back. Against a bare loop over the same module, which does
 * for each node what cannot be left out: C_CreateObject of its public key, C_WrapKey of a key on the token, and
 * C_DestroyObject, in one thread, without looking at anything. The two take turns within one run, and the median of the
 * ratios counts. C_WrapKey alone, with one public key that stays imported, is told beside it, and the processor time
 * that a node takes here and in the owner.
 *
 * What limits the product: see docs/DESIGN.md, "The HSM". Memory: the peak of the owner with 100, 1,000 and 10,000
 * nodes, and what each node takes in the coordinator while the outcomes of all are held, as a turn holds them.
 *
 * Prints "metric value unit goal met|missed" ("-": no goal); exits 1 when a goal is missed.
 * bench_hsm [MODULE]: its own SoftHSM token in a temporary folder.
 */
#include <dlfcn.h>
#include <malloc.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <p11-kit/pkcs11.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/secret.h"
#include "bench/softhsm.h"
#include "orchestrator/turn/hsm.h"
#include "orchestrator/turn/pins.h"

enum { NODES = 10000, KEYS = 100, ROUNDS = 11, PER_ROUND = 1000, NODE_BITS = 3072, SESSIONS = 2, CALL_MS = 60000 };
static const double rate_goal = 0.9, memory_goal = 1.15;
static const char pin[] = "1234-bench", run_id[] = "20261126T000000Z-bench0", cluster[] = "bench";

typedef struct bench {
	bench_softhsm token;
	char state[96];
	kt_hsm *hsm;
	char owner[16]; /* its pid */
	clockid_t owner_clock;
	kt_hsm_command *list; /* NODES of them */
	char (*names)[16];
	/* The bare loop's own. */
	CK_FUNCTION_LIST *raw;
	CK_SESSION_HANDLE session;
	CK_OBJECT_HANDLE key;
	CK_BYTE modulus[KEYS][NODE_BITS / 8];
} bench;

/* --- Pinned keys -------------------------------------------------------------------------------------- */

/* A public key around these bytes. That nobody has the private half makes no difference to wrapping. */
static EVP_PKEY *public_key(const CK_BYTE modulus[NODE_BITS / 8])
{
	EVP_PKEY *key = NULL;
	BIGNUM *n = BN_bin2bn(modulus, NODE_BITS / 8, NULL);
	OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
	OSSL_PARAM *params = NULL;
	if (n && bld && ctx && OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_RSA_N, n) == 1 &&
	    OSSL_PARAM_BLD_push_ulong(bld, OSSL_PKEY_PARAM_RSA_E, 65537) == 1)
		params = OSSL_PARAM_BLD_to_param(bld);
	if (params && EVP_PKEY_fromdata_init(ctx) == 1)
		(void)EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params);
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(bld);
	EVP_PKEY_CTX_free(ctx);
	BN_free(n);
	return key;
}

static kt_code pin_key(const bench *b, const char *node, EVP_PKEY *key, kt_err *err)
{
	char *pem = NULL;
	kt_pin p = {.at = "file", .bits = NODE_BITS, .formats = kt_pin_formats(false), .since_ms = 1};
	BIO *bio = BIO_new(BIO_s_mem());
	bool done = bio && PEM_write_bio_PUBKEY(bio, key) == 1 && BIO_write(bio, "", 1) == 1;
	if (done)
		(void)BIO_get_mem_data(bio, &pem);
	p.public_pem = pem;
	kt_code rc = done ? kt_blob_spki_sha256(key, p.spki_sha256, err)
			  : kt_fail(err, KT_E_INTERNAL, NULL, "a public key cannot be written");
	if (rc == KT_OK)
		rc = kt_pin_save(b->state, node, &p, "bench", err);
	BIO_free(bio);
	return rc;
}

/* KEYS pinned keys; every further node's pin is a link to one of them. */
static kt_code make_pins(bench *b, kt_err *err)
{
	char from[128], to[128];
	(void)snprintf(to, sizeof to, "%s/nodes", b->state);
	KT_TRY(kt_file_mkdirs(to, 0700, err));
	for (int i = 0; i < NODES; i++) {
		(void)snprintf(b->names[i], sizeof b->names[i], "n%05d", i);
		b->list[i] = (kt_hsm_command){.verb = "key.wrap", .node = b->names[i]};
		(void)snprintf(from, sizeof from, "%s/nodes/%s.json", b->state, b->names[i % KEYS]);
		(void)snprintf(to, sizeof to, "%s/nodes/%s.json", b->state, b->names[i]);
		if (i >= KEYS && link(from, to) != 0)
			return kt_fail(err, KT_E_IO, NULL, "%s cannot be made", to);
		if (i >= KEYS)
			continue;
		if (RAND_bytes(b->modulus[i], NODE_BITS / 8) != 1)
			return kt_fail(err, KT_E_INTERNAL, NULL, "the random generator failed");
		b->modulus[i][0] |= 0xC0;
		b->modulus[i][NODE_BITS / 8 - 1] |= 1;
		EVP_PKEY *key = public_key(b->modulus[i]);
		kt_code rc = key ? pin_key(b, b->names[i], key, err)
				 : kt_fail(err, KT_E_INTERNAL, NULL, "a public key cannot be made");
		EVP_PKEY_free(key);
		KT_TRY(rc);
	}
	return KT_OK;
}

/* --- The product -------------------------------------------------------------------------------------------------- */

static void forget(kt_hsm_command *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		cJSON_Delete(list[i].result);
		list[i].result = NULL;
	}
}

static kt_code ask(bench *b, kt_hsm_command *list, size_t n, kt_err *err)
{
	kt_hsm_act(b->hsm, run_id, list, n);
	for (size_t i = 0; i < n; i++)
		if (list[i].status != KT_STATUS_OK)
			return kt_fail(err, list[i].error.code, list[i].error.remedy, "%s", list[i].error.msg);
	return KT_OK;
}

static kt_code open_product(bench *b, kt_err *err)
{
	const kt_hsm_options o = {.uri = b->token.uri,
				  .escrow_label = "escrow",
				  .state = b->state,
				  .cluster = cluster,
				  .call_ms = CALL_MS,
				  .sessions = SESSIONS};
	bool made;
	char kcv[KT_KCV_TEXT];
	kt_hsm_command generate = {.verb = "key.generate"};
	KT_TRY(kt_hsm_open(&o, &b->hsm, err));
	(void)snprintf(b->owner, sizeof b->owner, "%ld", (long)kt_hsm_pid(b->hsm));
	if (clock_getcpuclockid(kt_hsm_pid(b->hsm), &b->owner_clock) != 0)
		return kt_fail(err, KT_E_INTERNAL, NULL, "the owner's processor time cannot be read");
	KT_TRY(kt_hsm_make_escrow_key(b->hsm, &made, kcv, err));
	kt_code rc = ask(b, &generate, 1, err);
	forget(&generate, 1);
	return rc;
}

/* --- The bare loop ------------------------------------------------------------------------------------------------ */

static bool bare_login(bench *b, const char *module)
{
	CK_SLOT_ID slots[8];
	CK_ULONG n = 8, len = 32;
	CK_BBOOL yes = CK_TRUE;
	CK_BYTE own_pin[sizeof pin];
	CK_MECHANISM m = {CKM_AES_KEY_GEN, NULL, 0};
	CK_ATTRIBUTE a[] = {{CKA_TOKEN, &yes, sizeof yes},
			    {CKA_PRIVATE, &yes, sizeof yes},
			    {CKA_SENSITIVE, &yes, sizeof yes},
			    {CKA_EXTRACTABLE, &yes, sizeof yes},
			    {CKA_VALUE_LEN, &len, sizeof len}};
	void *loaded = dlopen(module, RTLD_NOW | RTLD_LOCAL);
	union {
		void *object;
		CK_RV (*function)(CK_FUNCTION_LIST **);
	} get = {.object = loaded ? dlsym(loaded, "C_GetFunctionList") : NULL};
	memcpy(own_pin, pin, sizeof pin);
	return get.object && get.function(&b->raw) == CKR_OK && b->raw->C_Initialize(NULL) == CKR_OK &&
	       b->raw->C_GetSlotList(CK_TRUE, slots, &n) == CKR_OK && n > 0 &&
	       b->raw->C_OpenSession(slots[0], CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &b->session) ==
		       CKR_OK &&
	       b->raw->C_Login(b->session, CKU_USER, own_pin, sizeof pin - 1) == CKR_OK &&
	       b->raw->C_GenerateKey(b->session, &m, a, 5, &b->key) == CKR_OK;
}

static bool bare_import(bench *b, int i, CK_OBJECT_HANDLE *out)
{
	static CK_OBJECT_CLASS class = CKO_PUBLIC_KEY;
	static CK_KEY_TYPE type = CKK_RSA;
	static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	static CK_BYTE e[] = {1, 0, 1};
	CK_ATTRIBUTE a[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type},
			    {CKA_TOKEN, &no, sizeof no},       {CKA_PRIVATE, &no, sizeof no},
			    {CKA_WRAP, &yes, sizeof yes},      {CKA_MODULUS, b->modulus[i % KEYS], NODE_BITS / 8},
			    {CKA_PUBLIC_EXPONENT, e, sizeof e}};
	return b->raw->C_CreateObject(b->session, a, sizeof a / sizeof a[0], out) == CKR_OK;
}

static bool bare_wrap(bench *b, CK_OBJECT_HANDLE to)
{
	CK_RSA_PKCS_OAEP_PARAMS oaep = {CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, NULL, 0};
	CK_MECHANISM m = {CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep};
	CK_BYTE out[1024];
	CK_ULONG len = sizeof out;
	return b->raw->C_WrapKey(b->session, &m, to, b->key, out, &len) == CKR_OK && len == NODE_BITS / 8;
}

/* --- What is compared --------------------------------------------------------------------------------------------- */

static kt_code product(bench *b, size_t from, kt_err *err)
{
	kt_code rc = ask(b, b->list + from, PER_ROUND, err);
	forget(b->list + from, PER_ROUND);
	return rc;
}

static kt_code bare(bench *b, size_t from, kt_err *err)
{
	for (size_t i = from; i < from + PER_ROUND; i++) {
		CK_OBJECT_HANDLE node;
		if (!bare_import(b, (int)i, &node) || !bare_wrap(b, node) ||
		    b->raw->C_DestroyObject(b->session, node) != CKR_OK)
			return kt_fail(err, KT_E_HSM, NULL, "the bare loop has failed");
	}
	return KT_OK;
}

static kt_code wrap_alone(bench *b, size_t from, kt_err *err)
{
	CK_OBJECT_HANDLE node;
	bool done = bare_import(b, (int)from, &node);
	for (int i = 0; done && i < PER_ROUND; i++)
		done = bare_wrap(b, node);
	return done ? KT_OK : kt_fail(err, KT_E_HSM, NULL, "the bare loop has failed");
}

/* What a node took in a round: time on the wall, and of the processors in this process and in the owner. */
typedef struct took {
	double wall_s, here_s, owner_s;
} took;

static double seconds(clockid_t clock)
{
	struct timespec t = {0};
	(void)clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static kt_code time_of(kt_code (*what)(bench *, size_t, kt_err *), bench *b, size_t from, took *out, kt_err *err)
{
	const double wall = seconds(CLOCK_MONOTONIC), here = seconds(CLOCK_PROCESS_CPUTIME_ID),
		     owner = seconds(b->owner_clock);
	KT_TRY(what(b, from, err));
	*out = (took){(seconds(CLOCK_MONOTONIC) - wall) / PER_ROUND,
		      (seconds(CLOCK_PROCESS_CPUTIME_ID) - here) / PER_ROUND,
		      (seconds(b->owner_clock) - owner) / PER_ROUND};
	return KT_OK;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(const took *rounds, size_t field)
{
	double values[ROUNDS];
	for (size_t i = 0; i < ROUNDS; i++)
		memcpy(&values[i], (const char *)&rounds[i] + field, sizeof values[i]);
	qsort(values, ROUNDS, sizeof *values, by_size);
	return values[ROUNDS / 2];
}

/* The three figures of one way. */
static void tell(const char *name, const took *rounds)
{
	printf("hsm_%s_rate %.0f per_s - -\n", name, 1 / median(rounds, offsetof(took, wall_s)));
	printf("hsm_%s_cpu_here %.1f us - -\n", name, 1e6 * median(rounds, offsetof(took, here_s)));
	printf("hsm_%s_cpu_owner %.1f us - -\n", name, 1e6 * median(rounds, offsetof(took, owner_s)));
}

static const char *verdict(bool met, bool *all)
{
	*all &= met;
	return met ? "met" : "missed";
}

static kt_code measure_rate(bench *b, bool *met, kt_err *err)
{
	took ours[ROUNDS], theirs[ROUNDS], alone[ROUNDS], ratio[ROUNDS];
	for (size_t i = 0; i < ROUNDS; i++) {
		const size_t from = i * PER_ROUND % NODES;
		KT_TRY(time_of(i % 2 ? bare : product, b, from, i % 2 ? &theirs[i] : &ours[i], err));
		KT_TRY(time_of(i % 2 ? product : bare, b, from, i % 2 ? &ours[i] : &theirs[i], err));
		KT_TRY(time_of(wrap_alone, b, from, &alone[i], err));
		ratio[i].wall_s = theirs[i].wall_s / ours[i].wall_s;
	}
	tell("bare", theirs);
	tell("wrap", ours);
	tell("bare_wrapkey_alone", alone);
	const double of = median(ratio, offsetof(took, wall_s));
	printf("hsm_wrap_ratio %.3f ratio %.2f %s\n", of, rate_goal, verdict(of >= rate_goal, met));
	return KT_OK;
}

/* --- Memory ------------------------------------------------------------------------------------------------------- */

/* A line of /proc/PID/status in KiB. */
static double status_kib(const char *pid, const char *name)
{
	char path[64], line[256];
	long kib = 0;
	(void)snprintf(path, sizeof path, "/proc/%s/status", pid);
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f))
		if (strncmp(line, name, strlen(name)) == 0)
			kib = strtol(line + strlen(name) + 1, NULL, 10);
	if (f)
		(void)fclose(f);
	return (double)kib;
}

/* What the module itself keeps of objects that were destroyed: SoftHSM frees a session object only when it is
 * finalised. */
static kt_code module_growth(bench *b, double *kib, kt_err *err)
{
	KT_TRY(bare(b, 0, err)); /* what is set up once */
	const double before = status_kib("self", "VmRSS:");
	for (size_t from = PER_ROUND; from < NODES; from += PER_ROUND)
		KT_TRY(bare(b, from, err));
	*kib = status_kib("self", "VmRSS:") - before;
	return KT_OK;
}

static kt_code measure_memory(bench *b, bool *met, kt_err *err)
{
	static const size_t sizes[] = {100, 1000, NODES};
	double owner[3], held = 0, module;
	for (size_t i = 0; i < 3; i++) {
		double before = status_kib("self", "VmRSS:");
		KT_TRY(ask(b, b->list, sizes[i], err));
		owner[i] = status_kib(b->owner, "VmHWM:");
		held = (status_kib("self", "VmRSS:") - before) / (double)sizes[i];
		forget(b->list, sizes[i]);
		(void)malloc_trim(0);
		printf("hsm_owner_peak_%zu %.1f MiB - -\n", sizes[i], owner[i] / 1024);
	}
	KT_TRY(module_growth(b, &module, err));
	const double ratio = (owner[2] - module) / owner[0];
	printf("hsm_module_growth %.1f MiB - -\n", module / 1024);
	printf("hsm_owner_memory_ratio %.3f ratio %.2f %s\n", ratio, memory_goal, verdict(ratio <= memory_goal, met));
	printf("hsm_coordinator_per_node %.1f KiB - -\n", held);
	return KT_OK;
}

/* --- main --------------------------------------------------------------------------------------------------------- */

/* The module is loaded here by the bare loop only after the owner was started, and in another process. */
static kt_code everything(bench *b, const char *module, bool *met, kt_err *err)
{
	b->list = calloc(NODES, sizeof *b->list);
	b->names = calloc(NODES, sizeof *b->names);
	if (!b->list || !b->names)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_secret_setup(err));
	KT_TRY(bench_softhsm_make(&b->token, module, err));
	(void)snprintf(b->state, sizeof b->state, "%s/state", b->token.folder);
	KT_TRY(make_pins(b, err));
	KT_TRY(open_product(b, err));
	if (!bare_login(b, module))
		return kt_fail(err, KT_E_HSM, NULL, "the bare loop cannot use %s", module);
	KT_TRY(measure_memory(b, met, err));
	return measure_rate(b, met, err);
}

static int own_token(int argc, char **argv)
{
	kt_err err = KT_ERR_INIT;
	kt_code rc = kt_secret_setup(&err);
	if (rc == KT_OK)
		rc = kt_hsm_serve(argc, argv, &err);
	return (int)rc;
}

int main(int argc, char **argv)
{
	static bench b;
	kt_err err = KT_ERR_INIT;
	bool met = true;
	(void)signal(SIGPIPE, SIG_IGN);
	if (argc > 1 && strcmp(argv[1], KT_HSM_SUBCOMMAND) == 0)
		return own_token(argc - 2, argv + 2);
	kt_code rc = everything(&b, argc > 1 ? argv[1] : BENCH_MODULE, &met, &err);
	kt_hsm_close(b.hsm);
	bench_softhsm_remove(&b.token);
	free(b.list);
	free(b.names);
	if (rc != KT_OK)
		(void)fprintf(stderr, "bench_hsm: %s\n", err.msg);
	return rc != KT_OK ? (int)rc : !met;
}
