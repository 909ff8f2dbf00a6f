/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The login: the identity files in their order, then what the ssh-agent holds. A key that cannot be used is skipped and
 * named when nothing else worked. The signature of a file's key is made in the callback; the ssh-agent is asked
 * meanwhile, and the callback says EAGAIN until it has answered (ssh-facts, pitfall 3).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/fleet/internal.h"

enum { CANDIDATES_MAX = 64 };

static void tell(kt_fleet_node *node, const char *label, const char *what)
{
	kt_err ignored = KT_ERR_INIT;
	kt_buf *story = &node->auth.story;
	KT_IGNORE(kt_buf_printf(story, &ignored, "%s%s: %s", story->len ? "; " : "", label, what));
}

/* ---- candidates ---- */

static kt_candidate *add_candidate(kt_fleet_node *node, const char *type, const char *label, const void *blob,
				   size_t len, kt_err *err)
{
	kt_auth *auth = &node->auth;
	kt_candidate *list = realloc(auth->list, (auth->count + 1) * sizeof *list);
	if (!list)
		return NULL;
	auth->list = list;
	kt_candidate *c = &list[auth->count];
	memset(c, 0, sizeof *c);
	(void)snprintf(c->type, sizeof c->type, "%s", type);
	(void)snprintf(c->label, sizeof c->label, "%s", label);
	if (kt_buf_append(&c->blob, blob, len, err) != KT_OK)
		return NULL;
	auth->count++;
	return c;
}

