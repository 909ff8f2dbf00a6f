/* SPDX-License-Identifier: Apache-2.0 */
/* The operations of AWS KMS (API version 2014-11-01, JSON 1.1 over HTTPS), its errors, and asking again. */
#include <inttypes.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/json.h"
#include "base/log.h"
#include "keystore/aws.h"

enum {
	TIMEOUT_MS = 5000,
	ATTEMPTS = 4,
	ATTEMPTS_MAX = 10,
	PAUSE_MS = 100, /* before the second attempt at most this, doubled with each */
	PAUSE_MAX_MS = 2000,
	TOLD_SKEW_S = 60,
	KEK_LEN = KT_BLOB_KEY_BITS / 8,
	DESCRIPTION_MAX = 2 * KT_AWS_KEY_MAX, /* AWS takes 8192 */
	TYPE_MAX = 64,
	MESSAGE_MAX = 300
};

/* --- Errors ------------------------------------------------------------------------------------------------------- */

typedef struct known_error {
	const char *type;
	kt_code code;
	bool again; /* it may go away by itself */
	const char *cause, *remedy;
} known_error;

#define CREDENTIALS "see that access key, secret and session token belong together and are still valid"

static const known_error known[] = {
	{"AccessDeniedException", KT_E_REFUSED, false, "these credentials may not do this with the key",
	 "allow it in the IAM policy and in the key's policy: `keyturn key policy` prints what is needed"},
	{"NotFoundException", KT_E_KEY, false, "there is no such key or alias in this account and region",
	 "check alias or ARN, the region (AWS_REGION) and the account of the credentials"},
	{"AlreadyExistsException", KT_E_REFUSED, false, "there is one of that name already", "choose another alias"},
	{"InvalidAliasNameException", KT_E_INPUT, false, "this can be no alias",
	 "write alias/ and letters, digits, '/', '_' and '-'; alias/aws/ is AWS's own"},
	{"InvalidArnException", KT_E_INPUT, false, "the ARN is not valid", "copy the key's ARN from the AWS console"},
	{"DisabledException", KT_E_REFUSED, false, "the key is disabled", "enable it: aws kms enable-key"},
	{"KMSInvalidStateException", KT_E_REFUSED, false, "the key's state does not allow this",
	 "if it is pending deletion: aws kms cancel-key-deletion, then aws kms enable-key"},
	{"InvalidKeyUsageException", KT_E_INPUT, false, "the key is not for encryption",
	 "use a symmetric key with usage ENCRYPT_DECRYPT"},
	{"InvalidCiphertextException", KT_E_KEY, false,
	 "the wrapped key was changed, or it was wrapped under another encryption context",
	 "give the encryption context that it was wrapped with (LKR_AWS_CMK_EC, context= in the URI); else restore it"},
	{"IncorrectKeyException", KT_E_KEY, false, "the wrapped key was wrapped by another key",
	 "give the key that wrapped it: its ARN stands in the wrapped key"},
	{"KeyUnavailableException", KT_E_UNREACHABLE, true, "the key is not available", "try again later"},
	{"ExpiredTokenException", KT_E_REFUSED, false, "the session token has expired", "get new credentials"},
	{"UnrecognizedClientException", KT_E_REFUSED, false, "AWS does not know these credentials", CREDENTIALS},
	{"InvalidClientTokenId", KT_E_REFUSED, false, "AWS does not know these credentials", CREDENTIALS},
	{"MissingAuthenticationTokenException", KT_E_REFUSED, false, "the request came without credentials",
	 CREDENTIALS},
	{"InvalidSignatureException", KT_E_REFUSED, false, "the signature is not right",
	 "see that the secret access key is right, and that this machine's clock is (NTP)"},
	{"IncompleteSignature", KT_E_REFUSED, false, "the signature is not complete", CREDENTIALS},
	{"RequestExpired", KT_E_REFUSED, false, "the request's time is too far from AWS's",
	 "set this machine's clock right (NTP)"},
	{"UnsupportedOperationException", KT_E_REFUSED, false, "this is not done here",
	 "see what the region's AWS KMS offers"},
	{"InvalidGrantTokenException", KT_E_REFUSED, false, "the grant token is not valid", CREDENTIALS},
	{"LimitExceededException", KT_E_REFUSED, false, "a quota of the account is used up",
	 "ask AWS for a higher quota"},
	{"OptInRequired", KT_E_REFUSED, false, "the account is not subscribed to AWS KMS here", "opt in to the region"},
	{"ValidationException", KT_E_INPUT, false, "AWS takes the request for malformed",
	 "check alias or ARN and the encryption context"},
	{"ThrottlingException", KT_E_UNREACHABLE, true, "too many requests", "try again later, or raise the quota"},
	{"RequestLimitExceeded", KT_E_UNREACHABLE, true, "too many requests", "try again later, or raise the quota"},
	{"DependencyTimeoutException", KT_E_UNREACHABLE, true, "AWS timed out", "try again later"},
	{"KMSInternalException", KT_E_UNREACHABLE, true, "AWS failed", "try again later"},
	{"InternalFailure", KT_E_UNREACHABLE, true, "AWS failed", "try again later"},
	{"ServiceUnavailable", KT_E_UNREACHABLE, true, "AWS is not available", "try again later"},
};

