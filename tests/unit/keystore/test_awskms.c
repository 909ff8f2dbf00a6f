/* SPDX-License-Identifier: Apache-2.0 */
/* awskms: against a server of its own (tests/harness/ktlab/awskms.py), which checks every signature. */
#include "tests/unit/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "keystore/internal.h"
#include "keystore/keystore.h"

#define SECRET "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
#define ARN "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
#define ARN_URI ("awskms:" ARN)
#define ARN_URI_US ("awskms:" ARN "?region=us-east-1")

static FILE *to, *from;
static pid_t server;
static char url[64];

static const char *const variables[] = {
	"AWS_ACCESS_KEY_ID",
	"AWS_SECRET_ACCESS_KEY",
	"AWS_SESSION_TOKEN",
	"AWS_PROFILE",
	"AWS_SHARED_CREDENTIALS_FILE",
	"AWS_CONFIG_FILE",
	"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
	"AWS_CONTAINER_CREDENTIALS_FULL_URI",
	"AWS_CONTAINER_AUTHORIZATION_TOKEN",
	"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
	"AWS_EC2_METADATA_DISABLED",
	"AWS_EC2_METADATA_SERVICE_ENDPOINT",
	"AWS_REGION",
	"AWS_DEFAULT_REGION",
	"AWS_ENDPOINT_URL",
	"AWS_ENDPOINT_URL_KMS",
	"AWS_MAX_ATTEMPTS",
};

/* --- The server --------------------------------------------------------------------------------------------------- */

static int start(void **state)
{
	int in[2], out[2];
	char path[512], line[32];
	(void)state;
	(void)snprintf(path, sizeof path, "%s/tests/harness/ktlab/awskms.py", getenv("KT_SOURCE_DIR"));
	if (pipe(in) != 0 || pipe(out) != 0)
		return 1;
	server = fork();
	if (server == 0) {
		(void)dup2(in[0], 0);
		(void)dup2(out[1], 1);
		(void)close(in[1]);
		(void)close(out[0]);
		execl("/usr/bin/python3", "python3", "-BP", path, (char *)NULL);
		_exit(127);
	}
	(void)close(in[0]);
	(void)close(out[1]);
	to = fdopen(in[1], "w");
	from = fdopen(out[0], "r");
	if (server < 0 || !to || !from || !fgets(line, sizeof line, from))
		return 1;
	(void)snprintf(url, sizeof url, "http://127.0.0.1:%d", atoi(line));
	return 0;
}

static int stop(void **state)
{
	(void)state;
	(void)fclose(to); /* its end */
	(void)fclose(from);
	return waitpid(server, NULL, 0) == server ? 0 : 1;
}

/* A command of the server, and its answer. */
static const char *tell(const char *command)
{
	static char line[1024];
	assert_true(fprintf(to, "%s\n", command) > 0 && fflush(to) == 0);
	assert_non_null(fgets(line, sizeof line, from));
	return line;
}

static int asked(void)
{
	return atoi(tell("count"));
}

static int fresh(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++)
		(void)unsetenv(variables[i]);
	(void)setenv("AWS_ENDPOINT_URL_KMS", url, 1);
	(void)setenv("AWS_REGION", "eu-west-1", 1);
	(void)setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE", 1);
	(void)setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
	(void)setenv("HOME", "/nonexistent", 1);
	(void)tell("fault - 0");
	(void)tell("state Enabled");
	(void)tell("deny -");
	(void)asked();
	return 0;
}

/* --- What is asked ------------------------------------------------------------------------------------------------ */

static kt_keystore *must_open(const char *uri)
{
	kt_err err = KT_ERR_INIT;
	kt_keystore *ks;
	assert_kt_ok(kt_keystore_open(uri, &ks, &err));
	return ks;
}

/* It fails with this class, the message has the words, there is a remedy, and no secret is in either. */
static void must_fail(kt_code code, const char *uri, const char *words)
{
	kt_err err = KT_ERR_INIT;
	kt_keystore *ks;
	assert_kt_fails(code, kt_keystore_open(uri, &ks, &err));
	assert_null(ks);
	if (!strstr(err.msg, words))
		fail_msg("\"%s\" is not in \"%s\"", words, err.msg);
	assert_true(err.remedy[0] != '\0');
	assert_null(strstr(err.msg, SECRET));
	assert_null(strstr(err.remedy, SECRET));
}

