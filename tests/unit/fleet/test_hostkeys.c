/* SPDX-License-Identifier: Apache-2.0 */
/* The known_hosts table, compared with what ssh-keygen itself writes and says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/file.h"
#include "base/spawn.h"
#include "orchestrator/fleet/hostkeys.h"

static const char folder[] = "hostkeys.test";
static char key_a[512], key_b[512], key_c[512]; /* "type base64" of two ed25519 keys and an ECDSA one */
static kt_buf blob_a, blob_b, blob_c;

static void run(const char *const *argv, kt_buf *out)
{
	kt_spawn_end end;
	kt_err err = KT_ERR_INIT;
	const kt_spawn_what what = {.argv = argv, .timeout_ms = 20000};
	assert_int_equal(kt_spawn_capture(&what, out, NULL, &end, &err), KT_OK);
	assert_int_equal(end.exit, 0);
}

static void make_key(const char *name, const char *type, char text[512], kt_buf *blob)
{
	char path[128];
	kt_buf file = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	(void)snprintf(path, sizeof path, "%s/%s", folder, name);
	const char *const argv[] = {"ssh-keygen", "-q", "-t", type, "-N", "", "-C", "x", "-f", path, NULL};
	run(argv, NULL);
	(void)snprintf(path, sizeof path, "%s/%s.pub", folder, name);
	assert_int_equal(kt_file_read(path, &file, &err), KT_OK);
	char *base64 = strchr((char *)file.data, ' ') + 1;
	*strchr(base64, ' ') = '\0';
	(void)snprintf(text, 512, "%s", (char *)file.data);
	assert_int_equal(kt_base64_decode(base64, strlen(base64), blob, &err), KT_OK);
	kt_buf_free(&file);
}

static int set_up(void **state)
{
	(void)state;
	const char *const argv[] = {"rm", "-rf", folder, NULL};
	run(argv, NULL);
	assert_int_equal(mkdir(folder, 0700), 0);
	make_key("a", "ed25519", key_a, &blob_a);
	make_key("b", "ed25519", key_b, &blob_b);
	make_key("c", "ecdsa", key_c, &blob_c);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	kt_buf_free(&blob_a);
	kt_buf_free(&blob_b);
	kt_buf_free(&blob_c);
	const char *const argv[] = {"rm", "-rf", folder, NULL};
	run(argv, NULL);
	return 0;
}

/* A table from a text in which A, B and C stand for the keys. */
static kt_hostkeys *table(const char *text)
{
	kt_hostkeys *keys;
	kt_buf full = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	for (; *text; text++) {
		const char *key = *text == 'A' ? key_a : *text == 'B' ? key_b : *text == 'C' ? key_c : NULL;
		assert_int_equal(kt_buf_append(&full, key ? key : text, key ? strlen(key) : 1, &err), KT_OK);
	}
	assert_int_equal(kt_hostkeys_new(&keys, &err), KT_OK);
	assert_int_equal(kt_hostkeys_parse(keys, "known_hosts", kt_buf_cstr(&full), full.len, &err), KT_OK);
	kt_buf_free(&full);
	return keys;
}

static kt_code check(const char *text, const char *host, unsigned port, const kt_buf *key, kt_err *err)
{
	kt_hostkeys *keys = table(text);
	*err = KT_ERR_INIT;
	kt_code rc = kt_hostkeys_check(keys, host, port, key->data, key->len, err);
	kt_hostkeys_free(keys);
	return rc;
}

static void names(void **state)
{
	(void)state;
	kt_err err;
	assert_int_equal(check("web01 A\n", "web01", 22, &blob_a, &err), KT_OK);
	assert_int_equal(check("web01 A comment here", "WEB01", 22, &blob_a, &err), KT_OK);
	assert_int_equal(check("# x\n\n  x,web01,10.0.0.1 A\r\n", "web01", 0, &blob_a, &err), KT_OK);
	assert_int_equal(check("[web01]:2222 A\n", "web01", 2222, &blob_a, &err), KT_OK);
	assert_int_equal(check("[web01]:2222 A\n", "web01", 22, &blob_a, &err), KT_E_REFUSED);
	assert_int_equal(check("web01 A\n", "web01", 2222, &blob_a, &err), KT_E_REFUSED);
	assert_int_equal(check("web* A\n", "web17.example.com", 22, &blob_a, &err), KT_OK);
	assert_int_equal(check("web?? A\n", "web17", 22, &blob_a, &err), KT_OK);
	assert_int_equal(check("web?? A\n", "web1", 22, &blob_a, &err), KT_E_REFUSED);
	assert_int_equal(check("web*,!web13 A\n", "web13", 22, &blob_a, &err), KT_E_REFUSED);
	assert_int_equal(check("web*,!web13 A\n", "web14", 22, &blob_a, &err), KT_OK);
	assert_int_equal(check("[fe80::1]:2222 A\n", "fe80::1", 2222, &blob_a, &err), KT_OK);
}

