/* SPDX-License-Identifier: Apache-2.0 */
/* Keys on a node: the transport key, delivery, installation, locating and forgetting. */
#include "base/keymsg.h"
#include "tests/unit/agent/keys.h"

#define MISSING KT_KEYMSG_MISSING
#define MODE(m) "Looker can not start because: Permission for backing key file must be 0400, but is " m
#define SIZE(n) "Looker can not start because: Size of the Master Key is invalid it must be 32 bytes however is " n

/* --- transport ------------------------------------------------------------------------------------------------------
 */

static void transport_is_made_once(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	c.run = "-";
	c.epoch = 0;
	reply r = ask_ok(&c, "key.transport", J("{'bits':2048}"));
	assert_true(result_bool(&r, "made"));
	assert_int_equal(result_int(&r, "bits"), 2048);
	char spki[65];
	(void)snprintf(spki, sizeof spki, "%s", result_str(&r, "spki_sha256"));
	reply_free(&r);
	assert_int_equal(mode_of("state/transport.key"), 0400);
	assert_non_null(strstr(text_of("state/transport.key"), "-----BEGIN PRIVATE KEY-----"));
	r = ask_ok(&c, "key.transport", J("{'bits':3072}")); /* the one that is there stays */
	assert_false(result_bool(&r, "made"));
	assert_int_equal(result_int(&r, "bits"), 2048);
	assert_string_equal(result_str(&r, "spki_sha256"), spki);
	assert_null(strstr(result_str(&r, "public_pem"), "PRIVATE"));
	reply_free(&r);
	client_end(&c);
}

static void transport_defaults_and_bounds(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	c.run = "-";
	c.epoch = 0;
	ask_bad(&c, "key.transport", J("{'bits':1024}"), KT_STATUS_FAILED, KT_E_INPUT, "bits");
	ask_bad(&c, "key.transport", J("{'bits':8192}"), KT_STATUS_FAILED, KT_E_INPUT, "bits");
	ask_bad(&c, "key.transport", J("{'bits':2049}"), KT_STATUS_FAILED, KT_E_INPUT, "multiple");
	ask_bad(&c, "key.transport", J("{'bits':'3072'}"), KT_STATUS_FAILED, KT_E_INPUT, "bits");
	assert_false(is_there("state/transport.key"));
	reply r = ask_ok(&c, "key.transport", "{}");
	assert_int_equal(result_int(&r, "bits"), 3072);
	reply_free(&r);
	client_end(&c);
}

static void a_damaged_transport_key_is_never_overwritten(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	c.run = "-";
	c.epoch = 0;
	static const char *const texts[] = {
		"", "rubbish", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"};
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		(void)unlink(at("state/transport.key"));
		put_text("state/transport.key", texts[i], 0400);
		ask_bad(&c, "key.transport", "{}", KT_STATUS_FAILED, KT_E_KEY, "damaged");
		assert_text("state/transport.key", texts[i]);
	}
	/* Every truncation of a good one. */
	(void)unlink(at("state/transport.key"));
	ask_done(&c, "key.transport", J("{'bits':2048}"));
	char good[8192];
	assert_true((size_t)snprintf(good, sizeof good, "%s", text_of("state/transport.key")) < sizeof good);
	for (size_t n = 1; n + 1 < strlen(good); n += 97) {
		char part[8192];
		(void)snprintf(part, sizeof part, "%.*s", (int)n, good);
		(void)unlink(at("state/transport.key"));
		put_text("state/transport.key", part, 0400);
		ask_bad(&c, "key.transport", "{}", KT_STATUS_FAILED, KT_E_KEY, "damaged");
		assert_text("state/transport.key", part);
	}
	(void)unlink(at("state/transport.key"));
	put_text("state/transport.key", good, 0440);
	ask_bad(&c, "key.transport", "{}", KT_STATUS_FAILED, KT_E_KEY, "mode 0440");
	assert_int_equal(chmod(at("state/transport.key"), 0400), 0);
	ask_done(&c, "key.transport", "{}");
	assert_int_equal(rename(at("state/transport.key"), at("elsewhere")), 0);
	assert_int_equal(symlink(at("elsewhere"), at("state/transport.key")), 0);
	ask_bad(&c, "key.transport", "{}", KT_STATUS_FAILED, KT_E_IO, "transport.key");
	client_end(&c);
}

