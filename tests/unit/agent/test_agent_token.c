/* SPDX-License-Identifier: Apache-2.0 */
/* Transport keys in a token of the node, and their change: the real agent, and its process that owns a SoftHSM token.
 */
#include "agent/transport.h"
#include "tests/unit/agent/keys.h"
#include "tests/unit/pkcs11/softhsm.h"

static char label[32]; /* of the test's keys: the token is the same for all tests */
static char uri_path[64];

static int make(void **state)
{
	static unsigned n;
	(void)snprintf(label, sizeof label, "kt-node-%u", ++n);
	(void)snprintf(uri_path, sizeof uri_path, "token=kt-test;object=%s", label);
	return scratch_make(state);
}

/* --- Asking ---------------------------------------------------------------------------------------------------------
 */

static void outside(client *c)
{
	client_start(c);
	c->run = "-";
	c->epoch = 0;
}

/* What key.transport showed. */
typedef struct shown {
	char spki[KT_SHA256_HEX];
	EVP_PKEY *key;
	bool made;
	int64_t others;
} shown;

static shown show(client *c, const char *args)
{
	shown s;
	reply r = ask_ok(c, "key.transport", args);
	const char *pem = result_str(&r, "public_pem");
	BIO *bio = BIO_new_mem_buf(pem, -1);
	s.key = PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL);
	assert_non_null(s.key);
	BIO_free(bio);
	(void)snprintf(s.spki, sizeof s.spki, "%s", result_str(&r, "spki_sha256"));
	s.made = result_bool(&r, "made");
	s.others = result_int(&r, "others");
	reply_free(&r);
	return s;
}

static const char *in_token(const char *more)
{
	return J("{'bits':2048,'uri':'%s'%s}", softhsm_uri(uri_path, NULL), more);
}

static kt_blob wrap(const shown *to, kt_blob_purpose purpose, kt_blob_format format, const char *run)
{
	kt_err err = KT_ERR_INIT;
	kt_blob b;
	kt_secret key = secret_of(canary);
	assert_kt_ok(kt_blob_begin(&(kt_blob_address){.purpose = purpose, .run = run, .node = "web01"}, &b, &err));
	assert_kt_ok(kt_blob_wrap_rsa(&b, to->key, format, &key, &err));
	kt_secret_free(&key);
	return b;
}

/* A request that was not made before, in run R1. */
static void inside(client *c)
{
	static int64_t attempt = 1;
	client_start(c);
	c->attempt = attempt++;
}

/* Opens what is wrapped for this key, in run R1. */
static void opens(const shown *s, kt_blob_format format)
{
	client c;
	inside(&c);
	kt_blob b = wrap(s, KT_BLOB_REHEARSAL, format, "R1");
	reply r = ask_ok(&c, "key.receive", delivery_of(&b, "R1", false));
	assert_string_equal(result_str(&r, "proof"), proof_of(canary, "R1"));
	reply_free(&r);
	ask_done(&c, "run.release", "{}");
	client_end(&c);
}

static void does_not_open(const shown *s, kt_code code, const char *says)
{
	client c;
	inside(&c);
	kt_blob b = wrap(s, KT_BLOB_REHEARSAL, KT_BLOB_RSA_OAEP_SHA1, "R1");
	ask_bad(&c, "key.receive", delivery_of(&b, "R1", false), KT_STATUS_FAILED, code, says);
	ask_done(&c, "run.release", "{}");
	client_end(&c);
}

/* --- Made and used --------------------------------------------------------------------------------------------------
 */

static void a_key_in_a_token(void **state)
{
	(void)state;
	client c;
	outside(&c);
	shown first = show(&c, in_token(""));
	assert_true(first.made);
	assert_int_equal(first.others, 0);
	shown again = show(&c, in_token(""));
	assert_false(again.made);
	assert_string_equal(again.spki, first.spki);
	client_end(&c);
	assert_false(is_there("state/transport.key"));
	assert_int_equal(mode_of("state/transport.json"), 0600);
	opens(&first, KT_BLOB_RSA_OAEP_SHA1);
	opens(&first, KT_BLOB_RSA_AES_SHA1); /* the RSA step alone is the token's */
	EVP_PKEY_free(again.key);
	EVP_PKEY_free(first.key);
}

