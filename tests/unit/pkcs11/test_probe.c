/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <string.h>

#include "pkcs11/internal.h"
#include "pkcs11/probe.h"
#include "tests/unit/pkcs11/opened.h"

static kt_probe_report report;

static void probe(void)
{
	kt_err err = KT_ERR_INIT;
	const long before = shim->objects;
	assert_kt_ok(kt_token_probe(t, &(kt_probe_options){.node_key = NULL}, &report, &err));
	assert_int_equal(shim->objects, before); /* nothing is left, not even in the session */
	assert_int_equal(shim->sessions, 1);
}

/* A row by its id, its mark and what it has seen. */
static void row_is(const char *id, kt_probe_mark mark, const char *seen)
{
	for (size_t i = 0; i < report.n; i++) {
		const kt_probe_row *r = &report.row[i];
		if (strcmp(r->id, id) != 0)
			continue;
		if (r->mark != mark || !strstr(r->seen, seen))
			fail_msg("%s: %s, \"%s\"; wanted %s, \"%s\"", id, kt_probe_mark_name(r->mark), r->seen,
				 kt_probe_mark_name(mark), seen);
		assert_true(mark < KT_PROBE_WARNING || r->words[0]);
		return;
	}
	fail_msg("no row %s", id);
}

static void verdict_is(const char *words)
{
	char told[KT_PROBE_BECAUSE];
	kt_probe_verdict_words(&report, KT_PROBE_COORDINATOR, told);
	if (!strstr(told, words))
		fail_msg("the verdict is \"%s\", not \"%s\"", told, words);
	assert_int_equal(kt_probe_verdict(&report, KT_PROBE_COORDINATOR) == KT_PROBE_UNFIT,
			 strstr(words, "unfit") != NULL);
}

static void softhsm_as_it_is(void **state)
{
	(void)state;
	probe();
	row_is("wrap.CKM_AES_KEY_WRAP_KWP", KT_PROBE_OK, "no: C_WrapKey gave CKR_MECHANISM_INVALID");
	row_is("wrap.CKM_AES_KEY_WRAP_PAD", KT_PROBE_OK, "RFC 5649, there and back");
	row_is("wrap.CKM_AES_KEY_WRAP", KT_PROBE_OK, "RFC 3394, there and back");
	row_is("wrap.composed", KT_PROBE_OK, "rsa-aes-sha1 by CKM_RSA_PKCS_OAEP+CKM_AES_KEY_WRAP_PAD");
	row_is("mac.cmac", KT_PROBE_OK, "libcrypto");
	row_is("use.escrow", KT_PROBE_OK, "rfc5649 by CKM_AES_KEY_WRAP_PAD (0x210a)");
	row_is("use.node", KT_PROBE_OK, "rsa-oaep-sha1");
	row_is("oaep.hash", KT_PROBE_WARNING, "SHA-1");
	row_is("corrupt.CKM_AES_KEY_WRAP_PAD", KT_PROBE_OK, "43 of 43 refused");
	row_is("policy.extractable-wrap", KT_PROBE_OK, "CKR_KEY_UNEXTRACTABLE");
	row_is("policy.sensitive-read", KT_PROBE_OK, "CKR_ATTRIBUTE_SENSITIVE");
	row_is("policy.unwrap-attributes", KT_PROBE_OK, "as asked");
	row_is("policy.wrap-with-trusted", KT_PROBE_OK, "CKR_KEY_NOT_WRAPPABLE");
	row_is("policy.weak-wrapping", KT_PROBE_WARNING, "done");
	row_is("length.CKM_AES_KEY_WRAP", KT_PROBE_WARNING, "with zeros");
	row_is("sessions.parallel", KT_PROBE_OK, "0 wrong answers");
	row_is("node.opens", KT_PROBE_OK, "rsa-oaep-sha1");
	verdict_is("fit with warnings");
}

static void the_report_as_json(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	cJSON *json;
	const cJSON *token, *rows;
	const char *text;
	probe();
	assert_kt_ok(kt_probe_to_json(&report, "2026-01-01T00:00:00.000Z", &json, &err));
	assert_kt_ok(kt_json_object(json, "token", &token, &err));
	assert_kt_ok(kt_json_str(token, "label", &text, &err));
	assert_string_equal(text, "kt-test");
	assert_kt_ok(kt_json_array(json, "rows", &rows, &err));
	assert_int_equal(cJSON_GetArraySize(rows), report.n);
	cJSON_Delete(json);
}

/* --- tokens that are not what they say -----------------------------------------------------------------------------
 */

static void a_padding_that_no_rfc_has(void **state)
{
	(void)state;
	shim->pad_is_long = true;
	probe();
	row_is("wrap.CKM_AES_KEY_WRAP_PAD", KT_PROBE_OK, "no: C_UnwrapKey");
	row_is("use.escrow", KT_PROBE_OK, "rfc3394 by CKM_AES_KEY_WRAP");
}