/* --- delivery -------------------------------------------------------------------------------------------------------
 */

static void a_key_is_delivered_and_installed(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	deliver(&c, canary);
	assert_int_equal(mode_of("state/slots/R1.json"), 0400);
	put_text("like", "", 0600);
	c.step = "install";
	reply r = ask_ok(&c, "key.install", J("{'slot':'R1','path':'%s','like':'%s'}", at("cmk"), at("like")));
	assert_string_equal(result_str(&r, "kcv"), kcv_of(canary));
	assert_string_equal(result_str(&r, "path"), at("cmk"));
	reply_free(&r);
	assert_int_equal(mode_of("cmk"), 0400);
	char want[64];
	(void)snprintf(want, sizeof want, "%s\n", base64_of(canary));
	assert_text("cmk", want);
	assert_true(assert_folder_clean(state_dir()) >= 6);
	assert_process_clean(c.pid);
	/* Done again, under another key: the file is found as it must be. */
	c.attempt = 2;
	ask_done(&c, "key.install", J("{'slot':'R1','path':'%s','like':'%s'}", at("cmk"), at("like")));
	client_end(&c);
}

static void a_rehearsal_leaves_nothing(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	EVP_PKEY *to = transport_key(&c);
	kt_blob b = wrap_for(to, canary, "R1");
	b.purpose = KT_BLOB_REHEARSAL;
	b = sealed(b, canary);
	ask_bad(&c, "key.receive", delivery_of(&b, "R1", true), KT_STATUS_FAILED, KT_E_REFUSED, "never kept");
	c.attempt = 2;
	reply r = ask_ok(&c, "key.receive", delivery_of(&b, "R1", false));
	assert_string_equal(result_str(&r, "proof"), proof_of(canary, "R1"));
	reply_free(&r);
	assert_false(is_there("state/slots/R1.json"));
	/* Also outside of a run, for `doctor`; but nothing is ever kept there. */
	c.run = "-";
	kt_blob outside = wrap_for(to, canary, "-");
	outside.purpose = KT_BLOB_REHEARSAL;
	outside = sealed(outside, canary);
	char args[16384];
	(void)snprintf(args, sizeof args, "%s", delivery_of(&outside, "rehearsal", false));
	char *label = strstr(args, "/1:R1:");
	memmove(label + 4, label + 5, strlen(label + 5) + 1); /* "/1:-:" */
	label[3] = '-';
	r = ask_ok(&c, "key.receive", args);
	assert_string_equal(result_str(&r, "proof"), proof_of(canary, "-"));
	reply_free(&r);
	memcpy(strstr(args, "\"keep\":false"), "\"keep\":true ", 12);
	ask_bad(&c, "key.receive", args, KT_STATUS_FAILED, KT_E_REFUSED, "in a run only");
	assert_false(is_there("state/slots"));
	c.run = "R1";
	c.step = "install";
	put_text("like", "", 0600);
	ask_bad(&c, "key.install", J("{'slot':'R1','path':'%s','like':'%s'}", at("cmk"), at("like")), KT_STATUS_FAILED,
		KT_E_KEY, "no key was received");
	EVP_PKEY_free(to);
	client_end(&c);
}

static void refuse(client *c, const kt_blob *b, kt_code code, const char *part)
{
	c->attempt++;
	ask_bad(c, "key.receive", delivery_of(b, "R1", true), KT_STATUS_FAILED, code, part);
	assert_false(is_there("state/slots/R1.json"));
}

