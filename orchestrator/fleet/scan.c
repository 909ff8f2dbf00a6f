/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/fleet/internal.h"

typedef struct scan_op {
	kt_op op;
	kt_fleet_scan_cb done;
	kt_buf key;
	char type[KT_FINGERPRINT];
	char fingerprint[KT_FINGERPRINT];
} scan_op;

static void deliver_scan(kt_op *op)
{
	scan_op *s = (scan_op *)op;
	if (!s->done)
		return;
	if (op->err.code == KT_OK)
		s->done(op->cookie, op->node, &op->err, s->key.data, s->key.len, s->type, s->fingerprint);
	else
		s->done(op->cookie, op->node, &op->err, NULL, 0, NULL, NULL);
}

static void dispose_scan(kt_op *op)
{
	kt_buf_free(&((scan_op *)op)->key);
}

static const kt_op_class scan_class = {
	.name = "the scan",
	.deliver = deliver_scan,
	.dispose = dispose_scan,
	.cancelled = kt_connect_cancelled,
};

static kt_code read_key(kt_fleet_node *node, scan_op *s, kt_err *err)
{
	size_t len;
	int type;
	const char *key = libssh2_session_hostkey(node->session, &len, &type);
	if (!key)
		return kt_node_fail(node, err, KT_E_UNREACHABLE, NULL, "the key exchange brought no host key");
	KT_TRY(kt_buf_append(&s->key, key, len, err));
	KT_TRY(kt_hostkey_type(s->key.data, s->key.len, s->type, err));
	return kt_hostkey_fingerprint(s->key.data, s->key.len, s->fingerprint, err);
}

void kt_scan_found(kt_fleet_node *node)
{
	kt_err err = KT_ERR_INIT;
	kt_op *op = kt_op_find(node, &scan_class);
	if (op) {
		KT_IGNORE(read_key(node, (scan_op *)op, &err));
		kt_op_finish(op, &err);
	}
	KT_IGNORE(kt_node_fail(node, &err, KT_E_INTERRUPTED, NULL, "was only asked for its host key"));
	kt_node_break(node, &err);
}

kt_code kt_fleet_scan(kt_fleet_node *node, kt_fleet_scan_cb done, void *cookie, kt_fleet_op *op, kt_err *err)
{
	kt_op *made = NULL;
	if (node->phase != KT_PH_DOWN)
		return kt_node_fail(node, err, KT_E_USAGE, NULL, "is connected or being connected");
	KT_TRY(kt_op_new(node, &scan_class, sizeof(scan_op), 0, cookie, op, &made, err));
	scan_op *s = (scan_op *)made;
	s->done = done;
	node->scanning = true;
	kt_connect_begin(node);
	return KT_OK;
}
