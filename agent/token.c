/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/token.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/transport.h"
#include "base/record.h"
#include "pkcs11/transport.h"

enum { OPEN_MS = 10000, MAKE_MS = 100000, ENVIRONMENT_MAX = 512 };

#define DEFAULT_LABEL "keyturn-transport"

extern char **environ;

/* --- The URI ------------------------------------------------------------------------------------------------------ */

/* The path of the PIN's file; "" when the URI has none. */
static const char *pin_file(const kt_uri *uri)
{
	const char *path = strncmp(uri->pin_source, "file:", 5) == 0 ? uri->pin_source + 5 : uri->pin_source;
	return strncmp(path, "///", 3) == 0 ? path + 2 : path;
}

static kt_code parse_uri(const char *text, kt_uri *uri, kt_err *err)
{
	KT_TRY(kt_uri_parse(text, uri, err));
	if (uri->pin_source[0] && pin_file(uri)[0] != '/')
		return kt_fail(err, KT_E_INPUT, "use pin-source=file:/path, a file on the node with mode 0400",
			       "pkcs11: URI: the PIN of a node's token can only come from a file on the node");
	if (uri->type[0] && strcmp(uri->type, "private") != 0)
		return kt_fail(err, KT_E_INPUT, "leave type= out, or say private",
			       "pkcs11: URI: a transport key is a private key");
	return KT_OK;
}

kt_code kt_node_token_check(const char *text, kt_err *err)
{
	kt_uri uri;
	return parse_uri(text, &uri, err);
}

static kt_token_key_name name_of(const kt_uri *uri)
{
	const char *label = uri->object[0] ? uri->object : uri->id_len ? NULL : DEFAULT_LABEL;
	return (kt_token_key_name){.label = label, .id = uri->id, .id_len = uri->id_len};
}

/* --- A PIN that was refused --------------------------------------------------------------------------------------- */

static const char lost_refusal[] = "correct the PIN in its file, then remove this one";

static kt_code refusal_path(const char *state, char out[KT_RECORD_PATH], kt_err *err)
{
	if ((size_t)snprintf(out, KT_RECORD_PATH, "%s/pin-refused", state) >= KT_RECORD_PATH)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", state);
	return KT_OK;
}

