/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/pins.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/record.h"
#include "wire/message.h"

enum { HASHES = 2, HISTORY_MAX = 100 };

static const char lost_pin[] =
	"put it back from a copy, or remove it and enroll the node again (`keyturn enroll`), comparing the fingerprint";

static const kt_blob_format formats[HASHES][2] = {{KT_BLOB_RSA_OAEP_SHA256, KT_BLOB_RSA_AES_SHA256},
						  {KT_BLOB_RSA_OAEP_SHA1, KT_BLOB_RSA_AES_SHA1}};

unsigned kt_pin_formats(bool sha256)
{
	const kt_blob_format *f = formats[sha256 ? 0 : 1];
	return 1U << f[0] | 1U << f[1];
}

static kt_code path_of(const char *state, const char *node, const char *end, char out[KT_RECORD_PATH], kt_err *err)
{
	KT_TRY(kt_name_check("node", node, err));
	if ((size_t)snprintf(out, KT_RECORD_PATH, "%s/nodes/%s.%s", state, node, end) >= KT_RECORD_PATH)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "the path of the state folder is too long");
	return KT_OK;
}

/* --- Reading ------------------------------------------------------------------------------------------------------ */

static kt_code copy_text(const cJSON *from, const char *name, char **out, kt_err *err)
{
	const char *text;
	KT_TRY(kt_json_str(from, name, &text, err));
	*out = strdup(text);
	return *out ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code read_formats(const cJSON *from, unsigned *out, kt_err *err)
{
	const cJSON *list;
	const cJSON *f;
	KT_TRY(kt_json_array(from, "formats", &list, err));
	*out = 0;
	cJSON_ArrayForEach(f, list) for (unsigned i = 0; i < KT_BLOB_FORMATS;
					 i++) if (cJSON_IsString(f) &&
						  strcmp(f->valuestring, kt_blob_format_name((kt_blob_format)i)) ==
							  0) *out |= 1U << i;
	return *out ? KT_OK : kt_fail(err, KT_E_INPUT, lost_pin, "\"formats\" names none that is known");
}

static kt_code read_pin(const cJSON *json, kt_pin *out, kt_err *err)
{
	const cJSON *key;
	const char *spki;
	KT_TRY(kt_json_object(json, "transport_key", &key, err));
	KT_TRY(copy_text(key, "at", &out->at, err));
	KT_TRY(copy_text(key, "public_pem", &out->public_pem, err));
	KT_TRY(kt_json_str(key, "spki_sha256", &spki, err));
	if (strlen(spki) != KT_SHA256_HEX - 1)
		return kt_fail(err, KT_E_INPUT, lost_pin, "\"spki_sha256\" is no SHA-256");
	memcpy(out->spki_sha256, spki, KT_SHA256_HEX);
	KT_TRY(kt_json_int(key, "bits", 1024, 16384, &out->bits, err));
	KT_TRY(kt_json_int(key, "since_ms", 0, INT64_C(1) << 53, &out->since_ms, err));
	return read_formats(key, &out->formats, err);
}

/* *json NULL: there is none. The caller's. */
static kt_code load(const char *state, const char *node, cJSON **json, kt_pin *out, kt_err *err)
{
	char path[KT_RECORD_PATH];
	*out = (kt_pin){0};
	*json = NULL;
	KT_TRY(path_of(state, node, "json", path, err));
	KT_TRY(kt_record_read_json(path, lost_pin, json, err));
	kt_code rc = *json ? read_pin(*json, out, err) : KT_OK;
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "%s", path);
}

kt_code kt_pin_load(const char *state, const char *node, bool *found, kt_pin *out, kt_err *err)
{
	cJSON *json;
	kt_code rc = load(state, node, &json, out, err);
	*found = rc == KT_OK && json;
	cJSON_Delete(json);
	if (rc != KT_OK)
		kt_pin_free(out);
	return rc;
}

void kt_pin_free(kt_pin *pin)
{
	free(pin->at);
	free(pin->public_pem);
	*pin = (kt_pin){0};
}

/* --- Writing ------------------------------------------------------------------------------------------------------ */

