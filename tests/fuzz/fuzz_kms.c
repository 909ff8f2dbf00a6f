/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What answers in the name of AWS KMS and of the endpoints that give credentials, and the shared files of AWS.
 * kt_aws_http stands here in place of aws_http.c: it answers with the input. An input is an operation (a letter) and
 * answers, divided by the byte 0x1e: "STATUS TYPE\nBODY"; or 'U' and what follows awskms: in
 * a URI.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "keystore/aws.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BETWEEN = 0x1e };

static void require(int holds, const char *what)
{
	if (holds)
		return;
	(void)fprintf(stderr, "does not hold: %s\n", what);
	abort();
}

/* --- The other side ----------------------------------------------------------------------------------------------- */

static const uint8_t *left;
static size_t left_n;

static size_t next_answer(const uint8_t **at)
{
	const uint8_t *stop = left_n ? memchr(left, BETWEEN, left_n) : NULL;
	size_t n = stop ? (size_t)(stop - left) : left_n;
	*at = left;
	left += n + (stop != NULL);
	left_n -= n + (stop != NULL);
	return n;
}

kt_code kt_aws_http(const kt_aws_request *request, kt_aws_answer *answer, kt_err *err)
{
	const uint8_t *at;
	*answer = (kt_aws_answer){.date_s = 1795469798};
	require(request->url && request->method, "a whole request");
	if (!left_n)
		return kt_fail(err, KT_E_UNREACHABLE, "look there", "there is no answer");
	size_t n = next_answer(&at);
	const uint8_t *nl = n ? memchr(at, '\n', n) : NULL;
	size_t head = nl ? (size_t)(nl - at) : n, body = nl ? n - head - 1 : 0;
	(void)sscanf((const char[8]){head > 0 ? (char)at[0] : '\0', head > 1 ? (char)at[1] : '\0',
				     head > 2 ? (char)at[2] : '\0'},
		     "%3ld", &answer->status);
	if (head > 4)
		(void)snprintf(answer->type, sizeof answer->type, "%.*s", (int)(head - 4), (const char *)at + 4);
	if (body > KT_AWS_BODY_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "an answer of more than %d bytes", KT_AWS_BODY_MAX);
	KT_TRY(kt_secret_new(&answer->body, KT_AWS_BODY_MAX, err));
	if (body)
		memcpy(answer->body.data, nl + 1, body);
	answer->body.len = body;
	answer->body.data[body] = '\0';
	return KT_OK;
}

void kt_aws_answer_free(kt_aws_answer *answer)
{
	kt_secret_free(&answer->body);
}

bool kt_aws_is_loopback(const char *url)
{
	return strncmp(url, "http://127.", 11) == 0;
}

/* --- What must hold ----------------------------------------------------------------------------------------------- */

static void check_refusal(kt_code rc, const kt_err *err)
{
	require(rc == err->code && err->msg[0], "a refusal says why");
	for (const char *p = err->msg; *p; p++)
		require((unsigned char)*p >= ' ' && (unsigned char)*p != 0x7f, "no control characters in a message");
	require(rc == KT_E_INPUT || rc == KT_E_REFUSED || rc == KT_E_KEY || rc == KT_E_UNREACHABLE, "its class");
}

static void check_operation(kt_aws_kms *kms, char operation)
{
	kt_err err = KT_ERR_INIT;
	kt_secret key = KT_SECRET_INIT;
	kt_blob blob = {.wrapped = {1}, .wrapped_len = 40}, old = blob;
	kt_code rc;
	if (operation == 'B') {
		rc = kt_aws_kms_random(kms, &key, &err);
		require(key.len == (rc == KT_OK ? 32 : 0), "all random bytes or none");
	} else if (operation == 'R') {
		rc = kt_aws_kms_reencrypt(kms, kms, &old, &blob, &err);
	} else if (operation == 'E') {
		require(kt_secret_new(&key, 32, NULL) == KT_OK, "a key");
		rc = kt_aws_kms_encrypt(kms, &key, &blob, &err);
	} else {
		rc = operation == 'D' ? kt_aws_kms_decrypt(kms, &blob, &key, &err)
				      : kt_aws_kms_generate(kms, &key, &blob, &err);
		require(key.len == (rc == KT_OK ? 32 : 0), "a whole key or none");
	}
	if (rc == KT_OK)
		require(blob.wrapped_len > 32 && blob.wrapped_len <= KT_BLOB_KMS_MAX,
			"a wrapped key of a possible size");
	else
		check_refusal(rc, &err);
	kt_secret_free(&key);
}

