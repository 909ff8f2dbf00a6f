/* SPDX-License-Identifier: Apache-2.0 */
/* What the user's own ssh configuration says about a host, asked of the user's own ssh: `ssh -G [-F FILE] HOST`. */
#ifndef KT_ORCHESTRATOR_FLEET_SSHCONFIG_H
#define KT_ORCHESTRATOR_FLEET_SSHCONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/result.h"

enum { KT_SSHCONFIG_LIST = 16 };

/* Strings are owned by the struct; NULL where ssh said nothing (or "none"). */
typedef struct kt_sshconfig {
	char *hostname;
	unsigned port;
	char *user;
	char *identities[KT_SSHCONFIG_LIST + 1]; /* paths with ~ expanded, NULL-terminated; the files may be absent */
	bool identities_only;
	char *identity_agent;                          /* path; NULL: $SSH_AUTH_SOCK; "none": none */
	char *proxy_jump;                              /* "user@host:port,..." as written */
	char *proxy_command;                           /* not supported by the fleet: the caller refuses */
	char *hostkey_alias;                           /* HostKeyAlias */
	char *user_known_hosts[KT_SSHCONFIG_LIST + 1]; /* the user's own known_hosts files */
} kt_sshconfig;

/* One step of a ProxyJump chain. */
typedef struct kt_sshjump {
	char *user; /* NULL: not said */
	char *host;
	unsigned port; /* 0: not said */
} kt_sshjump;

/* Run ssh -G. `file` (-F) may be NULL, `user` (-l) may be NULL, port 0 is "not said". The host may not begin with '-'
 * (KT_E_INPUT). KT_E_IO when ssh is not there; KT_E_INPUT with ssh's own words when it refuses the configuration.
 * Blocks for the few milliseconds that ssh takes. */
KT_MUST_CHECK kt_code kt_sshconfig_query(const char *file, const char *host, const char *user, unsigned port,
					 kt_sshconfig *out, kt_err *err);
/* Parse the output of ssh -G. */
KT_MUST_CHECK kt_code kt_sshconfig_parse(const char *text, size_t len, kt_sshconfig *out, kt_err *err);
void kt_sshconfig_free(kt_sshconfig *config);

/* "user@host:port,host2": at most `max` steps into `out`, *n tells how many. KT_E_INPUT. Free each. */
KT_MUST_CHECK kt_code kt_sshjump_parse(const char *text, kt_sshjump *out, size_t max, size_t *n, kt_err *err);
void kt_sshjump_free(kt_sshjump *jumps, size_t n);

#endif
