/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "orchestrator/fleet/internal.h"

/* The cheapest of the good ones first. The last two of the key exchange are no methods but what a client says of itself
 * (RFC 8308; OpenSSH PROTOCOL 1.10): a libssh2 that can do strict key exchange says so only when it is in the list. */
static const struct {
	int type;
	const char *names;
} wanted[] = {
	{LIBSSH2_METHOD_KEX, "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,"
			     "ecdh-sha2-nistp521,diffie-hellman-group16-sha512,diffie-hellman-group14-sha256,"
			     "ext-info-c,kex-strict-c-v00@openssh.com"},
	{LIBSSH2_METHOD_CRYPT_CS, "aes128-ctr,aes256-ctr,aes192-ctr"},
	{LIBSSH2_METHOD_CRYPT_SC, "aes128-ctr,aes256-ctr,aes192-ctr"},
	{LIBSSH2_METHOD_MAC_CS,
	 "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256,hmac-sha2-512"},
	{LIBSSH2_METHOD_MAC_SC,
	 "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256,hmac-sha2-512"},
};

static bool is_known(const char *name, size_t n, const char *const *known, int count)
{
	for (int i = 0; i < count; i++)
		if (strlen(known[i]) == n && memcmp(known[i], name, n) == 0)
			return true;
	return false;
}

static kt_code keep_known(const char *names, const char *const *known, int count, kt_buf *out, kt_err *err)
{
	while (*names) {
		const size_t n = strcspn(names, ",");
		if (is_known(names, n, known, count)) {
			if (out->len)
				KT_TRY(kt_buf_str(out, ",", err));
			KT_TRY(kt_buf_append(out, names, n, err));
		}
		names += n + (names[n] ? 1 : 0);
	}
	return KT_OK;
}

/* libssh2 1.10 strips names that it does not know with a memcpy that overlaps: it is never given one. */
static kt_code prefer(LIBSSH2_SESSION *session, int type, const char *names, kt_err *err)
{
	const char **known = NULL;
	kt_buf list = KT_BUF_INIT;
	const int count = libssh2_session_supported_algs(session, type, &known);
	if (count <= 0)
		return kt_fail(err, KT_E_INTERNAL, NULL, "libssh2 does not tell its methods");
	kt_code rc = keep_known(names, known, count, &list, err);
	libssh2_free(session, known);
	if (rc == KT_OK && (list.len == 0 || libssh2_session_method_pref(session, type, kt_buf_cstr(&list)) != 0))
		rc = kt_fail(err, KT_E_INTERNAL, "use libssh2 1.10 or newer", "libssh2 knows none of %s", names);
	kt_buf_free(&list);
	return rc;
}

kt_code kt_methods_prefer(LIBSSH2_SESSION *session, const char *hostkey, kt_err *err)
{
	for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
		KT_TRY(prefer(session, wanted[i].type, wanted[i].names, err));
	return prefer(session, LIBSSH2_METHOD_HOSTKEY, hostkey, err);
}
