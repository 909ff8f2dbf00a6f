/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "orchestrator/fleet/internal.h"

enum { DEFAULT_EXEC_MS = 60000, SIGNAL_MAX = 24 };

typedef struct exec_op {
	kt_op op;
	kt_fleet_exec_cb done;
	kt_channel *channel;
	char signal[SIGNAL_MAX];
	kt_fleet_exit exit;
} exec_op;

static void deliver_exec(kt_op *op)
{
	exec_op *e = (exec_op *)op;
	if (e->done)
		e->done(op->cookie, op->node, &op->err, op->err.code == KT_OK ? &e->exit : NULL);
}

static void release_exec(kt_op *op)
{
	exec_op *e = (exec_op *)op;
	kt_channel_abandon(e->channel);
	e->channel = NULL;
}

static void dispose_exec(kt_op *op)
{
	exec_op *e = (exec_op *)op;
	kt_buf_free(&e->exit.out);
	kt_buf_free(&e->exit.errors);
}

static const kt_op_class exec_class = {
	.name = "the command",
	.deliver = deliver_exec,
	.release = release_exec,
	.dispose = dispose_exec,
};

static void on_data(void *owner, bool is_stderr, const uint8_t *bytes, size_t n)
{
	exec_op *e = owner;
	kt_buf *b = is_stderr ? &e->exit.errors : &e->exit.out;
	kt_err err = KT_ERR_INIT;
	const size_t room = KT_FLEET_OUTPUT_MAX - b->len;
	if (n > room) {
		n = room;
		e->exit.truncated = true;
	}
	if (n && kt_buf_append(b, bytes, n, &err) != KT_OK)
		kt_op_finish(&e->op, &err);
}

static void on_end(void *owner, const kt_err *err, int status, const char *signal)
{
	exec_op *e = owner;
	e->channel = NULL;
	e->exit.status = status;
	(void)strncpy(e->signal, signal, SIGNAL_MAX - 1);
	e->exit.signal = e->signal;
	kt_op_finish(&e->op, err);
}

static kt_code start(exec_op *e, const kt_fleet_exec_options *o, kt_err *err)
{
	static const kt_channel_user user = {.on_data = on_data, .on_end = on_end};
	kt_fleet_node *node = e->op.node;
	if (node->phase != KT_PH_UP)
		return kt_node_fail(node, err, KT_E_UNREACHABLE, "connect it first", "is not connected");
	KT_TRY(kt_channel_exec(node, o->argv, &user, e, &e->channel, err));
	if (o->input_len)
		KT_TRY(kt_channel_write(e->channel, o->input, o->input_len, err));
	kt_channel_send_eof(e->channel);
	return KT_OK;
}

kt_code kt_fleet_exec(kt_fleet_node *node, const kt_fleet_exec_options *options, kt_fleet_op *op, kt_err *err)
{
	kt_op *made = NULL;
	kt_err trouble = KT_ERR_INIT;
	if (!options->argv || !options->argv[0])
		return kt_node_fail(node, err, KT_E_USAGE, NULL, "a remote command without a word");
	const int64_t timeout = options->timeout_ms > 0 ? options->timeout_ms : DEFAULT_EXEC_MS;
	KT_TRY(kt_op_new(node, &exec_class, sizeof(exec_op), timeout, options->cookie, op, &made, err));
	exec_op *e = (exec_op *)made;
	e->done = options->done;
	e->exit.signal = e->signal;
	e->exit.status = -1;
	if (start(e, options, &trouble) != KT_OK)
		kt_op_finish(&e->op, &trouble);
	return KT_OK;
}