static const known_error *find_error(const char *type)
{
	for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
		if (strcmp(type, known[i].type) == 0)
			return &known[i];
	return NULL;
}

/* "com.amazonaws.kms#NotFoundException:http://..." has the type in its middle. */
static void bare_type(const char *text, char out[TYPE_MAX])
{
	const char *hash = strchr(text, '#');
	const char *from = hash ? hash + 1 : text;
	(void)snprintf(out, TYPE_MAX, "%.*s", (int)strcspn(from, ":"), from);
	out[strspn(out, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._")] = '\0';
}

/* What the other side says, on one line and printable. */
static void printable(const char *text, char out[MESSAGE_MAX])
{
	(void)snprintf(out, MESSAGE_MAX, "%s", text);
	for (char *p = out; *p; p++)
		if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
			*p = ' ';
}

static void read_error(const kt_aws_answer *a, char type[TYPE_MAX], char message[MESSAGE_MAX])
{
	cJSON *o;
	const char *text;
	bare_type(a->type, type);
	message[0] = '\0';
	if (kt_json_parse("answer", a->body.data, a->body.len, &o, NULL) != KT_OK)
		return;
	if (kt_json_str(o, "__type", &text, NULL) == KT_OK)
		bare_type(text, type);
	if (kt_json_str(o, "message", &text, NULL) == KT_OK || kt_json_str(o, "Message", &text, NULL) == KT_OK)
		printable(text, message);
	cJSON_Delete(o);
}

/* How far this clock is from theirs, where that is what a refused signature comes from. */
static void tell_skew(const kt_aws_answer *a, char out[96])
{
	int64_t skew = a->date_s < 0 ? 0 : kt_clock_wall_ms() / 1000 - a->date_s;
	out[0] = '\0';
	if (skew > TOLD_SKEW_S || skew < -TOLD_SKEW_S)
		(void)snprintf(out, 96, "; this machine's clock is %" PRId64 " s %s AWS's", skew < 0 ? -skew : skew,
			       skew < 0 ? "behind" : "ahead of");
}

static kt_code refused(const kt_aws_kms *kms, const char *operation, const kt_aws_answer *a, bool *again, kt_err *err)
{
	char type[TYPE_MAX], message[MESSAGE_MAX], skew[96];
	read_error(a, type, message);
	const known_error *e = find_error(type);
	*again = e ? e->again : a->status >= 500 || a->status == 429;
	if (!e)
		return kt_fail(err, *again ? KT_E_UNREACHABLE : KT_E_INPUT, "see that AWS KMS is what answers there",
			       "AWS KMS %s with %s: HTTP status %ld %s %s", operation, kms->name, a->status, type,
			       message);
	tell_skew(a, skew);
	return kt_fail(err, e->code, e->remedy, "AWS KMS %s with %s in %s, as %s: %s (%s%s%s)%s", operation, kms->name,
		       kms->region, kms->credentials.source, e->cause, type, message[0] ? ": " : "", message,
		       e->code == KT_E_REFUSED ? skew : "");
}

/* --- Asking ------------------------------------------------------------------------------------------------------- */

/* "Full jitter": anything between nothing and a bound that doubles, so that those who were throttled together do not
 * come back together. */
static void pause_before(int attempt)
{
	uint32_t random = 0;
	long most = (long)PAUSE_MS << (attempt - 1);
	if (RAND_bytes((unsigned char *)&random, sizeof random) != 1)
		random = UINT32_MAX;
	long ms = (long)(random % (uint32_t)((most < PAUSE_MAX_MS ? most : PAUSE_MAX_MS) + 1));
	struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
	while (nanosleep(&left, &left) != 0)
		;
}

static kt_code attempt(const kt_aws_kms *kms, const char *operation, const kt_secret *body, kt_aws_answer *a,
		       bool *again, kt_err *err)
{
	char target[64];
	(void)snprintf(target, sizeof target, "X-Amz-Target: TrentService.%s", operation);
	const char *const headers[] = {"Content-Type: application/x-amz-json-1.1", target, NULL};
	kt_code rc = kt_aws_http(&(kt_aws_request){.method = "POST",
						   .url = kt_buf_cstr(&kms->url),
						   .headers = headers,
						   .body = body,
						   .signer = &kms->credentials,
						   .region = kms->region,
						   .timeout_ms = kms->timeout_ms},
				 a, err);
	*again = rc == KT_E_UNREACHABLE;
	if (rc != KT_OK)
		return kt_err_prefix(err, rc, "AWS KMS %s", operation);
	return a->status == 200 ? KT_OK : refused(kms, operation, a, again, err);
}

/* CreateAlias answers with nothing. */
static kt_code parse_answer(const kt_aws_kms *kms, const char *operation, const kt_aws_answer *a, cJSON **out,
			    kt_err *err)
{
	if (!a->body.len && (*out = cJSON_CreateObject()))
		return KT_OK;
	if (kt_json_parse("answer", a->body.data, a->body.len, out, err) == KT_OK)
		return KT_OK;
	return kt_fail(err, KT_E_INPUT, "see that AWS KMS is what answers there (AWS_ENDPOINT_URL_KMS, proxy)",
		       "AWS KMS %s: the answer from %s is no JSON", operation, kt_buf_cstr(&kms->url));
}

/* What changes nothing that is kept may be asked again. */
static kt_code call_up_to(const kt_aws_kms *kms, int attempts, const char *operation, const kt_secret *body,
			  cJSON **out, kt_err *err)
{
	kt_aws_answer a;
	bool again = false;
	kt_code rc = KT_OK;
	*out = NULL;
	for (int n = 1;; n++) {
		rc = attempt(kms, operation, body, &a, &again, err);
		if (rc == KT_OK || !again || n >= attempts)
			break;
		kt_log(KT_LOG_DEBUG, "AWS KMS %s: attempt %d failed, once more", operation, n);
		kt_aws_answer_free(&a);
		pause_before(n);
	}
	if (rc == KT_OK)
		rc = parse_answer(kms, operation, &a, out, err);
	else if (again && attempts > 1)
		rc = kt_err_prefix(err, rc, "asked %d times", attempts);
	kt_aws_answer_free(&a);
	return rc;
}

static kt_code call(const kt_aws_kms *kms, const char *operation, const kt_secret *body, cJSON **out, kt_err *err)
{
	return call_up_to(kms, kms->attempts, operation, body, out, err);
}

/* The body of a request, in locked memory; `value` may be a key. Nothing in it needs escaping, here and in all that is
 * printed below: a key's name was checked, a context is JSON, everything else is base64 or a word of ours. */
static kt_code make_body(const kt_aws_kms *kms, const char *key, const char *name, const char *value, kt_secret *out,
			 kt_err *err)
{
	const char *context = kt_buf_cstr(&kms->context_json);
	KT_TRY(kt_secret_new(out, strlen(key) + strlen(context) + strlen(name) + strlen(value) + 64, err));
	int n = snprintf((char *)out->data, out->cap, "{\"KeyId\":\"%s\",\"EncryptionContext\":%s,\"%s\":\"%s\"}", key,
			 context, name, value);
	out->len = (size_t)n;
	return KT_OK;
}

static kt_code call_with(const kt_aws_kms *kms, const char *operation, const char *key, const char *name,
			 const char *value, cJSON **out, kt_err *err)
{
	kt_secret body;
	*out = NULL;
	KT_TRY(make_body(kms, key, name, value, &body, err));
	kt_code rc = call(kms, operation, &body, out, err);
	kt_secret_free(&body);
	return rc;
}

/* A request with nothing secret in it. */
static kt_code call_text(const kt_aws_kms *kms, int attempts, const char *operation, const kt_buf *ask, cJSON **out,
			 kt_err *err)
{
	kt_secret body;
	*out = NULL;
	KT_TRY(kt_secret_copy(&body, ask->data, ask->len, err));
	kt_code rc = call_up_to(kms, attempts, operation, &body, out, err);
	kt_secret_free(&body);
	return rc;
}

/* --- Answers ------------------------------------------------------------------------------------------------------ */

static kt_code take_plaintext(cJSON *o, kt_secret *key, kt_err *err)
{
	kt_secret text;
	KT_TRY(kt_aws_take_secret(o, "Plaintext", &text, err));
	kt_code rc = kt_secret_from_base64(&text, key, err);
	kt_secret_free(&text);
	if (rc == KT_OK && key->len != KEK_LEN) {
		rc = kt_fail(err, KT_E_KEY, NULL, "the key has %zu bytes, not %d", key->len, KEK_LEN);
		kt_secret_free(key);
	}
	return rc;
}

static kt_code take_ciphertext(const cJSON *o, kt_blob *blob, kt_err *err)
{
	const char *text;
	kt_buf bytes = {.max = KT_AWS_BODY_MAX};
	KT_TRY(kt_json_str(o, "CiphertextBlob", &text, err));
	kt_code rc = kt_base64_decode(text, strlen(text), &bytes, err);
	if (rc == KT_OK && (bytes.len <= KEK_LEN || bytes.len > KT_BLOB_KMS_MAX))
		rc = kt_fail(err, KT_E_INPUT, NULL, "the wrapped key has %zu bytes, %d at most are taken", bytes.len,
			     KT_BLOB_KMS_MAX);
	if (rc == KT_OK) {
		memcpy(blob->wrapped, bytes.data, bytes.len);
		blob->wrapped_len = bytes.len;
	}
	kt_buf_free(&bytes);
	return rc;
}

static kt_code not_understood(const char *operation, kt_code rc, kt_err *err)
{
	return kt_err_prefix(err, rc, "AWS KMS %s: the answer", operation);
}

/* The key that was used must be the one that was meant. */
static kt_code check_arn_at(const kt_aws_kms *kms, const char *member, const cJSON *o, kt_err *err)
{
	const char *arn;
	KT_TRY(kt_json_str(o, member, &arn, err));
	if (strcmp(arn, kms->arn) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_KEY, "see that AWS KMS is what answers there", "another key was used than %s",
		       kms->arn);
}

static kt_code check_arn(const kt_aws_kms *kms, const cJSON *o, kt_err *err)
{
	return check_arn_at(kms, "KeyId", o, err);
}

kt_code kt_aws_kms_generate(kt_aws_kms *kms, kt_secret *key, kt_blob *blob, kt_err *err)
{
	cJSON *o;
	*key = KT_SECRET_INIT;
	KT_TRY(call_with(kms, "GenerateDataKey", kms->arn, "KeySpec", "AES_256", &o, err));
	kt_code rc = check_arn(kms, o, err);
	if (rc == KT_OK)
		rc = take_ciphertext(o, blob, err);
	if (rc == KT_OK)
		rc = take_plaintext(o, key, err);
	cJSON_Delete(o);
	return rc == KT_OK ? KT_OK : not_understood("GenerateDataKey", rc, err);
}

kt_code kt_aws_kms_encrypt(kt_aws_kms *kms, const kt_secret *key, kt_blob *blob, kt_err *err)
{
	cJSON *o;
	kt_secret text;
	KT_TRY(kt_secret_to_base64(key, &text, err));
	kt_code rc = call_with(kms, "Encrypt", kms->arn, "Plaintext", (char *)text.data, &o, err);
	kt_secret_free(&text);
	KT_TRY(rc);
	rc = check_arn(kms, o, err);
	if (rc == KT_OK)
		rc = take_ciphertext(o, blob, err);
	cJSON_Delete(o);
	return rc == KT_OK ? KT_OK : not_understood("Encrypt", rc, err);
}

kt_code kt_aws_kms_decrypt(kt_aws_kms *kms, const kt_blob *blob, kt_secret *key, kt_err *err)
{
	cJSON *o = NULL;
	kt_buf text = KT_BUF_INIT;
	*key = KT_SECRET_INIT;
	kt_code rc = kt_base64_encode(blob->wrapped, blob->wrapped_len, &text, err);
	if (rc == KT_OK)
		rc = call_with(kms, "Decrypt", kms->arn, "CiphertextBlob", kt_buf_cstr(&text), &o, err);
	kt_buf_free(&text);
	KT_TRY(rc);
	rc = check_arn(kms, o, err);
	if (rc == KT_OK)
		rc = take_plaintext(o, key, err);
	cJSON_Delete(o);
	return rc == KT_OK ? KT_OK : not_understood("Decrypt", rc, err);
}

static kt_code make_reencrypt(const kt_aws_kms *to, const kt_aws_kms *from, const kt_blob *blob, kt_buf *out,
			      kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_base64_encode(blob->wrapped, blob->wrapped_len, &text, err);
	if (rc == KT_OK)
		rc = kt_buf_printf(out, err,
				   "{\"CiphertextBlob\":\"%s\",\"SourceKeyId\":\"%s\",\"SourceEncryptionContext\":%s,"
				   "\"DestinationKeyId\":\"%s\",\"DestinationEncryptionContext\":%s}",
				   kt_buf_cstr(&text), from->arn, kt_buf_cstr(&from->context_json), to->arn,
				   kt_buf_cstr(&to->context_json));
	kt_buf_free(&text);
	return rc;
}

/* An answer that was lost costs nothing: AWS keeps nothing of it, and another ciphertext of the same key is as good. */
kt_code kt_aws_kms_reencrypt(const kt_aws_kms *to, const kt_aws_kms *from, const kt_blob *blob, kt_blob *out,
			     kt_err *err)
{
	cJSON *o = NULL;
	kt_buf ask = KT_BUF_INIT;
	kt_code rc = make_reencrypt(to, from, blob, &ask, err);
	if (rc == KT_OK)
		rc = call_text(to, to->attempts, "ReEncrypt", &ask, &o, err);
	kt_buf_free(&ask);
	KT_TRY(rc);
	rc = check_arn(to, o, err);
	if (rc == KT_OK)
		rc = check_arn_at(from, "SourceKeyId", o, err);
	if (rc == KT_OK)
		rc = take_ciphertext(o, out, err);
	cJSON_Delete(o);
	return rc == KT_OK ? KT_OK : not_understood("ReEncrypt", rc, err);
}

/* No key is named: whoever may ask, may ask. */
kt_code kt_aws_kms_random(const kt_aws_kms *kms, kt_secret *out, kt_err *err)
{
	cJSON *o = NULL;
	kt_buf ask = KT_BUF_INIT;
	*out = KT_SECRET_INIT;
	kt_code rc = kt_buf_printf(&ask, err, "{\"NumberOfBytes\":%d}", KEK_LEN);
	if (rc == KT_OK)
		rc = call_text(kms, kms->attempts, "GenerateRandom", &ask, &o, err);
	kt_buf_free(&ask);
	KT_TRY(rc);
	rc = take_plaintext(o, out, err);
	cJSON_Delete(o);
	return rc == KT_OK ? KT_OK : not_understood("GenerateRandom", rc, err);
}

bool kt_aws_kms_denied(kt_code rc, const kt_err *err)
{
	return rc == KT_E_REFUSED && strstr(err->msg, "AccessDeniedException");
}

/* --- Opening ------------------------------------------------------------------------------------------------------ */

static kt_code set_arn(kt_aws_kms *kms, const char *arn, kt_err *err)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:/_-";
	size_t n = strlen(arn);
	if (strncmp(arn, "arn:", 4) != 0 || n >= sizeof kms->arn || strspn(arn, letters) != n)
		return kt_fail(err, KT_E_INPUT, "see that AWS KMS is what answers there", "it names no key's ARN");
	memcpy(kms->arn, arn, n + 1);
	return KT_OK;
}

static kt_code check_metadata(kt_aws_kms *kms, const cJSON *o, kt_err *err)
{
	const cJSON *m;
	const char *arn, *state, *usage, *spec;
	char shown[2][MESSAGE_MAX];
	KT_TRY(kt_json_object(o, "KeyMetadata", &m, err));
	KT_TRY(kt_json_str(m, "Arn", &arn, err));
	KT_TRY(kt_json_str(m, "KeyState", &state, err));
	KT_TRY(kt_json_str(m, "KeyUsage", &usage, err));
	KT_TRY(kt_json_opt_str(m, "KeySpec", "SYMMETRIC_DEFAULT", &spec, err));
	KT_TRY(set_arn(kms, arn, err));
	printable(spec, shown[0]);
	printable(usage, shown[1]);
	if (strcmp(usage, "ENCRYPT_DECRYPT") != 0 || strcmp(spec, "SYMMETRIC_DEFAULT") != 0)
		return kt_fail(err, KT_E_INPUT, "use a symmetric key (SYMMETRIC_DEFAULT) with usage ENCRYPT_DECRYPT",
			       "the key %s is a %.40s with usage %.40s", arn, shown[0], shown[1]);
	printable(state, shown[0]);
	if (strcmp(state, "Enabled") != 0)
		return kt_fail(err, KT_E_REFUSED,
			       "aws kms enable-key; when it is pending deletion, aws kms "
			       "cancel-key-deletion before that",
			       "the key %s is in the state %.40s, not Enabled", arn, shown[0]);
	return KT_OK;
}

/* The policy that Looker documents has no kms:DescribeKey. GenerateDataKeyWithoutPlaintext, which it has, tells the ARN
 * and fails for a key that cannot be used. */
static kt_code find_by_use(kt_aws_kms *kms, kt_err *err)
{
	cJSON *o;
	const char *arn;
	KT_TRY(call_with(kms, "GenerateDataKeyWithoutPlaintext", kms->name, "KeySpec", "AES_256", &o, err));
	kt_code rc = kt_json_str(o, "KeyId", &arn, err);
	if (rc == KT_OK)
		rc = set_arn(kms, arn, err);
	cJSON_Delete(o);
	return rc == KT_OK ? KT_OK : not_understood("GenerateDataKeyWithoutPlaintext", rc, err);
}

static kt_code describe(const kt_aws_kms *kms, cJSON **out, kt_err *err)
{
	kt_buf ask = KT_BUF_INIT;
	*out = NULL;
	kt_code rc = kt_buf_printf(&ask, err, "{\"KeyId\":\"%s\"}", kms->name);
	if (rc == KT_OK)
		rc = call_text(kms, kms->attempts, "DescribeKey", &ask, out, err);
	kt_buf_free(&ask);
	return rc;
}

static kt_code find_key(kt_aws_kms *kms, kt_err *err)
{
	cJSON *o = NULL;
	kt_code rc = describe(kms, &o, err);
	if (kt_aws_kms_denied(rc, err))
		return find_by_use(kms, err);
	KT_TRY(rc);
	rc = check_metadata(kms, o, err);
	cJSON_Delete(o);
	return rc == KT_OK ? KT_OK : not_understood("DescribeKey", rc, err);
}

/* AWS_ENDPOINT_URL_KMS, AWS_ENDPOINT_URL, or what the region has. Keys pass here: never in the clear over a network. */
static kt_code find_endpoint(kt_aws_kms *kms, kt_err *err)
{
	const char *said = getenv("AWS_ENDPOINT_URL_KMS");
	if (!said || !said[0])
		said = getenv("AWS_ENDPOINT_URL");
	if (!said || !said[0])
		return kt_buf_printf(&kms->url, err, "https://kms.%s.amazonaws.com%s/", kms->region,
				     strncmp(kms->region, "cn-", 3) == 0 ? ".cn" : "");
	if (strncmp(said, "https://", 8) != 0 && !kt_aws_is_loopback(said))
		return kt_fail(err, KT_E_REFUSED, "use an endpoint with https://",
			       "the endpoint of AWS_ENDPOINT_URL_KMS or AWS_ENDPOINT_URL would get keys in the clear");
	return kt_buf_str(&kms->url, said, err);
}

static kt_code make_context(kt_aws_kms *kms, kt_err *err)
{
	cJSON *o = cJSON_CreateObject();
	if (!o)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = kt_json_add_str(o, "Looker_Encryption_Context", kms->context, err);
	if (rc == KT_OK)
		rc = kt_json_print(o, &kms->context_json, err);
	cJSON_Delete(o);
	return rc;
}

/* AWS_MAX_ATTEMPTS, as AWS's own tools have it. */
static int attempts_of(const char *text)
{
	long n = text && text[0] ? strtol(text, NULL, 10) : ATTEMPTS;
	return n < 1 ? 1 : n > ATTEMPTS_MAX ? ATTEMPTS_MAX : (int)n;
}

static kt_code connect_to(kt_aws_kms *kms, kt_err *err)
{
	kms->timeout_ms = TIMEOUT_MS;
	kms->attempts = attempts_of(getenv("AWS_MAX_ATTEMPTS"));
	KT_TRY(make_context(kms, err));
	KT_TRY(find_endpoint(kms, err));
	return kt_aws_credentials_find(&kms->credentials, err);
}

kt_code kt_aws_kms_open(kt_aws_kms *kms, kt_err *err)
{
	kt_err own = KT_ERR_INIT;
	kt_err *e = err ? err : &own; /* find_key looks into it */
	KT_TRY(connect_to(kms, e));
	return find_key(kms, e);
}

/* --- Making ------------------------------------------------------------------------------------------------------- */

static kt_code call_json(const kt_aws_kms *kms, int attempts, const char *operation, cJSON *ask, cJSON **out,
			 kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = ask ? kt_json_print(ask, &text, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	*out = NULL;
	if (rc == KT_OK)
		rc = call_text(kms, attempts, operation, &text, out, err);
	kt_buf_free(&text);
	return rc;
}

static bool never_made(kt_code rc, const kt_err *why)
{
	return rc == KT_E_REFUSED || rc == KT_E_KEY || strstr(why->msg, "ThrottlingException") ||
	       strstr(why->msg, "RequestLimitExceeded") || strstr(why->msg, "ValidationException");
}

/* Whoever asked does not know whether there is such a key now, nor its id: only its description tells. */
static kt_code perhaps_made(const kt_aws_kms *kms, kt_code rc, kt_err *err)
{
	char remedy[KT_ERR_REMEDY];
	if (!err || never_made(rc, err))
		return rc;
	(void)snprintf(
		remedy, sizeof remedy,
		"before making another, look (aws kms list-keys, aws kms describe-key) for a key with a description "
		"that ends in \"for %.256s\": aws kms create-alias gives it the name, aws kms "
		"schedule-key-deletion lets it go",
		kms->name);
	kt_err why = *err;
	return kt_fail(err, rc, remedy, "%s; perhaps a key without an alias was made, which costs until it is deleted",
		       why.msg);
}

/* Asked once: a second one would be a second key, which costs and is never used. */
static kt_code create_key(kt_aws_kms *kms, const char *description, kt_err *err)
{
	cJSON *o = NULL, *ask = cJSON_CreateObject();
	kt_code rc = ask ? kt_json_add_str(ask, "Description", description, err) : KT_OK;
	if (rc == KT_OK)
		rc = kt_json_add_str(ask, "KeySpec", "SYMMETRIC_DEFAULT", err);
	if (rc == KT_OK)
		rc = kt_json_add_str(ask, "KeyUsage", "ENCRYPT_DECRYPT", err);
	if (rc == KT_OK)
		rc = call_json(kms, 1, "CreateKey", ask, &o, err);
	cJSON_Delete(ask);
	if (rc == KT_OK && (rc = check_metadata(kms, o, err)) != KT_OK)
		rc = not_understood("CreateKey", rc, err);
	cJSON_Delete(o);
	return rc == KT_OK ? KT_OK : perhaps_made(kms, rc, err);
}

/* Does the name stand for the key that was made? */
static bool is_named(const kt_aws_kms *kms)
{
	cJSON *o = NULL;
	kt_aws_kms found = *kms;
	bool same = describe(kms, &o, NULL) == KT_OK && check_metadata(&found, o, NULL) == KT_OK &&
		    strcmp(found.arn, kms->arn) == 0;
	cJSON_Delete(o);
	return same;
}

static kt_code create_alias(kt_aws_kms *kms, kt_err *err)
{
	cJSON *o = NULL, *ask = cJSON_CreateObject();
	kt_code rc = ask ? kt_json_add_str(ask, "AliasName", kms->name, err) : KT_OK;
	if (rc == KT_OK)
		rc = kt_json_add_str(ask, "TargetKeyId", kms->arn, err);
	if (rc == KT_OK)
		rc = call_json(kms, kms->attempts, "CreateAlias", ask, &o, err);
	cJSON_Delete(ask);
	cJSON_Delete(o);
	if (rc == KT_OK || is_named(kms)) /* an answer may have been lost */
		return KT_OK;
	return kt_err_prefix(err, rc,
			     "the key %s was made and has no alias yet (aws kms create-alias, or aws kms "
			     "schedule-key-deletion)",
			     kms->arn);
}

kt_code kt_aws_kms_create(kt_aws_kms *kms, const char *description, kt_err *err)
{
	kt_err why = KT_ERR_INIT;
	char text[DESCRIPTION_MAX];
	cJSON *o = NULL;
	if (strncmp(kms->name, "alias/", 6) != 0 || strncmp(kms->name, "alias/aws/", 10) == 0)
		return kt_fail(err, KT_E_INPUT, "write awskms:alias/NAME",
			       "a new key of AWS KMS needs an alias, and %s can be none", kms->name);
	KT_TRY(connect_to(kms, err));
	kt_code rc = describe(kms, &o, &why);
	cJSON_Delete(o);
	if (rc == KT_OK)
		return kt_fail(err, KT_E_REFUSED, "choose another alias; no alias is ever moved to another key",
			       "AWS KMS has a key under %s in %s already", kms->name, kms->region);
	if (rc != KT_E_KEY)
		return kt_fail(err, rc, why.remedy, "%s", why.msg);
	(void)snprintf(text, sizeof text, "%s, for %s", description, kms->name);
	KT_TRY(create_key(kms, text, err));
	return create_alias(kms, err);
}

void kt_aws_kms_close(kt_aws_kms *kms)
{
	kt_buf_free(&kms->context_json);
	kt_buf_free(&kms->url);
	kt_aws_credentials_free(&kms->credentials);
}
