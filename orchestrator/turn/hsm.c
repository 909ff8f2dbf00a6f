/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/hsm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"
#include "base/file.h"
#include "base/kcv.h"
#include "orchestrator/inventory/custodian.h"
#include "orchestrator/turn/pins.h"
#include "orchestrator/turn/probed.h"
#include "pkcs11/owner.h"
#include "pkcs11/uri.h"
#include "wire/blob.h"

enum { PATH_LEN = 4096, BLOB_FILE_MAX = 16 * 1024 };

struct kt_hsm {
	kt_hsm_options opt;
	kt_owner *owner;
	bool probed; /* what its token does is kept in the state folder */
};

/* One command: what it is about. */
typedef struct call {
	kt_hsm *hsm;
	const char *run;
	const char *node;        /* NULL: none */
	const char *spki_sha256; /* as of kt_hsm_command */
	bool backup;             /* about the run's backup key, not its cluster key */
} call;

/* --- what a probe found ------------------------------------------------------------------------------------------- */

/* The token that the owner has open, against what is kept of it. */
static kt_code check_probed(kt_hsm *hsm, kt_err *err)
{
	cJSON *token = cJSON_Duplicate(kt_owner_token(hsm->owner), 1);
	if (!token)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = kt_probed_identify(token, err);
	if (rc == KT_OK)
		rc = kt_probed_check(hsm->opt.state, token, &hsm->probed, err);
	cJSON_Delete(token);
	return rc;
}

