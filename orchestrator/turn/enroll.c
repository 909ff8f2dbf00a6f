/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/enroll.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "wire/blob.h"

enum { PATH_LEN = 4096, FILES_MAX = 16, TRANSPORT_BITS = 3072, PEM_MAX = 8192, TRANSPORT_LIMIT_MS = 120000 };

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
	for (size_t i = 0; e->node && i < e->cluster->nodes_count; i++)
		free(e->node[i].host_key);
	free(e->node);
	free(e->files);
	e->node = NULL;
	e->files = NULL;
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
		if (e->node[i].error.code != KT_OK)
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

/* --- transport keys ----------------------------------------------------------------------------------------------- */

static kt_code spki_of_pem(const char *pem, size_t n, char out[65], kt_err *err)
{
	BIO *bio = BIO_new_mem_buf(pem, (int)n);
	EVP_PKEY *key = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
	kt_code rc = key ? kt_blob_spki_sha256(key, out, err)
			 : kt_fail(err, KT_E_INPUT, NULL, "the node's transport key is no public key in PEM");
	EVP_PKEY_free(key);
	BIO_free(bio);
	return rc;
}

/* Is the pinned key another one? A missing pin is fine. */
static kt_code check_pin(const kt_enroll *e, const char *path, const char *spki, bool *there, kt_err *err)
{
	kt_buf old = {.max = PEM_MAX};
	char pinned[65];
	struct stat st;
	*there = stat(path, &st) == 0;
	if (!*there)
		return KT_OK;
	kt_code rc = kt_file_read(path, &old, err);
	if (rc == KT_OK)
		rc = spki_of_pem(kt_buf_cstr(&old), old.len, pinned, err);
	kt_buf_free(&old);
	if (rc != KT_OK)
		return kt_err_prefix(err, rc, "%s", path);
	if (strcmp(pinned, spki) == 0)
		return KT_OK;
	*there = false;
	if (e->replace_transport)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED,
		       "if the node was made anew or its key was replaced on purpose: enroll --replace-transport-keys",
		       "it shows another transport key (%.16s...) than the pinned one (%.16s...)", spki, pinned);
}

static kt_code pin_transport(kt_enroll *e, size_t i, const cJSON *result, kt_err *err)
{
	char path[PATH_LEN];
	const char *pem;
	bool there;
	kt_enroll_node *r = &e->node[i];
	KT_TRY(kt_json_str(result, "public_pem", &pem, err));
	KT_TRY(spki_of_pem(pem, strlen(pem), r->transport, err));
	if (snprintf(path, sizeof path, "%s/nodes/%s.pem", e->cluster->state, e->cluster->nodes[i].name) >=
	    (int)sizeof path)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "the path of the state folder is too long");
	KT_TRY(check_pin(e, path, r->transport, &there, err));
	if (there)
		return KT_OK;
	r->transport_new = true;
	return kt_file_replace(path, pem, strlen(pem), &(kt_file_attr){0644, (uid_t)KT_KEEP, (gid_t)KT_KEEP}, err);
}

static kt_code transport_args(void *cookie, size_t node, cJSON **out, kt_err *err)
{
	(void)cookie;
	(void)node;
	*out = cJSON_CreateObject();
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	return kt_json_add_int(*out, "bits", TRANSPORT_BITS, err);
}

static bool failed_before(void *cookie, size_t node)
{
	const kt_enroll *e = cookie;
	return e->node[node].error.code != KT_OK;
}

kt_code kt_enroll_transport(kt_enroll *e, kt_err *err)
{
	char folder[PATH_LEN];
	kt_answer *answer;
	size_t n = e->cluster->nodes_count;
	if (snprintf(folder, sizeof folder, "%s/nodes", e->cluster->state) >= (int)sizeof folder)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "the path of the state folder is too long");
	KT_TRY(kt_file_mkdirs(folder, 0700, err));
	const kt_survey q = {.verb = "key.transport",
			     .args = transport_args,
			     .skip = failed_before,
			     .cookie = e,
			     .timeout_ms = TRANSPORT_LIMIT_MS};
	KT_TRY(kt_nodes_survey(e->nodes, &q, &answer, err));
	for (size_t i = 0; i < n; i++) {
		kt_enroll_node *r = &e->node[i];
		if (r->error.code != KT_OK)
			continue;
		if (answer[i].status != KT_STATUS_OK)
			r->error = answer[i].error;
		else if (pin_transport(e, i, answer[i].result, &r->error) != KT_OK)
			r->transport_new = false;
	}
	kt_answers_free(answer, n);
	return KT_OK;
}