static kt_code out_of_memory(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code add_file(kt_fleet_node *node, const char *path, kt_err *err)
{
	kt_sshkey key;
	kt_err why = KT_ERR_INIT;
	if (kt_sshkey_load(path, &key, &why) != KT_OK) {
		tell(node, path, why.msg);
		return KT_OK;
	}
	kt_candidate *c = add_candidate(node, key.type, path, key.blob.data, key.blob.len, err);
	if (c) {
		c->pkey = key.pkey;
		key.pkey = NULL;
	}
	kt_sshkey_free(&key);
	return c ? KT_OK : out_of_memory(err);
}

static kt_code add_files(kt_fleet_node *node, kt_err *err)
{
	for (size_t i = 0; node->identities[i] && i < CANDIDATES_MAX; i++)
		KT_TRY(add_file(node, node->identities[i], err));
	return KT_OK;
}

static kt_candidate *find_blob(kt_auth *auth, const kt_buf *blob)
{
	for (size_t i = 0; i < auth->count; i++)
		if (auth->list[i].blob.len == blob->len && memcmp(auth->list[i].blob.data, blob->data, blob->len) == 0)
			return &auth->list[i];
	return NULL;
}

static kt_code add_agent_key(kt_fleet_node *node, const kt_agentkey *key, kt_err *err)
{
	char label[KT_AUTH_LABEL];
	char type[KT_FINGERPRINT];
	const char *why;
	kt_err ignored = KT_ERR_INIT;
	(void)snprintf(label, sizeof label, "%.180s of the ssh-agent", key->comment);
	if (kt_hostkey_type(key->blob.data, key->blob.len, type, &ignored) != KT_OK)
		return KT_OK;
	if (!kt_sshkey_usable(type, &why)) {
		tell(node, label, why);
		return KT_OK;
	}
	return add_candidate(node, type, label, key->blob.data, key->blob.len, err) ? KT_OK : out_of_memory(err);
}

/* The ssh-agent has answered: its keys follow those of the files. A file whose private half is not there is offered
 * only if the ssh-agent has it. */
static kt_code add_agent_keys(kt_fleet_node *node, const kt_agentkey *keys, size_t n, kt_err *err)
{
	kt_auth *auth = &node->auth;
	const size_t from_files = auth->count;
	for (size_t i = 0; i < from_files; i++) {
		bool held = false;
		for (size_t k = 0; k < n; k++)
			held |= find_blob(auth, &keys[k].blob) == &auth->list[i];
		if (!auth->list[i].pkey && !held)
			tell(node, auth->list[i].label,
			     "has a passphrase or no private half here, and the ssh-agent does not hold it");
		if (!auth->list[i].pkey && !held)
			auth->list[i].type[0] = '\0'; /* not to be offered */
	}
	for (size_t k = 0; k < n && !node->identities_only && auth->count < CANDIDATES_MAX; k++)
		if (!find_blob(auth, &keys[k].blob))
			KT_TRY(add_agent_key(node, &keys[k], err));
	return KT_OK;
}

/* ---- the signature ---- */

static kt_sshagent *agent_of(kt_fleet_node *node)
{
	kt_sshagent *agent = NULL;
	kt_err ignored = KT_ERR_INIT;
	if (!node->ssh_agent || kt_sshagent_get(node->fleet, node->ssh_agent, &agent, &ignored) != KT_OK)
		return NULL;
	return agent;
}

void kt_auth_signed(kt_fleet_node *node, const uint8_t *raw, size_t len)
{
	kt_err ignored = KT_ERR_INIT;
	if (node->auth.sign != KT_SIGN_WAITING)
		return;
	const bool ok = raw && kt_buf_append(&node->auth.signature, raw, len, &ignored) == KT_OK;
	node->auth.sign = ok ? KT_SIGN_DONE : KT_SIGN_FAILED;
	kt_node_mark(node);
}

static void start_signing(kt_fleet_node *node, const uint8_t *data, size_t len)
{
	kt_auth *auth = &node->auth;
	kt_candidate *c = &auth->list[auth->next];
	kt_err err = KT_ERR_INIT;
	kt_code rc;
	if (c->pkey) {
		kt_sshkey key = {.pkey = c->pkey};
		memcpy(key.type, c->type, sizeof key.type);
		rc = kt_sshkey_sign(&key, data, len, &auth->signature, &err);
		auth->sign = rc == KT_OK ? KT_SIGN_DONE : KT_SIGN_FAILED;
		return;
	}
	kt_sshagent *agent = agent_of(node);
	auth->sign = KT_SIGN_WAITING;
	if (!agent || kt_sshagent_sign(agent, node, &c->blob, data, len, &err) != KT_OK)
		auth->sign = KT_SIGN_FAILED;
}

/* LIBSSH2_USERAUTH_PUBLICKEY_SIGN_FUNC; libssh2 frees *sig with free(). */
static int sign_callback(LIBSSH2_SESSION *session, unsigned char **sig, size_t *sig_len, const unsigned char *data,
			 size_t data_len, void **abstract)
{
	(void)session;
	kt_fleet_node *node = *abstract;
	kt_auth *auth = &node->auth;
	if (node->cut)
		return -1;
	if (auth->sign == KT_SIGN_NONE)
		start_signing(node, data, data_len);
	if (auth->sign == KT_SIGN_WAITING)
		return LIBSSH2_ERROR_EAGAIN;
	if (auth->sign != KT_SIGN_DONE)
		return -1;
	*sig = malloc(auth->signature.len);
	if (!*sig)
		return -1;
	memcpy(*sig, auth->signature.data, auth->signature.len);
	*sig_len = auth->signature.len;
	return 0;
}

/* ---- offering ---- */

static int offer(kt_fleet_node *node)
{
	kt_candidate *c = &node->auth.list[node->auth.next];
	void *abstract = node;
	return libssh2_userauth_publickey(node->session, node->user, c->blob.data, c->blob.len, sign_callback,
					  &abstract);
}

static bool connection_ended(const kt_fleet_node *node)
{
	return node->rx_errno || (node->rx_eof && !kt_transport_unread(node));
}

static kt_code offer_next(kt_fleet_node *node, bool *done, kt_err *err)
{
	kt_auth *auth = &node->auth;
	kt_candidate *c = &auth->list[auth->next];
	auth->calling = true;
	int rc = offer(node);
	if (rc == LIBSSH2_ERROR_EAGAIN)
		return KT_OK;
	auth->calling = false;
	if (rc == 0) {
		*done = true;
		return KT_OK;
	}
	if (auth->sign == KT_SIGN_FAILED)
		tell(node, c->label, c->pkey ? "signing failed" : "the ssh-agent refused to sign");
	else
		tell(node, c->label, connection_ended(node) ? "the server ended the connection" : "not accepted");
	if (connection_ended(node) || rc == LIBSSH2_ERROR_SOCKET_SEND || rc == LIBSSH2_ERROR_SOCKET_DISCONNECT)
		auth->stage = KT_AUTH_DONE;
	auth->sign = KT_SIGN_NONE;
	kt_buf_clear(&auth->signature);
	auth->next++;
	(void)err;
	return KT_OK;
}

static kt_code refused(const kt_fleet_node *node, kt_err *err)
{
	return kt_node_fail(
		node, err, KT_E_UNREACHABLE,
		"put the public key into ~/.ssh/authorized_keys of that user on the node, name an ed25519 or "
		"ECDSA key as ssh.identity, or ssh-add it",
		"the login as %s failed: %s", node->user,
		node->auth.story.len ? kt_buf_cstr(&node->auth.story)
				     : "there is no key to offer, neither a file nor a ssh-agent");
}

/* May the candidate at `next` be offered now? Those without private half wait for the ssh-agent's answer. */
static bool is_offerable(const kt_auth *auth)
{
	const kt_candidate *c = &auth->list[auth->next];
	return c->type[0] && (c->pkey || auth->stage >= KT_AUTH_AGENT);
}

static kt_code ask_agent(kt_fleet_node *node)
{
	kt_auth *auth = &node->auth;
	kt_sshagent *agent = agent_of(node);
	bool needed = !node->identities_only;
	for (size_t i = 0; i < auth->count; i++)
		needed |= !auth->list[i].pkey;
	auth->next = 0;
	if (!agent || !needed) {
		kt_err ignored = KT_ERR_INIT;
		auth->stage = KT_AUTH_AGENT;
		return add_agent_keys(node, NULL, 0, &ignored);
	}
	auth->asked_agent = true;
	auth->stage = KT_AUTH_ASKING;
	kt_sshagent_join(agent);
	return KT_OK;
}

static kt_code agent_answered(kt_fleet_node *node, bool *waiting, kt_err *err)
{
	const kt_agentkey *keys = NULL;
	const char *trouble = NULL;
	size_t n = 0;
	kt_sshagent *agent = agent_of(node);
	*waiting = agent && !kt_sshagent_keys(agent, &keys, &n, &trouble);
	if (*waiting)
		return KT_OK;
	if (trouble)
		tell(node, node->ssh_agent, trouble);
	node->auth.stage = KT_AUTH_AGENT;
	return add_agent_keys(node, keys, n, err);
}

/* What was offered before the ssh-agent was asked is not offered again. */
static void skip_offered(kt_auth *auth)
{
	if (auth->stage == KT_AUTH_AGENT && !auth->calling)
		while (auth->next < auth->count && auth->list[auth->next].offered)
			auth->next++;
}

kt_code kt_auth_step(kt_fleet_node *node, bool *done, kt_err *err)
{
	kt_auth *auth = &node->auth;
	bool waiting = false;
	if (!auth->loaded) {
		auth->loaded = true;
		KT_TRY(add_files(node, err));
	}
	while (!*done && !waiting) {
		skip_offered(auth);
		if (auth->stage == KT_AUTH_DONE)
			return refused(node, err);
		if (auth->stage == KT_AUTH_ASKING) {
			KT_TRY(agent_answered(node, &waiting, err));
		} else if (auth->next < auth->count) {
			if (auth->calling || is_offerable(auth)) {
				auth->list[auth->next].offered = true;
				KT_TRY(offer_next(node, done, err));
				waiting = auth->calling;
			} else {
				auth->next++;
			}
		} else if (auth->stage == KT_AUTH_FILES) {
			KT_TRY(ask_agent(node));
		} else {
			return refused(node, err);
		}
	}
	return KT_OK;
}

void kt_auth_reset(kt_fleet_node *node)
{
	kt_auth *auth = &node->auth;
	if (auth->calling && node->session)
		(void)offer(node); /* cut off: fails, and frees what libssh2 holds of it */
	if (auth->asked_agent)
		kt_sshagent_leave(agent_of(node), node);
	for (size_t i = 0; i < auth->count; i++) {
		kt_buf_free(&auth->list[i].blob);
		EVP_PKEY_free(auth->list[i].pkey);
	}
	free(auth->list);
	kt_buf_free(&auth->signature);
	kt_buf_free(&auth->story);
	*auth = (kt_auth){.stage = KT_AUTH_FILES};
}