static void round_trip(kt_keystore *ks)
{
	kt_err err = KT_ERR_INIT;
	kt_secret kek, again;
	kt_blob made, moved, read;
	kt_buf text = KT_BUF_INIT;
	assert_kt_ok(kt_keystore_new_kek(ks, &kek, &made, &err));
	assert_int_equal(kek.len, KT_KEK_LEN);
	assert_int_equal(made.format, KT_BLOB_AWS_KMS);
	assert_string_equal(made.wrapping.label, ARN);
	assert_kt_ok(kt_blob_to_text(&made, &text, &err));
	assert_non_null(strstr(kt_buf_cstr(&text), "\"wrapping_key\":{\"arn\":\"" ARN "\"}"));
	assert_kt_ok(kt_blob_from_text("blob", text.data, text.len, &read, &err));
	assert_kt_ok(kt_keystore_unwrap_kek(ks, &read, &again, &err));
	assert_true(kt_secret_equal(&kek, &again));
	kt_secret_free(&again);
	assert_kt_ok(kt_keystore_wrap_kek(ks, &kek, &moved, &err));
	assert_kt_ok(kt_keystore_unwrap_kek(ks, &moved, &again, &err));
	assert_true(kt_secret_equal(&kek, &again));
	kt_secret_free(&again);
	kt_secret_free(&kek);
	kt_buf_free(&text);
}

static void test_round_trip(void **state)
{
	static const char *const uris[] = {
		"awskms:alias/looker", ARN_URI, "awskms:1234abcd-12ab-34cd-56ef-1234567890ab",
		"awskms:arn:aws:kms:eu-west-1:123456789012:alias/looker?context=a%20%22b%22%C3%A9"};
	(void)state;
	for (size_t i = 0; i < sizeof uris / sizeof uris[0]; i++) {
		kt_keystore *ks = must_open(uris[i]);
		assert_string_equal(kt_keystore_kcv(ks), KT_KEYSTORE_NO_KCV);
		round_trip(ks);
		kt_keystore_close(ks);
	}
	kt_keystore *ks = must_open("awskms:alias/looker?context=a%20b");
	assert_string_equal(kt_keystore_uri(ks), "awskms:alias/looker?region=eu-west-1&context=a%20b");
	kt_keystore_close(ks);
	ks = must_open("awskms:alias/looker?context=Looker_Encryption_Context");
	assert_string_equal(kt_keystore_uri(ks), "awskms:alias/looker?region=eu-west-1");
	kt_keystore_close(ks);
}

static void test_uris(void **state)
{
	static const char *const bad[] = {
		"awskms:",
		"awskms:alias/\"x\"",
		"awskms:alias/a b",
		"awskms:arn:aws:s3:::bucket",
		ARN_URI_US,
		"awskms:alias/looker?region=eu.west",
		"awskms:alias/looker?region=",
		"awskms:alias/looker?context=",
		"awskms:alias/looker?context=%0a",
		"awskms:alias/looker?context=%ff",
		"awskms:alias/looker?context=%4",
		"awskms:alias/looker?context=a&context=b",
		"awskms:alias/looker?secret=x",
	};
	kt_err err = KT_ERR_INIT;
	kt_keystore *ks;
	char line[400];
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_kt_fails(KT_E_INPUT, kt_keystore_open(bad[i], &ks, &err));
	(void)snprintf(line, sizeof line, "awskms:alias/looker?context=%0300d", 1);
	assert_kt_fails(KT_E_INPUT, kt_keystore_open(line, &ks, &err));
	(void)unsetenv("AWS_REGION");
	must_fail(KT_E_INPUT, "awskms:alias/looker", "region");
	(void)setenv("AWS_DEFAULT_REGION", "eu-west-1", 1);
	kt_keystore_close(must_open("awskms:alias/looker"));
	assert_int_equal(asked(), 1);
}

/* Keys go over the wire: an endpoint without TLS is for this machine alone. */
static void test_endpoints(void **state)
{
	(void)state;
	(void)setenv("AWS_ENDPOINT_URL_KMS", "http://kms.example.com", 1);
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "in the clear");
	(void)setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1.example.com/", 1);
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "in the clear");
	(void)setenv("AWS_ENDPOINT_URL_KMS", "", 1);
	(void)setenv("AWS_ENDPOINT_URL", url, 1);
	kt_keystore_close(must_open("awskms:alias/looker"));
	(void)setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1", 1);
	(void)setenv("AWS_MAX_ATTEMPTS", "2", 1);
	must_fail(KT_E_UNREACHABLE, "awskms:alias/looker", "asked 2 times");
}

/* --- Keys that are wrong ------------------------------------------------------------------------------------------ */

