/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the fleet share; nobody else includes this.
 *
 *   fleet.c    the fleet: nodes, queue of completions, dispatch, close        op.c       operations: start, finish,
 * cancel session.c  a node's life: phases, pump, teardown                          connect.c  resolve, TCP, jump host,
 * queue of turns transport.c bytes between the socket (or a jump host's channel) and libssh2 auth.c     which key is
 * offered next                                      keyfile.c  private keys from files sshagent.c the ssh-agent, asked
 * asynchronously                            channel.c  ssh channels agent.c    the node's agent: hello, ping, frames
 * request.c  requests scan.c     the host key alone exec.c     one command upload.c   one file (quoting: base/shell.c)
 * hostkeys.c pins     sshconfig.c ssh -G     trouble.c texts of failures
 *
 * How it works: libssh2 never touches a socket. It reads from node->rx and writes to node->tx, so that a packet is
 * never "partly sent" (libssh2 answers BAD_USE to everything else meanwhile) and reading is never forgotten because a
 * packet was queued inside libssh2 while another channel was read: the pump steps all channels until a whole pass has
 * changed nothing and nothing is queued. Callbacks of the user are only called by kt_fleet_dispatch, outside of any
 * pump, so that they may do anything.
 */
#ifndef KT_ORCHESTRATOR_FLEET_INTERNAL_H
#define KT_ORCHESTRATOR_FLEET_INTERNAL_H

#include <libssh2.h>
#include <netdb.h>
#include <openssl/evp.h>

#include "orchestrator/fleet/fleet.h"
#include "wire/frame.h"

enum {
	KT_RX_MAX = 512 * 1024,      /* bytes read ahead of libssh2 per connection */
	KT_TX_HIGH = 256 * 1024,     /* unsent bytes above which no channel is given more to send */
	KT_CHUNK = 64 * 1024,        /* one read from a socket or channel */
	KT_STDERR_MAX = 4096,        /* of the agent, kept for messages */
	KT_TUNNEL_MAX = 1024 * 1024, /* bytes waiting in a jump host's channel above which the inner one stops */
	KT_AUTH_LABEL = 256
};

/* ---- events: what is delivered to the user, in order, by kt_fleet_dispatch ---- */

typedef struct kt_event {
	struct kt_event *next;
	void (*deliver)(struct kt_event *event); /* calls the user's function and frees the event */
} kt_event;

/* ---- operations ---- */

typedef struct kt_op kt_op;
typedef struct kt_channel kt_channel;

typedef struct kt_op_class {
	const char *name;             /* "connect", for messages */
	void (*deliver)(kt_op *op);   /* call the user's completion */
	void (*release)(kt_op *op);   /* the operation is over: let go of channels; may be NULL */
	void (*dispose)(kt_op *op);   /* free what the op owns beside itself; may be NULL */
	void (*expired)(kt_op *op);   /* its deadline has passed; NULL: it fails with KT_E_UNREACHABLE */
	void (*cancelled)(kt_op *op); /* NULL: it fails with KT_E_INTERRUPTED */
} kt_op_class;

struct kt_op {
	kt_event event; /* first: an op is an event once it is finished */
	const kt_op_class *class;
	kt_fleet_node *node;
	kt_op *next; /* of node->ops while not finished */
	kt_fleet_op id;
	int64_t deadline; /* in loop time; 0: none */
	int64_t timeout;  /* for the message */
	void *cookie;
	kt_err err;
};

/* A new op of `size` bytes (a struct that begins with kt_op), zeroed, in node->ops. `timeout_ms` 0: none. */
KT_MUST_CHECK kt_code kt_op_new(kt_fleet_node *node, const kt_op_class *class, size_t size, int64_t timeout_ms,
				void *cookie, kt_fleet_op *id, kt_op **out, kt_err *err);
/* Take the op out of node->ops and queue its completion; `err` NULL or KT_OK: success. */
void kt_op_finish(kt_op *op, const kt_err *err);
/* Finish it later, from the loop, with an error that was found while it was started. */
void kt_op_finish_all(kt_fleet_node *node, const kt_err *err);
kt_op *kt_op_find(kt_fleet_node *node, const kt_op_class *class);
void kt_op_expire(kt_fleet_node *node, int64_t now);

/* ---- channels ---- */

typedef struct kt_channel_user {
	void (*on_open)(void *owner); /* may be NULL */
	void (*on_data)(void *owner, bool is_stderr, const uint8_t *bytes, size_t n);
	/* Once, when it is over: err->code KT_OK and the exit status (-1: by `signal`), or why it could not be had. The
	 * channel is not to be used afterwards. */
	void (*on_end)(void *owner, const kt_err *err, int status, const char *signal);
} kt_channel_user;

typedef enum kt_channel_state {
	KT_CH_WAITING,
	KT_CH_OPENING,
	KT_CH_STARTING,
	KT_CH_RUNNING,
	KT_CH_CLOSING
} kt_channel_state;

struct kt_channel {
	kt_fleet_node *node;
	kt_channel *next; /* of node->channels */
	kt_channel_state state;
	LIBSSH2_CHANNEL *ssh;
	char *command;     /* exec; NULL for a tunnel */
	char *tunnel_host; /* direct-tcpip to tunnel_host:tunnel_port */
	int tunnel_port;
	kt_buf in; /* to be sent; the first in_done bytes are */
	size_t in_done;
	bool eof_wanted;
	bool eof_sent;
	bool paused; /* do not read from it for now */
	bool saw_eof;
	const kt_channel_user *user; /* NULL: abandoned */
	void *owner;
};

KT_MUST_CHECK kt_code kt_channel_exec(kt_fleet_node *node, const char *const *argv, const kt_channel_user *user,
				      void *owner, kt_channel **out, kt_err *err);
KT_MUST_CHECK kt_code kt_channel_tunnel(kt_fleet_node *node, const char *host, unsigned port,
					const kt_channel_user *user, void *owner, kt_channel **out, kt_err *err);
/* Queue bytes for its stdin; the pump sends them. */
KT_MUST_CHECK kt_code kt_channel_write(kt_channel *ch, const void *bytes, size_t n, kt_err *err);
size_t kt_channel_unsent(const kt_channel *ch);
void kt_channel_send_eof(kt_channel *ch);
void kt_channel_pause(kt_channel *ch, bool paused);
/* Nobody wants to hear of it any more: it is closed as soon as that is possible. NULL is fine. */
void kt_channel_abandon(kt_channel *ch);
/* Step all channels of a node until nothing moves. KT_E_UNREACHABLE when the session is broken. */
KT_MUST_CHECK kt_code kt_channels_pump(kt_fleet_node *node, bool *again, kt_err *err);
/* The session is gone: each channel ends with `err`. */
void kt_channels_drop(kt_fleet_node *node, const kt_err *err);

/* ---- keys for the login ---- */

typedef struct kt_sshkey {
	char type[KT_FINGERPRINT]; /* "ssh-ed25519", "ecdsa-sha2-nistp256", ... */
	kt_buf blob;               /* public key, wire form */
	EVP_PKEY *pkey;            /* NULL: the private half is not here (encrypted, or only a .pub file) */
} kt_sshkey;

/* Load a key. KT_E_IO: there is none; KT_E_KEY: it cannot be used, and why. On KT_OK without pkey the ssh-agent may
 * hold the private half. */
KT_MUST_CHECK kt_code kt_sshkey_load(const char *path, kt_sshkey *key, kt_err *err);
void kt_sshkey_free(kt_sshkey *key);
/* The raw signature (RFC 8709 §6, RFC 5656 §3.1.2) appended to `out`. */
KT_MUST_CHECK kt_code kt_sshkey_sign(const kt_sshkey *key, const uint8_t *data, size_t len, kt_buf *out, kt_err *err);
/* Can libssh2 log in with this type of key? If not, *why tells the reason. */
bool kt_sshkey_usable(const char *type, const char **why);

/* A key that may be offered to the server. */
typedef struct kt_candidate {
	char type[KT_FINGERPRINT];
	char label[KT_AUTH_LABEL]; /* where it is from */
	kt_buf blob;
	EVP_PKEY *pkey; /* owned; NULL: the ssh-agent signs */
	bool offered;
} kt_candidate;

typedef enum kt_auth_stage { KT_AUTH_FILES, KT_AUTH_ASKING, KT_AUTH_AGENT, KT_AUTH_DONE } kt_auth_stage;
typedef enum kt_sign_state { KT_SIGN_NONE, KT_SIGN_WAITING, KT_SIGN_DONE, KT_SIGN_FAILED } kt_sign_state;

typedef struct kt_auth {
	kt_auth_stage stage;
	bool loaded; /* the identity files were read */
	kt_candidate *list;
	size_t count;
	size_t next;      /* the one being offered, or to be offered */
	bool calling;     /* libssh2 is in the middle of offering it */
	bool asked_agent; /* we count as a user of the ssh-agent */
	kt_sign_state sign;
	kt_buf signature; /* raw */
	kt_buf story;     /* what was tried and what came of it */
} kt_auth;

/* One step of the login: *done when logged in; KT_OK and not done: wait. */
KT_MUST_CHECK kt_code kt_auth_step(kt_fleet_node *node, bool *done, kt_err *err);
/* The connection is being torn down: make libssh2 free what it holds, forget everything. */
void kt_auth_reset(kt_fleet_node *node);

/* ---- the ssh-agent (draft-miller-ssh-agent), one connection per socket path ---- */

typedef struct kt_sshagent kt_sshagent;
typedef struct kt_agentkey {
	kt_buf blob;
	char comment[KT_AUTH_LABEL];
} kt_agentkey;

/* The client for a socket path, made when needed. It lives as long as the fleet. */
KT_MUST_CHECK kt_code kt_sshagent_get(kt_fleet *fleet, const char *path, kt_sshagent **out, kt_err *err);
/* Join: connect and ask for the keys unless that was done; node is woken when there is an answer. */
void kt_sshagent_join(kt_sshagent *agent);
void kt_sshagent_leave(kt_sshagent *agent, kt_fleet_node *node);
/* false: not yet. true: *keys and *count (borrowed), or *trouble tells why there are none. */
bool kt_sshagent_keys(const kt_sshagent *agent, const kt_agentkey **keys, size_t *count, const char **trouble);
/* Ask for a signature; the answer is given to kt_auth_signed. */
KT_MUST_CHECK kt_code kt_sshagent_sign(kt_sshagent *agent, kt_fleet_node *node, const kt_buf *blob, const uint8_t *data,
				       size_t len, kt_err *err);
/* Raw signature, or NULL: refused. */
void kt_auth_signed(kt_fleet_node *node, const uint8_t *raw, size_t len);
void kt_sshagents_close(kt_fleet *fleet);

/* ---- nodes ---- */

typedef enum kt_phase {
	KT_PH_DOWN,
	KT_PH_WAIT_JUMP, /* the jump host is not connected yet */
	KT_PH_QUEUED,    /* too many are connecting */
	KT_PH_RESOLVE,
	KT_PH_TCP,
	KT_PH_TUNNEL,    /* the jump host opens the way */
	KT_PH_HANDSHAKE, /* version, key exchange; then the host key is checked */
	KT_PH_AUTH,
	KT_PH_UP,
	KT_PH_COUNT
} kt_phase;

typedef enum kt_agent_state { KT_AG_NONE, KT_AG_STARTING, KT_AG_READY } kt_agent_state;

typedef struct kt_agent_link {
	kt_agent_state state;
	kt_channel *channel;
	kt_buf in;     /* frames as they come */
	kt_buf errors; /* stderr, the last KT_STDERR_MAX bytes */
	int64_t next_id;
	int64_t ping_due; /* loop time */
	int64_t ping_n;
	uint64_t heard; /* bytes from the agent, ever */
	uint64_t heard_at_ping;
	unsigned silent; /* intervals without a byte */
} kt_agent_link;

typedef struct kt_socket kt_socket;   /* uv_poll_t and fd; closes itself */
typedef struct kt_resolve kt_resolve; /* a look-up under way */

struct kt_fleet_node {
	kt_fleet *fleet;
	kt_fleet_node *next;
	char *name, *host, *user, *address, *ssh_agent, *hostkey_alias;
	char **identities, **agent_argv;
	unsigned port;
	bool identities_only;
	const kt_hostkeys *hostkeys;
	kt_fleet_node *jump;
	void *cookie;

	kt_phase phase;
	bool scanning; /* this connection is for the host key only */
	bool dirty;    /* in fleet->dirty */
	kt_fleet_node *next_dirty, *next_queued;
	bool has_turn; /* counts in fleet->connecting */
	int64_t connect_deadline;
	kt_err fatal; /* set: tear down at the end of the pump */
	uv_timer_t timer;
	int64_t timer_at;

	kt_resolve *resolve;
	struct addrinfo *addresses, *address_next;
	kt_socket *socket;
	kt_channel *tunnel; /* on jump */
	kt_buf rx, tx;
	size_t rx_done, tx_done;
	bool rx_eof; /* the peer sends no more */
	bool cut;    /* we are tearing down: no byte goes in or out */
	int rx_errno;

	LIBSSH2_SESSION *session;
	kt_auth auth;
	kt_channel *channels;
	kt_channel *opener; /* libssh2 opens one at a time */
	kt_agent_link agent;
	kt_op *ops;
};

struct kt_fleet {
	uv_loop_t *loop;
	kt_fleet_options options;
	kt_fleet_node *nodes;
	kt_fleet_node *dirty;
	kt_fleet_node *queue_head, *queue_tail; /* waiting for their turn to connect */
	unsigned connecting;
	uv_idle_t idle;
	bool idle_on;
	bool dispatching;
	bool closing;
	bool handles_closed;
	size_t handles; /* libuv handles and requests that still know us */
	kt_event *events_head, *events_tail;
	uint64_t last_op;
	kt_sshagent *agents;
	void (*on_closed)(void *cookie);
	void *closed_cookie;
};

/* fleet.c */
void kt_fleet_queue(kt_fleet *fleet, kt_event *event);
void kt_fleet_wake(kt_fleet *fleet);     /* dispatch in the next turn of the loop */
void kt_fleet_dispatch(kt_fleet *fleet); /* at the end of every callback of libuv */
void kt_fleet_handle_gone(kt_fleet *fleet);
void kt_node_mark(kt_fleet_node *node); /* pump it soon */
int64_t kt_fleet_now(const kt_fleet *fleet);
void kt_trace(const kt_fleet_node *node, const char *fmt, ...) KT_PRINTF(2, 3);
void kt_node_rearm(kt_fleet_node *node); /* the timer to the next deadline */

/* session.c */
void kt_node_pump(kt_fleet_node *node);
void kt_node_on_timer(kt_fleet_node *node);
/* The connection is broken: torn down at the end of the pump under way, or soon. The first cause stays. */
void kt_node_break(kt_fleet_node *node, const kt_err *err);
/* Tear down now: everything of the node completes with `err`. */
void kt_node_down(kt_fleet_node *node, const kt_err *err);
KT_MUST_CHECK kt_code kt_session_start(kt_fleet_node *node, kt_err *err);
int kt_node_fd(const kt_fleet_node *node);

/* methods.c: only modern methods, `hostkey` (comma separated) for the host key, each list in its order */
KT_MUST_CHECK kt_code kt_methods_prefer(LIBSSH2_SESSION *session, const char *hostkey, kt_err *err);

/* connect.c */
void kt_connect_begin(kt_fleet_node *node); /* failures break the node */
void kt_connect_step(kt_fleet_node *node);  /* in KT_PH_TCP: look at the socket */
void kt_connect_cancelled(kt_op *op);
void kt_connect_turn_over(kt_fleet_node *node); /* gives the turn to the next in the queue */
void kt_connect_drop(kt_fleet_node *node);      /* look-up, queue, addresses, socket, tunnel */
void kt_connect_jump_changed(kt_fleet_node *jump, const kt_err *err);
const char *kt_fleet_phase_name(kt_phase phase);

/* scan.c */
void kt_scan_found(kt_fleet_node *node); /* the host key is there */

/* transport.c */
void kt_transport_attach(kt_fleet_node *node); /* libssh2's callbacks */
void kt_transport_fill(kt_fleet_node *node);   /* socket → rx */
void kt_transport_flush(kt_fleet_node *node);  /* tx → socket or tunnel */
size_t kt_transport_unsent(const kt_fleet_node *node);
size_t kt_transport_unread(const kt_fleet_node *node);
void kt_transport_poll(kt_fleet_node *node); /* what to wait for */
KT_MUST_CHECK kt_code kt_socket_new(kt_fleet_node *node, int fd, kt_err *err);
void kt_socket_close(kt_fleet_node *node);
KT_MUST_CHECK kt_code kt_transport_tunnel(kt_fleet_node *node, kt_err *err);

/* agent.c and request.c */
void kt_agent_end(kt_fleet_node *node); /* let go of the channel, forget */
void kt_agent_tick(kt_fleet_node *node, int64_t now);
KT_MUST_CHECK kt_code kt_agent_send(kt_fleet_node *node, kt_frame_kind kind, const cJSON *payload, kt_err *err);
KT_MUST_CHECK kt_code kt_request_on_reply(kt_fleet_node *node, cJSON **payload, kt_err *err);
KT_MUST_CHECK kt_code kt_request_on_progress(kt_fleet_node *node, cJSON **payload, kt_err *err);
extern const kt_op_class kt_connect_class;

/* trouble.c: "NAME (host:port): text" */
KT_MUST_CHECK kt_code kt_node_fail(const kt_fleet_node *node, kt_err *err, kt_code code, const char *remedy,
				   const char *fmt, ...) KT_PRINTF(5, 6);
/* The last error of libssh2, put into the words of this project. */
KT_MUST_CHECK kt_code kt_ssh_fail(const kt_fleet_node *node, int rc, const char *doing, kt_err *err);
/* Up to `max` - 1 bytes of the end of what a program said, on one line, control characters replaced. */
void kt_snippet(const kt_buf *said, char *out, size_t max);
/* What the words of a remote shell, sudo or program mean for us: a remedy, or NULL. */
const char *kt_remote_remedy(const char *said, int status);

#endif