static void check_kms(char operation)
{
	kt_err err = KT_ERR_INIT;
	kt_aws_kms kms = {.name = "alias/looker", .region = "eu-west-1", .context = "Looker_Encryption_Context"};
	kt_code rc = kt_aws_kms_open(&kms, &err);
	if (rc == KT_OK) {
		require(strncmp(kms.arn, "arn:", 4) == 0 && !strpbrk(kms.arn, "\"\\ \n"),
			"an ARN that can stand in JSON");
		check_operation(&kms, operation);
	} else {
		check_refusal(rc, &err);
	}
	kt_aws_kms_close(&kms);
}

static void check_credentials(void)
{
	kt_err err = KT_ERR_INIT;
	kt_aws_credentials c;
	char region[KT_AWS_REGION_MAX];
	kt_code rc = kt_aws_credentials_find(&c, &err);
	if (rc == KT_OK)
		require(c.id[0] && strlen(c.id) < KT_AWS_ID_MAX && c.secret.len && c.source[0], "whole credentials");
	else
		check_refusal(rc, &err);
	if (rc == KT_OK)
		kt_aws_credentials_free(&c);
	require(kt_aws_region_find(region, &err) != KT_OK || strlen(region) < sizeof region, "a region that fits");
}

/* The shared files: the input is both. */
static void check_files(const uint8_t *data, size_t size)
{
	char path[64];
	int fd = memfd_create("shared", MFD_CLOEXEC);
	require(fd >= 0 && kt_file_write_all(fd, data, size, "shared", NULL) == KT_OK, "a file in memory");
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	require(setenv("AWS_SHARED_CREDENTIALS_FILE", path, 1) == 0 && setenv("AWS_CONFIG_FILE", path, 1) == 0, "said");
	check_credentials();
	require(unsetenv("AWS_SHARED_CREDENTIALS_FILE") == 0 && unsetenv("AWS_CONFIG_FILE") == 0, "unsaid");
	(void)close(fd);
}

/* What is parsed and written again is the same. */
static void check_uri(const uint8_t *data, size_t size)
{
	char text[1024];
	kt_awsuri uri, again;
	kt_buf out = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	if (size >= sizeof text)
		return;
	memcpy(text, data, size);
	text[size] = '\0';
	kt_code rc = kt_awsuri_parse(text, &uri, &err);
	if (rc != KT_OK) {
		check_refusal(rc, &err);
		return;
	}
	require(kt_awsuri_format(&uri, &out, NULL) == KT_OK && strncmp(kt_buf_cstr(&out), "awskms:", 7) == 0, "a URI");
	require(kt_awsuri_parse(kt_buf_cstr(&out) + 7, &again, NULL) == KT_OK, "it parses");
	require(strcmp(uri.name, again.name) == 0 && strcmp(uri.region, again.region) == 0 &&
			strcmp(uri.context, again.context) == 0,
		"to the same parts");
	kt_buf_free(&out);
}

static void set(const char *name, const char *value)
{
	require((value ? setenv(name, value, 1) : unsetenv(name)) == 0, "a variable");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bool kms = size && strchr("GEDNRB", data[0]) && data[0];
	bool container = size && data[0] == 'C';
	set("HOME", "/nonexistent");
	set("AWS_MAX_ATTEMPTS", "1");
	set("AWS_ACCESS_KEY_ID", kms ? "AKIA" : NULL);
	set("AWS_SECRET_ACCESS_KEY", kms ? "secret" : NULL);
	set("AWS_CONTAINER_CREDENTIALS_FULL_URI", container ? "http://127.0.0.1/" : NULL);
	if (size == 0)
		return 0;
	left = data + 1;
	left_n = size - 1;
	if (kms)
		check_kms((char)data[0]);
	else if (data[0] == 'U')
		check_uri(data + 1, size - 1);
	else if (container || data[0] == 'M')
		check_credentials();
	else
		check_files(data + 1, size - 1);
	return 0;
}
