/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "orchestrator/fleet/internal.h"

kt_code kt_node_fail(const kt_fleet_node *node, kt_err *err, kt_code code, const char *remedy, const char *fmt, ...)
{
	char text[KT_ERR_MSG];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	return kt_fail(err, code, remedy, "%s (%s): %s", node->name, node->address, text);
}

static const char *ssh_remedy(int rc)
{
	switch (rc) {
	case LIBSSH2_ERROR_KEX_FAILURE:
	case LIBSSH2_ERROR_KEY_EXCHANGE_FAILURE:
	case LIBSSH2_ERROR_HOSTKEY_INIT:
		return "keyturn's ssh library knows ed25519 and ECDSA host keys (RSA only with SHA-1), "
		       "curve25519/ecdh/dh-sha2 key exchange, aes-ctr and hmac-sha2: allow these in the node's "
		       "sshd_config";
	case LIBSSH2_ERROR_BANNER_RECV:
		return "see whether host and port are those of an ssh server";
	case LIBSSH2_ERROR_SOCKET_DISCONNECT:
	case LIBSSH2_ERROR_SOCKET_RECV:
	case LIBSSH2_ERROR_SOCKET_SEND:
		return "see the node's sshd log (MaxStartups, AllowUsers, a restart, the network)";
	default:
		return NULL;
	}
}

kt_code kt_ssh_fail(const kt_fleet_node *node, int rc, const char *doing, kt_err *err)
{
	char *said = NULL;
	if (node->session)
		(void)libssh2_session_last_error(node->session, &said, NULL, 0);
	if (node->rx_errno)
		return kt_node_fail(node, err, KT_E_UNREACHABLE, ssh_remedy(LIBSSH2_ERROR_SOCKET_RECV),
				    "the connection broke while %s: %s", doing, strerror(node->rx_errno));
	if (rc == LIBSSH2_ERROR_SOCKET_DISCONNECT || (node->rx_eof && !kt_transport_unread(node)))
		return kt_node_fail(node, err, KT_E_UNREACHABLE, ssh_remedy(LIBSSH2_ERROR_SOCKET_DISCONNECT),
				    "the other side closed the connection while %s", doing);
	return kt_node_fail(node, err, KT_E_UNREACHABLE, ssh_remedy(rc), "ssh failed while %s: %s (libssh2 %d)", doing,
			    said && said[0] ? said : "no reason given", rc);
}

void kt_snippet(const kt_buf *said, char *out, size_t max)
{
	const char *text = kt_buf_cstr(said);
	size_t n = said->len;
	while (n && (text[n - 1] == '\n' || text[n - 1] == '\r' || text[n - 1] == ' '))
		n--;
	size_t from = n > max - 1 ? n - (max - 1) : 0;
	size_t o = 0;
	for (size_t i = from; i < n; i++) {
		const unsigned char c = (unsigned char)text[i];
		if (c == '\r')
			continue;
		out[o++] = c == '\n' ? ' ' : (char)(c < 0x20 || c >= 0x7f ? '?' : c);
	}
	out[o] = '\0';
}

const char *kt_remote_remedy(const char *said, int status)
{
	static const struct {
		const char *words, *remedy;
	} known[] = {
		{"a password is required", "let the login run the agent without a password: in sudoers, "
					   "USER ALL=(root) NOPASSWD: (see keyturn(1), sudo)"},
		{"a terminal is required", "let the login run the agent without a password: NOPASSWD in sudoers"},
		{"must have a tty", "remove `requiretty` for this login in sudoers"},
		{"is not in the sudoers", "give the login a NOPASSWD rule in sudoers"},
		{"not allowed to execute", "give the login a NOPASSWD rule for this command in sudoers"},
		{"sudo: not found", "install sudo, or set agent.sudo to false and log in as root"},
		{"sudo: command not found", "install sudo, or set agent.sudo to false and log in as root"},
		{"No space left", "free some space on the node"},
		{"Read-only file system", "see why the file system of the node is read-only"},
	};
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (strstr(said, known[i].words))
			return known[i].remedy;
	if (status == 127 || strstr(said, "command not found") || strstr(said, "No such file"))
		return "run `keyturn enroll` to put the agent on the node";
	if (status == 126 || strstr(said, "ermission denied"))
		return "see owner and mode of the file on the node, and noexec mounts";
	return NULL;
}
