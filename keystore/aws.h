/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What awskms: is made of; private to keystore/. aws_http.c asks (libcurl, which also signs: AWS Signature Version 4),
 * aws_credentials.c finds who asks, aws_kms.c knows the operations of AWS KMS and its errors, aws_policy.c what they
 * need to be allowed, awskms.c is the scheme.
 * Keys, secret access keys and session tokens are kept in kt_secret. libcurl makes copies of its own while it asks, in
 * memory that is not locked; the process is not dumpable (base/secret.h).
 */
#ifndef KT_KEYSTORE_AWS_H
#define KT_KEYSTORE_AWS_H

#include "base/buf.h"
#include "base/keyuri.h"
#include "base/secret.h"
#include "wire/blob.h"

enum {
	KT_AWS_BODY_MAX = 8000, /* bytes of an answer that are taken */
	KT_AWS_ID_MAX = 129,    /* sizes of texts with the NUL */
	KT_AWS_REGION_MAX = KT_AWSURI_REGION,
	KT_AWS_KEY_MAX = KT_AWSURI_NAME, /* an alias has at most 256 bytes, its ARN some more */
	KT_AWS_CONTEXT_MAX = KT_AWSURI_CONTEXT
};

/* --- aws_credentials.c -------------------------------------------------------------------------------------------- */

typedef struct kt_aws_credentials {
	char id[KT_AWS_ID_MAX];
	kt_secret secret;
	kt_secret token; /* empty: none */
	char source[80]; /* where they came from, for messages */
} kt_aws_credentials;

/*
 * The first of: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; the profile AWS_PROFILE (default
 * "default") of AWS_SHARED_CREDENTIALS_FILE (~/.aws/credentials) and of AWS_CONFIG_FILE (~/.aws/config); the container
 * endpoint (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI); the instance metadata service, version 2.
 * KT_E_REFUSED when there are none, KT_E_INPUT when what is there is malformed, KT_E_IO for a file that cannot be read.
 * *out is the caller's: kt_aws_credentials_free.
 */
KT_MUST_CHECK kt_code kt_aws_credentials_find(kt_aws_credentials *out, kt_err *err);
void kt_aws_credentials_free(kt_aws_credentials *c);
/* The region of AWS_REGION, AWS_DEFAULT_REGION or the profile in AWS_CONFIG_FILE; "" when none says one. */
KT_MUST_CHECK kt_code kt_aws_region_find(char out[KT_AWS_REGION_MAX], kt_err *err);
/* Letters, digits and '-' alone: it becomes a part of a host's name. */
bool kt_aws_region_valid(const char *region);

/* --- aws_http.c --------------------------------------------------------------------------------------------------- */

typedef struct kt_aws_request {
	const char *method;
	const char *url;
	const char *const *headers;       /* "Name: value", NULL-ended; NULL: none */
	const kt_secret *body;            /* NULL: none */
	const kt_aws_credentials *signer; /* NULL: not signed */
	const char *region;               /* of the signature */
	long timeout_ms;                  /* for all of it */
} kt_aws_request;

typedef struct kt_aws_answer {
	long status;
	char type[64];  /* x-amzn-ErrorType, "" where there is none */
	int64_t date_s; /* of the answerer's clock; -1: not said */
	kt_secret body; /* at most KT_AWS_BODY_MAX bytes, NUL behind them */
} kt_aws_answer;

/* Ask once, follow no redirection. KT_OK for every HTTP status. KT_E_UNREACHABLE: no connection, no or half an answer,
 * time ran out; KT_E_INPUT: an answer of more than KT_AWS_BODY_MAX bytes; KT_E_REFUSED: the certificate is not good.
 * Free with kt_aws_answer_free, also after a failure. */
KT_MUST_CHECK kt_code kt_aws_http(const kt_aws_request *request, kt_aws_answer *answer, kt_err *err);
void kt_aws_answer_free(kt_aws_answer *answer);
/* Is it http:// to this machine itself? Such an URL is asked without a proxy. */
bool kt_aws_is_loopback(const char *url);

/* --- aws_kms.c ---------------------------------------------------------------------------------------------------- */

typedef struct kt_aws_kms {
	char name[KT_AWS_KEY_MAX]; /* as it was named: alias/NAME, an ARN, or a key id */
	char region[KT_AWS_REGION_MAX];
	char context[KT_AWS_CONTEXT_MAX];
	kt_buf context_json; /* {"Looker_Encryption_Context": context} */
	kt_buf url;
	char arn[KT_BLOB_NAME]; /* of the key that `name` stands for */
	kt_aws_credentials credentials;
	long timeout_ms; /* of one attempt */
	int attempts;    /* at most this many */
} kt_aws_kms;

/* Find credentials, and the key: it exists, is enabled, symmetric and for encryption. name, region and context are set
 * by the caller, everything else is 0. On failure, too, kt_aws_kms_close. */
KT_MUST_CHECK kt_code kt_aws_kms_open(kt_aws_kms *kms, kt_err *err);
void kt_aws_kms_close(kt_aws_kms *kms);

/* Instead of kt_aws_kms_open: CreateKey (symmetric, for encryption) and CreateAlias; `name` is the new alias, `arn`
 * gets the key's. KT_E_REFUSED when there is a key under it. */
KT_MUST_CHECK kt_code kt_aws_kms_create(kt_aws_kms *kms, const char *description, kt_err *err);

/* GenerateDataKey, Encrypt and Decrypt. The ciphertext goes to and comes from `blob`->wrapped; nothing else of the blob
 * is looked at or set. The key is the caller's. */
KT_MUST_CHECK kt_code kt_aws_kms_generate(kt_aws_kms *kms, kt_secret *key, kt_blob *blob, kt_err *err);
KT_MUST_CHECK kt_code kt_aws_kms_encrypt(kt_aws_kms *kms, const kt_secret *key, kt_blob *blob, kt_err *err);
KT_MUST_CHECK kt_code kt_aws_kms_decrypt(kt_aws_kms *kms, const kt_blob *blob, kt_secret *key, kt_err *err);

/* ReEncrypt: the ciphertext of `blob`, which `from` wrapped, comes out in `out`->wrapped under `to`'s key and context.
 * The two must be of one region; `to` asks. */
KT_MUST_CHECK kt_code kt_aws_kms_reencrypt(const kt_aws_kms *to, const kt_aws_kms *from, const kt_blob *blob,
					   kt_blob *out, kt_err *err);
/* GenerateRandom: as many bytes as a KEK has, the caller's. */
KT_MUST_CHECK kt_code kt_aws_kms_random(const kt_aws_kms *kms, kt_secret *out, kt_err *err);
/* Did an operation that ended so fail for lack of a permission (AccessDeniedException)? */
bool kt_aws_kms_denied(kt_code rc, const kt_err *err);

/* Copy the text at `name` out of a JSON object into a secret, and wipe it there. KT_E_INPUT when it is no text or
 * empty. */
KT_MUST_CHECK kt_code kt_aws_take_secret(cJSON *o, const char *name, kt_secret *out, kt_err *err);

#endif