static void test_another_key(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_secret kek, again;
	kt_blob blob;
	(void)state;
	kt_keystore *ks = must_open("awskms:alias/looker"), *other = must_open("awskms:alias/other");
	kt_keystore *context = must_open("awskms:alias/looker?context=another");
	assert_kt_ok(kt_keystore_new_kek(ks, &kek, &blob, &err));
	kt_secret_free(&kek);
	assert_false(kt_keystore_made(other, &blob));
	assert_kt_fails(KT_E_KEY, kt_keystore_unwrap_kek(other, &blob, &again, &err));
	assert_non_null(strstr(err.msg, ARN));
	assert_kt_fails(KT_E_KEY, kt_keystore_unwrap_kek(context, &blob, &again, &err));
	assert_non_null(strstr(err.msg, "InvalidCiphertextException"));
	assert_non_null(strstr(err.remedy, "LKR_AWS_CMK_EC"));
	(void)setenv("AWSKMS_TEST", "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=", 1);
	kt_keystore *env = must_open("env:AWSKMS_TEST");
	assert_kt_fails(KT_E_KEY, kt_keystore_unwrap_kek(env, &blob, &again, &err));
	assert_non_null(strstr(err.msg, ARN));
	assert_kt_ok(kt_keystore_new_kek(env, &kek, &blob, &err));
	kt_secret_free(&kek);
	assert_kt_fails(KT_E_KEY, kt_keystore_unwrap_kek(ks, &blob, &again, &err));
	kt_keystore_close(env);
	kt_keystore_close(context);
	kt_keystore_close(other);
	kt_keystore_close(ks);
}

/* Every byte of the ciphertext, of the MAC and of the ARN. */
static void test_altered(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_secret kek, again;
	kt_blob blob;
	(void)state;
	kt_keystore *ks = must_open("awskms:alias/looker");
	assert_kt_ok(kt_keystore_new_kek(ks, &kek, &blob, &err));
	kt_secret_free(&kek);
	for (size_t i = 0; i < blob.wrapped_len; i += 5) {
		kt_blob changed = blob;
		changed.wrapped[i] ^= 1;
		assert_kt_fails(KT_E_KEY, kt_keystore_unwrap_kek(ks, &changed, &again, &err));
	}
	for (size_t i = 0; i < sizeof blob.mac; i += 5) {
		kt_blob changed = blob;
		changed.mac[i] ^= 1;
		assert_kt_fails(KT_E_KEY, kt_keystore_unwrap_kek(ks, &changed, &again, &err));
	}
	kt_blob changed = blob;
	changed.mechanism[0] ^= 1; /* it is under the MAC */
	assert_kt_fails(KT_E_KEY, kt_keystore_unwrap_kek(ks, &changed, &again, &err));
	changed = blob;
	changed.wrapping.label[20] ^= 1;
	assert_kt_fails(KT_E_KEY, kt_keystore_unwrap_kek(ks, &changed, &again, &err));
	kt_keystore_close(ks);
}

/* What is broken about a blob of AWS KMS. */
static void test_blob(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_secret kek;
	kt_blob blob, bad;
	(void)state;
	kt_keystore *ks = must_open("awskms:alias/looker");
	assert_kt_ok(kt_keystore_new_kek(ks, &kek, &blob, &err));
	assert_null(kt_blob_broken(&blob));
	bad = blob;
	bad.purpose = KT_BLOB_ESCROW;
	assert_non_null(kt_blob_broken(&bad));
	bad = blob;
	bad.wrapping.label[0] = 'x';
	assert_non_null(kt_blob_broken(&bad));
	bad = blob;
	memcpy(bad.wrapping.kcv, "a1b2c3", 7);
	assert_non_null(kt_blob_broken(&bad));
	bad = blob;
	bad.wrapped_len = 32;
	assert_non_null(kt_blob_broken(&bad));
	bad.wrapped_len = KT_BLOB_KMS_MAX + 1;
	assert_non_null(kt_blob_broken(&bad));
	kt_secret_free(&kek);
	kt_keystore_close(ks);
}

static void test_states(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_secret kek;
	kt_blob blob;
	(void)state;
	must_fail(KT_E_KEY, "awskms:alias/nothing", "NotFoundException");
	must_fail(KT_E_INPUT, "awskms:alias/signing", "SIGN_VERIFY");
	kt_keystore *ks = must_open("awskms:alias/looker");
	(void)tell("state Disabled");
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "Disabled");
	assert_kt_fails(KT_E_REFUSED, kt_keystore_new_kek(ks, &kek, &blob, &err));
	assert_non_null(strstr(err.msg, "DisabledException"));
	(void)tell("state PendingDeletion");
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "PendingDeletion");
	assert_kt_fails(KT_E_REFUSED, kt_keystore_new_kek(ks, &kek, &blob, &err));
	assert_non_null(strstr(err.msg, "KMSInvalidStateException"));
	kt_keystore_close(ks);
}

/* The documented policy of Looker has no kms:DescribeKey. */
static void test_policy(void **state)
{
	(void)state;
	(void)tell("deny DescribeKey");
	kt_keystore *ks = must_open("awskms:alias/looker");
	round_trip(ks);
	kt_keystore_close(ks);
	(void)tell("state Disabled");
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "DisabledException");
	(void)tell("state Enabled");
	(void)tell("fault AccessDeniedException 9");
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "AccessDeniedException");
}

