/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "orchestrator/fleet/sshconfig.h"

static const char config_file[] = "sshconfig.test";

static void write_config(const char *text)
{
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kt_file_replace(config_file, text, strlen(text), NULL, &err), KT_OK);
}

static void asks_ssh(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_sshconfig c;
	write_config("Host web*\n  HostName %h.example.com\n  User release\n  Port 2222\n"
		     "  IdentityFile ~/.ssh/turn\n  IdentityFile /etc/keys/second\n  IdentitiesOnly yes\n"
		     "  ProxyJump me@gate:2200,[fe80::1]:23\n  IdentityAgent none\n  HostKeyAlias alias\n"
		     "  UserKnownHostsFile ~/.ssh/kh /etc/kh2\n");
	assert_int_equal(kt_sshconfig_query(config_file, "web01", NULL, 0, &c, &err), KT_OK);
	assert_string_equal(c.hostname, "web01.example.com");
	assert_string_equal(c.user, "release");
	assert_int_equal(c.port, 2222);
	char expected[512];
	(void)snprintf(expected, sizeof expected, "%s/.ssh/turn", getenv("HOME"));
	assert_string_equal(c.identities[0], expected);
	assert_string_equal(c.identities[1], "/etc/keys/second");
	assert_null(c.identities[2]);
	assert_true(c.identities_only);
	assert_string_equal(c.proxy_jump, "me@gate:2200,[fe80::1]:23");
	assert_string_equal(c.identity_agent, "none");
	assert_string_equal(c.hostkey_alias, "alias");
	assert_null(c.proxy_command);
	assert_string_equal(c.user_known_hosts[1], "/etc/kh2");
	kt_sshconfig_free(&c);
	/* what the caller says wins */
	assert_int_equal(kt_sshconfig_query(config_file, "web01", "other", 23, &c, &err), KT_OK);
	assert_string_equal(c.user, "other");
	assert_int_equal(c.port, 23);
	kt_sshconfig_free(&c);
	/* a host of which the file says nothing */
	assert_int_equal(kt_sshconfig_query(config_file, "10.0.0.1", NULL, 0, &c, &err), KT_OK);
	assert_string_equal(c.hostname, "10.0.0.1");
	assert_int_equal(c.port, 22);
	assert_null(c.proxy_jump);
	assert_null(c.identity_agent);
	kt_sshconfig_free(&c);
	(void)unlink(config_file);
}

static void refuses(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_sshconfig c;
	write_config("Host *\n  NoSuchOption yes\n");
	assert_int_equal(kt_sshconfig_query(config_file, "web01", NULL, 0, &c, &err), KT_E_INPUT);
	assert_non_null(strstr(err.msg, "nosuchoption"));
	assert_int_equal(kt_sshconfig_query(NULL, "-oProxyCommand=id", NULL, 0, &c, &err), KT_E_INPUT);
	assert_int_equal(kt_sshconfig_query(NULL, "", NULL, 0, &c, &err), KT_E_INPUT);
	assert_int_equal(kt_sshconfig_query(NULL, "x", "-v", 0, &c, &err), KT_E_INPUT);
	char *path = strdup(getenv("PATH"));
	assert_int_equal(setenv("PATH", "/nowhere", 1), 0);
	assert_int_equal(kt_sshconfig_query(NULL, "web01", NULL, 0, &c, &err), KT_E_IO);
	assert_int_equal(setenv("PATH", path, 1), 0);
	free(path);
	(void)unlink(config_file);
}

static void malformed(void **state)
{
	(void)state;
	static const char whole[] = "user me\nhostname web01\nport 22\nidentityfile ~/.ssh/x\nproxyjump a@b:1\n";
	static const char *const bad[] = {"", "user me\n", "user me\nhostname h\nport 0\n",
					  "user me\nhostname h\nport 99999\n", "user me\nhostname h\nport x\n"};
	kt_sshconfig c;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		kt_err err = KT_ERR_INIT;
		assert_int_equal(kt_sshconfig_parse(bad[i], strlen(bad[i]), &c, &err), KT_E_INPUT);
	}
	for (size_t n = 0; n < sizeof whole; n++) {
		kt_err err = KT_ERR_INIT;
		char *cut = strndup(whole, n);
		kt_code rc = kt_sshconfig_parse(cut, n, &c, &err);
		assert_true(rc == KT_OK || rc == KT_E_INPUT);
		kt_sshconfig_free(&c);
		free(cut);
	}
}

static void jumps(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_sshjump j[2];
	size_t n;
	assert_int_equal(kt_sshjump_parse("me@gate:2200,[fe80::1]:23", j, 2, &n, &err), KT_OK);
	assert_int_equal(n, 2);
	assert_string_equal(j[0].user, "me");
	assert_string_equal(j[0].host, "gate");
	assert_int_equal(j[0].port, 2200);
	assert_null(j[1].user);
	assert_string_equal(j[1].host, "fe80::1");
	assert_int_equal(j[1].port, 23);
	kt_sshjump_free(j, n);
	assert_int_equal(kt_sshjump_parse("ssh://gate", j, 2, &n, &err), KT_OK);
	assert_string_equal(j[0].host, "gate");
	assert_int_equal(j[0].port, 0);
	kt_sshjump_free(j, n);
	static const char *const bad[] = {"",      "a,,b", "@gate", "me@", "gate:", "gate:x", "gate:70000",
					  "[fe80", "[x]y", "a,b,c", "-x",  "me@-x", ":22"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(kt_sshjump_parse(bad[i], j, 2, &n, &err), KT_E_INPUT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(asks_ssh),
		cmocka_unit_test(refuses),
		cmocka_unit_test(malformed),
		cmocka_unit_test(jumps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
