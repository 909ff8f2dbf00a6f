/* SPDX-License-Identifier: Apache-2.0 */
/* A key that was lost with its token comes back: from under a wrapping key, or by a custodian's token (real SoftHSM).
 */
#include "tests/unit/support.h"

#include <stdio.h>
#include <string.h>

#include "pkcs11/mac.h"
#include "pkcs11/rsa_key.h"
#include "pkcs11/wrap.h"
#include "tests/unit/pkcs11/softhsm.h"

static const uint8_t id[] = {0xca, 0xfe, 0x01};
static const kt_token_key_name name = {.label = "lost", .id = id, .id_len = sizeof id};
static kt_token *hsm, *custodian, *fresh;

static kt_token *open_token(const char *path)
{
	kt_err err = KT_ERR_INIT;
	kt_token *t;
	assert_kt_ok(kt_token_open(softhsm_uri(path, NULL), &t, &err));
	return t;
}

static int start(void **state)
{
	if (softhsm_start(state) != 0)
		return -1;
	softhsm_add_token("custodian");
	softhsm_add_token("fresh");
	hsm = open_token(NULL);
	custodian = open_token("token=custodian");
	fresh = open_token("token=fresh");
	return 0;
}

static int stop(void **state)
{
	kt_token_close(fresh);
	kt_token_close(custodian);
	kt_token_close(hsm);
	return softhsm_stop(state);
}

static void make_key(kt_token_key *out)
{
	kt_err err = KT_ERR_INIT;
	bool made;
	assert_kt_ok(kt_token_ensure_cluster_key(hsm, &name, true, out, &made, &err));
}

static void proof_of(kt_token *t, const kt_token_key *key, uint8_t out[KT_PROOF_LEN])
{
	static const uint8_t nonce[16] = {7};
	kt_err err = KT_ERR_INIT;
	assert_kt_ok(kt_token_proof(t, key, "a test", nonce, sizeof nonce, out, &err));
}

/* The recovered key is the lost one, is named like it, and is refused a second time. */
static void check_recovered(const kt_token_key *lost, kt_token_key *again)
{
	uint8_t a[KT_PROOF_LEN], b[KT_PROOF_LEN];
	kt_err err = KT_ERR_INIT;
	assert_string_equal(again->kcv, lost->kcv);
	assert_string_equal(again->label, "lost");
	assert_true(again->on_token);
	proof_of(hsm, lost, a);
	proof_of(fresh, again, b);
	assert_memory_equal(a, b, sizeof a);
	assert_kt_ok(kt_token_destroy_key(fresh, again, &err));
}

static void by_a_custodian(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_token_rsa_key own, pair;
	kt_token_node_key public;
	kt_token_key lost, seen, again;
	kt_blob blob, moved;
	(void)state;
	make_key(&lost);
	assert_kt_ok(kt_token_custodian_make(custodian, &(kt_token_key_name){.label = "alice"}, &own, &err));
	assert_true(own.unwrap && !own.decrypt);
	assert_kt_fails(KT_E_REFUSED,
			kt_token_custodian_make(custodian, &(kt_token_key_name){.label = "alice"}, &own, &err));
	assert_kt_ok(kt_token_custodian_find(custodian, &(kt_token_key_name){.label = "alice"}, &own, &err));
	const kt_blob_address to_alice = {.purpose = KT_BLOB_CUSTODIAN, .run = "r", .custodian = "alice"};
	assert_kt_ok(kt_token_import_node_key(hsm, own.spki, own.spki_len, &public, &err));
	assert_kt_ok(kt_token_wrap_for_node(hsm, &lost, &public, &to_alice, &blob, &err));
	kt_token_drop_node_key(hsm, &public);

	assert_kt_ok(kt_token_recovery_make(fresh, &pair, &err));
	assert_kt_ok(kt_token_unwrap_rsa(custodian, &blob, &own, &seen, &err));
	assert_kt_ok(kt_token_import_node_key(custodian, pair.spki, pair.spki_len, &public, &err));
	const kt_blob_address to_fresh = {.purpose = KT_BLOB_CUSTODIAN, .run = "r", .custodian = "recovery"};
	assert_kt_ok(kt_token_wrap_for_node(custodian, &seen, &public, &to_fresh, &moved, &err));
	assert_kt_ok(kt_token_recover_rsa(fresh, &moved, &pair, &name, &again, &err));
	kt_token_key second;
	assert_kt_fails(KT_E_REFUSED, kt_token_recover_rsa(fresh, &moved, &pair, &name, &second, &err));
	check_recovered(&lost, &again);
	/* What is for another key, or was changed, leaves nothing in the token. */
	assert_kt_fails(KT_E_KEY, kt_token_recover_rsa(fresh, &blob, &pair, &name, &again, &err));
	moved.run[0] ^= 1;
	assert_kt_fails(KT_E_KEY, kt_token_recover_rsa(fresh, &moved, &pair, &name, &again, &err));
	assert_kt_fails(KT_E_KEY, kt_token_find_cluster_key(fresh, &name, &again, &err));
	kt_token_recovery_drop(fresh, &pair);
	assert_int_equal(pair.handle, 0);
}

/* The wrapping key comes from the HSM's own backup: here it has stayed, and the key alone was lost. */
static void by_the_wrapping_key(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_token_key wrapping, lost, again;
	uint8_t before[KT_PROOF_LEN], after[KT_PROOF_LEN];
	kt_blob blob;
	(void)state;
	make_key(&lost);
	proof_of(hsm, &lost, before);
	assert_kt_ok(kt_token_create_wrapping_key(hsm, &(kt_token_key_name){.label = "escrow"}, &wrapping, &err));
	const kt_blob_address address = {.purpose = KT_BLOB_ESCROW, .run = "r"};
	assert_kt_ok(kt_token_wrap_under(hsm, &lost, &wrapping, &address, &blob, &err));
	assert_kt_fails(KT_E_REFUSED, kt_token_recover_under(hsm, &blob, &wrapping, &name, &again, &err));
	assert_kt_ok(kt_token_destroy_key(hsm, &lost, &err));
	assert_kt_ok(kt_token_recover_under(hsm, &blob, &wrapping, &name, &again, &err));
	proof_of(hsm, &again, after);
	assert_memory_equal(before, after, sizeof before);
	assert_kt_ok(kt_token_find_cluster_key(hsm, &name, &lost, &err));
}

/* Who could decrypt with it would see the key. */
static void a_key_that_decrypts_is_no_custodians(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_token_transport both;
	kt_token_rsa_key own;
	(void)state;
	assert_kt_ok(kt_token_transport_make(custodian, &(kt_token_key_name){.label = "node"}, 2048, &both, &err));
	assert_true(both.decrypt);
	assert_kt_fails(KT_E_REFUSED,
			kt_token_custodian_find(custodian, &(kt_token_key_name){.label = "node"}, &own, &err));
	assert_non_null(strstr(err.msg, "CKA_DECRYPT"));
	assert_kt_fails(KT_E_KEY,
			kt_token_custodian_find(custodian, &(kt_token_key_name){.label = "nobody"}, &own, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(by_a_custodian),
		cmocka_unit_test(by_the_wrapping_key),
		cmocka_unit_test(a_key_that_decrypts_is_no_custodians),
	};
	return cmocka_run_group_tests(tests, start, stop);
}