/* --- Moving a KEK ------------------------------------------------------------------------------------------------- */

/* From one key to the other, with what is asked of the server on the way. */
static void moved(const char *source, const char *destination, const char *mechanism, const char *operations)
{
	kt_err err = KT_ERR_INIT;
	kt_secret kek, same, opened;
	kt_blob blob, out;
	kt_keystore *from_ks = must_open(source), *to_ks = must_open(destination);
	assert_kt_ok(kt_keystore_new_kek(from_ks, &kek, &blob, &err));
	(void)asked();
	assert_kt_ok(kt_keystore_move_kek(to_ks, from_ks, &blob, &same, &out, &err));
	const char *told = strchr(tell("count"), ' ');
	if (!told || strncmp(told + 1, operations, strlen(operations)) != 0 || told[1 + strlen(operations)] != '\n')
		fail_msg("not \"%s\" but%s", operations, told);
	assert_string_equal(out.mechanism, mechanism);
	assert_string_equal(out.kcv, blob.kcv);
	assert_null(kt_blob_broken(&out));
	assert_true(kt_secret_equal(&kek, &same));
	assert_kt_ok(kt_keystore_unwrap_kek(to_ks, &out, &opened, &err));
	assert_true(kt_secret_equal(&kek, &opened));
	kt_secret_free(&opened);
	kt_secret_free(&same);
	kt_secret_free(&kek);
	kt_keystore_close(to_ks);
	kt_keystore_close(from_ks);
}

static void test_move(void **state)
{
	static const char *const permissions[] = {"deny ReEncrypt", "deny ReEncryptFrom", "deny ReEncryptTo"};
	(void)state;
	moved("awskms:alias/looker", "awskms:alias/other", "ReEncrypt", "ReEncrypt Decrypt");
	moved("awskms:alias/looker?context=a%20%22b%22", "awskms:alias/other?context=c", "ReEncrypt",
	      "ReEncrypt Decrypt");
	moved("awskms:alias/looker", "awskms:alias/looker?context=c", "ReEncrypt", "ReEncrypt Decrypt");
	kt_log_setup(KT_LOG_ERROR, STDERR_FILENO);
	for (size_t i = 0; i < sizeof permissions / sizeof permissions[0]; i++) {
		(void)tell(permissions[i]);
		moved("awskms:alias/looker", "awskms:alias/other", "Encrypt", "ReEncrypt Decrypt Encrypt");
	}
	kt_log_setup(KT_LOG_WARN, STDERR_FILENO);
	(void)tell("deny -");
	(void)setenv("AWSKMS_TEST", "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=", 1);
	moved("awskms:alias/looker", "env:AWSKMS_TEST", "AES-256-WRAP-PAD", "Decrypt");
	/* an answer that was lost is asked for again */
	(void)tell("fault drop 1 3");
	moved("awskms:alias/looker", "awskms:alias/other", "ReEncrypt", "ReEncrypt ReEncrypt Decrypt");
}

/* What the destination opens to another KEK, or cannot be understood, is never taken for the moved one. */
static void test_move_wrong(void **state)
{
	static const struct {
		const char *fault;
		kt_code code;
	} faults[] = {
		{"otherkek", KT_E_KEY},
		{"wrongkey", KT_E_KEY},
		{"wrongsource", KT_E_KEY},
		{"garbage", KT_E_INPUT},
		{"cut", KT_E_INPUT},
		{"huge", KT_E_INPUT},
		{"DependencyTimeoutException", KT_E_UNREACHABLE},
		{"DisabledException", KT_E_REFUSED},
		{"IncorrectKeyException", KT_E_KEY},
		{"InvalidCiphertextException", KT_E_KEY},
		{"InvalidGrantTokenException", KT_E_REFUSED},
		{"InvalidKeyUsageException", KT_E_INPUT},
		{"KeyUnavailableException", KT_E_UNREACHABLE},
		{"KMSInternalException", KT_E_UNREACHABLE},
		{"KMSInvalidStateException", KT_E_REFUSED},
		{"NotFoundException", KT_E_KEY},
		{"ThrottlingException", KT_E_UNREACHABLE},
	};
	kt_err err = KT_ERR_INIT;
	kt_secret kek, same;
	kt_blob blob, out;
	char command[80];
	(void)state;
	(void)setenv("AWS_MAX_ATTEMPTS", "2", 1);
	kt_keystore *from_ks = must_open("awskms:alias/looker"), *to_ks = must_open("awskms:alias/other");
	assert_kt_ok(kt_keystore_new_kek(from_ks, &kek, &blob, &err));
	kt_secret_free(&kek);
	for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
		bool again = faults[i].code == KT_E_UNREACHABLE;
		(void)snprintf(command, sizeof command, "fault %s %d", faults[i].fault, again ? 2 : 1);
		(void)tell(command);
		(void)asked();
		assert_kt_fails(faults[i].code, kt_keystore_move_kek(to_ks, from_ks, &blob, &same, &out, &err));
		assert_null(same.data);
		assert_int_equal(asked(), again || i == 0 ? 2 : 1); /* the first one is opened */
	}
	kt_keystore_close(to_ks);
	kt_keystore_close(from_ks);
}