/* args of hsm.probe: the key that the URI names. */
static kt_code probe_args(const char *uri, bool on_token, cJSON *args, kt_err *err)
{
	kt_uri parsed;
	kt_buf hex = KT_BUF_INIT;
	KT_TRY(kt_uri_parse(uri, &parsed, err));
	KT_TRY(kt_json_add_bool(args, "on_token", on_token, err));
	if (parsed.object[0])
		KT_TRY(kt_json_add_str(args, "label", parsed.object, err));
	kt_code rc = kt_hex_encode(parsed.id, parsed.id_len, &hex, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(args, "id", kt_buf_cstr(&hex), err);
	kt_buf_free(&hex);
	return rc;
}

static kt_code probe(kt_owner *owner, const char *uri, bool on_token, cJSON **report, kt_err *err)
{
	cJSON *args = cJSON_CreateObject();
	kt_owner_request r = {.verb = "hsm.probe", .args = args, .again = true};
	*report = NULL;
	kt_code rc = args ? probe_args(uri, on_token, args, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_owner_call(owner, &r, err);
	cJSON_Delete(args);
	*report = cJSON_DetachItemFromObjectCaseSensitive(r.result, "report");
	cJSON_Delete(r.result);
	if (rc == KT_OK)
		rc = kt_probed_identify(cJSON_GetObjectItemCaseSensitive(*report, "token"), err);
	if (rc == KT_OK)
		return KT_OK;
	cJSON_Delete(*report);
	*report = NULL;
	return rc;
}

kt_code kt_hsm_probe(const char *uri, int64_t call_ms, bool on_token, cJSON **report, kt_err *err)
{
	const kt_owner_options o = {.subcommand = KT_HSM_SUBCOMMAND, .uri = uri, .call_ms = call_ms};
	kt_owner *owner;
	*report = NULL;
	KT_TRY(kt_owner_start(&o, &owner, err));
	kt_code rc = probe(owner, uri, on_token, report, err);
	kt_owner_end(owner);
	return rc;
}

/* A token that nobody has probed for this cluster yet is probed in the preflight, where nothing is lost by a refusal:
 * else a person who forgets `hsm probe` would never be told when the token changes. */
static kt_code probe_once(const call *c, cJSON *result, kt_err *err)
{
	cJSON *report;
	bool now = !c->hsm->probed;
	if (now) {
		KT_TRY(probe(c->hsm->owner, c->hsm->opt.uri, false, &report, err));
		kt_code rc = kt_probed_keep(c->hsm->opt.state, report, err);
		cJSON_Delete(report);
		KT_TRY(rc);
		KT_TRY(check_probed(c->hsm, err));
	}
	return kt_json_add_str(result, "probed", now ? "now" : "before", err);
}

/* --- opening and closing ------------------------------------------------------------------------------------------ */

kt_code kt_hsm_open(const kt_hsm_options *options, kt_hsm **out, kt_err *err)
{
	*out = NULL;
	kt_hsm *hsm = calloc(1, sizeof *hsm);
	if (!hsm)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	hsm->opt = *options;
	const kt_owner_options o = {.subcommand = KT_HSM_SUBCOMMAND,
				    .uri = options->uri,
				    .call_ms = options->call_ms,
				    .sessions = options->sessions};
	kt_code rc = kt_owner_start(&o, &hsm->owner, err);
	if (rc == KT_OK)
		rc = check_probed(hsm, err);
	if (rc != KT_OK)
		kt_hsm_close(hsm);
	else
		*out = hsm;
	return rc;
}

void kt_hsm_close(kt_hsm *hsm)
{
	if (!hsm)
		return;
	kt_owner_end(hsm->owner);
	free(hsm);
}

pid_t kt_hsm_pid(const kt_hsm *hsm)
{
	return kt_owner_pid(hsm->owner);
}

/* --- what the owner is asked -------------------------------------------------------------------------------------- */

/* The arguments of every verb; run and node where there are. */
static kt_code make_args(const call *c, cJSON **out, kt_err *err)
{
	*out = cJSON_CreateObject();
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_json_add_str(*out, "cluster", c->hsm->opt.cluster, err));
	KT_TRY(kt_json_add_str(*out, "escrow_key", c->hsm->opt.escrow_label, err));
	if (c->run)
		KT_TRY(kt_json_add_str(*out, "run", c->run, err));
	KT_TRY(kt_json_add_bool(*out, "backup", c->backup, err));
	return c->node ? kt_json_add_str(*out, "node", c->node, err) : KT_OK;
}

/* Ask for one verb. `blob` goes along, NULL: none; the caller's still. *result is the caller's. */
static kt_code ask(const call *c, const char *verb, const kt_blob *blob, cJSON **result, kt_err *err)
{
	kt_owner_request r = {.verb = verb, .again = true};
	cJSON *args;
	cJSON *json;
	*result = NULL;
	kt_code rc = make_args(c, &args, err);
	if (rc == KT_OK && blob && (rc = kt_blob_to_json(blob, &json, err)) == KT_OK)
		rc = kt_json_add(args, "blob", json, err);
	r.args = args;
	if (rc == KT_OK)
		rc = kt_owner_call(c->hsm->owner, &r, err);
	cJSON_Delete(args);
	*result = r.result;
	return rc;
}

/* --- the wrapping key --------------------------------------------------------------------------------------------- */

static kt_code escrow_key(kt_hsm *hsm, const char *verb, bool *made, char *kcv, kt_err *err)
{
	const call c = {.hsm = hsm};
	cJSON *result;
	const char *text;
	KT_TRY(ask(&c, verb, NULL, &result, err));
	kt_code rc = kt_json_opt_bool(result, "made", false, made, err);
	if (rc == KT_OK)
		rc = kt_json_str(result, "kcv", &text, err);
	if (rc == KT_OK)
		(void)snprintf(kcv, KT_KCV_TEXT, "%s", text);
	cJSON_Delete(result);
	return rc;
}

kt_code kt_hsm_find_escrow_key(kt_hsm *hsm, char *kcv, kt_err *err)
{
	bool made;
	return escrow_key(hsm, "escrow_key.find", &made, kcv, err);
}

kt_code kt_hsm_make_escrow_key(kt_hsm *hsm, bool *made, char *kcv, kt_err *err)
{
	return escrow_key(hsm, "escrow_key.make", made, kcv, err);
}

/* --- key.escrow, backup.key --------------------------------------------------------------------------------------- */

/* The custodians' public keys go along. */
static kt_code add_custodian(const kt_custodian *custodian, cJSON *all, kt_err *err)
{
	kt_custodian_key key;
	cJSON *o = cJSON_CreateObject();
	kt_code rc = kt_custodian_read(custodian, &key, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "name", custodian->name, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "pem", kt_buf_cstr(&key.pem), err);
	if (rc == KT_OK)
		rc = kt_json_add_int(o, "accepts", key.accepts, err);
	kt_custodian_key_free(&key);
	if (rc == KT_OK && cJSON_AddItemToArray(all, o))
		return KT_OK;
	cJSON_Delete(o);
	return rc != KT_OK ? rc : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code add_custodians(const call *c, cJSON *args, kt_err *err)
{
	KT_TRY(kt_json_add(args, "custodians", cJSON_CreateArray(), err));
	cJSON *all = cJSON_GetObjectItemCaseSensitive(args, "custodians");
	for (size_t i = 0; i < c->hsm->opt.custodians_count; i++)
		KT_TRY(add_custodian(&c->hsm->opt.custodians[i], all, err));
	return KT_OK;
}

/* `custodian`: NULL for the escrow under the wrapping key. */
static kt_code escrow_path(const call *c, const char *custodian, char path[PATH_LEN], kt_err *err)
{
	if (snprintf(path, PATH_LEN, "%s/escrow", c->hsm->opt.state) >= PATH_LEN - KT_RUN_MAX - KT_NAME_MAX - 16)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "the path of the state folder is too long");
	KT_TRY(kt_file_mkdirs(path, 0700, err));
	size_t n = strlen(path);
	(void)snprintf(path + n, PATH_LEN - n, "/%s%s%s%s.json", c->run, c->backup ? "-backup" : "",
		       custodian ? "." : "", custodian ? custodian : "");
	return KT_OK;
}

static kt_code escrow_write(const char *path, const cJSON *json, kt_err *err)
{
	kt_blob blob;
	kt_buf text = KT_BUF_INIT;
	KT_TRY(kt_blob_from_json(json, &blob, err));
	kt_code rc = kt_blob_to_text(&blob, &text, err);
	if (rc == KT_OK)
		rc = kt_file_replace(path, text.data, text.len, &(kt_file_attr){0600, (uid_t)KT_KEEP, (gid_t)KT_KEEP},
				     err);
	kt_buf_free(&text);
	return rc;
}

static kt_code escrow_read(const call *c, const char *path, kt_blob_purpose purpose, kt_blob *blob, kt_err *err)
{
	kt_buf text = {.max = BLOB_FILE_MAX};
	kt_code rc = kt_file_read(path, &text, err);
	if (rc == KT_OK)
		rc = kt_blob_from_text(path, text.data, text.len, blob, err);
	kt_buf_free(&text);
	if (rc == KT_OK && (blob->purpose != purpose || strcmp(blob->run, c->run) != 0))
		return kt_fail(err, KT_E_KEY, "put the escrow of this run back from a copy",
			       "%s: this is not the %s of run %s, but a wrapped key for %s of run \"%s\"", path,
			       kt_blob_purpose_name(purpose), c->run, kt_blob_purpose_name(blob->purpose), blob->run);
	return rc;
}

/* Only the custodian can open it; that it is whole on the disk is what can be seen here. */
static kt_code custodian_keep(const call *c, cJSON *row, kt_err *err)
{
	char path[PATH_LEN];
	const char *name, *digest;
	kt_blob blob;
	cJSON *json = cJSON_DetachItemFromObjectCaseSensitive(row, "blob");
	kt_code rc = kt_json_str(row, "name", &name, err);
	if (rc == KT_OK)
		rc = kt_json_str(row, "spki_sha256", &digest, err);
	if (rc == KT_OK)
		rc = escrow_path(c, name, path, err);
	if (rc == KT_OK)
		rc = escrow_write(path, json, err);
	cJSON_Delete(json);
	KT_TRY(rc);
	KT_TRY(escrow_read(c, path, KT_BLOB_CUSTODIAN, &blob, err));
	if (strcmp(blob.custodian, name) != 0 || strcmp(blob.spki_sha256, digest) != 0)
		return kt_fail(err, KT_E_IO, "look at the disk", "%s is not what was written", path);
	return kt_json_add_str(row, "path", path, err);
}

/* S3: what was written to the disk opens inside the HSM to the very key. */
static kt_code escrow_recover(const call *c, const char *path, kt_err *err)
{
	kt_blob blob;
	cJSON *none;
	KT_TRY(escrow_read(c, path, KT_BLOB_ESCROW, &blob, err));
	kt_code rc = ask(c, "key.recover", &blob, &none, err);
	cJSON_Delete(none);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "%s", path);
}

