/* SPDX-License-Identifier: Apache-2.0 */
/* Hex and base64, of plain bytes and of secrets: what is accepted encodes to the same text again; both decoders agree.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/codec.h"
#include "base/secret.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds, const char *what)
{
	if (holds)
		return;
	(void)fprintf(stderr, "does not hold: %s\n", what);
	abort();
}

static void check_hex(const char *text, size_t size)
{
	kt_err err = KT_ERR_INIT;
	kt_buf bytes = KT_BUF_INIT;
	kt_buf again = KT_BUF_INIT;
	if (kt_hex_decode(text, size, &bytes, &err) == KT_OK) {
		require(bytes.len * 2 == size, "two digits a byte");
		require(kt_hex_encode(bytes.data, bytes.len, &again, &err) == KT_OK, "hex encodes");
		require(again.len == size && strncasecmp(kt_buf_cstr(&again), text, size) == 0, "hex round trip");
	}
	require(kt_buf_sane(&bytes), "a sane buffer, also after a refusal");
	kt_buf_free(&bytes);
	kt_buf_free(&again);
}

/* The decoder for secrets must give what the plain one gives. (It lets one line break at the end pass.) */
static void check_secret(const char *text, size_t size, const kt_buf *bytes)
{
	kt_err err = KT_ERR_INIT;
	kt_secret in = KT_SECRET_INIT;
	kt_secret out = KT_SECRET_INIT;
	if (size == 0 || size > 4096)
		return;
	require(kt_secret_copy(&in, text, size, &err) == KT_OK, "a secret");
	kt_code rc = kt_secret_from_base64(&in, &out, &err);
	if (bytes->len)
		require(rc == KT_OK && out.len == bytes->len && memcmp(out.data, bytes->data, out.len) == 0,
			"both decoders agree");
	kt_secret_free(&in);
	kt_secret_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	kt_err err = KT_ERR_INIT;
	const char *text = (const char *)data;
	check_hex(text, size);
	kt_buf bytes = KT_BUF_INIT;
	kt_buf again = KT_BUF_INIT;
	if (kt_base64_decode(text, size, &bytes, &err) == KT_OK) {
		require(kt_base64_encode(bytes.data, bytes.len, &again, &err) == KT_OK, "base64 encodes");
		require(again.len == size, "base64 round trip: length");
	}
	require(kt_buf_sane(&bytes), "a sane buffer, also after a refusal");
	check_secret(text, size, &bytes);
	kt_buf_free(&bytes);
	kt_buf_free(&again);
	return 0;
}