static kt_code add_formats(cJSON *o, unsigned bits, kt_err *err)
{
	cJSON *list = cJSON_AddArrayToObject(o, "formats");
	for (unsigned i = 0; list && i < KT_BLOB_FORMATS; i++)
		if (bits & 1U << i &&
		    !cJSON_AddItemToArray(list, cJSON_CreateString(kt_blob_format_name((kt_blob_format)i))))
			list = NULL;
	return list ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code pin_json(const kt_pin *pin, int64_t since_ms, cJSON *into, kt_err *err)
{
	KT_TRY(kt_json_add_str(into, "at", pin->at, err));
	KT_TRY(kt_json_add_str(into, "spki_sha256", pin->spki_sha256, err));
	KT_TRY(kt_json_add_int(into, "bits", pin->bits, err));
	KT_TRY(add_formats(into, pin->formats, err));
	KT_TRY(kt_json_add_int(into, "since_ms", since_ms, err));
	return kt_json_add_str(into, "public_pem", pin->public_pem, err);
}

/* What was pinned becomes the first of the history. Takes the pieces out of `old`, which may be NULL. */
static kt_code add_history(cJSON *into, cJSON *old, bool replaced, const char *why, int64_t now_ms, kt_err *err)
{
	cJSON *list = cJSON_DetachItemFromObjectCaseSensitive(old, "history");
	cJSON *was = replaced ? cJSON_DetachItemFromObjectCaseSensitive(old, "transport_key") : NULL;
	if (!list)
		list = cJSON_CreateArray();
	kt_code rc = KT_OK;
	if (was) {
		rc = kt_json_add_int(was, "until_ms", now_ms, err);
		if (rc == KT_OK)
			rc = kt_json_add_str(was, "why", why, err);
		if (rc != KT_OK || !cJSON_InsertItemInArray(list, 0, was))
			cJSON_Delete(was);
	}
	while (cJSON_GetArraySize(list) > HISTORY_MAX)
		cJSON_DeleteItemFromArray(list, HISTORY_MAX);
	if (rc == KT_OK)
		return kt_json_add(into, "history", list, err);
	cJSON_Delete(list);
	return rc;
}

static kt_code compose(cJSON *o, const kt_pin *pin, cJSON *old, const kt_pin *was, const char *why, kt_err *err)
{
	bool same = old && strcmp(was->spki_sha256, pin->spki_sha256) == 0;
	int64_t now = kt_clock_wall_ms();
	KT_TRY(kt_json_add_int(o, "v", 1, err));
	cJSON *key = cJSON_CreateObject();
	KT_TRY(kt_json_add(o, "transport_key", key, err));
	KT_TRY(pin_json(pin, same ? was->since_ms : now, key, err));
	return add_history(o, old, old && !same, why, now, err);
}

static kt_code write_pin(const char *state, const char *node, const cJSON *json, const char *pem, kt_err *err)
{
	char path[KT_RECORD_PATH];
	kt_buf text = KT_BUF_INIT;
	KT_TRY(path_of(state, node, "json", path, err));
	kt_code rc = kt_json_print(json, &text, err);
	if (rc == KT_OK)
		rc = kt_record_replace(path, &text, &(kt_file_attr){0644, (uid_t)KT_KEEP, (gid_t)KT_KEEP}, err);
	kt_buf_free(&text);
	KT_TRY(rc);
	KT_TRY(path_of(state, node, "pem", path, err));
	return kt_file_replace(path, pem, strlen(pem), &(kt_file_attr){0644, (uid_t)KT_KEEP, (gid_t)KT_KEEP}, err);
}

kt_code kt_pin_save(const char *state, const char *node, const kt_pin *pin, const char *why, kt_err *err)
{
	cJSON *old = NULL;
	kt_pin was;
	cJSON *o = cJSON_CreateObject();
	kt_code rc = o ? load(state, node, &old, &was, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = compose(o, pin, old, &was, why, err);
	if (rc == KT_OK)
		rc = write_pin(state, node, o, pin->public_pem, err);
	if (o)
		kt_pin_free(&was);
	cJSON_Delete(old);
	cJSON_Delete(o);
	return rc;
}

/* --- Of a plan ---------------------------------------------------------------------------------------------------- */

struct kt_plan_pins {
	size_t n, at; /* nodes are asked for in the plan's order: the search goes on where the last one ended */
	struct {
		const char *node, *spki_sha256;
	} list[];
};

kt_code kt_plan_pins_new(const cJSON *plan, kt_plan_pins **out, kt_err *err)
{
	const cJSON *nodes;
	const cJSON *node;
	*out = NULL;
	KT_TRY(kt_json_array(plan, "nodes", &nodes, err));
	size_t n = (size_t)cJSON_GetArraySize(nodes);
	kt_plan_pins *p = calloc(1, sizeof *p + n * sizeof p->list[0]);
	if (!p)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	cJSON_ArrayForEach(node, nodes)
	{
		const cJSON *key = cJSON_GetObjectItemCaseSensitive(node, "transport_key");
		const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(node, "name"));
		const char *spki = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(key, "spki_sha256"));
		p->list[p->n].node = name ? name : "";
		p->list[p->n++].spki_sha256 = spki && spki[0] ? spki : NULL;
	}
	*out = p;
	return KT_OK;
}

const char *kt_plan_pins_find(kt_plan_pins *p, const char *node)
{
	for (size_t i = 0; i < p->n; i++) {
		size_t at = (p->at + i) % p->n;
		if (strcmp(p->list[at].node, node) == 0) {
			p->at = at + 1;
			return p->list[at].spki_sha256;
		}
	}
	return NULL;
}

static kt_code check_one(const char *state, const char *node, const char *spki, kt_err *err)
{
	kt_pin pin;
	bool found;
	KT_TRY(kt_pin_load(state, node, &found, &pin, err));
	bool same = found && strcmp(pin.spki_sha256, spki) == 0;
	kt_pin_free(&pin);
	return same ? KT_OK
		    : kt_fail(err, KT_E_REFUSED,
			      "keyturn-recovery(7) says how a backup is restored and a key recovered by hand",
			      "the transport key of %s was changed since: what was wrapped for it in this run opens "
			      "no more",
			      node);
}

kt_code kt_plan_pins_check(const kt_plan_pins *p, const char *state, kt_err *err)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->list[i].spki_sha256)
			KT_TRY(check_one(state, p->list[i].node, p->list[i].spki_sha256, err));
	return KT_OK;
}

void kt_plan_pins_free(kt_plan_pins *p)
{
	free(p);
}
