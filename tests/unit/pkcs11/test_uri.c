/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <stdio.h>
#include <string.h>

#include "pkcs11/uri.h"

static const char full[] =
	"pkcs11:token=The%20Token;manufacturer=ACME;serial=00ff;model=M1;object=a%2Fb%3b;type=secret-key;"
	"id=%00%01%fe?module-path=/usr/lib/x.so&pin-source=file:/run/pin";

static void takes_every_attribute(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_uri u;
	assert_kt_ok(kt_uri_parse(full, &u, &err));
	assert_string_equal(u.token, "The Token");
	assert_string_equal(u.manufacturer, "ACME");
	assert_string_equal(u.serial, "00ff");
	assert_string_equal(u.model, "M1");
	assert_string_equal(u.object, "a/b;");
	assert_string_equal(u.type, "secret-key");
	assert_int_equal(u.id_len, 3);
	assert_memory_equal(u.id, "\0\1\376", 3);
	assert_string_equal(u.module_path, "/usr/lib/x.so");
	assert_string_equal(u.pin_source, "file:/run/pin");
	assert_kt_ok(kt_uri_parse("pkcs11:", &u, &err));
	assert_kt_ok(kt_uri_parse("pkcs11:?module-name=softhsm2", &u, &err));
	assert_string_equal(u.module_name, "softhsm2");
	assert_string_equal(u.token, "");
	assert_kt_ok(kt_uri_parse("pkcs11:token=x?module-path=/a&x-init-reserved=configdir%3D'sql:/b%20c'", &u, &err));
	assert_string_equal(u.init_reserved, "configdir='sql:/b c'");
}

static void prints_all_but_the_pin_source(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_uri u, again;
	kt_buf text = KT_BUF_INIT;
	assert_kt_ok(kt_uri_parse(full, &u, &err));
	assert_kt_ok(kt_uri_format(&u, &text, &err));
	assert_null(strstr(kt_buf_cstr(&text), "pin"));
	assert_string_equal(kt_buf_cstr(&text),
			    "pkcs11:token=The%20Token;manufacturer=ACME;serial=00ff;model=M1;"
			    "object=a%2Fb%3B;type=secret-key;id=%00%01%FE?module-path=/usr/lib/x.so");
	assert_kt_ok(kt_uri_parse(kt_buf_cstr(&text), &again, &err));
	memset(u.pin_source, 0, sizeof u.pin_source);
	assert_memory_equal(&u, &again, sizeof u);
	kt_buf_free(&text);
}

static void refuses_what_it_does_not_know(void **state)
{
	static const char *const bad[] = {
		"",
		"pkcs11",
		"PKCS11:token=x",
		"file:/x",
		"pkcs11:token",
		"pkcs11:token=",
		"pkcs11:=x",
		"pkcs11:tokem=x",
		"pkcs11:token=x;token=x",
		"pkcs11:token=x;",
		"pkcs11:;token=x",
		"pkcs11:token=x?",
		"pkcs11:token=x?pin-source=",
		"pkcs11:token=x?pin-source=/a&",
		"pkcs11:token=x?pin-source=/a&pin-source=/b",
		"pkcs11:token=x?token=y",
		"pkcs11:module-path=/x",
		"pkcs11:token=x?module-path=relative.so",
		"pkcs11:token=x?module-path=/a&module-name=b",
		"pkcs11:token=x?x-init-reserved=a",
		"pkcs11:token=x?module-name=b&x-init-reserved=a",
		"pkcs11:token=x;x-init-reserved=a?module-path=/a",
		"pkcs11:token=a b",
		"pkcs11:token=a%",
		"pkcs11:token=a%2",
		"pkcs11:token=a%zz",
		"pkcs11:token=a%00b",
		"pkcs11:token=a/b",
		"pkcs11:token=\xc3\xa9",
		"pkcs11:token=123456789012345678901234567890123", /* 33 */
		"pkcs11:serial=12345678901234567",                /* 17 */
		"pkcs11:type=key",
		"pkcs11:slot-id=0",
		"pkcs11:slot-description=x",
		"pkcs11:library-version=2",
	};
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_uri u, none = {0};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		memset(&u, 'x', sizeof u);
		err = KT_ERR_INIT;
		if (kt_uri_parse(bad[i], &u, &err) != KT_E_INPUT || !err.msg[0])
			fail_msg("taken: %s", bad[i]);
		assert_memory_equal(&u, &none, sizeof u);
	}
}

static void takes_the_longest_and_no_longer(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_uri u;
	char text[8192] = "pkcs11:token=12345678901234567890123456789012;serial=1234567890123456";
	assert_kt_ok(kt_uri_parse(text, &u, &err));
	assert_int_equal(strlen(u.token), 32);
	size_t n = (size_t)snprintf(text, sizeof text, "pkcs11:id=");
	for (int i = 0; i < 64; i++)
		n += (size_t)snprintf(text + n, sizeof text - n, "%%41");
	assert_kt_ok(kt_uri_parse(text, &u, &err));
	assert_int_equal(u.id_len, 64);
	(void)snprintf(text + n, sizeof text - n, "%%41");
	assert_kt_fails(KT_E_INPUT, kt_uri_parse(text, &u, &err));
	memset(text, 'a', sizeof text - 1);
	memcpy(text, "pkcs11:object=", 14);
	assert_kt_fails(KT_E_INPUT, kt_uri_parse(text, &u, &err));
	assert_non_null(strstr(err.msg, "longer"));
}

/* A PIN in the URI is refused with the remedy, and never shows in what is said about it, however broken the URI. */
static void a_pin_is_refused_and_never_repeated(void **state)
{
	static const char *const with_pin[] = {
		"pkcs11:token=x?pin-value=canary481516",
		"pkcs11:token=x?pin-value=canary481516%",
		"pkcs11:token=x;pin-value=canary481516",
		"pkcs11:token=x?pin-valve=canary481516",
		"pkcs11:token=x?canary481516",
		"pkcs11:token=x?pin-value=1&pin-value=canary481516",
		"pkcs11:token=x?pin-source=|canary481516 |",
		"pkcs11:canary481516",
		"canary481516",
	};
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_uri u;
	for (size_t i = 0; i < sizeof with_pin / sizeof with_pin[0]; i++) {
		assert_kt_fails(KT_E_INPUT, kt_uri_parse(with_pin[i], &u, &err));
		assert_null(strstr(err.msg, "canary"));
		assert_null(strstr(err.remedy, "canary"));
		if (i < 3)
			assert_non_null(strstr(err.remedy, "pin-source="));
	}
}

static void survives_every_cut_and_flip(void **state)
{
	(void)state;
	kt_uri u;
	char text[sizeof full];
	for (size_t n = 0; n < sizeof full; n++) {
		memcpy(text, full, n);
		text[n] = '\0';
		KT_IGNORE(kt_uri_parse(text, &u, NULL));
		for (int bit = 0; bit < 8; bit++) {
			memcpy(text, full, sizeof full);
			text[n] = (char)(text[n] ^ 1 << bit);
			text[sizeof full - 1] = '\0';
			KT_IGNORE(kt_uri_parse(text, &u, NULL));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_every_attribute),
		cmocka_unit_test(prints_all_but_the_pin_source),
		cmocka_unit_test(refuses_what_it_does_not_know),
		cmocka_unit_test(takes_the_longest_and_no_longer),
		cmocka_unit_test(a_pin_is_refused_and_never_repeated),
		cmocka_unit_test(survives_every_cut_and_flip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