/* Takes the blob out of what the owner answered: it is in the file. */
static kt_code escrow_keep(const call *c, cJSON *result, kt_err *err)
{
	char path[PATH_LEN];
	cJSON *blob = cJSON_DetachItemFromObjectCaseSensitive(result, "blob");
	kt_code rc = escrow_path(c, NULL, path, err);
	if (rc == KT_OK)
		rc = escrow_write(path, blob, err);
	cJSON_Delete(blob);
	KT_TRY(rc);
	KT_TRY(escrow_recover(c, path, err));
	const cJSON *custodians = cJSON_GetObjectItemCaseSensitive(result, "custodians");
	for (cJSON *row = custodians ? custodians->child : NULL; row; row = row->next)
		KT_TRY(custodian_keep(c, row, err));
	KT_TRY(kt_json_add_str(result, "path", path, err));
	return kt_json_add_bool(result, "recovered", true, err);
}

/* --- key.wrap, key.rehearse --------------------------------------------------------------------------------------- */

/* What was agreed to is one key: another one, pinned since, is not wrapped to. */
static kt_code same_key(const call *c, const kt_pin *pin, kt_err *err)
{
	if (!c->spki_sha256 || strcmp(c->spki_sha256, pin->spki_sha256) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "make a new plan: begin a new run once this one has ended",
		       "%s: another transport key was pinned (%.16s...) than the plan names (%.16s...)", c->node,
		       pin->spki_sha256, c->spki_sha256);
}