/* The PIN's file as it is: whatever is written into it changes this. Of a URI without one: "". */
static void describe_pin_file(const kt_uri *uri, char out[KT_RECORD_PATH])
{
	struct stat st;
	out[0] = '\0';
	if (uri->pin_source[0] && stat(pin_file(uri), &st) == 0)
		(void)snprintf(out, KT_RECORD_PATH, "%s %llu %lld.%09ld\n", pin_file(uri),
			       (unsigned long long)st.st_ino, (long long)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
}

/* Before a login: KT_E_HSM when the PIN that is in the file now was refused before. */
static kt_code may_try_pin(const char *state, const kt_uri *uri, kt_err *err)
{
	char path[KT_RECORD_PATH];
	char now[KT_RECORD_PATH];
	kt_buf was = {.max = KT_RECORD_PATH};
	bool found;
	KT_TRY(refusal_path(state, path, err));
	describe_pin_file(uri, now);
	kt_code rc = kt_record_read(path, lost_refusal, &found, &was, err);
	if (rc == KT_OK && found && now[0] && strcmp(kt_buf_cstr(&was), now) == 0)
		rc = kt_fail(
			err, KT_E_HSM, "write the right PIN into that file; a file that was written is tried again",
			"the PIN in %s was refused by the token before, and is not tried a second time", pin_file(uri));
	kt_buf_free(&was);
	return rc;
}

/* After a login was refused; the reason stays the error. */
static kt_code note_refusal(const char *state, const kt_uri *uri, kt_err *err)
{
	char path[KT_RECORD_PATH];
	char now[KT_RECORD_PATH];
	kt_err trouble = KT_ERR_INIT;
	kt_buf text = KT_BUF_INIT;
	describe_pin_file(uri, now);
	kt_code rc = refusal_path(state, path, &trouble);
	if (rc == KT_OK)
		rc = kt_buf_str(&text, now, &trouble);
	if (rc == KT_OK)
		rc = kt_record_replace(path, &text, &kt_record_private, &trouble);
	kt_buf_free(&text);
	return rc == KT_OK ? err->code
			   : kt_err_prefix(err, err->code, "(and it cannot be recorded: %.200s)", trouble.msg);
}

/* --- Asking the process that owns the token ----------------------------------------------------------------------- */

/* Our environment, and before it what the module needs. Invariant: `own` are the first, freed by end_environment. */
typedef struct environment {
	const char *list[ENVIRONMENT_MAX + 1];
	char *own[ENVIRONMENT_MAX];
	size_t n_own;
} environment;

static void end_environment(environment *e)
{
	while (e->n_own)
		free(e->own[--e->n_own]);
}

static bool is_replaced(const environment *e, const char *variable)
{
	size_t name = strcspn(variable, "=") + 1;
	for (size_t i = 0; i < e->n_own; i++)
		if (strncmp(e->own[i], variable, name) == 0)
			return true;
	return false;
}

static kt_code make_environment(environment *e, const cJSON *wanted, kt_err *err)
{
	const cJSON *v;
	size_t n = 0;
	e->n_own = 0;
	cJSON_ArrayForEach(v, wanted)
	{
		if (!cJSON_IsString(v) || e->n_own == ENVIRONMENT_MAX)
			return kt_fail(err, KT_E_INPUT, NULL, "\"environment\" must hold texts, at most %d",
				       (int)ENVIRONMENT_MAX);
		if (asprintf(&e->own[e->n_own], "%s=%s", v->string, v->valuestring) < 0)
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		e->list[n++] = e->own[e->n_own++];
	}
	for (char **v2 = environ; *v2 && n < ENVIRONMENT_MAX; v2++)
		if (!is_replaced(e, *v2))
			e->list[n++] = *v2;
	e->list[n] = NULL;
	return KT_OK;
}

static kt_code start_owner(const kt_node_token *t, const kt_uri *uri, int64_t call_ms, kt_owner **out, kt_err *err)
{
	environment env;
	bool refused = false;
	kt_code rc = make_environment(&env, t->environment, err);
	if (rc == KT_OK)
		rc = kt_owner_start(&(kt_owner_options){.subcommand = "token",
							.uri = t->uri,
							.call_ms = call_ms,
							.env = env.list,
							.refused = &refused},
				    out, err);
	end_environment(&env);
	return refused ? note_refusal(t->state, uri, err) : rc;
}

/* Most errors name the token already, by what it says of itself. */
static kt_code name_token(const kt_uri *uri, kt_code rc, kt_err *err)
{
	if (err && strstr(err->msg, "token \""))
		return kt_err_prefix(err, rc, "on this node");
	return kt_err_prefix(err, rc, "this node's token \"%s\"", uri->token[0] ? uri->token : uri->serial);
}

/* One request to a fresh owner. Takes over r->args' object. */
static kt_code ask(const kt_node_token *t, int64_t call_ms, cJSON *args, kt_owner_request *r, kt_err *err)
{
	kt_uri uri = {0};
	kt_owner *owner = NULL;
	kt_code rc = args ? parse_uri(t->uri, &uri, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = may_try_pin(t->state, &uri, err);
	if (rc == KT_OK)
		rc = start_owner(t, &uri, call_ms, &owner, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(args, "uri", t->uri, err);
	r->args = args;
	r->again = true; /* the handlers see to that */
	if (rc == KT_OK)
		rc = kt_owner_call(owner, r, err);
	kt_owner_end(owner);
	cJSON_Delete(args);
	r->args = NULL;
	return rc == KT_OK ? KT_OK : name_token(&uri, rc, err);
}

static kt_code add_base64(cJSON *o, const char *name, const void *bytes, size_t n, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_base64_encode(bytes, n, &text, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, name, kt_buf_cstr(&text), err);
	kt_buf_free(&text);
	return rc;
}

static kt_code get_base64(const cJSON *o, const char *name, kt_buf *out, kt_err *err)
{
	const char *text;
	KT_TRY(kt_json_str(o, name, &text, err));
	return kt_base64_decode(text, strlen(text), out, err);
}

static kt_code take_key(const cJSON *result, kt_node_token_key *out, kt_err *err)
{
	KT_TRY(kt_json_bool(result, "made", &out->made, err));
	KT_TRY(get_base64(result, "spki", &out->spki, err));
	return kt_sha256_hex(out->spki.data, out->spki.len, out->spki_sha256, err);
}

kt_code kt_node_token_ensure(const kt_node_token *t, unsigned bits, const char *pinned, bool rotate,
			     kt_node_token_key *out, kt_err *err)
{
	kt_owner_request r = {.verb = "ensure"};
	*out = (kt_node_token_key){.spki = {.max = KT_TRANSPORT_SPKI_MAX}};
	cJSON *args = cJSON_CreateObject();
	kt_code rc = kt_json_add_int(args, "bits", bits, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(args, "pinned", pinned ? pinned : "", err);
	if (rc == KT_OK)
		rc = kt_json_add_bool(args, "rotate", rotate, err);
	if (rc == KT_OK)
		rc = ask(t, MAKE_MS, args, &r, err);
	else
		cJSON_Delete(args);
	if (rc == KT_OK)
		rc = take_key(r.result, out, err);
	cJSON_Delete(r.result);
	if (rc != KT_OK)
		kt_buf_free(&out->spki);
	return rc;
}

kt_code kt_node_token_open(const kt_node_token *t, const char *spki_sha256, bool sha256, const uint8_t *wrapped,
			   size_t n, kt_secret *out, kt_err *err)
{
	kt_owner_request r = {.verb = "unwrap"};
	*out = KT_SECRET_INIT;
	cJSON *args = cJSON_CreateObject();
	kt_code rc = kt_json_add_str(args, "spki_sha256", spki_sha256, err);
	if (rc == KT_OK)
		rc = kt_json_add_bool(args, "sha256", sha256, err);
	if (rc == KT_OK)
		rc = add_base64(args, "wrapped", wrapped, n, err);
	if (rc == KT_OK)
		rc = ask(t, OPEN_MS, args, &r, err);
	else
		cJSON_Delete(args);
	cJSON_Delete(r.result);
	if (rc == KT_OK)
		*out = r.reply;
	return rc;
}

kt_code kt_node_token_destroy(const kt_node_token *t, const char *spki_sha256, kt_err *err)
{
	kt_owner_request r = {.verb = "destroy"};
	cJSON *args = cJSON_CreateObject();
	kt_code rc = kt_json_add_str(args, "spki_sha256", spki_sha256, err);
	if (rc == KT_OK)
		rc = ask(t, OPEN_MS, args, &r, err);
	else
		cJSON_Delete(args);
	cJSON_Delete(r.result);
	return rc;
}

/* --- In that process ---------------------------------------------------------------------------------------------- */

/* The keys of the URI's name. */
typedef struct keys {
	kt_uri uri;
	kt_token_key_name name;
	kt_token_transport list[KT_TRANSPORT_KEYS_MAX];
	size_t n;
} keys;

static kt_code list_keys(const kt_owner_task *task, keys *k, kt_err *err)
{
	const char *uri;
	KT_TRY(kt_json_str(task->args, "uri", &uri, err));
	KT_TRY(parse_uri(uri, &k->uri, err));
	k->name = name_of(&k->uri);
	return kt_token_transport_list(task->token, &k->name, k->list, &k->n, err);
}

static kt_code make_key(const kt_owner_task *task, const keys *k, bool rotate, kt_token_transport *out, kt_err *err)
{
	int64_t bits;
	kt_token_key_name name = k->name;
	if (rotate && name.id_len && k->n)
		return kt_fail(err, KT_E_REFUSED,
			       "name it by object= alone, or write another id= into cluster.json; then rotate again",
			       "the URI names the key by its id, which no second key may have");
	if (!name.label)
		name.label = DEFAULT_LABEL;
	KT_TRY(kt_json_int(task->args, "bits", KT_TRANSPORT_KEY_MIN_BITS, KT_TRANSPORT_KEY_MAX_BITS, &bits, err));
	return kt_token_transport_make(task->token, &name, (unsigned)bits, out, err);
}

static kt_code ensure_key(const kt_owner_task *task, keys *k, kt_err *err)
{
	const char *pinned;
	bool rotate;
	int which;
	char spki[KT_TRANSPORT_KEYS_MAX][KT_SHA256_HEX];
	KT_TRY(kt_json_str(task->args, "pinned", &pinned, err));
	KT_TRY(kt_json_bool(task->args, "rotate", &rotate, err));
	KT_TRY(list_keys(task, k, err));
	for (size_t i = 0; i < k->n; i++)
		memcpy(spki[i], k->list[i].spki_sha256, sizeof spki[i]);
	KT_TRY(kt_transport_choose((const char(*)[KT_SHA256_HEX])spki, k->n, pinned[0] ? pinned : NULL, rotate, &which,
				   err));
	if (which == KT_TRANSPORT_MAKE)
		KT_TRY(make_key(task, k, rotate, &k->list[0], err));
	const kt_token_transport *key = &k->list[which == KT_TRANSPORT_MAKE ? 0 : which];
	KT_TRY(kt_json_add_bool(task->result, "made", which == KT_TRANSPORT_MAKE, err));
	return add_base64(task->result, "spki", key->spki, key->spki_len, err);
}

/* *out NULL: it is not there. */
static kt_code find_key(const kt_owner_task *task, keys *k, const kt_token_transport **out, kt_err *err)
{
	const char *spki;
	*out = NULL;
	KT_TRY(kt_json_str(task->args, "spki_sha256", &spki, err));
	KT_TRY(list_keys(task, k, err));
	for (size_t i = 0; i < k->n; i++)
		if (strcmp(k->list[i].spki_sha256, spki) == 0)
			*out = &k->list[i];
	return KT_OK;
}

static kt_code open_wrapped(const kt_owner_task *task, keys *k, kt_err *err)
{
	const kt_token_transport *key;
	bool sha256;
	kt_buf wrapped = {.max = KT_TRANSPORT_KEY_MAX_BITS / 8};
	KT_TRY(kt_json_bool(task->args, "sha256", &sha256, err));
	KT_TRY(find_key(task, k, &key, err));
	if (!key)
		return kt_fail(
			err, KT_E_KEY,
			"see with the token's own tool what became of it; a token that lost it is enrolled anew: "
			"`keyturn enroll --replace NODE`",
			"token \"%s\" (serial %s): the transport key is not in it any more",
			kt_token_get_info(task->token)->label, kt_token_get_info(task->token)->serial);
	kt_code rc = get_base64(task->args, "wrapped", &wrapped, err);
	if (rc == KT_OK)
		rc = kt_token_transport_open(task->token, key, sha256, wrapped.data, wrapped.len, task->reply, err);
	kt_buf_free(&wrapped);
	return rc;
}

static kt_code destroy_key(const kt_owner_task *task, keys *k, kt_err *err)
{
	const kt_token_transport *key;
	KT_TRY(find_key(task, k, &key, err));
	return key ? kt_token_transport_destroy(task->token, key, err) : KT_OK;
}

/* The list of keys is too large for a stack that modules want to have. */
static kt_code with_keys(const kt_owner_task *task, kt_code (*act)(const kt_owner_task *, keys *, kt_err *),
			 kt_err *err)
{
	keys *k = calloc(1, sizeof *k);
	if (!k)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = act(task, k, err);
	free(k);
	return rc;
}

static kt_code act_ensure(const kt_owner_task *task, kt_err *err)
{
	return with_keys(task, ensure_key, err);
}

static kt_code act_unwrap(const kt_owner_task *task, kt_err *err)
{
	return with_keys(task, open_wrapped, err);
}

static kt_code act_destroy(const kt_owner_task *task, kt_err *err)
{
	return with_keys(task, destroy_key, err);
}

const kt_owner_handler kt_node_token_handlers[] = {
	{"ensure", act_ensure}, {"unwrap", act_unwrap}, {"destroy", act_destroy}, {0}};