/* --- Random bytes ------------------------------------------------------------------------------------------------- */

static void test_stir(void **state)
{
	static const struct {
		const char *fault;
		kt_code code;
		int asked;
	} faults[] = {
		{"-", KT_OK, 1},
		{"drop", KT_OK, 2},
		{"ThrottlingException", KT_OK, 2},
		{"KMSInternalException", KT_OK, 2},
		{"DependencyTimeoutException", KT_OK, 2},
		{"AccessDeniedException", KT_E_REFUSED, 1},
		{"UnsupportedOperationException", KT_E_REFUSED, 1},
		{"garbage", KT_E_INPUT, 1},
	};
	kt_err err = KT_ERR_INIT;
	char command[80];
	(void)state;
	kt_keystore *ks = must_open("awskms:alias/looker");
	for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
		(void)snprintf(command, sizeof command, "fault %s %d", faults[i].fault, faults[i].fault[0] != '-');
		(void)tell(command);
		(void)asked();
		kt_code rc = kt_keystore_stir(ks, &err);
		if (rc != faults[i].code)
			fail_msg("%s: %d, not %d", faults[i].fault, (int)rc, (int)faults[i].code);
		assert_int_equal(asked(), faults[i].asked);
	}
	kt_keystore_close(ks);
	(void)setenv("AWSKMS_TEST", "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=", 1);
	ks = must_open("env:AWSKMS_TEST");
	assert_kt_ok(kt_keystore_stir(ks, &err));
	assert_int_equal(asked(), 0);
	kt_keystore_close(ks);
}

/* --- Errors ------------------------------------------------------------------------------------------------------- */

static void test_errors(void **state)
{
	static const struct {
		const char *type;
		kt_code code;
	} errors[] = {
		{"NotFoundException", KT_E_KEY},
		{"InvalidArnException", KT_E_INPUT},
		{"DisabledException", KT_E_REFUSED},
		{"KMSInvalidStateException", KT_E_REFUSED},
		{"InvalidKeyUsageException", KT_E_INPUT},
		{"InvalidCiphertextException", KT_E_KEY},
		{"IncorrectKeyException", KT_E_KEY},
		{"ExpiredTokenException", KT_E_REFUSED},
		{"UnrecognizedClientException", KT_E_REFUSED},
		{"InvalidClientTokenId", KT_E_REFUSED},
		{"MissingAuthenticationTokenException", KT_E_REFUSED},
		{"InvalidSignatureException", KT_E_REFUSED},
		{"IncompleteSignature", KT_E_REFUSED},
		{"RequestExpired", KT_E_REFUSED},
		{"InvalidGrantTokenException", KT_E_REFUSED},
		{"LimitExceededException", KT_E_REFUSED},
		{"UnsupportedOperationException", KT_E_REFUSED},
		{"OptInRequired", KT_E_REFUSED},
		{"ValidationException", KT_E_INPUT},
		{"SomethingNewException", KT_E_INPUT},
	};
	char command[80];
	(void)state;
	for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
		(void)snprintf(command, sizeof command, "fault %s 1", errors[i].type);
		(void)tell(command);
		must_fail(errors[i].code, "awskms:alias/looker", errors[i].type);
		assert_int_equal(asked(), 1); /* none of these is asked again */
	}
}

static void test_retries(void **state)
{
	static const char *const kinds[] = {"ThrottlingException",
					    "KMSInternalException",
					    "DependencyTimeoutException",
					    "KeyUnavailableException",
					    "http500",
					    "drop"};
	char command[80];
	(void)state;
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		(void)snprintf(command, sizeof command, "fault %s 2", kinds[i]);
		(void)tell(command);
		kt_keystore_close(must_open("awskms:alias/looker"));
		assert_int_equal(asked(), 3);
	}
	(void)tell("fault ThrottlingException 9");
	must_fail(KT_E_UNREACHABLE, "awskms:alias/looker", "asked 4 times");
	assert_int_equal(asked(), 4);
	(void)tell("fault ThrottlingException 9");
	(void)setenv("AWS_MAX_ATTEMPTS", "1", 1);
	must_fail(KT_E_UNREACHABLE, "awskms:alias/looker", "ThrottlingException");
	assert_int_equal(asked(), 1);
}

