/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ssh fan-out: one libssh2 session per node and one agent on a persistent channel, all on one libuv loop that
 * the caller owns and runs. Nothing here blocks and nothing here is thread-safe: every function is called from the
 * loop's thread.
 *
 * The contract of every operation (connect, start_agent, request, exec, upload, scan):
 *  - A function that returns something else than KT_OK has started nothing and calls nothing: that is KT_E_USAGE,
 *    KT_E_INPUT, KT_E_IO or KT_E_INTERNAL, something wrong on this side. Whatever goes wrong with the node (not
 *    connected, died, silent, said no) always arrives by the completion.
 *  - After KT_OK there is exactly one completion: on success, failure, timeout, cancel, disconnect and close.
 *  - A completion is never called from inside the function that starts or cancels; it always comes from the loop.
 *  - `err` of a completion is never NULL; err->code is KT_OK on success. What completions are given is borrowed for
 *    the time of the call. A completion may call any function of this header.
 *
 * Classes of failure: KT_E_UNREACHABLE the node cannot be asked (name, network, ssh, login, sudo, no agent, silent,
 * died, timed out); KT_E_REFUSED host key unknown, changed or revoked, or the agent is another one than expected;
 * KT_E_INTERRUPTED cancelled, disconnected or closed by us. Messages name node, host:port, what, why and the remedy.
 */
#ifndef KT_ORCHESTRATOR_FLEET_FLEET_H
#define KT_ORCHESTRATOR_FLEET_FLEET_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/buf.h"
#include "orchestrator/fleet/hostkeys.h"
#include "wire/message.h"

typedef struct kt_fleet kt_fleet;
typedef struct kt_fleet_node kt_fleet_node;

/* Names an operation for kt_fleet_cancel; never used twice, 0 is none. */
typedef uint64_t kt_fleet_op;

/* ---- the fleet ---- */

typedef struct kt_fleet_options {
	int64_t connect_timeout_ms; /* from the first packet to being logged in, per node; 0: 20,000 */
	int64_t start_timeout_ms;   /* from the exec of the agent to its hello; 0: 20,000 */
	unsigned connecting_max;    /* nodes that connect at the same time, the others wait; 0: 64 */
	int64_t ping_interval_ms;   /* our ping over the agent's channel; 0: 5,000 */
	unsigned ping_limit;        /* silent intervals after which the peer is dead; 0: 3 */
	/* The connection of a node that had been connected is gone, for whatever reason but our own disconnect/close.
	 * Called once per connection, after the completions of its operations. May be NULL. */
	void (*on_lost)(void *cookie, kt_fleet_node *node, const kt_err *err);
	/* What happens, one line each, never a secret and never the content of a frame. It may not call
	 * anything of this header that changes the fleet. May be NULL. */
	void (*on_trace)(void *cookie, const kt_fleet_node *node, const char *line);
	void *cookie; /* for on_lost and on_trace */
} kt_fleet_options;

/* `loop` must outlive the fleet; `options` may be NULL. KT_E_INTERNAL. */
KT_MUST_CHECK kt_code kt_fleet_new(uv_loop_t *loop, const kt_fleet_options *options, kt_fleet **out, kt_err *err);

/*
 * End everything: completions of what is under way come with KT_E_INTERRUPTED, connections are closed, then on_closed
 * (may be NULL) is called and `fleet` and all its nodes are gone. The loop must run until then. Call once.
 */
void kt_fleet_close(kt_fleet *fleet, void (*on_closed)(void *cookie), void *cookie);

/* Cancel an operation: its completion comes with KT_E_INTERRUPTED. Cancelling a connect or scan drops the connection,
 * cancelling a start_agent, exec or upload ends its channel; a request that was sent goes on at the node, its reply is
 * dropped. One that has completed (or 0) is ignored. */
void kt_fleet_cancel(kt_fleet *fleet, kt_fleet_op op);