static void what_is_not_received(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	EVP_PKEY *to = transport_key(&c);
	EVP_PKEY *stranger = EVP_RSA_gen(2048);
	kt_blob good = wrap_for(to, canary, "R1");
	kt_blob b = good;
	(void)snprintf(b.node, sizeof b.node, "web02");
	refuse(&c, &b, KT_E_REFUSED, "web02");
	b = good;
	(void)snprintf(b.run, sizeof b.run, "R0");
	refuse(&c, &b, KT_E_REFUSED, "R0");
	b = wrap_for(stranger, canary, "R1");
	refuse(&c, &b, KT_E_KEY, "");
	b = good;
	(void)snprintf(b.kcv, sizeof b.kcv, "%s", kcv_of(other_key));
	refuse(&c, &b, KT_E_KEY, "");
	b = good;
	b.wrapped_len = oaep(to, canary, 24, b.wrapped); /* a key of 192 bits */
	refuse(&c, &b, KT_E_KEY, "");
	for (size_t i = 0; i < good.wrapped_len; i += 61) {
		b = good;
		b.wrapped[i] ^= 1;
		refuse(&c, &b, KT_E_KEY, "");
	}
	/* The label is what a proof is bound to: another one would make us an oracle. */
	char other[16384];
	(void)snprintf(other, sizeof other, "%s", delivery_of(&good, "R1", true));
	memcpy(strstr(other, ":R1:web01"), ":R1:web02", 9);
	c.attempt++;
	ask_bad(&c, "key.receive", other, KT_STATUS_FAILED, KT_E_REFUSED, "label");
	c.attempt++;
	ask_bad(&c, "key.receive", delivery_of(&good, "../x", true), KT_STATUS_FAILED, KT_E_INPUT, "slot");
	c.attempt++;
	ask_bad(&c, "key.receive", J("{'slot':'R1'}"), KT_STATUS_FAILED, KT_E_INPUT, "keep");
	assert_false(is_there("state/slots"));
	EVP_PKEY_free(stranger);
	EVP_PKEY_free(to);
	client_end(&c);
}

static void a_slot_holds_one_key(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	deliver(&c, canary);
	EVP_PKEY *to = transport_key(&c);
	kt_blob same = wrap_for(to, canary, "R1");
	kt_blob other = wrap_for(to, other_key, "R1");
	c.step = "again";
	ask_done(&c, "key.receive", delivery_of(&same, "R1", true));
	c.attempt = 2;
	ask_bad(&c, "key.receive", delivery_of(&other, "R1", true), KT_STATUS_FAILED, KT_E_KEY, "holds another key");
	EVP_PKEY_free(to);
	client_end(&c);
}

/* The same idempotency key for another key: nothing is done, and the first answer stays. */
static void the_spool_tells_deliveries_apart(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	EVP_PKEY *to = transport_key(&c);
	kt_blob first = wrap_for(to, canary, "R1");
	kt_blob second = wrap_for(to, canary, "R1"); /* the same key, wrapped anew: other bytes */
	ask_done(&c, "key.receive", delivery_of(&first, "R1", true));
	ask_done(&c, "key.receive", delivery_of(&first, "R1", true));
	ask_bad(&c, "key.receive", delivery_of(&second, "R1", true), KT_STATUS_FAILED, KT_E_AUDIT, "already used");
	assert_null(strstr(text_of("state/spool/R1/s.do.1/intent.json"), "wrapped"));
	EVP_PKEY_free(to);
	client_end(&c);
}

/* --- installation ---------------------------------------------------------------------------------------------------
 */

static void an_installed_key_is_never_overwritten(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	deliver(&c, canary);
	put_text("like", "", 0600);
	const char *args = J("{'slot':'R1','path':'%s','like':'%s'}", at("cmk"), at("like"));
	char text[64];
	c.step = "install";
	(void)snprintf(text, sizeof text, "%s\n", base64_of(other_key));
	put_text("cmk", text, 0400);
	ask_bad(&c, "key.install", args, KT_STATUS_FAILED, KT_E_KEY, "holds another key");
	assert_text("cmk", text);
	assert_int_equal(unlink(at("cmk")), 0);
	put_text("cmk", "not a key", 0400);
	c.attempt = 2;
	ask_bad(&c, "key.install", args, KT_STATUS_FAILED, KT_E_KEY, "not base64");
	assert_text("cmk", "not a key");
	assert_int_equal(unlink(at("cmk")), 0);
	assert_int_equal(symlink(at("target"), at("cmk")), 0);
	c.attempt = 3;
	ask_bad(&c, "key.install", args, KT_STATUS_FAILED, KT_E_KEY, "symbolic link");
	assert_false(is_there("target"));
	c.attempt = 4;
	ask_bad(&c, "key.install", J("{'slot':'R1','path':'%s','like':'%s'}", at("x"), at("none")), KT_STATUS_FAILED,
		KT_E_IO, "none");
	c.attempt = 5;
	ask_bad(&c, "key.install", J("{'slot':'R1','path':'%s','like':'%s'}", at("no/folder/x"), at("like")),
		KT_STATUS_FAILED, KT_E_IO, "no/folder");
	c.attempt = 6;
	ask_bad(&c, "key.install", J("{'slot':'R1','path':'x','like':'%s'}", at("like")), KT_STATUS_FAILED, KT_E_INPUT,
		"absolute");
	client_end(&c);
}