static void test_slow(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_secret kek;
	kt_blob blob;
	(void)state;
	kt_keystore *ks = must_open("awskms:alias/looker");
	ks->kms->timeout_ms = 500;
	(void)tell("fault slow 1");
	assert_kt_ok(kt_keystore_new_kek(ks, &kek, &blob, &err));
	kt_secret_free(&kek);
	(void)asked();
	(void)tell("fault slow 9");
	ks->kms->attempts = 2;
	assert_kt_fails(KT_E_UNREACHABLE, kt_keystore_new_kek(ks, &kek, &blob, &err));
	assert_null(kek.data);
	assert_int_equal(asked(), 2);
	kt_keystore_close(ks);
}

static void test_garbage(void **state)
{
	static const char *const kinds[] = {"garbage", "cut", "huge"};
	kt_err err = KT_ERR_INIT;
	kt_secret kek;
	kt_blob blob;
	char command[80];
	(void)state;
	kt_keystore *ks = must_open("awskms:alias/looker");
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		(void)snprintf(command, sizeof command, "fault %s 1", kinds[i]);
		(void)tell(command);
		assert_kt_fails(KT_E_INPUT, kt_keystore_new_kek(ks, &kek, &blob, &err));
		assert_null(kek.data);
	}
	(void)tell("fault wrongkey 1");
	assert_kt_fails(KT_E_KEY, kt_keystore_new_kek(ks, &kek, &blob, &err));
	kt_keystore_close(ks);
}

/* --- Credentials -------------------------------------------------------------------------------------------------- */

static const char *write_file(const char *name, const char *text)
{
	static char path[2][512];
	char *p = path[name[0] == 'c' && name[1] == 'o'];
	FILE *f = fopen(name, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0 && fclose(f) == 0);
	assert_non_null(getcwd(p, 400));
	(void)snprintf(p + strlen(p), 100, "/%s", name);
	return p;
}

static void no_environment(void)
{
	(void)unsetenv("AWS_ACCESS_KEY_ID");
	(void)unsetenv("AWS_SECRET_ACCESS_KEY");
	(void)setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
}

static void test_environment(void **state)
{
	(void)state;
	(void)setenv("AWS_SECRET_ACCESS_KEY", "another", 1);
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "InvalidSignatureException");
	(void)setenv("AWS_ACCESS_KEY_ID", "AKIDUNKNOWN", 1);
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "UnrecognizedClientException");
	(void)setenv("AWS_ACCESS_KEY_ID", "AKID\nX", 1);
	must_fail(KT_E_INPUT, "awskms:alias/looker", "access key id");
	(void)unsetenv("AWS_ACCESS_KEY_ID");
	must_fail(KT_E_INPUT, "awskms:alias/looker", "without the other");
	(void)setenv("AWS_ACCESS_KEY_ID", "ASIATEMPORARY", 1);
	(void)setenv("AWS_SECRET_ACCESS_KEY", "temporary/Secret+Key", 1);
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "UnrecognizedClientException");
	(void)setenv("AWS_SESSION_TOKEN", "an-expired-token", 1);
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "ExpiredTokenException");
	(void)setenv("AWS_SESSION_TOKEN", "the/Session+Token==", 1);
	kt_keystore *ks = must_open("awskms:alias/looker");
	round_trip(ks);
	kt_keystore_close(ks);
	no_environment();
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "no AWS credentials");
}

static void test_files(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_keystore *ks;
	(void)state;
	no_environment();
	(void)setenv("AWS_SHARED_CREDENTIALS_FILE",
		     write_file("credentials",
				"# mine\n[default]\r\naws_access_key_id=AKIDEXAMPLE\r\n"
				"aws_secret_access_key = " SECRET "\r\n\n[half]\naws_access_key_id = AKIDX\n"),
		     1);
	(void)setenv("AWS_CONFIG_FILE",
		     write_file("config",
				"[default]\nregion = nowhere-1\n[profile temporary]\nregion=eu-west-1\n"
				"aws_access_key_id = ASIATEMPORARY\naws_secret_access_key = temporary/Secret+Key\n"
				"aws_session_token = the/Session+Token==\n[profile role]\nrole_arn = arn:x\n"),
		     1);
	kt_keystore_close(must_open("awskms:alias/looker"));
	(void)setenv("AWS_PROFILE", "temporary", 1);
	(void)unsetenv("AWS_REGION");
	kt_keystore_close(must_open("awskms:alias/looker"));
	(void)setenv("AWS_REGION", "eu-west-1", 1);
	(void)setenv("AWS_PROFILE", "half", 1);
	must_fail(KT_E_INPUT, "awskms:alias/looker", "without the other");
	(void)setenv("AWS_PROFILE", "role", 1);
	must_fail(KT_E_INPUT, "awskms:alias/looker", "has no access key");
	(void)setenv("AWS_PROFILE", "nobody", 1);
	must_fail(KT_E_INPUT, "awskms:alias/looker", "there is no profile");
	(void)setenv("AWS_SHARED_CREDENTIALS_FILE", "/", 1);
	assert_kt_fails(KT_E_IO, kt_keystore_open("awskms:alias/looker", &ks, &err));
}

