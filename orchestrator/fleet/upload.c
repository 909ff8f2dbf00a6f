/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "base/codec.h"
#include "base/file.h"
#include "orchestrator/fleet/internal.h"

enum { DEFAULT_UPLOAD_MS = 300000, SAID_MAX = 8192 };

/*
 * Runs on the node, arguments: path, mode (octal, no leading 0), SHA-256. It says "keyturn:same" and ends when the file
 * is there already, else "keyturn:send", takes the bytes from stdin and says "keyturn:done". The temporary file is
 * in the same folder, so that mv is a rename; it is gone in every outcome but a power cut.
 */
static const char script[] =
	"set -eu\n"
	"path=$1 mode=$2 want=$3\n"
	"sum() { sha256sum <\"$1\" | cut -c1-64; }\n"
	"if [ -f \"$path\" ] && [ ! -h \"$path\" ] && [ \"$(stat -c %a -- \"$path\")\" = \"$mode\" ] &&\n"
	"   [ \"$(sum \"$path\")\" = \"$want\" ]; then echo keyturn:same; exit 0; fi\n"
	"folder=$(dirname -- \"$path\")\n"
	"mkdir -p -m 0755 -- \"$folder\"\n"
	"temp=\n"
	"trap 'rm -f -- ${temp:+\"$temp\"}' EXIT\n"
	"trap 'exit 75' HUP INT TERM PIPE\n"
	"temp=$(umask 077; mktemp -- \"$folder/.keyturn.XXXXXXXX\")\n"
	"echo keyturn:send\n"
	"cat >\"$temp\"\n"
	"if [ \"$(sum \"$temp\")\" != \"$want\" ]; then echo 'the bytes that arrived are not those sent' >&2; exit 65; "
	"fi\n"
	"chmod -- \"$mode\" \"$temp\"\n"
	"sync -- \"$temp\"\n"
	"mv -fT -- \"$temp\" \"$path\"\n"
	"sync -- \"$folder\"\n"
	"if [ \"$(sum \"$path\")\" != \"$want\" ]; then echo 'the file is not what was sent' >&2; exit 65; fi\n"
	"echo keyturn:done\n";

typedef struct upload_op {
	kt_op op;
	kt_fleet_upload_cb done;
	kt_channel *channel;
	kt_buf content;
	kt_buf out, errors; /* what it said */
	bool sending;
	bool sent;
} upload_op;

static void deliver_upload(kt_op *op)
{
	upload_op *u = (upload_op *)op;
	if (u->done)
		u->done(op->cookie, op->node, &op->err, u->sent);
}

static void release_upload(kt_op *op)
{
	upload_op *u = (upload_op *)op;
	kt_channel_abandon(u->channel);
	u->channel = NULL;
}

static void dispose_upload(kt_op *op)
{
	upload_op *u = (upload_op *)op;
	kt_buf_free(&u->content);
	kt_buf_free(&u->out);
	kt_buf_free(&u->errors);
}

static const kt_op_class upload_class = {
	.name = "the upload",
	.deliver = deliver_upload,
	.release = release_upload,
	.dispose = dispose_upload,
};

/* Is `line` one of the lines of what it said? (A login script may have said something before.) */
static bool said(const kt_buf *out, const char *line)
{
	const char *text = kt_buf_cstr(out);
	const size_t n = strlen(line);
	for (const char *p = text; (p = strstr(p, line)) != NULL; p += n)
		if ((p == text || p[-1] == '\n') && p[n] == '\n')
			return true;
	return false;
}

static void send_content(upload_op *u)
{
	kt_err err = KT_ERR_INIT;
	u->sending = true;
	if (kt_channel_write(u->channel, u->content.data, u->content.len, &err) != KT_OK) {
		kt_op_finish(&u->op, &err);
		return;
	}
	kt_buf_free(&u->content);
	kt_channel_send_eof(u->channel);
}

