/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/enroll.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "wire/blob.h"

enum {
	PATH_LEN = 4096,
	FILES_MAX = 16,
	TRANSPORT_BITS = 3072,
	NONCE_LEN = 16,
	KEY_LEN = KT_BLOB_KEY_BITS / 8,
	TRANSPORT_LIMIT_MS = 120000,
	PROVE_LIMIT_MS = 60000
};

#define OUTSIDE "-" /* of any run */

/* One node in the middle of a stage. */
typedef struct job {
	kt_enroll *e;
	size_t index;
	size_t file; /* install: the file that is being sent */
	size_t *left;
} job;

/* What an agent consists of. */
struct kt_enroll_files {
	char local[FILES_MAX][PATH_LEN];
	char name[FILES_MAX][256];
	unsigned mode[FILES_MAX];
	size_t n;
};

typedef struct kt_enroll_files file_list;

kt_code kt_enroll_new(kt_enroll *e, kt_err *err)
{
	e->node = calloc(e->cluster->nodes_count, sizeof *e->node);
	e->files = calloc(1, sizeof *e->files);
	if (e->node && e->files)
		return KT_OK;
	kt_enroll_free(e);
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

void kt_enroll_free(kt_enroll *e)
{
	for (size_t i = 0; e->node && i < e->cluster->nodes_count; i++) {
		free(e->node[i].host_key);
		kt_pin_free(&e->node[i].pin);
	}
	free(e->node);
	free(e->files);
	e->node = NULL;
	e->files = NULL;
}

/* Or it is not asked for at all. */
static bool failed_before(void *cookie, size_t node)
{
	const kt_enroll_node *r = &((const kt_enroll *)cookie)->node[node];
	return r->skip || r->error.code != KT_OK;
}

/* Start `start` for every node that is well so far, and run the loop until all have ended. */
static kt_code each_node(kt_enroll *e, kt_code (*start)(job *, kt_err *), kt_err *err)
{
	size_t n = e->cluster->nodes_count;
	size_t left = 0;
	job *jobs = calloc(n, sizeof *jobs);
	if (!jobs)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (size_t i = 0; i < n; i++) {
		jobs[i] = (job){.e = e, .index = i, .left = &left};
		if (failed_before(e, i))
			continue;
		left++;
		if (start(&jobs[i], &e->node[i].error) != KT_OK)
			left--;
	}
	while (left)
		(void)uv_run(e->loop, UV_RUN_ONCE);
	free(jobs);
	return KT_OK;
}

static kt_enroll_node *result_of(const job *j)
{
	return &j->e->node[j->index];
}

static void job_done(job *j, const kt_err *err)
{
	if (err->code != KT_OK)
		result_of(j)->error = *err;
	--*j->left;
}

/* --- host keys ---------------------------------------------------------------------------------------------------- */

static void on_scanned(void *cookie, kt_fleet_node *node, const kt_err *err, const uint8_t *key, size_t len,
		       const char *type, const char *print)
{
	job *j = cookie;
	kt_enroll_node *r = result_of(j);
	(void)node;
	if (err->code == KT_OK) {
		r->host_key = malloc(len);
		if (!r->host_key) {
			job_done(j, &(kt_err){.code = KT_E_INTERNAL, .msg = "out of memory"});
			return;
		}
		memcpy(r->host_key, key, len);
		r->host_key_len = len;
		(void)snprintf(r->host_key_type, sizeof r->host_key_type, "%s", type);
		(void)snprintf(r->host_key_print, sizeof r->host_key_print, "%s", print);
	}
	job_done(j, err);
}

static kt_code start_scan(job *j, kt_err *err)
{
	kt_enroll *e = j->e;
	result_of(j)->pinned = kt_hostkeys_known(kt_nodes_hostkeys(e->nodes), kt_nodes_pin_host(e->nodes, j->index),
						 kt_nodes_pin_port(e->nodes, j->index));
	if (result_of(j)->pinned) {
		(*j->left)--;
		return KT_OK;
	}
	return kt_fleet_scan(kt_nodes_get(e->nodes, j->index), on_scanned, j, NULL, err);
}

kt_code kt_enroll_scan(kt_enroll *e, kt_err *err)
{
	return each_node(e, start_scan, err);
}

kt_code kt_enroll_pin(kt_enroll *e, kt_err *err)
{
	char path[PATH_LEN];
	if (snprintf(path, sizeof path, "%s/known_hosts", e->cluster->state) >= (int)sizeof path)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "the path of the state folder is too long");
	for (size_t i = 0; i < e->cluster->nodes_count; i++) {
		kt_enroll_node *r = &e->node[i];
		if (!r->host_key || r->error.code != KT_OK)
			continue;
		KT_TRY(kt_hostkeys_pin(kt_nodes_hostkeys(e->nodes), path, kt_nodes_pin_host(e->nodes, i),
				       kt_nodes_pin_port(e->nodes, i), r->host_key, r->host_key_len, err));
	}
	return KT_OK;
}