static kt_code add_pin(const call *c, const kt_pin *pin, cJSON *args, kt_err *err)
{
	KT_TRY(same_key(c, pin, err));
	KT_TRY(kt_json_add_int(args, "accepts", pin->formats, err));
	KT_TRY(kt_json_add_str(args, "spki_sha256", pin->spki_sha256, err));
	return kt_json_add_str(args, "pem", pin->public_pem, err);
}

/* The pinned public half of the node's transport key goes along, and what the node opens. */
static kt_code add_pinned(const call *c, cJSON *args, kt_err *err)
{
	kt_pin pin;
	bool found;
	if (!c->node)
		return kt_fail(err, KT_E_INTERNAL, NULL, "a key is wrapped for a node");
	KT_TRY(kt_pin_load(c->hsm->opt.state, c->node, &found, &pin, err));
	kt_code rc = found ? add_pin(c, &pin, args, err)
			   : kt_fail(err, KT_E_REFUSED, "run `keyturn enroll`", "%s has no transport key pinned here",
				     c->node);
	kt_pin_free(&pin);
	return rc;
}

/* --- the table ---------------------------------------------------------------------------------------------------- */

static const struct verb {
	const char *name;
	bool backup;                                                 /* of the run's backup key */
	kt_code (*prepare)(const call *c, cJSON *args, kt_err *err); /* adds what the owner needs */
	kt_code (*keep)(const call *c, cJSON *result, kt_err *err);  /* does the rest with what it answered */
} verbs[] = {
	{"hsm.check", false, add_custodians, probe_once},
	{"key.generate", false, NULL, NULL},
	{"key.escrow", false, add_custodians, escrow_keep},
	{"key.wrap", false, add_pinned, NULL},
	{"key.rehearse", false, add_pinned, NULL},
	{"backup.key", true, add_custodians, escrow_keep},
	{"backup.wrap", true, add_pinned, NULL},
};

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
		if (strcmp(verbs[i].name, name) == 0)
			return &verbs[i];
	return NULL;
}

