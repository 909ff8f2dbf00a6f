/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/message.h"

#include <stdio.h>
#include <string.h>

static const char *const statuses[] = {"ok", "retry", "failed", "unknown"};
static const char *const roles[] = {"do", "undo", "probe"};

const char *kt_status_name(kt_status s)
{
	return (unsigned)s < 4 ? statuses[s] : "unknown";
}

kt_code kt_status_parse(const char *name, kt_status *out, kt_err *err)
{
	for (unsigned i = 0; i < 4; i++) {
		if (strcmp(name, statuses[i]) == 0) {
			*out = (kt_status)i;
			return KT_OK;
		}
	}
	return kt_fail(err, KT_E_INPUT, NULL, "\"%.32s\" is no status", name);
}

const char *kt_role_name(kt_role r)
{
	return (unsigned)r < 3 ? roles[r] : "do";
}

kt_code kt_role_parse(const char *name, kt_role *out, kt_err *err)
{
	for (unsigned i = 0; i < 3; i++) {
		if (strcmp(name, roles[i]) == 0) {
			*out = (kt_role)i;
			return KT_OK;
		}
	}
	return kt_fail(err, KT_E_INPUT, NULL, "\"%.32s\" is no role", name);
}

static bool is_name_char(unsigned char c)
{
	unsigned char letter = c | 0x20;
	return (letter >= 'a' && letter <= 'z') || (c >= '-' && c <= '9' && c != '/') || c == '_';
}

kt_code kt_name_check(const char *what, const char *name, kt_err *err)
{
	size_t n = 0;
	while (n <= KT_NAME_MAX && is_name_char((unsigned char)name[n]))
		n++;
	if (n == 0 || n > KT_NAME_MAX || name[n] || name[0] == '.')
		return kt_fail(err, KT_E_INPUT, "use letters, digits, '.', '_' and '-', at most 63",
			       "\"%.70s\" is no valid name for a %s", name, what);
	return KT_OK;
}