static void the_owner_is_that_of_like(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	client c;
	struct stat st;
	client_start(&c);
	deliver(&c, canary);
	put_text("like", "", 0600);
	assert_int_equal(chown(at("like"), 12345, 54321), 0);
	c.step = "install";
	ask_done(&c, "key.install", J("{'slot':'R1','path':'%s','like':'%s'}", at("cmk"), at("like")));
	assert_int_equal(stat(at("cmk"), &st), 0);
	assert_int_equal(st.st_uid, 12345);
	assert_int_equal(st.st_gid, 54321);
	assert_int_equal(chown(at("cmk"), 0, 0), 0);
	c.attempt = 2;
	ask_bad(&c, "key.install", J("{'slot':'R1','path':'%s','like':'%s'}", at("cmk"), at("like")), KT_STATUS_FAILED,
		KT_E_KEY, "belongs to uid 0");
	client_end(&c);
}

static void forgetting(void **state)
{
	(void)state;
	client c;
	char text[64];
	client_start(&c);
	deliver(&c, canary);
	put_text("like", "", 0600);
	c.step = "install";
	ask_done(&c, "key.install", J("{'slot':'R1','path':'%s','like':'%s'}", at("cmk"), at("like")));
	c.step = "forget";
	(void)snprintf(text, sizeof text, "%s\n", base64_of(other_key));
	put_text("old", text, 0400);
	/* A file with another key stays. */
	ask_done(&c, "key.forget", J("{'slot':'R1','path':'%s'}", at("old")));
	assert_text("old", text);
	assert_false(is_there("state/slots/R1.json"));
	/* The slot is gone: whose the file is can't be told, so it stays. */
	c.attempt = 2;
	ask_done(&c, "key.forget", J("{'slot':'R1','path':'%s'}", at("cmk")));
	assert_true(is_there("cmk"));
	c.step = "deliver2";
	EVP_PKEY *to = transport_key(&c);
	kt_blob b = wrap_for(to, canary, "R1");
	ask_done(&c, "key.receive", delivery_of(&b, "R1", true));
	EVP_PKEY_free(to);
	c.step = "forget";
	c.attempt = 3;
	ask_done(&c, "key.forget", J("{'slot':'R1','path':'%s'}", at("cmk")));
	assert_false(is_there("cmk"));
	assert_false(is_there("state/slots/R1.json"));
	c.attempt = 4;
	ask_done(&c, "key.forget", J("{'slot':'R1','path':'%s'}", at("cmk")));
	c.attempt = 5;
	ask_bad(&c, "key.forget", J("{'slot':'a/b'}"), KT_STATUS_FAILED, KT_E_INPUT, "slot");
	client_end(&c);
}

/* --- locating -------------------------------------------------------------------------------------------------------
 */

static const char *where(const char *env)
{
	return J("{'env_file':'%s','variables':{'LKR_MASTER_KEY_FILE':'file','LKR_MASTER_KEY_ENV':'env'}}", env);
}

static void locate_bad(client *c, const char *env, const char *part)
{
	put_text("env", env, 0600);
	ask_bad(c, "key.locate", where(at("env")), KT_STATUS_FAILED, KT_E_KEY, part);
}

