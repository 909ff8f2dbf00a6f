/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/delivery.h"

#include <stdio.h>
#include <string.h>

#include "base/codec.h"
#include "base/kcv.h"

enum { LABEL_MAX = 256, NONCE_HEX_MIN = 32, NONCE_HEX_MAX = 2 * KT_PROOF_NONCE_MAX };

kt_code kt_delivery_check(const kt_agent_ctx *ctx, const kt_blob *b, const char *run, kt_err *err)
{
	if (b->purpose != KT_BLOB_TRANSPORT && b->purpose != KT_BLOB_REHEARSAL)
		return kt_fail(err, KT_E_INPUT, NULL, "a wrapped key for %s was sent, not one for transport",
			       kt_blob_purpose_name(b->purpose));
	if (strcmp(b->node, ctx->node) != 0 || strcmp(b->run, run) != 0)
		return kt_fail(err, KT_E_REFUSED, "wrap one for this node and run",
			       "the wrapped key is for node \"%s\" in run \"%s\"", b->node, b->run);
	return KT_OK;
}

static kt_code check_label(const kt_agent_ctx *ctx, const kt_delivery *d, kt_err *err)
{
	char label[LABEL_MAX];
	(void)snprintf(label, sizeof label, "keyturn-proof/1:%s:%s", ctx->run, ctx->node);
	if (strcmp(d->label, label) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, NULL, "a proof labelled \"%.100s\" is asked for, not \"%s\"", d->label,
		       label);
}

static kt_code read_it(const kt_agent_ctx *ctx, const cJSON *args, kt_delivery *d, kt_err *err)
{
	const cJSON *blob;
	const char *nonce;
	KT_TRY(kt_json_str(args, "label", &d->label, err));
	KT_TRY(kt_json_str(args, "nonce", &nonce, err));
	size_t n = strlen(nonce);
	if (n < NONCE_HEX_MIN || n > NONCE_HEX_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "\"nonce\" must be 16 to %d bytes in hex",
			       (int)KT_PROOF_NONCE_MAX);
	KT_TRY(kt_hex_decode(nonce, n, &d->nonce, err));
	KT_TRY(kt_json_object(args, "blob", &blob, err));
	KT_TRY(kt_blob_from_json(blob, &d->blob, err));
	KT_TRY(check_label(ctx, d, err));
	return kt_delivery_check(ctx, &d->blob, ctx->run, err);
}

kt_code kt_delivery_read(const kt_agent_ctx *ctx, const cJSON *args, kt_delivery *out, kt_err *err)
{
	*out = (kt_delivery){.nonce = KT_BUF_INIT};
	kt_code rc = read_it(ctx, args, out, err);
	if (rc != KT_OK)
		kt_delivery_free(out);
	return rc;
}

void kt_delivery_free(kt_delivery *d)
{
	kt_buf_free(&d->nonce);
}

kt_code kt_delivery_prove(const kt_delivery *d, const kt_secret *key, cJSON *result, kt_err *err)
{
	uint8_t proof[KT_PROOF_LEN];
	char kcv[KT_KCV_TEXT];
	kt_buf hex = KT_BUF_INIT;
	KT_TRY(kt_kcv_of(key, kcv, err));
	KT_TRY(kt_proof_of(key, d->label, d->nonce.data, d->nonce.len, proof, err));
	kt_code rc = kt_hex_encode(proof, sizeof proof, &hex, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(result, "kcv", kcv, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(result, "proof", kt_buf_cstr(&hex), err);
	kt_buf_free(&hex);
	return rc;
}
