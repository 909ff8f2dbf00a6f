/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "orchestrator/turn/pins.h"

#define SPKI_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define SPKI_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static char folder[64];

static int make_folder(void **state)
{
	kt_err err = KT_ERR_INIT;
	char nodes[80];
	(void)state;
	(void)snprintf(folder, sizeof folder, "state-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	(void)snprintf(nodes, sizeof nodes, "%s/nodes", folder);
	return kt_file_mkdirs(nodes, 0700, &err) == KT_OK ? 0 : -1;
}

static int remove_folder(void **state)
{
	static const char *const names[] = {"/nodes/web01.json", "/nodes/web01.pem", "/nodes", ""};
	char path[128];
	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		(void)snprintf(path, sizeof path, "%s%s", folder, names[i]);
		if (remove(path) != 0)
			return -1;
	}
	return 0;
}

static void save(const char *spki, const char *why)
{
	kt_err err = KT_ERR_INIT;
	char at[] = "pkcs11:token=t", pem[] = "PEM";
	kt_pin pin = {.at = at, .public_pem = pem, .bits = 3072, .formats = kt_pin_formats(true)};
	(void)snprintf(pin.spki_sha256, sizeof pin.spki_sha256, "%s", spki);
	assert_kt_ok(kt_pin_save(folder, "web01", &pin, why, &err));
}

static kt_buf text_of(const char *name)
{
	kt_err err = KT_ERR_INIT;
	kt_buf text = {.max = 65536};
	char path[128];
	(void)snprintf(path, sizeof path, "%s/nodes/%s", folder, name);
	assert_kt_ok(kt_file_read(path, &text, &err));
	return text;
}

static void saved_and_loaded(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_pin pin;
	bool found = true;
	assert_kt_ok(kt_pin_load(folder, "web01", &found, &pin, &err));
	assert_false(found);
	save(SPKI_A, "first");
	assert_kt_ok(kt_pin_load(folder, "web01", &found, &pin, &err));
	assert_true(found);
	assert_string_equal(pin.at, "pkcs11:token=t");
	assert_string_equal(pin.spki_sha256, SPKI_A);
	assert_int_equal(pin.bits, 3072);
	assert_int_equal(pin.formats, 1U << KT_BLOB_RSA_OAEP_SHA256 | 1U << KT_BLOB_RSA_AES_SHA256);
	int64_t since = pin.since_ms;
	kt_pin_free(&pin);
	save(SPKI_A, "again"); /* the same: keeps its date, and is no history */
	assert_kt_ok(kt_pin_load(folder, "web01", &found, &pin, &err));
	assert_int_equal(pin.since_ms, since);
	kt_pin_free(&pin);
	kt_buf text = text_of("web01.json");
	assert_null(strstr(kt_buf_cstr(&text), "again"));
	kt_buf_free(&text);
	save(SPKI_B, "rotated");
	save(SPKI_A, "replaced");
	text = text_of("web01.json");
	const char *newest = strstr(kt_buf_cstr(&text), "\"replaced\"");
	assert_non_null(newest);
	assert_non_null(strstr(newest, "\"rotated\""));
	kt_buf_free(&text);
	text = text_of("web01.pem");
	assert_string_equal(kt_buf_cstr(&text), "PEM");
	kt_buf_free(&text);
}

/* Every byte flipped, every end lost: named, and never taken for "not pinned". */
static void a_damaged_pin(void **state)
{
	(void)state;
	save(SPKI_A, "first");
	kt_buf good = text_of("web01.json");
	char path[128];
	(void)snprintf(path, sizeof path, "%s/nodes/web01.json", folder);
	for (size_t i = 0; i < 2 * good.len; i++) {
		kt_err err = KT_ERR_INIT;
		kt_pin pin;
		bool found;
		size_t n = i < good.len ? good.len : i - good.len;
		uint8_t was = good.data[i % good.len];
		good.data[i % good.len] ^= 4;
		FILE *f = fopen(path, "w");
		assert_non_null(f);
		assert_int_equal(fwrite(good.data, 1, n, f), n);
		assert_int_equal(fclose(f), 0);
		assert_kt_fails(KT_E_AUDIT, kt_pin_load(folder, "web01", &found, &pin, &err));
		assert_non_null(strstr(err.msg, "web01.json"));
		good.data[i % good.len] = was;
	}
	kt_buf_free(&good);
}

static void of_a_plan(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_plan_pins *pins;
	save(SPKI_A, "first");
	cJSON *plan = cJSON_Parse(
		"{\"nodes\":[{\"name\":\"web01\",\"transport_key\":{\"spki_sha256\":\"" SPKI_A
		"\"}},{\"name\":\"web02\",\"transport_key\":{\"spki_sha256\":\"\"}},{\"name\":\"web03\"}]}");
	assert_kt_ok(kt_plan_pins_new(plan, &pins, &err));
	for (int twice = 0; twice < 2; twice++) {
		assert_string_equal(kt_plan_pins_find(pins, "web01"), SPKI_A);
		assert_null(kt_plan_pins_find(pins, "web02"));
		assert_null(kt_plan_pins_find(pins, "web03"));
		assert_null(kt_plan_pins_find(pins, "nobody"));
	}
	assert_kt_ok(kt_plan_pins_check(pins, folder, &err));
	save(SPKI_B, "rotated");
	assert_kt_fails(KT_E_REFUSED, kt_plan_pins_check(pins, folder, &err));
	assert_non_null(strstr(err.msg, "web01"));
	kt_plan_pins_free(pins);
	cJSON_Delete(plan);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(saved_and_loaded, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(a_damaged_pin, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(of_a_plan, make_folder, remove_folder),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