static void locating(void **state)
{
	(void)state;
	client c;
	char env[PATH_MAX + 100];
	char text[64];
	client_start(&c);
	(void)snprintf(text, sizeof text, "%s\n", base64_of(canary));
	put_text("cmk", text, 0400);
	(void)snprintf(env, sizeof env, "# x\nLKR_MASTER_KEY_FILE=\"%s\"\n", at("cmk"));
	put_text("env", env, 0600);
	reply r = ask_ok(&c, "key.locate", where(at("env")));
	(void)snprintf(env, sizeof env, "file:%s", at("cmk"));
	assert_string_equal(result_str(&r, "uri"), env);
	assert_string_equal(result_str(&r, "kcv"), kcv_of(canary));
	assert_string_equal(result_str(&r, "kcv_method"), "cmac-zero16");
	reply_free(&r);
	(void)snprintf(env, sizeof env, "LKR_MASTER_KEY_ENV=%s\n", base64_of(canary));
	put_text("env", env, 0600);
	r = ask_ok(&c, "key.locate", where(at("env")));
	assert_string_equal(result_str(&r, "uri"), "env:LKR_MASTER_KEY_ENV");
	reply_free(&r);
	/* Both, of the same key: fine. Of different ones: refused. */
	(void)snprintf(env, sizeof env, "LKR_MASTER_KEY_ENV=%s\nLKR_MASTER_KEY_FILE=%s\n", base64_of(canary),
		       at("cmk"));
	put_text("env", env, 0600);
	ask_done(&c, "key.locate", where(at("env")));
	(void)snprintf(env, sizeof env, "LKR_MASTER_KEY_ENV=%s\nLKR_MASTER_KEY_FILE=%s\n", base64_of(other_key),
		       at("cmk"));
	put_text("env", env, 0600);
	ask_bad(&c, "key.locate", where(at("env")), KT_STATUS_FAILED, KT_E_REFUSED, "different keys");
	ask_bad(&c, "key.locate", where(at("none")), KT_STATUS_FAILED, KT_E_IO, "none");
	ask_bad(&c, "key.locate", J("{'env_file':'%s','variables':{'LKR_MASTER_KEY_ENV':'kms'}}", at("env")),
		KT_STATUS_FAILED, KT_E_INPUT, "kms");
	client_end(&c);
}

/* The three failures that operators know, word for word. */
static void locating_fails_in_known_words(void **state)
{
	(void)state;
	client c;
	char env[PATH_MAX + 100];
	char text[64];
	client_start(&c);
	locate_bad(&c, "OTHER=1\n", MISSING);
	locate_bad(&c, "LKR_MASTER_KEY_ENV=\n", MISSING);
	locate_bad(&c, "LKR_MASTER_KEY_ENV=MTIzNDU2Nzg=\n", SIZE("8"));
	locate_bad(&c, "LKR_MASTER_KEY_ENV=no+base64!\n", "not base64");
	locate_bad(&c, "LKR_MASTER_KEY_FILE=cmk\n", "absolute path");
	(void)snprintf(env, sizeof env, "LKR_MASTER_KEY_FILE=%s\n", at("cmk"));
	locate_bad(&c, env, MISSING);
	put_text("cmk", "", 0400);
	locate_bad(&c, env, MISSING);
	assert_int_equal(unlink(at("cmk")), 0);
	put_text("cmk", "MTIzNDU2Nzg=\n", 0400);
	locate_bad(&c, env, SIZE("8"));
	assert_int_equal(unlink(at("cmk")), 0);
	(void)snprintf(text, sizeof text, "%s\n", base64_of(canary));
	put_text("cmk", text, 0644);
	locate_bad(&c, env, MODE("0644"));
	assert_int_equal(chmod(at("cmk"), 0600), 0);
	locate_bad(&c, env, MODE("0600"));
	assert_int_equal(chmod(at("cmk"), 04400), 0);
	locate_bad(&c, env, MODE("4400"));
	client_end(&c);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_drop)

#define EVERYWHERE                                                                                                     \
	"{'env_file':'%s','variables':{'LKR_MASTER_KEY_FILE':'file','LKR_AWS_CMK':'awskms','LKR_AWS_CMK_EC':"          \
	"'awskms.context','AWS_REGION':'awskms.region','LKR_PKCS11_CMK':'pkcs11'}}"