bool kt_hsm_knows(const char *verb)
{
	return find_verb(verb) != NULL;
}

/* *args is made and is the caller's, also on failure. */
static kt_code prepare(const call *c, const char *verb, cJSON **args, kt_err *err)
{
	const struct verb *v = find_verb(verb);
	*args = NULL;
	if (!v)
		return kt_fail(err, KT_E_INTERNAL, NULL, "the coordinator has no verb %s", verb);
	KT_TRY(make_args(c, args, err));
	return v->prepare ? v->prepare(c, *args, err) : KT_OK;
}

/* The commands, one after another: what one needs is in memory only from when it is sent until its answer is there. */
typedef struct asked {
	kt_hsm *hsm;
	const char *run;
	kt_hsm_command *list;
	size_t n, next;
} asked;

typedef struct one {
	kt_owner_request request; /* the first member: it is what the owner gives back */
	cJSON *args;
	kt_hsm_command *command;
} one;

static call call_of(const asked *a, const kt_hsm_command *command)
{
	const struct verb *v = find_verb(command->verb);
	return (call){.hsm = a->hsm,
		      .run = a->run,
		      .node = command->node,
		      .spki_sha256 = command->spki_sha256,
		      .backup = v && v->backup};
}

static void fail_command(kt_hsm_command *command)
{
	command->status = KT_STATUS_FAILED;
	cJSON_Delete(command->result);
	command->result = cJSON_CreateObject();
}

/* NULL: it has failed. */
static one *make_one(const asked *a, kt_hsm_command *command)
{
	const call c = call_of(a, command);
	one *o = calloc(1, sizeof *o);
	command->error = KT_ERR_INIT;
	command->result = NULL;
	kt_code rc = o ? prepare(&c, command->verb, &o->args, &command->error)
		       : kt_fail(&command->error, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK) {
		o->command = command;
		o->request = (kt_owner_request){.verb = command->verb, .args = o->args, .again = true};
		return o;
	}
	fail_command(command);
	if (o)
		cJSON_Delete(o->args);
	free(o);
	return NULL;
}

static kt_owner_request *next_asked(void *cookie)
{
	asked *a = cookie;
	one *o = NULL;
	while (!o && a->next < a->n)
		o = make_one(a, &a->list[a->next++]);
	return o ? &o->request : NULL;
}

static void asked_done(void *cookie, kt_owner_request *request)
{
	one *o = (one *)request;
	(void)cookie;
	o->command->status = KT_STATUS_OK;
	o->command->result = request->result;
	o->command->error = request->error;
	if (request->code != KT_OK)
		fail_command(o->command);
	cJSON_Delete(o->args);
	free(o);
}

/* Do the rest with what the owner answered. It may ask the owner again. */
static void keep(const asked *a, kt_hsm_command *command)
{
	const struct verb *v = find_verb(command->verb);
	const call c = call_of(a, command);
	if (command->status != KT_STATUS_OK || !v->keep)
		return;
	if (v->keep(&c, command->result, &command->error) != KT_OK)
		fail_command(command);
}

void kt_hsm_act(kt_hsm *hsm, const char *run, kt_hsm_command *list, size_t n)
{
	asked a = {.hsm = hsm, .run = run, .list = list, .n = n};
	const kt_owner_source source = {.next = next_asked, .done = asked_done, .cookie = &a};
	kt_owner_ask_from(hsm->owner, &source);
	for (size_t i = 0; i < n; i++)
		keep(&a, &list[i]);
}