/* ---- nodes ---- */

typedef struct kt_fleet_node_options {
	const char *name;              /* the node's name; the agent must say the same (kt_name_check) */
	const char *host;              /* name or address; IPv6 without brackets */
	unsigned port;                 /* 0: 22 */
	const char *user;              /* login name */
	const char *const *identities; /* paths of private keys, NULL-terminated; may be NULL */
	const char *ssh_agent;         /* socket of the ssh-agent; NULL: $SSH_AUTH_SOCK; "none": do not ask it */
	bool identities_only;          /* offer only `identities` (the ssh-agent may hold their private half) */
	const kt_hostkeys *hostkeys;   /* the pins; borrowed, outlives the fleet */
	const char *hostkey_alias;     /* name under which the key is pinned (HostKeyAlias); NULL: host and port */
	const char *const *agent_argv; /* command that runs the agent, NULL-terminated; NULL: none (jump hosts) */
	kt_fleet_node *jump;           /* connect through this node (ProxyJump); NULL: directly. It is connected by
					  itself when needed, with its own key check and login, and may have a jump */
	void *cookie;                  /* the caller's, see kt_fleet_node_cookie */
} kt_fleet_node_options;

typedef enum kt_fleet_state {
	KT_FLEET_DOWN,       /* not connected */
	KT_FLEET_CONNECTING, /* waiting for its turn, resolving, connecting, key exchange, login */
	KT_FLEET_CONNECTED,  /* logged in: exec, upload and start_agent are possible */
	KT_FLEET_STARTING,   /* the agent was started, its hello has not come */
	KT_FLEET_READY       /* the agent answers: requests are possible */
} kt_fleet_state;

/* Everything is copied but `hostkeys`. KT_E_USAGE names a wrong option. The node lives as long as the fleet. */
KT_MUST_CHECK kt_code kt_fleet_add(kt_fleet *fleet, const kt_fleet_node_options *options, kt_fleet_node **out,
				   kt_err *err);
const char *kt_fleet_node_name(const kt_fleet_node *node);
const char *kt_fleet_node_address(const kt_fleet_node *node); /* "host:port", "[v6]:port" */
void *kt_fleet_node_cookie(const kt_fleet_node *node);
kt_fleet_state kt_fleet_node_state(const kt_fleet_node *node);

/* ---- operations; `op` may be NULL ---- */

typedef void (*kt_fleet_done_cb)(void *cookie, kt_fleet_node *node, const kt_err *err);

/* Resolve, connect, check the host key against the pins, log in. Completes at once when connected already; KT_E_USAGE
 * while a connect or scan of this node is under way. */
KT_MUST_CHECK kt_code kt_fleet_connect(kt_fleet_node *node, kt_fleet_done_cb done, void *cookie, kt_fleet_op *op,
				       kt_err *err);

/* `key` is the host's public key (wire form), `type` e.g. "ssh-ed25519", `fingerprint` "SHA256:..."; all NULL/0 unless
 * err->code is KT_OK. */
typedef void (*kt_fleet_scan_cb)(void *cookie, kt_fleet_node *node, const kt_err *err, const uint8_t *key, size_t len,
				 const char *type, const char *fingerprint);
/* Learn the host's key without checking it and without logging in; the node is down again afterwards. */
KT_MUST_CHECK kt_code kt_fleet_scan(kt_fleet_node *node, kt_fleet_scan_cb done, void *cookie, kt_fleet_op *op,
				    kt_err *err);

/* `hello` is NULL unless err->code is KT_OK. */
typedef void (*kt_fleet_hello_cb)(void *cookie, kt_fleet_node *node, const kt_err *err, const kt_hello *hello);
/* Run agent_argv on the node and wait for its hello. KT_E_USAGE when it runs already or no agent_argv was given. */
KT_MUST_CHECK kt_code kt_fleet_start_agent(kt_fleet_node *node, kt_fleet_hello_cb done, void *cookie, kt_fleet_op *op,
					   kt_err *err);

