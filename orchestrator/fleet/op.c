/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "orchestrator/fleet/internal.h"

static void deliver(kt_event *event)
{
	kt_op *op = (kt_op *)event;
	op->class->deliver(op);
	if (op->class->dispose)
		op->class->dispose(op);
	free(op);
}

kt_code kt_op_new(kt_fleet_node *node, const kt_op_class *class, size_t size, int64_t timeout_ms, void *cookie,
		  kt_fleet_op *id, kt_op **out, kt_err *err)
{
	kt_fleet *fleet = node->fleet;
	if (id)
		*id = 0;
	if (fleet->closing)
		return kt_fail(err, KT_E_USAGE, NULL, "the fleet is being closed");
	kt_op *op = calloc(1, size);
	if (!op)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	op->event.deliver = deliver;
	op->class = class;
	op->node = node;
	op->id = ++fleet->last_op;
	op->timeout = timeout_ms;
	op->deadline = timeout_ms > 0 ? kt_fleet_now(fleet) + timeout_ms : 0;
	op->cookie = cookie;
	op->next = node->ops;
	node->ops = op;
	if (id)
		*id = op->id;
	*out = op;
	kt_node_mark(node);
	return KT_OK;
}

void kt_op_finish(kt_op *op, const kt_err *err)
{
	kt_op **at = &op->node->ops;
	while (*at != op)
		at = &(*at)->next;
	*at = op->next;
	if (err)
		op->err = *err;
	if (op->class->release)
		op->class->release(op);
	kt_node_mark(op->node);
	kt_fleet_queue(op->node->fleet, &op->event);
}

/* node->ops has the newest first; completions come in the order in which the operations were started. */
void kt_op_finish_all(kt_fleet_node *node, const kt_err *err)
{
	while (node->ops) {
		kt_op *op = node->ops;
		while (op->next)
			op = op->next;
		kt_op_finish(op, err);
	}
}

kt_op *kt_op_find(kt_fleet_node *node, const kt_op_class *class)
{
	for (kt_op *op = node->ops; op; op = op->next)
		if (op->class == class)
			return op;
	return NULL;
}

static void expire(kt_op *op)
{
	kt_err err = KT_ERR_INIT;
	if (op->class->expired) {
		op->class->expired(op);
		return;
	}
	KT_IGNORE(kt_node_fail(op->node, &err, KT_E_UNREACHABLE, "see whether the node is overloaded or hangs",
			       "%s has not ended within %lld ms", op->class->name, (long long)op->timeout));
	kt_op_finish(op, &err);
}

void kt_op_expire(kt_fleet_node *node, int64_t now)
{
	for (kt_op *op = node->ops; op;) {
		kt_op *next = op->next;
		if (op->deadline && op->deadline <= now) {
			expire(op);
			next = node->ops; /* the list may be another one now */
		}
		op = next;
	}
}

static kt_op *find_id(kt_fleet *fleet, kt_fleet_op id)
{
	for (kt_fleet_node *node = fleet->nodes; node; node = node->next)
		for (kt_op *op = node->ops; op; op = op->next)
			if (op->id == id)
				return op;
	return NULL;
}

void kt_fleet_cancel(kt_fleet *fleet, kt_fleet_op id)
{
	kt_op *op = id ? find_id(fleet, id) : NULL;
	if (!op)
		return;
	if (op->class->cancelled) {
		op->class->cancelled(op);
		return;
	}
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_node_fail(op->node, &err, KT_E_INTERRUPTED, NULL, "%s was cancelled", op->class->name));
	kt_op_finish(op, &err);
}