/* A new object, or an error; the encoders fill it and give it away only when all went well. */
static kt_code new_object(cJSON **out, kt_err *err)
{
	*out = cJSON_CreateObject();
	return *out ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code give(kt_code rc, cJSON *made, cJSON **out)
{
	if (rc == KT_OK)
		*out = made;
	else
		cJSON_Delete(made);
	return rc;
}

/* Members that borrow their name and text. */
static kt_code put(cJSON *o, const char *name, cJSON *value, kt_err *err)
{
	if (value && cJSON_AddItemToObjectCS(o, name, value))
		return KT_OK;
	cJSON_Delete(value);
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code put_str(cJSON *o, const char *name, const char *value, kt_err *err)
{
	return put(o, name, cJSON_CreateStringReference(value), err);
}

static kt_code put_int(cJSON *o, const char *name, int64_t value, kt_err *err)
{
	return put(o, name, cJSON_CreateNumber((double)value), err);
}

static kt_code put_object(cJSON *o, const char *name, const cJSON *value, kt_err *err)
{
	return put(o, name, cJSON_CreateObjectReference(value ? value->child : NULL), err);
}

static kt_code fill_request(const kt_request *r, cJSON *o, kt_err *err)
{
	KT_TRY(put_int(o, "id", r->id, err));
	KT_TRY(put_str(o, "cluster", r->cluster, err));
	KT_TRY(put_str(o, "run", r->run, err));
	KT_TRY(put_int(o, "epoch", r->epoch, err));
	if (r->link)
		KT_TRY(put_int(o, "link", r->link, err));
	KT_TRY(put_str(o, "step", r->step, err));
	KT_TRY(put_str(o, "role", kt_role_name(r->role), err));
	KT_TRY(put_str(o, "node", r->node, err));
	KT_TRY(put_int(o, "attempt", r->attempt, err));
	KT_TRY(put_str(o, "verb", r->verb, err));
	if (r->settle)
		KT_TRY(put(o, "settle", cJSON_CreateTrue(), err));
	return put_object(o, "args", r->args, err);
}

kt_code kt_request_encode(const kt_request *r, cJSON **out, kt_err *err)
{
	cJSON *o;
	KT_TRY(new_object(&o, err));
	return give(fill_request(r, o, err), o, out);
}

kt_code kt_request_decode(const cJSON *payload, kt_request *r, kt_err *err)
{
	const char *role;
	KT_TRY(kt_json_int(payload, "id", 0, INT64_C(1) << 53, &r->id, err));
	KT_TRY(kt_json_str(payload, "cluster", &r->cluster, err));
	KT_TRY(kt_json_str(payload, "run", &r->run, err));
	KT_TRY(kt_json_int(payload, "epoch", 0, INT64_C(1) << 53, &r->epoch, err));
	KT_TRY(kt_json_opt_int(payload, "link", 0, 1, INT64_C(1) << 53, &r->link, err));
	KT_TRY(kt_json_str(payload, "step", &r->step, err));
	KT_TRY(kt_json_str(payload, "role", &role, err));
	KT_TRY(kt_role_parse(role, &r->role, err));
	KT_TRY(kt_json_str(payload, "node", &r->node, err));
	KT_TRY(kt_json_int(payload, "attempt", 1, 1000000, &r->attempt, err));
	KT_TRY(kt_json_str(payload, "verb", &r->verb, err));
	KT_TRY(kt_json_opt_bool(payload, "settle", false, &r->settle, err));
	KT_TRY(kt_json_object(payload, "args", &r->args, err));
	KT_TRY(kt_name_check("cluster", r->cluster, err));
	KT_TRY(kt_name_check("run", r->run, err));
	KT_TRY(kt_name_check("step", r->step, err));
	KT_TRY(kt_name_check("node", r->node, err));
	return kt_name_check("verb", r->verb, err);
}

static kt_code error_encode(const kt_err *e, cJSON *into, kt_err *err)
{
	cJSON *o;
	KT_TRY(new_object(&o, err));
	kt_code rc = put_str(o, "class", kt_code_name(e->code), err);
	if (rc == KT_OK)
		rc = put_str(o, "message", e->msg, err);
	if (rc == KT_OK)
		rc = put_str(o, "remedy", e->remedy, err);
	if (rc != KT_OK) {
		cJSON_Delete(o);
		return rc;
	}
	return put(into, "error", o, err);
}

kt_code kt_outcome_encode(kt_status status, const cJSON *result, const kt_err *error, cJSON *into, kt_err *err)
{
	KT_TRY(put_str(into, "status", kt_status_name(status), err));
	if (result)
		KT_TRY(put_object(into, "result", result, err));
	if (status != KT_STATUS_OK && error)
		KT_TRY(error_encode(error, into, err));
	return KT_OK;
}

static kt_code error_decode(const cJSON *from, kt_err *error, kt_err *err)
{
	const cJSON *o;
	const char *class;
	const char *message;
	const char *remedy;
	KT_TRY(kt_json_object(from, "error", &o, err));
	KT_TRY(kt_json_str(o, "class", &class, err));
	KT_TRY(kt_json_str(o, "message", &message, err));
	KT_TRY(kt_json_opt_str(o, "remedy", "", &remedy, err));
	kt_code code = kt_code_from_name(class);
	*error = (kt_err){.code = code == KT_OK ? KT_E_INTERNAL : code};
	(void)snprintf(error->msg, sizeof error->msg, "%s", message);
	(void)snprintf(error->remedy, sizeof error->remedy, "%s", remedy);
	return KT_OK;
}

kt_code kt_outcome_decode(const cJSON *from, kt_status *status, const cJSON **result, kt_err *error, kt_err *err)
{
	const char *name;
	*error = KT_ERR_INIT;
	*result = NULL;
	KT_TRY(kt_json_str(from, "status", &name, err));
	KT_TRY(kt_status_parse(name, status, err));
	if (kt_json_member(from, "result"))
		KT_TRY(kt_json_object(from, "result", result, err));
	return *status == KT_STATUS_OK ? KT_OK : error_decode(from, error, err);
}

kt_code kt_reply_encode(const kt_reply *r, cJSON **out, kt_err *err)
{
	cJSON *o;
	KT_TRY(new_object(&o, err));
	kt_code rc = put_int(o, "id", r->id, err);
	if (rc == KT_OK)
		rc = kt_outcome_encode(r->status, r->result, &r->error, o, err);
	return give(rc, o, out);
}

kt_code kt_reply_decode(const cJSON *payload, kt_reply *r, kt_err *err)
{
	KT_TRY(kt_json_int(payload, "id", 0, INT64_C(1) << 53, &r->id, err));
	return kt_outcome_decode(payload, &r->status, &r->result, &r->error, err);
}

static kt_code fill_progress(const kt_progress *p, cJSON *o, kt_err *err)
{
	KT_TRY(put_int(o, "id", p->id, err));
	if (p->done >= 0)
		KT_TRY(put_int(o, "done", p->done, err));
	if (p->total >= 0)
		KT_TRY(put_int(o, "total", p->total, err));
	return put_str(o, "text", p->text ? p->text : "", err);
}

kt_code kt_progress_encode(const kt_progress *p, cJSON **out, kt_err *err)
{
	cJSON *o;
	KT_TRY(new_object(&o, err));
	return give(fill_progress(p, o, err), o, out);
}

kt_code kt_progress_decode(const cJSON *payload, kt_progress *p, kt_err *err)
{
	KT_TRY(kt_json_int(payload, "id", 0, INT64_C(1) << 53, &p->id, err));
	KT_TRY(kt_json_opt_int(payload, "done", -1, 0, INT64_C(1) << 53, &p->done, err));
	KT_TRY(kt_json_opt_int(payload, "total", -1, 0, INT64_C(1) << 53, &p->total, err));
	return kt_json_opt_str(payload, "text", "", &p->text, err);
}

static kt_code fill_hello(const kt_hello *h, cJSON *o, kt_err *err)
{
	KT_TRY(put_int(o, "protocol", KT_PROTOCOL, err));
	KT_TRY(put_str(o, "agent", h->agent, err));
	KT_TRY(put_str(o, "node", h->node, err));
	KT_TRY(put_str(o, "hostname", h->hostname, err));
	KT_TRY(put_str(o, "boot_id", h->boot_id, err));
	KT_TRY(put_int(o, "uid", h->uid, err));
	return put_int(o, "time_ms", h->time_ms, err);
}

kt_code kt_hello_encode(const kt_hello *h, cJSON **out, kt_err *err)
{
	cJSON *o;
	KT_TRY(new_object(&o, err));
	return give(fill_hello(h, o, err), o, out);
}

kt_code kt_hello_decode(const cJSON *payload, kt_hello *h, kt_err *err)
{
	int64_t protocol;
	KT_TRY(kt_json_int(payload, "protocol", 1, 1000, &protocol, err));
	if (protocol != KT_PROTOCOL)
		return kt_fail(err, KT_E_INPUT, "run `keyturn enroll` to put the same version on every node",
			       "the agent speaks protocol %d, this coordinator %d", (int)protocol, (int)KT_PROTOCOL);
	KT_TRY(kt_json_str(payload, "agent", &h->agent, err));
	KT_TRY(kt_json_str(payload, "node", &h->node, err));
	KT_TRY(kt_json_str(payload, "hostname", &h->hostname, err));
	KT_TRY(kt_json_str(payload, "boot_id", &h->boot_id, err));
	KT_TRY(kt_json_int(payload, "uid", 0, UINT32_MAX, &h->uid, err));
	return kt_json_int(payload, "time_ms", 0, INT64_C(1) << 53, &h->time_ms, err);
}
