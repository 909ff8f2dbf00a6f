/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pinned host keys: OpenSSH known_hosts files (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT) read once into a table.
 * Understood: names, comma lists, `*` `?` `!` patterns, [host]:port, hashed names (HMAC-SHA1), @revoked.
 * @cert-authority lines are known but not supported: a host that only they cover is refused, and told so.
 */
#ifndef KT_ORCHESTRATOR_FLEET_HOSTKEYS_H
#define KT_ORCHESTRATOR_FLEET_HOSTKEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

typedef struct kt_hostkeys kt_hostkeys;

enum { KT_FINGERPRINT = 64 }; /* "SHA256:" and 43 characters fit */

KT_MUST_CHECK kt_code kt_hostkeys_new(kt_hostkeys **out, kt_err *err);
void kt_hostkeys_free(kt_hostkeys *keys);

/* Add the lines of a file. With `may_be_absent` a missing file is an empty one. KT_E_INPUT: "FILE:LINE: what"; nothing
 * of that file was added then. KT_E_IO. */
KT_MUST_CHECK kt_code kt_hostkeys_load(kt_hostkeys *keys, const char *path, bool may_be_absent, kt_err *err);
/* The same from memory; `name` is for messages. */
KT_MUST_CHECK kt_code kt_hostkeys_parse(kt_hostkeys *keys, const char *name, const char *text, size_t len, kt_err *err);

/*
 * Is `key` (wire form, RFC 4253 §6.6) the one that is pinned for host and port? KT_E_REFUSED when the host is unknown,
 * has another key, or the key is revoked: the message shows the fingerprints offered and pinned, the remedy what to do.
 */
KT_MUST_CHECK kt_code kt_hostkeys_check(const kt_hostkeys *keys, const char *host, unsigned port, const uint8_t *key,
					size_t len, kt_err *err);
/* Is there a pin (of any type) for this host? */
bool kt_hostkeys_known(const kt_hostkeys *keys, const char *host, unsigned port);
/* Host key methods for the key exchange, comma separated, appended to `out`: those of the pins first, so that a host
 * with several keys shows the pinned one; then the other types we can check. */
KT_MUST_CHECK kt_code kt_hostkeys_methods(const kt_hostkeys *keys, const char *host, unsigned port, kt_buf *out,
					  kt_err *err);

/*
 * Pin a key: the line is added to the table and to the file (replaced atomically, made with mode 0600). The same pin
 * again changes nothing. KT_E_REFUSED when another key of the same type is pinned for that host.
 */
KT_MUST_CHECK kt_code kt_hostkeys_pin(kt_hostkeys *keys, const char *path, const char *host, unsigned port,
				      const uint8_t *key, size_t len, kt_err *err);

/* "SHA256:" and the unpadded base64, as ssh-keygen -l prints it. */
KT_MUST_CHECK kt_code kt_hostkey_fingerprint(const uint8_t *key, size_t len, char out[KT_FINGERPRINT], kt_err *err);
/* The type inside a key ("ssh-ed25519") as a string into `out`; KT_E_INPUT when there is none. */
KT_MUST_CHECK kt_code kt_hostkey_type(const uint8_t *key, size_t len, char out[KT_FINGERPRINT], kt_err *err);

#endif