static void test_container(void **state)
{
	char full[100];
	(void)state;
	no_environment();
	(void)snprintf(full, sizeof full, "%s/container", url);
	(void)setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", full, 1);
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "HTTP status 401");
	(void)setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token", 1);
	kt_keystore_close(must_open("awskms:alias/looker"));
	(void)setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "wrong", 1);
	(void)setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", write_file("token", "container-token"), 1);
	kt_keystore_close(must_open("awskms:alias/looker"));
	(void)setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", write_file("token", "a\r\nHost: b"), 1);
	must_fail(KT_E_INPUT, "awskms:alias/looker", "line's end");
	(void)setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://example.com/x", 1);
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "not allowed");
}

static void test_metadata(void **state)
{
	char base[100];
	(void)state;
	no_environment();
	(void)unsetenv("AWS_EC2_METADATA_DISABLED");
	(void)setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url, 1);
	kt_keystore *ks = must_open("awskms:alias/looker");
	round_trip(ks);
	kt_keystore_close(ks);
	(void)snprintf(base, sizeof base, "%s/elsewhere", url);
	(void)setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", base, 1);
	must_fail(KT_E_REFUSED, "awskms:alias/looker", "HTTP status 404");
}

/* --- Making a key, and the policy --------------------------------------------------------------------------------- */

static void made(const char *uri, const char *how, int requests)
{
	kt_err err = KT_ERR_INIT;
	kt_buf arn = KT_BUF_INIT, want = KT_BUF_INIT;
	(void)tell(how);
	(void)asked();
	assert_kt_ok(kt_keystore_awskms_create(uri, "a key of a test", &arn, &err));
	(void)tell("fault - 0");
	assert_int_equal(asked(), requests);
	assert_kt_ok(kt_buf_printf(&want, &err, "awskms:%s", kt_buf_cstr(&arn)));
	kt_keystore *by_alias = must_open(uri), *by_arn = must_open(kt_buf_cstr(&want));
	kt_secret kek, opened;
	kt_blob blob;
	assert_kt_ok(kt_keystore_new_kek(by_alias, &kek, &blob, &err));
	assert_kt_ok(kt_keystore_unwrap_kek(by_arn, &blob, &opened, &err));
	assert_true(kt_secret_equal(&kek, &opened));
	kt_secret_free(&opened);
	kt_secret_free(&kek);
	kt_keystore_close(by_arn);
	kt_keystore_close(by_alias);
	kt_buf_free(&want);
	kt_buf_free(&arn);
}

static void not_made(const char *uri, const char *how, kt_code code, const char *words)
{
	kt_err err = KT_ERR_INIT;
	kt_buf arn = KT_BUF_INIT;
	(void)tell(how);
	assert_kt_fails(code, kt_keystore_awskms_create(uri, "a key of a test", &arn, &err));
	(void)tell("fault - 0");
	(void)tell("deny -");
	if (!strstr(err.msg, words))
		fail_msg("\"%s\" is not in \"%s\"", words, err.msg);
	assert_true(err.remedy[0] != '\0');
	assert_int_equal(arn.len, 0);
}

static void test_create(void **state)
{
	(void)state;
	(void)setenv("AWS_MAX_ATTEMPTS", "3", 1);
	made("awskms:alias/new/one", "fault - 0", 3); /* DescribeKey, CreateKey, CreateAlias */
	made("awskms:alias/new-two", "fault ThrottlingException 1", 4);
	made("awskms:alias/new-three", "fault ThrottlingException 1 2", 4); /* of CreateAlias */
	not_made("awskms:alias/new-two", "fault - 0", KT_E_REFUSED, "AWS KMS has a key under alias/new-two");
	not_made("awskms:alias/aws/kms", "fault - 0", KT_E_INPUT, "alias/aws/kms can be none");
	not_made("awskms:" ARN, "fault - 0", KT_E_INPUT, "needs an alias");
	not_made("file:/x", "fault - 0", KT_E_INPUT, "names no key");
	not_made("awskms:alias/no", "deny DescribeKey", KT_E_REFUSED, "AccessDeniedException");
	not_made("awskms:alias/no", "deny CreateKey", KT_E_REFUSED, "kms:CreateKey");
	not_made("awskms:alias/no", "deny CreateAlias", KT_E_REFUSED, "was made and has no alias yet");
	must_fail(KT_E_KEY, "awskms:alias/no", "NotFoundException");
}