static void what_is_wrong_with_the_uri(void **state)
{
	(void)state;
	client c;
	outside(&c);
	static const struct {
		const char *uri, *says;
	} bad[] = {
		{"pkcs11:token=kt-test?pin-value=canary4711", "pin-value"},
		{"pkcs11:token=kt-test?pin-source=env:PIN", "only come from a file on the node"},
		{"pkcs11:token=kt-test;type=public", "a private key"},
		{"file:/x", "not a pkcs11: URI"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		ask_bad(&c, "key.transport", J("{'uri':'%s'}", bad[i].uri), KT_STATUS_FAILED, KT_E_INPUT, bad[i].says);
	ask_bad(&c, "key.transport", J("{'uri':'%s'}", softhsm_uri("token=nobody", NULL)), KT_STATUS_FAILED, KT_E_HSM,
		"no token fits");
	ask_bad(&c, "key.transport", J("{'uri':'pkcs11:token=t?module-path=/nowhere.so'}"), KT_STATUS_FAILED, KT_E_HSM,
		"/nowhere.so");
	client_end(&c);
	assert_false(is_there("state/transport.json"));
}

/* The module gets what `environment` says, and its own variables win over ours. */
static void the_module_s_environment(void **state)
{
	(void)state;
	client c;
	outside(&c);
	ask_bad(&c, "key.transport", in_token(",'environment':{'SOFTHSM2_CONF':'/nowhere/softhsm2.conf'}"),
		KT_STATUS_FAILED, KT_E_HSM, "token");
	char conf[PATH_MAX];
	(void)snprintf(conf, sizeof conf, "%s", getenv("SOFTHSM2_CONF"));
	client_end(&c);
	assert_int_equal(setenv("SOFTHSM2_CONF", "/nowhere", 1), 0);
	outside(&c);
	char more[PATH_MAX + 64];
	(void)snprintf(more, sizeof more, ",'environment':{'SOFTHSM2_CONF':'%s'}", conf);
	shown s = show(&c, in_token(more));
	client_end(&c);
	opens(&s, KT_BLOB_RSA_OAEP_SHA1); /* the record knows them, too */
	assert_int_equal(setenv("SOFTHSM2_CONF", conf, 1), 0);
	EVP_PKEY_free(s.key);
}

/* --- Changed --------------------------------------------------------------------------------------------------------
 */

static kt_blob_format format_in(bool token)
{
	return token ? KT_BLOB_RSA_OAEP_SHA1 : KT_BLOB_RSA_OAEP_SHA256;
}

static const char *args_for(bool token, const char *more)
{
	return token ? in_token(more) : J("{'bits':2048%s}", more);
}

/* A rotation from `a` to `b` (file or token): both keys open until the old one is retired, and what was delivered to
 * the old one opens afterwards, too. */
static void rotate(bool from_token, bool to_token)
{
	client c;
	char more[200];
	outside(&c);
	shown old = show(&c, args_for(from_token, ""));
	client_end(&c);
	inside(&c);
	kt_blob b = wrap(&old, KT_BLOB_TRANSPORT, format_in(from_token), "R1");
	ask_done(&c, "key.receive", delivery_of(&b, "R1", true));
	(void)snprintf(more, sizeof more, ",'pinned':'%s','rotate':true", old.spki);
	const char *args = args_for(to_token, more);
	c.run = "-";
	c.epoch = 0;
	ask_bad(&c, "key.transport", args, KT_STATUS_FAILED, KT_E_BUSY, "held by run R1");
	ask_bad(&c, "key.retire", J("{'keep':'%s'}", old.spki), KT_STATUS_FAILED, KT_E_BUSY, "held by run R1");
	c.run = "R1";
	c.epoch = 1;
	ask_done(&c, "run.release", "{}");
	client_end(&c);
	outside(&c);
	shown new = show(&c, args_for(to_token, more));
	assert_true(new.made);
	assert_int_equal(new.others, 1);
	assert_string_not_equal(new.spki, old.spki);
	/* Broken off here and done again: the same. */
	shown again = show(&c, args_for(to_token, more));
	assert_false(again.made);
	assert_string_equal(again.spki, new.spki);
	opens(&old, format_in(from_token));
	opens(&new, format_in(to_token));
	ask_bad(&c, "key.retire", J("{'keep':'%064d'}", 0), KT_STATUS_FAILED, KT_E_KEY, "is not on this node");
	for (int twice = 0; twice < 2; twice++) {
		reply r = ask_ok(&c, "key.retire", J("{'keep':'%s'}", new.spki));
		assert_int_equal(result_int(&r, "left"), 0);
		assert_int_equal(result_int(&r, "slots_lost"), 0);
		reply_free(&r);
	}
	client_end(&c);
	opens(&new, format_in(to_token));
	does_not_open(&old, KT_E_KEY, "was wrapped for");
	assert_false(is_there("state/transport.new"));
	assert_int_equal(is_there("state/transport.key"), !to_token);
	assert_int_equal(is_there("state/transport.json"), to_token);
	inside(&c);
	c.step = "install";
	put_text("like", "", 0600);
	reply r = ask_ok(&c, "key.install", J("{'slot':'R1','path':'%s','like':'%s'}", at("cmk"), at("like")));
	assert_string_equal(result_str(&r, "kcv"), kcv_of(canary));
	reply_free(&r);
	client_end(&c);
	EVP_PKEY_free(old.key);
	EVP_PKEY_free(new.key);
	EVP_PKEY_free(again.key);
}

static void rotation_of_a_file(void **state)
{
	(void)state;
	rotate(false, false);
}

static void rotation_in_a_token(void **state)
{
	(void)state;
	rotate(true, true);
}

static void from_a_file_into_a_token(void **state)
{
	(void)state;
	rotate(false, true);
}

static void from_a_token_into_a_file(void **state)
{
	(void)state;
	rotate(true, false);
}

static void an_id_has_one_key(void **state)
{
	(void)state;
	client c;
	char more[200];
	outside(&c);
	const char *uri = softhsm_uri("token=kt-test;id=%07%08", NULL);
	shown s = show(&c, J("{'bits':2048,'uri':'%s'}", uri));
	(void)snprintf(more, sizeof more, ",'pinned':'%s','rotate':true", s.spki);
	ask_bad(&c, "key.transport", J("{'bits':2048,'uri':'%s'%s}", uri, more), KT_STATUS_FAILED, KT_E_REFUSED,
		"by its id");
	client_end(&c);
	EVP_PKEY_free(s.key);
}

/* The token of a key that is retired is away: it stays known, and goes the next time. */
static void a_key_that_cannot_be_destroyed_yet(void **state)
{
	(void)state;
	client c;
	char more[200];
	outside(&c);
	shown old = show(&c, in_token(""));
	(void)snprintf(more, sizeof more, ",'pinned':'%s','rotate':true", old.spki);
	shown new = show(&c, args_for(false, more));
	char tokens[PATH_MAX], gone[PATH_MAX];
	(void)snprintf(tokens, sizeof tokens, "%s/tokens", softhsm_folder());
	(void)snprintf(gone, sizeof gone, "%s/gone", softhsm_folder());
	assert_int_equal(rename(tokens, gone), 0);
	reply r = ask_ok(&c, "key.retire", J("{'keep':'%s'}", new.spki));
	assert_int_equal(result_int(&r, "left"), 1);
	assert_non_null(strstr(result_str(&r, "why"), "token"));
	reply_free(&r);
	assert_true(is_there("state/transport.json"));
	assert_int_equal(rename(gone, tokens), 0);
	r = ask_ok(&c, "key.retire", J("{'keep':'%s'}", new.spki));
	assert_int_equal(result_int(&r, "left"), 0);
	reply_free(&r);
	assert_false(is_there("state/transport.json"));
	client_end(&c);
	EVP_PKEY_free(old.key);
	EVP_PKEY_free(new.key);
}

/* --- PINs -----------------------------------------------------------------------------------------------------------
 */

/* How often the shim was logged in to. */
static size_t logins(void)
{
	char path[PATH_MAX];
	size_t n = 0;
	(void)snprintf(path, sizeof path, "%s/logins", getenv("KT_SHIM"));
	FILE *f = fopen(path, "r");
	for (int ch; f && (ch = fgetc(f)) != EOF;)
		n += ch == '\n';
	if (f)
		(void)fclose(f);
	return n;
}

static const char *through_the_shim(const char *pin)
{
	return J("{'bits':2048,'uri':'pkcs11:token=kt-test;object=%s?module-path=%s&pin-source=file:%s'}", label,
		 softhsm_shim(), pin);
}

/* Whoever asks, and however often: until its file is written, a PIN that was refused is not tried again. */
static void a_refused_pin_is_tried_once(void **state)
{
	(void)state;
	client c;
	put_folder("shim", 0700);
	assert_int_equal(setenv("KT_SHIM", at("shim"), 1), 0);
	put_text("pin", "not-the-pin", 0400);
	for (int agents = 0; agents < 2; agents++) {
		outside(&c);
		ask_bad(&c, "key.transport", through_the_shim(at("pin")), KT_STATUS_FAILED, KT_E_HSM,
			agents ? "not tried a second time" : "the PIN is wrong");
		ask_bad(&c, "key.transport", through_the_shim(at("pin")), KT_STATUS_FAILED, KT_E_HSM,
			"not tried a second time");
		client_end(&c);
	}
	assert_int_equal(logins(), 1);
	assert_int_equal(unlink(at("pin")), 0);
	put_text("pin", SOFTHSM_PIN "\n", 0400);
	outside(&c);
	ask_done(&c, "key.transport", through_the_shim(at("pin")));
	client_end(&c);
	assert_int_equal(logins(), 2);
	assert_int_equal(unsetenv("KT_SHIM"), 0);
}

static void a_pin_that_others_can_read(void **state)
{
	(void)state;
	client c;
	put_text("pin", SOFTHSM_PIN "\n", 0444);
	outside(&c);
	ask_bad(&c, "key.transport", through_the_shim(at("pin")), KT_STATUS_FAILED, KT_E_IO, "open to everybody");
	client_end(&c);
}

/* --- Lost and damaged ------------------------------------------------------------------------------------------------
 */

static void a_key_that_is_gone(void **state)
{
	(void)state;
	client c;
	outside(&c);
	shown s = show(&c, in_token(""));
	client_end(&c);
	const char *const argv[] = {
		"pkcs11-tool", "--module",        softhsm_module(), "--token-label", "kt-test", "--login", "--pin",
		SOFTHSM_PIN,   "--delete-object", "--type",         "privkey",       "--label", label,     NULL};
	assert_int_equal(softhsm_run(argv), 0);
	does_not_open(&s, KT_E_KEY, "token \"kt-test\"");
	EVP_PKEY_free(s.key);
}

/* The call never comes back: it is given up, and the agent goes on. */
static void a_token_that_hangs(void **state)
{
	(void)state;
	client c;
	put_folder("shim", 0700);
	assert_int_equal(setenv("KT_SHIM", at("shim"), 1), 0);
	put_text("pin", SOFTHSM_PIN "\n", 0400);
	outside(&c);
	shown s = show(&c, through_the_shim(at("pin")));
	client_end(&c);
	put_text("shim/C_FindObjectsInit", "always hang\n", 0600);
	inside(&c);
	kt_blob b = wrap(&s, KT_BLOB_REHEARSAL, KT_BLOB_RSA_OAEP_SHA1, "R1");
	reply r = ask(&c, "key.receive", delivery_of(&b, "R1", false));
	assert_int_equal(r.error.code, KT_E_HSM);
	assert_non_null(strstr(r.error.msg, "C_FindObjectsInit"));
	assert_non_null(strstr(r.error.msg, "token \"kt-test\""));
	assert_true(r.error.remedy[0] != '\0');
	reply_free(&r);
	assert_int_equal(unlink(at("shim/C_FindObjectsInit")), 0);
	ask_done(&c, "run.release", "{}");
	client_end(&c);
	opens(&s, KT_BLOB_RSA_OAEP_SHA1);
	assert_int_equal(unsetenv("KT_SHIM"), 0);
	EVP_PKEY_free(s.key);
}

/* Every byte of the record: damage is named, and never taken for "no key". */
static void a_damaged_record(void **state)
{
	(void)state;
	client c;
	outside(&c);
	shown s = show(&c, in_token(""));
	client_end(&c);
	kt_blob b = wrap(&s, KT_BLOB_REHEARSAL, KT_BLOB_RSA_OAEP_SHA1, "R1");
	char good[16384];
	size_t n = strlen(text_of("state/transport.json"));
	assert_true(n > 100 && n < sizeof good);
	memcpy(good, text_of("state/transport.json"), n);
	for (size_t i = 0; i < 2 * n; i++) {
		char bad[sizeof good];
		kt_secret key;
		kt_err err = KT_ERR_INIT;
		memcpy(bad, good, n);
		bad[i % n] ^= 4;
		(void)unlink(at("state/transport.json"));
		put_bytes("state/transport.json", bad, i < n ? n : i - n, 0600);
		assert_kt_fails(KT_E_AUDIT, kt_transport_unwrap(state_dir(), &b, &key, &err));
		assert_non_null(strstr(err.msg, "transport.json"));
	}
	EVP_PKEY_free(s.key);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make, scratch_drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_key_in_a_token),
		TEST(what_is_wrong_with_the_uri),
		TEST(the_module_s_environment),
		TEST(rotation_of_a_file),
		TEST(rotation_in_a_token),
		TEST(from_a_file_into_a_token),
		TEST(from_a_token_into_a_file),
		TEST(an_id_has_one_key),
		TEST(a_key_that_cannot_be_destroyed_yet),
		TEST(a_refused_pin_is_tried_once),
		TEST(a_pin_that_others_can_read),
		TEST(a_key_that_is_gone),
		TEST(a_token_that_hangs),
		TEST(a_damaged_record),
	};
	return cmocka_run_group_tests(tests, softhsm_start, softhsm_stop);
}