/* `reply` is NULL unless err->code is KT_OK; a reply that says retry, failed or unknown is a reply. */
typedef void (*kt_fleet_reply_cb)(void *cookie, kt_fleet_node *node, const kt_err *err, const kt_reply *reply);
typedef void (*kt_fleet_progress_cb)(void *cookie, kt_fleet_node *node, const kt_progress *progress);
typedef struct kt_fleet_request_options {
	int64_t timeout_ms;               /* 0: none but the dead-peer limit */
	kt_fleet_progress_cb on_progress; /* before the completion, any number of times; may be NULL */
	kt_fleet_reply_cb on_reply;       /* the completion */
	void *cookie;
} kt_fleet_request_options;
/* Send one request (everything is copied, request->id is chosen here). With a timeout the connection stays up and a
 * late reply is dropped: what became of the request is then unknown to us. KT_E_INPUT when it cannot be encoded. */
KT_MUST_CHECK kt_code kt_fleet_request(kt_fleet_node *node, const kt_request *request,
				       const kt_fleet_request_options *options, kt_fleet_op *op, kt_err *err);

enum { KT_FLEET_OUTPUT_MAX = 256 * 1024 };

typedef struct kt_fleet_exit {
	int status;         /* exit status; -1 when ended by a signal or when the server did not say */
	const char *signal; /* "KILL", ...; "" when none */
	kt_buf out;         /* stdout and stderr, each the first KT_FLEET_OUTPUT_MAX bytes */
	kt_buf errors;
	bool truncated; /* there was more */
} kt_fleet_exit;
/* `exit` is NULL unless err->code is KT_OK, which means: it ran and ended, whatever its exit status. */
typedef void (*kt_fleet_exec_cb)(void *cookie, kt_fleet_node *node, const kt_err *err, const kt_fleet_exit *exit);
typedef struct kt_fleet_exec_options {
	const char *const *argv; /* NULL-terminated; quoted for the login shell by kt_shell_quote (base/shell.h) */
	const void *input;       /* stdin, copied; may be NULL */
	size_t input_len;
	int64_t timeout_ms; /* 0: 60,000 */
	kt_fleet_exec_cb done;
	void *cookie;
} kt_fleet_exec_options;
/* Run one command on a connected node, beside the agent if there is one. Never put a secret into argv. */
KT_MUST_CHECK kt_code kt_fleet_exec(kt_fleet_node *node, const kt_fleet_exec_options *options, kt_fleet_op *op,
				    kt_err *err);

/* `sent` tells whether bytes were sent: false when the remote file was identical (content and mode) already. */
typedef void (*kt_fleet_upload_cb)(void *cookie, kt_fleet_node *node, const kt_err *err, bool sent);
typedef struct kt_fleet_upload_options {
	const char *local;  /* a regular file of at most KT_BUF_MAX bytes, read once when the upload is started */
	const char *remote; /* absolute path; missing folders are made with mode 0755 */
	unsigned mode;      /* permission bits, 0..0777 */
	bool sudo;          /* write as root: sudo -n */
	int64_t timeout_ms; /* 0: 300,000 */
	kt_fleet_upload_cb done;
	void *cookie;
} kt_fleet_upload_options;
/* Replace a remote file atomically (temporary file, SHA-256 checked there, fsync, rename). A failure or a cut leaves
 * the old file and no temporary one. Needs sh, sha256sum, mktemp, stat, sync, mv (coreutils) on the node. */
KT_MUST_CHECK kt_code kt_fleet_upload(kt_fleet_node *node, const kt_fleet_upload_options *options, kt_fleet_op *op,
				      kt_err *err);

/* Say bye and drop the connection; operations under way complete with KT_E_INTERRUPTED. May be connected again. */
void kt_fleet_disconnect(kt_fleet_node *node);

#endif