/* CreateKey is asked once, whatever happens: a second key would never be used. */
static void test_create_once(void **state)
{
	static const char *const faults[] = {"fault ThrottlingException 1 1", "fault http500 1 1", "fault cut 1 1",
					     "fault drop 1 1"};
	(void)state;
	for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
		kt_err err = KT_ERR_INIT;
		kt_buf arn = KT_BUF_INIT;
		(void)tell(faults[i]);
		(void)asked();
		assert_true(kt_keystore_awskms_create("awskms:alias/once", "d", &arn, &err) != KT_OK);
		bool perhaps = i > 0; /* who is throttled has no key */
		assert_int_equal(strstr(err.msg, "perhaps a key without an alias was made") != NULL, perhaps);
		assert_int_equal(strstr(err.remedy, "\"for alias/once\"") != NULL, perhaps);
		(void)tell("fault - 0");
		assert_int_equal(asked(), 2);
		assert_int_equal(arn.len, 0);
	}
	/* An alias that was given, and of which the answer was lost, is looked for. */
	(void)setenv("AWS_MAX_ATTEMPTS", "1", 1);
	made("awskms:alias/once", "fault drop 1 2", 4);
}

static void test_policy_text(void **state)
{
	static const struct {
		const char *uri;
		bool create;
		const char *has, *lacks;
	} rows[] = {
		{NULL, false, "\"Resource\":\"arn:aws:kms:*:*:key/*\"}]", "CreateKey"},
		{NULL, false, "\"kms:Decrypt\",\"kms:ReEncrypt*\"],\"Resource\":\"arn:aws:kms:*:*:key/*\"",
		 "Condition"},
		{NULL, false, "\"Action\":[\"kms:GenerateRandom\"],\"Resource\":\"*\"", "Condition"},
		{NULL, true, "\"Action\":[\"kms:CreateAlias\"],\"Resource\":\"arn:aws:kms:*:*:alias/*\"", "Condition"},
		{ARN_URI, false, "\"Resource\":\"" ARN "\"", "key/*"},
		{"awskms:1234abcd-12ab?region=eu-west-1", false, "\"arn:aws:kms:eu-west-1:*:key/1234abcd-12ab\"",
		 "key/*"},
		{"awskms:alias/a", true, "{\"kms:ResourceAliases\":\"alias/a\"}", "alias/*"},
		{"awskms:arn:aws:kms:eu-west-1:123456789012:alias/a", false,
		 "\"arn:aws:kms:eu-west-1:*:key/*\",\"Condition\":{", "alias/*"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		kt_err err = KT_ERR_INIT;
		kt_buf text = KT_BUF_INIT;
		cJSON *o;
		assert_kt_ok(kt_keystore_awskms_policy(rows[i].uri, rows[i].create, &text, &err));
		assert_kt_ok(kt_json_parse("policy", text.data, text.len, &o, &err));
		char *line = cJSON_PrintUnformatted(o);
		if (!strstr(line, rows[i].has) || strstr(line, rows[i].lacks))
			fail_msg("row %zu: %s", i, line);
		cJSON_free(line);
		cJSON_Delete(o);
		kt_buf_free(&text);
	}
	kt_err err = KT_ERR_INIT;
	kt_buf text = KT_BUF_INIT;
	assert_kt_fails(KT_E_INPUT, kt_keystore_awskms_policy("file:/x", false, &text, &err));
	assert_kt_fails(KT_E_INPUT, kt_keystore_awskms_policy("awskms:", false, &text, &err));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_round_trip, fresh),  cmocka_unit_test_setup(test_uris, fresh),
		cmocka_unit_test_setup(test_endpoints, fresh),   cmocka_unit_test_setup(test_another_key, fresh),
		cmocka_unit_test_setup(test_altered, fresh),     cmocka_unit_test_setup(test_blob, fresh),
		cmocka_unit_test_setup(test_states, fresh),      cmocka_unit_test_setup(test_policy, fresh),
		cmocka_unit_test_setup(test_move, fresh),        cmocka_unit_test_setup(test_move_wrong, fresh),
		cmocka_unit_test_setup(test_stir, fresh),        cmocka_unit_test_setup(test_errors, fresh),
		cmocka_unit_test_setup(test_retries, fresh),     cmocka_unit_test_setup(test_slow, fresh),
		cmocka_unit_test_setup(test_garbage, fresh),     cmocka_unit_test_setup(test_environment, fresh),
		cmocka_unit_test_setup(test_files, fresh),       cmocka_unit_test_setup(test_container, fresh),
		cmocka_unit_test_setup(test_metadata, fresh),    cmocka_unit_test_setup(test_create, fresh),
		cmocka_unit_test_setup(test_create_once, fresh), cmocka_unit_test(test_policy_text),
	};
	return cmocka_run_group_tests(tests, start, stop);
}