static void unknown_and_changed(void **state)
{
	(void)state;
	kt_err err;
	char a[KT_FINGERPRINT], b[KT_FINGERPRINT];
	kt_err ok = KT_ERR_INIT;
	assert_int_equal(kt_hostkey_fingerprint(blob_a.data, blob_a.len, a, &ok), KT_OK);
	assert_int_equal(kt_hostkey_fingerprint(blob_b.data, blob_b.len, b, &ok), KT_OK);
	assert_int_equal(check("web02 A\n", "web01", 22, &blob_a, &err), KT_E_REFUSED);
	assert_non_null(strstr(err.msg, "unknown"));
	assert_non_null(strstr(err.msg, a));
	assert_non_null(strstr(err.remedy, "enroll"));
	assert_int_equal(check("web01 A\n", "web01", 22, &blob_b, &err), KT_E_REFUSED);
	assert_non_null(strstr(err.msg, "changed"));
	assert_non_null(strstr(err.msg, a));
	assert_non_null(strstr(err.msg, b));
	/* a pin of another type does not let a new key in */
	assert_int_equal(check("web01 C\n", "web01", 22, &blob_a, &err), KT_E_REFUSED);
	assert_non_null(strstr(err.msg, "changed"));
}

static void markers(void **state)
{
	(void)state;
	kt_err err;
	assert_int_equal(check("web01 A\n@revoked * A\n", "web01", 22, &blob_a, &err), KT_E_REFUSED);
	assert_non_null(strstr(err.msg, "revoked"));
	assert_int_equal(check("web01 A\n@revoked * B\n", "web01", 22, &blob_a, &err), KT_OK);
	assert_int_equal(check("@cert-authority *.x A\n", "web01.x", 22, &blob_b, &err), KT_E_REFUSED);
	assert_non_null(strstr(err.msg, "@cert-authority"));
	/* the key of a CA is no host key, even when the host shows it */
	assert_int_equal(check("@cert-authority *.x A\n", "web01.x", 22, &blob_a, &err), KT_E_REFUSED);
}

static void hashed(void **state)
{
	(void)state;
	char path[64], old[80], line[1200];
	kt_hostkeys *keys;
	kt_err err = KT_ERR_INIT;
	(void)snprintf(path, sizeof path, "%s/hashed", folder);
	(void)snprintf(line, sizeof line, "[web01]:2222 %s\nweb02 %s\n", key_a, key_b);
	assert_int_equal(kt_file_replace(path, line, strlen(line), NULL, &err), KT_OK);
	const char *const argv[] = {"ssh-keygen", "-q", "-H", "-f", path, NULL};
	run(argv, NULL);
	(void)snprintf(old, sizeof old, "%s.old", path);
	(void)unlink(old);
	assert_int_equal(kt_hostkeys_new(&keys, &err), KT_OK);
	assert_int_equal(kt_hostkeys_load(keys, path, false, &err), KT_OK);
	assert_int_equal(kt_hostkeys_check(keys, "web01", 2222, blob_a.data, blob_a.len, &err), KT_OK);
	assert_int_equal(kt_hostkeys_check(keys, "web02", 22, blob_b.data, blob_b.len, &err), KT_OK);
	assert_int_equal(kt_hostkeys_check(keys, "web02", 22, blob_a.data, blob_a.len, &err), KT_E_REFUSED);
	assert_false(kt_hostkeys_known(keys, "web01", 22));
	assert_true(kt_hostkeys_known(keys, "web01", 2222));
	kt_hostkeys_free(keys);
}

static void fingerprint_like_openssh(void **state)
{
	(void)state;
	char path[64], mine[KT_FINGERPRINT];
	kt_buf out = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	(void)snprintf(path, sizeof path, "%s/a.pub", folder);
	const char *const argv[] = {"ssh-keygen", "-l", "-f", path, NULL};
	run(argv, &out);
	assert_int_equal(kt_hostkey_fingerprint(blob_a.data, blob_a.len, mine, &err), KT_OK);
	assert_non_null(strstr(kt_buf_cstr(&out), mine));
	assert_int_equal(strlen(mine), 7 + 43);
	kt_buf_free(&out);
}

static void methods(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_hostkeys *keys = table("web01 C\nweb02 A\n");
	kt_buf out = KT_BUF_INIT;
	assert_int_equal(kt_hostkeys_methods(keys, "web01", 22, &out, &err), KT_OK);
	assert_int_equal(strncmp(kt_buf_cstr(&out), "ecdsa-sha2-nistp256,ssh-ed25519,", 32), 0);
	kt_buf_clear(&out);
	assert_int_equal(kt_hostkeys_methods(keys, "web02", 22, &out, &err), KT_OK);
	assert_int_equal(strncmp(kt_buf_cstr(&out), "ssh-ed25519,ecdsa", 17), 0);
	kt_buf_free(&out);
	kt_hostkeys_free(keys);
}

