/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/frame.h"

#include <string.h>

static void put_be32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

static uint32_t get_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

kt_code kt_frame_encode(kt_frame_kind kind, const cJSON *payload, kt_buf *out, kt_err *err)
{
	const size_t start = out->len;
	uint8_t header[KT_FRAME_HEADER] = {'K', 'T', KT_FRAME_VERSION, (uint8_t)kind};
	KT_TRY(kt_buf_append(out, header, sizeof header, err));
	kt_code rc = kt_json_print(payload, out, err);
	size_t n = out->len - start - KT_FRAME_HEADER;
	if (rc == KT_OK && n > KT_FRAME_PAYLOAD_MAX)
		rc = kt_fail(err, KT_E_INPUT, NULL, "a message of %zu bytes is larger than a frame may be (%d)", n,
			     (int)KT_FRAME_PAYLOAD_MAX);
	if (rc != KT_OK) {
		out->len = start;
		out->data[start] = '\0';
		return rc;
	}
	put_be32(out->data + start + 4, (uint32_t)n);
	return KT_OK;
}

static kt_code check_header(const uint8_t *h, kt_err *err)
{
	if (h[0] != 'K' || h[1] != 'T')
		return kt_fail(err, KT_E_INPUT, "see whether a login script on the node prints something",
			       "the other side does not speak keyturn (its bytes begin %02x %02x)", h[0], h[1]);
	if (h[2] != KT_FRAME_VERSION)
		return kt_fail(err, KT_E_INPUT, "run `keyturn enroll` to put the same version on every node",
			       "the other side speaks frame version %u, this one %d", h[2], (int)KT_FRAME_VERSION);
	if (h[3] < KT_FRAME_HELLO || h[3] > KT_FRAME_BYE)
		return kt_fail(err, KT_E_INPUT, NULL, "unknown frame kind %u", h[3]);
	if (get_be32(h + 4) > KT_FRAME_PAYLOAD_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "a frame of %u bytes is larger than allowed (%d)",
			       (unsigned)get_be32(h + 4), (int)KT_FRAME_PAYLOAD_MAX);
	return KT_OK;
}

kt_code kt_frame_missing(const kt_buf *in, size_t *n, kt_err *err)
{
	*n = in->len < KT_FRAME_HEADER ? KT_FRAME_HEADER - in->len : 0;
	if (*n)
		return KT_OK;
	KT_TRY(check_header(in->data, err));
	size_t whole = KT_FRAME_HEADER + (size_t)get_be32(in->data + 4);
	*n = in->len < whole ? whole - in->len : 0;
	return KT_OK;
}

kt_code kt_frame_decode(kt_buf *in, kt_frame_kind *kind, cJSON **payload, kt_err *err)
{
	size_t missing;
	*payload = NULL;
	KT_TRY(kt_frame_missing(in, &missing, err));
	if (missing)
		return KT_OK;
	size_t n = get_be32(in->data + 4);
	cJSON *root;
	KT_TRY(kt_json_parse("frame", in->data + KT_FRAME_HEADER, n, &root, err));
	if (!cJSON_IsObject(root)) {
		cJSON_Delete(root);
		return kt_fail(err, KT_E_INPUT, NULL, "a frame's payload is not a JSON object");
	}
	*kind = (kt_frame_kind)in->data[3];
	*payload = root;
	kt_buf_consume(in, KT_FRAME_HEADER + n);
	return KT_OK;
}