static void on_data(void *owner, bool is_stderr, const uint8_t *bytes, size_t n)
{
	upload_op *u = owner;
	kt_buf *b = is_stderr ? &u->errors : &u->out;
	kt_err err = KT_ERR_INIT;
	if (b->len + n > SAID_MAX)
		n = SAID_MAX - b->len;
	if (n && kt_buf_append(b, bytes, n, &err) != KT_OK) {
		kt_op_finish(&u->op, &err);
		return;
	}
	if (!u->sending && said(&u->out, "keyturn:send"))
		send_content(u);
}

static void on_end(void *owner, const kt_err *end, int status, const char *signal)
{
	upload_op *u = owner;
	kt_err err = *end;
	char words[300];
	u->channel = NULL;
	u->sent = status == 0 && said(&u->out, "keyturn:done");
	if (err.code == KT_OK && !u->sent && !(status == 0 && said(&u->out, "keyturn:same"))) {
		kt_snippet(u->errors.len ? &u->errors : &u->out, words, sizeof words);
		const char *remedy = kt_remote_remedy(words, 0);
		KT_IGNORE(kt_node_fail(u->op.node, &err, KT_E_IO,
				       remedy ? remedy : "see whether the login may write there, or set agent.sudo",
				       "the upload failed (exit status %d%s%s): %s", status,
				       signal[0] ? ", signal " : "", signal, words[0] ? words : "it said nothing"));
	}
	kt_op_finish(&u->op, &err);
}

/* ---- starting ---- */

static kt_code check(const kt_fleet_node *node, const kt_fleet_upload_options *o, kt_err *err)
{
	if (!o->local || !o->remote || o->remote[0] != '/')
		return kt_node_fail(node, err, KT_E_USAGE, NULL,
				    "an upload needs a local path and an absolute remote one");
	if (o->mode > 0777)
		return kt_node_fail(node, err, KT_E_USAGE, NULL, "%o is not a mode for an upload", o->mode);
	return KT_OK;
}

static kt_code start(upload_op *u, const kt_fleet_upload_options *o, kt_err *err)
{
	static const kt_channel_user user = {.on_data = on_data, .on_end = on_end};
	kt_fleet_node *node = u->op.node;
	char mode[8];
	char sum[KT_SHA256_HEX];
	if (node->phase != KT_PH_UP)
		return kt_node_fail(node, err, KT_E_UNREACHABLE, "connect it first", "is not connected");
	(void)snprintf(mode, sizeof mode, "%o", o->mode);
	KT_TRY(kt_sha256_hex(u->content.data, u->content.len, sum, err));
	/* lint: allow shell: a fixed script on the node, its data are arguments */
	const char *const argv[] = {"sudo",           "-n",      "--", "sh", "-c", script,
				    "keyturn-upload", o->remote, mode, sum,  NULL};
	return kt_channel_exec(node, o->sudo ? argv : argv + 3, &user, u, &u->channel, err);
}

kt_code kt_fleet_upload(kt_fleet_node *node, const kt_fleet_upload_options *options, kt_fleet_op *op, kt_err *err)
{
	kt_op *made = NULL;
	kt_buf content = KT_BUF_INIT;
	kt_err trouble = KT_ERR_INIT;
	KT_TRY(check(node, options, err));
	kt_code rc = kt_file_read(options->local, &content, err);
	const int64_t timeout = options->timeout_ms > 0 ? options->timeout_ms : DEFAULT_UPLOAD_MS;
	if (rc == KT_OK)
		rc = kt_op_new(node, &upload_class, sizeof(upload_op), timeout, options->cookie, op, &made, err);
	if (rc != KT_OK) {
		kt_buf_free(&content);
		return rc;
	}
	upload_op *u = (upload_op *)made;
	u->done = options->done;
	u->content = content;
	if (start(u, options, &trouble) != KT_OK)
		kt_op_finish(&u->op, &trouble);
	return KT_OK;
}