static void a_number_that_is_another_format(void **state)
{
	(void)state;
	shim->pad_is_rfc3394 = true;
	probe();
	row_is("wrap.CKM_AES_KEY_WRAP_PAD", KT_PROBE_OK, "RFC 3394, there and back");
	row_is("use.escrow", KT_PROBE_OK, "rfc3394 by CKM_AES_KEY_WRAP_PAD");
}

static void changed_blobs_are_taken(void **state)
{
	(void)state;
	shim->takes_changed = true;
	probe();
	row_is("corrupt.CKM_AES_KEY_WRAP_PAD", KT_PROBE_WARNING, "changed blobs were taken");
	row_is("use.escrow", KT_PROBE_UNFIT, "none");
	verdict_is("unfit because it cannot wrap a key under an AES key");
}

static void what_may_not_leave_is_wrapped(void **state)
{
	(void)state;
	shim->wraps_all = true;
	probe();
	row_is("policy.extractable-wrap", KT_PROBE_WARNING, "done");
	verdict_is("fit with warnings");
}

static void sensitive_keys_are_shown(void **state)
{
	(void)state;
	shim->shows_sensitive = true;
	probe();
	row_is("policy.sensitive-read", KT_PROBE_UNFIT, "done");
	row_is("policy.unwrap-sensitive", KT_PROBE_UNFIT, "can be read");
	verdict_is("unfit because it gives sensitive keys away in the clear");
}

static void unwrap_ignores_what_it_is_asked(void **state)
{
	(void)state;
	shim->flip_at_unwrap = CKA_SENSITIVE;
	probe();
	row_is("policy.unwrap-attributes", KT_PROBE_UNFIT, "ignored: SENSITIVE");
	row_is("use.escrow", KT_PROBE_UNFIT, "none");
	verdict_is("unfit because");
}

static void no_mac_no_check_values(void **state)
{
	(void)state;
	shim->deny_sign = CKM_AES_CMAC;
	probe();
	row_is("mac.cmac", KT_PROBE_UNFIT, "CKR_MECHANISM_INVALID");
	row_is("use.escrow", KT_PROBE_NOT_TRIED, "AES-CMAC");
	row_is("sessions.parallel", KT_PROBE_NOT_TRIED, "AES-CMAC");
	verdict_is("unfit because it does not do AES-CMAC");
}

static void threads_are_mixed_up(void **state)
{
	(void)state;
	shim->mixes_threads = true;
	probe();
	row_is("sessions.parallel", KT_PROBE_UNFIT, "wrong answers");
}

static void few_sessions(void **state)
{
	(void)state;
	shim->session_limit = 3;
	probe();
	row_is("sessions.open", KT_PROBE_WARNING, "2, then CKR_SESSION_COUNT");
	row_is("sessions.parallel", KT_PROBE_OK, "2 threads, 0 wrong answers");
	verdict_is("fit with warnings");
}

static void a_token_that_shows_nothing_is_believed_by_name(void **state)
{
	(void)state;
	shim->no_readable = true;
	probe();
	row_is("keys", KT_PROBE_OK, "never shown");
	row_is("wrap.CKM_AES_KEY_WRAP_PAD", KT_PROBE_WARNING, "cannot be checked");
	row_is("wrap.CKM_AES_KEY_WRAP", KT_PROBE_OK, "believed by its name");
	row_is("use.escrow", KT_PROBE_OK, "rfc3394");
}

static void a_token_that_goes_away_is_no_report(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	const long before = shim->objects;
	shim->token_info_rv = CKR_DEVICE_REMOVED;
	assert_kt_fails(KT_E_HSM, kt_token_probe(t, &(kt_probe_options){.node_key = NULL}, &report, &err));
	assert_int_equal(shim->objects, before);
}

int main(void)
{
#define PROBED(f) cmocka_unit_test_setup_teardown(f, open_token, close_token)
	const struct CMUnitTest tests[] = {
		PROBED(softhsm_as_it_is),
		PROBED(the_report_as_json),
		PROBED(a_padding_that_no_rfc_has),
		PROBED(a_number_that_is_another_format),
		PROBED(changed_blobs_are_taken),
		PROBED(what_may_not_leave_is_wrapped),
		PROBED(sensitive_keys_are_shown),
		PROBED(unwrap_ignores_what_it_is_asked),
		PROBED(no_mac_no_check_values),
		PROBED(threads_are_mixed_up),
		PROBED(few_sessions),
		PROBED(a_token_that_shows_nothing_is_believed_by_name),
		PROBED(a_token_that_goes_away_is_no_report),
	};
	return cmocka_run_group_tests(tests, softhsm_start, softhsm_stop);
}