/* --- the agent's program ------------------------------------------------------------------------------------------ */

static kt_code add_file(file_list *files, const char *folder, const char *name, kt_err *err)
{
	struct stat st;
	if (files->n == FILES_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "%s holds more files than an agent has", folder);
	char *local = files->local[files->n];
	if (snprintf(local, PATH_LEN, "%s/%s", folder, name) >= PATH_LEN)
		return kt_fail(err, KT_E_INPUT, NULL, "%s: the path is too long", folder);
	if (stat(local, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", local);
	if (!S_ISREG(st.st_mode))
		return KT_OK;
	(void)snprintf(files->name[files->n], sizeof files->name[0], "%s", name);
	files->mode[files->n++] = st.st_mode & S_IXUSR ? 0755 : 0644;
	return KT_OK;
}

static kt_code list_files(file_list *files, const char *folder, kt_err *err)
{
	static const char remedy[] = "say where the agent's program is with --agent FOLDER";
	DIR *d = opendir(folder);
	if (!d)
		return kt_fail_errno(err, errno, remedy, "the agent's folder %s", folder);
	kt_code rc = KT_OK;
	bool program = false;
	files->n = 0;
	for (const struct dirent *entry = readdir(d); entry && rc == KT_OK; entry = readdir(d)) {
		if (entry->d_name[0] == '.')
			continue;
		program = program || strcmp(entry->d_name, "keyturn-agent") == 0;
		rc = add_file(files, folder, entry->d_name, err);
	}
	(void)closedir(d);
	if (rc == KT_OK && !program)
		rc = kt_fail(err, KT_E_USAGE, remedy, "there is no keyturn-agent in %s", folder);
	return rc;
}

static void send_next(job *j);

static void on_uploaded(void *cookie, kt_fleet_node *node, const kt_err *err, bool sent)
{
	job *j = cookie;
	(void)node;
	result_of(j)->sent = result_of(j)->sent || sent;
	j->file++;
	if (err->code != KT_OK || j->file == j->e->files->n)
		job_done(j, err);
	else
		send_next(j);
}

static void send_next(job *j)
{
	char remote[PATH_LEN];
	kt_err err = KT_ERR_INIT;
	const kt_node *n = &j->e->cluster->nodes[j->index];
	(void)snprintf(remote, sizeof remote, "%s/%s", n->agent_path, j->e->files->name[j->file]);
	const kt_fleet_upload_options o = {.local = j->e->files->local[j->file],
					   .remote = remote,
					   .mode = j->e->files->mode[j->file],
					   .sudo = j->e->cluster->agent_sudo,
					   .done = on_uploaded,
					   .cookie = j};
	if (kt_fleet_upload(kt_nodes_get(j->e->nodes, j->index), &o, NULL, &err) != KT_OK)
		job_done(j, &err);
}

static void on_connected(void *cookie, kt_fleet_node *node, const kt_err *err)
{
	(void)node;
	if (err->code != KT_OK)
		job_done(cookie, err);
	else
		send_next(cookie);
}

static kt_code start_install(job *j, kt_err *err)
{
	return kt_fleet_connect(kt_nodes_get(j->e->nodes, j->index), on_connected, j, NULL, err);
}

kt_code kt_enroll_install(kt_enroll *e, kt_err *err)
{
	KT_TRY(list_files(e->files, e->agent_folder, err));
	return each_node(e, start_install, err);
}

/* --- transport keys: asked for ------------------------------------------------------------------------------------ */

static kt_code spki_of_pem(const char *pem, char out[KT_SHA256_HEX], kt_err *err)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	EVP_PKEY *key = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
	kt_code rc = key ? kt_blob_spki_sha256(key, out, err)
			 : kt_fail(err, KT_E_INPUT, NULL, "the node's transport key is no public key in PEM");
	EVP_PKEY_free(key);
	BIO_free(bio);
	return rc;
}

/* What was pinned before, into `was`. */
static void note_pinned(kt_enroll *e, size_t i)
{
	kt_pin pin;
	bool found;
	kt_enroll_node *r = &e->node[i];
	if (kt_pin_load(e->cluster->state, e->cluster->nodes[i].name, &found, &pin, &r->error) != KT_OK)
		return;
	if (found)
		memcpy(r->was, pin.spki_sha256, sizeof r->was);
	kt_pin_free(&pin);
}

static kt_code transport_args(void *cookie, size_t i, cJSON **out, kt_err *err)
{
	const kt_enroll *e = cookie;
	const kt_enroll_node *r = &e->node[i];
	const kt_node *n = &e->cluster->nodes[i];
	*out = cJSON_CreateObject();
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_json_add_int(*out, "bits", TRANSPORT_BITS, err));
	if (n->transport_key)
		KT_TRY(kt_json_add_str(*out, "uri", n->transport_key, err));
	if (n->environment)
		KT_TRY(kt_json_add(*out, "environment", cJSON_Duplicate(n->environment, true), err));
	if (r->was[0])
		KT_TRY(kt_json_add_str(*out, "pinned", r->was, err));
	return kt_json_add_bool(*out, "rotate", r->rotate && r->was[0], err);
}