/* Keys that stay where they are: named, and nothing of them is read. */
static void locating_what_stays(void **state)
{
	(void)state;
	static const struct {
		const char *env, *uri;
	} rows[] = {
		{"LKR_AWS_CMK=alias/looker\n", "awskms:alias/looker"},
		{"AWS_REGION=eu-west-1\nLKR_AWS_CMK=alias/looker\n", "awskms:alias/looker?region=eu-west-1"},
		{"LKR_AWS_CMK=alias/looker\nLKR_AWS_CMK_EC='a & b'\n", "awskms:alias/looker?context=a%20%26%20b"},
		/* The ARN's own region counts, whatever the variable says. */
		{"LKR_AWS_CMK=arn:aws:kms:eu-west-1:123456789012:key/1\nAWS_REGION=us-east-1\n",
		 "awskms:arn:aws:kms:eu-west-1:123456789012:key/1?region=eu-west-1"},
		{"LKR_PKCS11_CMK=\"pkcs11:token=t;object=k?pin-source=file:/p\"\n",
		 "pkcs11:token=t;object=k?pin-source=file:/p"},
	};
	client c;
	client_start(&c);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		put_text("env", rows[i].env, 0600);
		reply r = ask_ok(&c, "key.locate", J(EVERYWHERE, at("env")));
		assert_string_equal(result_str(&r, "uri"), rows[i].uri);
		assert_string_equal(result_str(&r, "kcv"), "");
		reply_free(&r);
	}
	static const struct {
		const char *env;
		kt_code code;
		const char *part;
	} bad[] = {
		{"AWS_REGION=eu-west-1\n", KT_E_KEY, "sets none of the variables"},
		{"LKR_AWS_CMK=\n", KT_E_KEY, "LKR_AWS_CMK does not name a key"},
		{"LKR_AWS_CMK=alias/a b\n", KT_E_INPUT, "LKR_AWS_CMK: this names no key of AWS KMS"},
		{"LKR_PKCS11_CMK=/dev/hsm\n", KT_E_KEY, "LKR_PKCS11_CMK is not a pkcs11: URI"},
		{"LKR_PKCS11_CMK=pkcs11:object=k?pin-value=secret-pin\n", KT_E_REFUSED, "LKR_PKCS11_CMK holds a PIN"},
		{"LKR_AWS_CMK=alias/a\nLKR_PKCS11_CMK=pkcs11:object=k\n", KT_E_REFUSED, "name different keys"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		put_text("env", bad[i].env, 0600);
		ask_bad(&c, "key.locate", J(EVERYWHERE, at("env")), KT_STATUS_FAILED, bad[i].code, bad[i].part);
	}
	client_end(&c);
}

/* No variable names a key: whether that may be is for the coordinator to say. */
static void locating_where_there_is_none(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("env", "LANG=C\n", 0600);
	const char *args = J("{'env_file':'%s','variables':{'LKR_AWS_CMK':'awskms'},'legacy':true}", at("env"));
	reply r = ask_ok(&c, "key.locate", args);
	assert_string_equal(result_str(&r, "uri"), "legacy:");
	assert_string_equal(result_str(&r, "kcv"), "");
	reply_free(&r);
	put_text("env", "", 0600);
	r = ask_ok(&c, "key.locate", args);
	assert_string_equal(result_str(&r, "uri"), "legacy:");
	reply_free(&r);
	ask_bad(&c, "key.locate", J("{'env_file':'%s','variables':{'LKR_AWS_CMK':'awskms'},'legacy':false}", at("env")),
		KT_STATUS_FAILED, KT_E_KEY, "Missing backing keystore");
	put_text("env", "LKR_AWS_CMK=alias/a\n", 0600);
	r = ask_ok(&c, "key.locate", args);
	assert_string_equal(result_str(&r, "uri"), "awskms:alias/a");
	reply_free(&r);
	put_text("env", "LKR_AWS_CMK=\n", 0600); /* set, and no key: that is a fault, not a legacy installation */
	ask_bad(&c, "key.locate", args, KT_STATUS_FAILED, KT_E_KEY, "LKR_AWS_CMK does not name a key");
	ask_bad(&c, "key.locate", J("{'env_file':'%s','variables':{'LKR_AWS_CMK':'legacy'}}", at("env")),
		KT_STATUS_FAILED, KT_E_INPUT, "nothing tells of \"legacy\"");
	client_end(&c);
}

int main(void)
{
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK)
		return 1;
	const struct CMUnitTest tests[] = {
		TEST(transport_is_made_once),
		TEST(transport_defaults_and_bounds),
		TEST(a_damaged_transport_key_is_never_overwritten),
		TEST(a_key_is_delivered_and_installed),
		TEST(a_rehearsal_leaves_nothing),
		TEST(what_is_not_received),
		TEST(a_slot_holds_one_key),
		TEST(the_spool_tells_deliveries_apart),
		TEST(an_installed_key_is_never_overwritten),
		TEST(the_owner_is_that_of_like),
		TEST(forgetting),
		TEST(locating),
		TEST(locating_what_stays),
		TEST(locating_where_there_is_none),
		TEST(locating_fails_in_known_words),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