static void malformed(void **state)
{
	(void)state;
	static const char *const bad[] = {"web01\n",
					  "web01 ssh-ed25519\n",
					  "web01 ssh-ed25519 !!!!\n",
					  "@what web01 A\n",
					  "@revoked\n",
					  "|1|AAAA|AAAA ssh-ed25519 AAAA\n",
					  "web01 ssh-rsa A\n",
					  "web01 ssh-ed25519 AAAA\n"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		kt_err err = KT_ERR_INIT;
		kt_hostkeys *keys = table("good A\n");
		char text[1200];
		(void)snprintf(text, sizeof text, "fine %s\n%s", key_a, bad[i]);
		assert_int_equal(kt_hostkeys_parse(keys, "F", text, strlen(text), &err), KT_E_INPUT);
		assert_non_null(strstr(err.msg, "F:2"));
		assert_false(kt_hostkeys_known(keys, "fine", 22)); /* nothing of the file was taken */
		assert_true(kt_hostkeys_known(keys, "good", 22));
		kt_hostkeys_free(keys);
	}
}

/* Cut off anywhere and with any byte flipped: an error or a table, never a crash, and never a wrong key accepted. */
static void mutated(void **state)
{
	(void)state;
	char text[600];
	(void)snprintf(text, sizeof text, "web01 %s\n", key_a);
	const size_t len = strlen(text);
	for (size_t i = 0; i < len; i++) {
		for (int flip = 0; flip < 2; flip++) {
			kt_err err = KT_ERR_INIT;
			kt_hostkeys *keys;
			char copy[600];
			memcpy(copy, text, len);
			copy[i] = flip ? (char)(copy[i] ^ 1) : copy[i];
			assert_int_equal(kt_hostkeys_new(&keys, &err), KT_OK);
			if (kt_hostkeys_parse(keys, "F", copy, flip ? len : i, &err) == KT_OK)
				assert_int_not_equal(
					kt_hostkeys_check(keys, "web01", 22, blob_b.data, blob_b.len, &err), KT_OK);
			kt_hostkeys_free(keys);
		}
	}
	for (size_t n = 0; n < blob_a.len; n++) {
		char out[KT_FINGERPRINT];
		kt_err err = KT_ERR_INIT;
		if (n < 16)
			assert_int_equal(kt_hostkey_type(blob_a.data, n, out, &err), KT_E_INPUT);
	}
}

static void pinning(void **state)
{
	(void)state;
	char path[64];
	struct stat st;
	kt_err err = KT_ERR_INIT;
	kt_hostkeys *keys = table("");
	kt_buf file = KT_BUF_INIT;
	(void)snprintf(path, sizeof path, "%s/pins", folder);
	assert_int_equal(kt_hostkeys_load(keys, path, true, &err), KT_OK);
	assert_int_equal(kt_hostkeys_load(keys, path, false, &err), KT_E_IO);
	assert_int_equal(kt_hostkeys_pin(keys, path, "Web01", 2222, blob_a.data, blob_a.len, &err), KT_OK);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	const off_t size = st.st_size;
	assert_int_equal(kt_hostkeys_check(keys, "web01", 2222, blob_a.data, blob_a.len, &err), KT_OK);
	/* the same again changes nothing, another one is refused, another type is added */
	assert_int_equal(kt_hostkeys_pin(keys, path, "web01", 2222, blob_a.data, blob_a.len, &err), KT_OK);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, size);
	assert_int_equal(kt_hostkeys_pin(keys, path, "web01", 2222, blob_b.data, blob_b.len, &err), KT_E_REFUSED);
	assert_int_equal(kt_hostkeys_pin(keys, path, "web01", 2222, blob_c.data, blob_c.len, &err), KT_OK);
	assert_int_equal(kt_hostkeys_pin(keys, path, "a b", 22, blob_c.data, blob_c.len, &err), KT_E_INPUT);
	assert_int_equal(kt_hostkeys_pin(keys, path, "x\nweb01", 22, blob_c.data, blob_c.len, &err), KT_E_INPUT);
	kt_hostkeys_free(keys);
	/* what was written reads back, also with ssh-keygen */
	keys = table("");
	assert_int_equal(kt_hostkeys_load(keys, path, false, &err), KT_OK);
	assert_int_equal(kt_hostkeys_check(keys, "web01", 2222, blob_c.data, blob_c.len, &err), KT_OK);
	const char *const argv[] = {"ssh-keygen", "-F", "[web01]:2222", "-f", path, NULL};
	run(argv, &file);
	assert_non_null(strstr(kt_buf_cstr(&file), key_a));
	kt_buf_free(&file);
	kt_hostkeys_free(keys);
}

static void pin_without_permission(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_hostkeys *keys = table("");
	char path[64];
	(void)snprintf(path, sizeof path, "%s/absent/pins", folder);
	assert_int_equal(kt_hostkeys_pin(keys, path, "web01", 22, blob_a.data, blob_a.len, &err), KT_E_IO);
	assert_false(kt_hostkeys_known(keys, "web01", 22)); /* what is not on the disk is not pinned */
	kt_hostkeys_free(keys);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(unknown_and_changed),
		cmocka_unit_test(markers),
		cmocka_unit_test(hashed),
		cmocka_unit_test(fingerprint_like_openssh),
		cmocka_unit_test(methods),
		cmocka_unit_test(malformed),
		cmocka_unit_test(mutated),
		cmocka_unit_test(pinning),
		cmocka_unit_test(pin_without_permission),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