static kt_code copy_text(const char *text, char **out, kt_err *err)
{
	*out = strdup(text);
	return *out ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code refuse_another(const kt_enroll_node *r, const char *name, kt_err *err)
{
	char remedy[256];
	(void)snprintf(remedy, sizeof remedy,
		       "if the node was made anew, or its key is lost: enroll --replace %s; if the key is to be "
		       "changed: enroll --rotate-transport",
		       name);
	return kt_fail(err, KT_E_REFUSED, remedy,
		       "it shows another transport key (%.16s...) than the pinned one (%.16s...)", r->pin.spki_sha256,
		       r->was);
}

/* The key that a node shows. Its digest is computed here. */
static kt_code take_shown(kt_enroll *e, size_t i, const cJSON *result, kt_err *err)
{
	const char *pem;
	kt_buf at = KT_BUF_INIT;
	kt_enroll_node *r = &e->node[i];
	KT_TRY(kt_json_str(result, "public_pem", &pem, err));
	KT_TRY(spki_of_pem(pem, r->pin.spki_sha256, err));
	KT_TRY(kt_json_int(result, "bits", 2048, 16384, &r->pin.bits, err));
	KT_TRY(kt_json_int(result, "others", 0, 1000, &r->others, err));
	KT_TRY(copy_text(pem, &r->pin.public_pem, err));
	kt_code rc = kt_node_transport_at(&e->cluster->nodes[i], &at, err);
	if (rc == KT_OK)
		rc = copy_text(kt_buf_cstr(&at), &r->pin.at, err);
	kt_buf_free(&at);
	KT_TRY(rc);
	r->transport_new = strcmp(r->pin.spki_sha256, r->was) != 0;
	if (r->was[0] && r->transport_new && !r->rotate && !r->replace)
		return refuse_another(r, e->cluster->nodes[i].name, err);
	if (r->pin.bits < TRANSPORT_BITS)
		(void)snprintf(r->note, sizeof r->note,
			       "its transport key has %d bits, for the token makes no longer one; %d are better",
			       (int)r->pin.bits, (int)TRANSPORT_BITS);
	return KT_OK;
}

static kt_code show(kt_enroll *e, kt_err *err)
{
	kt_answer *answer;
	size_t n = e->cluster->nodes_count;
	for (size_t i = 0; i < n; i++)
		if (!failed_before(e, i))
			note_pinned(e, i);
	const kt_survey q = {.verb = "key.transport",
			     .args = transport_args,
			     .skip = failed_before,
			     .cookie = e,
			     .timeout_ms = TRANSPORT_LIMIT_MS};
	KT_TRY(kt_nodes_survey(e->nodes, &q, &answer, err));
	for (size_t i = 0; i < n; i++) {
		kt_enroll_node *r = &e->node[i];
		if (failed_before(e, i))
			continue;
		if (answer[i].status != KT_STATUS_OK)
			r->error = answer[i].error;
		else
			r->error.code = take_shown(e, i, answer[i].result, &r->error);
	}
	kt_answers_free(answer, n);
	return KT_OK;
}

/* --- transport keys: proved --------------------------------------------------------------------------------------- */

/* One round of challenges, with one hash. */
typedef struct challenge {
	kt_enroll *e;
	bool sha256;
} challenge;

static bool challenge_skip(void *cookie, size_t node)
{
	return failed_before(((challenge *)cookie)->e, node);
}

static kt_code to_hex(const void *bytes, size_t n, kt_buf *out, kt_err *err)
{
	kt_buf_clear(out);
	return kt_hex_encode(bytes, n, out, err);
}

/* A throw-away key wrapped for the node, and what it has to answer; the key itself is forgotten at once. */
static kt_code wrap_challenge(const challenge *c, size_t i, const char *label, const uint8_t *nonce, kt_blob *blob,
			      kt_err *err)
{
	kt_enroll_node *r = &c->e->node[i];
	const kt_blob_address address = {
		.purpose = KT_BLOB_REHEARSAL, .run = OUTSIDE, .node = c->e->cluster->nodes[i].name};
	uint8_t proof[KT_PROOF_LEN];
	kt_secret key;
	kt_buf hex = KT_BUF_INIT;
	BIO *bio = BIO_new_mem_buf(r->pin.public_pem, -1);
	EVP_PKEY *to = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
	kt_code rc = kt_secret_random(&key, KEY_LEN, err);
	if (rc == KT_OK)
		rc = kt_blob_begin(&address, blob, err);
	if (rc == KT_OK)
		rc = kt_blob_wrap_rsa(blob, to, c->sha256 ? KT_BLOB_RSA_OAEP_SHA256 : KT_BLOB_RSA_OAEP_SHA1, &key, err);
	if (rc == KT_OK)
		rc = kt_proof_of(&key, label, nonce, NONCE_LEN, proof, err);
	if (rc == KT_OK)
		rc = to_hex(proof, sizeof proof, &hex, err);
	if (rc == KT_OK)
		(void)snprintf(r->proof, sizeof r->proof, "%s", kt_buf_cstr(&hex));
	kt_buf_free(&hex);
	kt_secret_free(&key);
	EVP_PKEY_free(to);
	BIO_free(bio);
	return rc;
}

static kt_code challenge_args(void *cookie, size_t i, cJSON **out, kt_err *err)
{
	const challenge *c = cookie;
	char label[KT_PROOF_LABEL_MAX];
	uint8_t nonce[NONCE_LEN];
	kt_blob blob;
	cJSON *json;
	kt_buf hex = KT_BUF_INIT;
	*out = cJSON_CreateObject();
	if (!*out || RAND_bytes(nonce, sizeof nonce) != 1)
		return kt_fail(err, KT_E_INTERNAL, NULL, "no challenge can be made");
	(void)snprintf(label, sizeof label, "keyturn-proof/1:%s:%s", OUTSIDE, c->e->cluster->nodes[i].name);
	KT_TRY(wrap_challenge(c, i, label, nonce, &blob, err));
	KT_TRY(kt_blob_to_json(&blob, &json, err));
	KT_TRY(kt_json_add(*out, "blob", json, err));
	KT_TRY(kt_json_add_str(*out, "slot", "enroll", err));
	KT_TRY(kt_json_add_bool(*out, "keep", false, err));
	KT_TRY(kt_json_add_str(*out, "label", label, err));
	kt_code rc = to_hex(nonce, sizeof nonce, &hex, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(*out, "nonce", kt_buf_cstr(&hex), err);
	kt_buf_free(&hex);
	return rc;
}

/* A right answer says that the node has the private half, and does this hash. */
static kt_code judge(const challenge *c, kt_enroll_node *r, const kt_answer *a, kt_err *err)
{
	const char *proof;
	if (a->status != KT_STATUS_OK) {
		*err = a->error;
		return a->error.code;
	}
	KT_TRY(kt_json_str(a->result, "proof", &proof, err));
	if (strlen(proof) != sizeof r->proof - 1 || CRYPTO_memcmp(proof, r->proof, sizeof r->proof) != 0)
		return kt_fail(err, KT_E_REFUSED, "see who answers for this node",
			       "it cannot open what is wrapped for the transport key that it shows");
	r->pin.formats |= kt_pin_formats(c->sha256);
	return KT_OK;
}

/* Every node that is well so far; why[i] is why node i did not answer rightly. */
static kt_code challenge_all(kt_enroll *e, bool sha256, kt_err *why, kt_err *err)
{
	kt_answer *answer;
	challenge c = {.e = e, .sha256 = sha256};
	const kt_survey q = {.verb = "key.receive",
			     .args = challenge_args,
			     .skip = challenge_skip,
			     .cookie = &c,
			     .timeout_ms = PROVE_LIMIT_MS};
	KT_TRY(kt_nodes_survey(e->nodes, &q, &answer, err));
	for (size_t i = 0; i < e->cluster->nodes_count; i++)
		if (!failed_before(e, i))
			why[i].code = judge(&c, &e->node[i], &answer[i], &why[i]);
	kt_answers_free(answer, e->cluster->nodes_count);
	return KT_OK;
}

static kt_code prove(kt_enroll *e, kt_err *err)
{
	size_t n = e->cluster->nodes_count;
	kt_err *why = calloc(n, sizeof *why);
	if (!why)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = challenge_all(e, true, why, err);
	if (rc == KT_OK)
		rc = challenge_all(e, false, why, err);
	for (size_t i = 0; rc == KT_OK && i < n; i++) {
		kt_enroll_node *r = &e->node[i];
		if (failed_before(e, i) || r->pin.formats)
			continue;
		r->error = why[i];
		KT_IGNORE(kt_err_prefix(&r->error, r->error.code, "it did not prove that it has its transport key"));
	}
	free(why);
	return rc;
}

kt_code kt_enroll_transport(kt_enroll *e, kt_err *err)
{
	KT_TRY(show(e, err));
	return prove(e, err);
}

/* --- transport keys: pinned, and the old ones gone ---------------------------------------------------------------- */

kt_code kt_enroll_pin_transport(kt_enroll *e, kt_err *err)
{
	char folder[PATH_LEN];
	if (snprintf(folder, sizeof folder, "%s/nodes", e->cluster->state) >= (int)sizeof folder)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "the path of the state folder is too long");
	KT_TRY(kt_file_mkdirs(folder, 0700, err));
	for (size_t i = 0; i < e->cluster->nodes_count; i++) {
		kt_enroll_node *r = &e->node[i];
		if (!failed_before(e, i))
			r->error.code = kt_pin_save(e->cluster->state, e->cluster->nodes[i].name, &r->pin,
						    r->rotate ? "rotated" : "replaced", &r->error);
	}
	return KT_OK;
}

static bool nothing_to_retire(void *cookie, size_t node)
{
	const kt_enroll *e = cookie;
	return failed_before(cookie, node) || e->node[node].others == 0;
}

static kt_code retire_args(void *cookie, size_t i, cJSON **out, kt_err *err)
{
	const kt_enroll *e = cookie;
	*out = cJSON_CreateObject();
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	return kt_json_add_str(*out, "keep", e->node[i].pin.spki_sha256, err);
}

/* The new key is pinned: what is still to be done with the old one is no failure of the enrolment. */
static void note_retired(kt_enroll_node *r, const kt_answer *a)
{
	int64_t left = 0, lost = 0;
	const char *why = "";
	kt_err ignored = KT_ERR_INIT;
	if (a->status != KT_STATUS_OK)
		(void)snprintf(r->note, sizeof r->note,
			       "its former transport key is still there: %.300s; enrolling again removes it",
			       a->error.msg);
	else if (kt_json_int(a->result, "left", 0, 1000, &left, &ignored) == KT_OK && left &&
		 kt_json_str(a->result, "why", &why, &ignored) == KT_OK)
		(void)snprintf(r->note, sizeof r->note,
			       "its former transport key could not be destroyed in its token: %.300s; enrolling again "
			       "tries it again",
			       why);
	else if (kt_json_int(a->result, "slots_lost", 0, 1 << 20, &lost, &ignored) == KT_OK && lost)
		(void)snprintf(r->note, sizeof r->note, "%d keys of earlier runs that it had received open no more",
			       (int)lost);
}

kt_code kt_enroll_retire(kt_enroll *e, kt_err *err)
{
	kt_answer *answer;
	const kt_survey q = {.verb = "key.retire",
			     .args = retire_args,
			     .skip = nothing_to_retire,
			     .cookie = e,
			     .timeout_ms = TRANSPORT_LIMIT_MS};
	KT_TRY(kt_nodes_survey(e->nodes, &q, &answer, err));
	for (size_t i = 0; i < e->cluster->nodes_count; i++)
		if (!nothing_to_retire(e, i))
			note_retired(&e->node[i], &answer[i]);
	kt_answers_free(answer, e->cluster->nodes_count);
	return KT_OK;
}
