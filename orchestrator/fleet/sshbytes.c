/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/fleet/sshbytes.h"

#include <string.h>

bool kt_bytes_u8(kt_bytes *in, uint8_t *out)
{
	if (in->len < 1)
		return false;
	*out = in->at[0];
	in->at++;
	in->len--;
	return true;
}

bool kt_bytes_u32(kt_bytes *in, uint32_t *out)
{
	if (in->len < 4)
		return false;
	*out = (uint32_t)in->at[0] << 24 | (uint32_t)in->at[1] << 16 | (uint32_t)in->at[2] << 8 | in->at[3];
	in->at += 4;
	in->len -= 4;
	return true;
}

bool kt_bytes_string(kt_bytes *in, kt_bytes *out)
{
	kt_bytes rest = *in;
	uint32_t n;
	if (!kt_bytes_u32(&rest, &n) || n > rest.len)
		return false;
	*out = (kt_bytes){rest.at, n};
	*in = (kt_bytes){rest.at + n, rest.len - n};
	return true;
}

bool kt_bytes_is(const kt_bytes *bytes, const char *text)
{
	return bytes->len == strlen(text) && memcmp(bytes->at, text, bytes->len) == 0;
}

kt_code kt_bytes_put_u32(kt_buf *out, uint32_t v, kt_err *err)
{
	const uint8_t b[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
	return kt_buf_append(out, b, sizeof b, err);
}

kt_code kt_bytes_put(kt_buf *out, const void *bytes, size_t n, kt_err *err)
{
	if (n > KT_BUF_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "too many bytes for a string of ssh");
	KT_TRY(kt_bytes_put_u32(out, (uint32_t)n, err));
	return kt_buf_append(out, bytes, n, err);
}
