/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/owner_wire.h"

#include <errno.h>
#include <unistd.h>

#include "base/file.h"

enum { SECRET_MOST = 16 * 1024 };

kt_code kt_owner_send(int fd, kt_frame_kind kind, cJSON *payload, const kt_secret *secret, kt_err *err)
{
	kt_buf frame = KT_BUF_INIT;
	kt_code rc = KT_OK;
	if (secret && secret->len)
		KT_TRY(kt_json_add_int(payload, "secret", (int64_t)secret->len, err));
	KT_TRY_GOTO(kt_frame_encode(kind, payload, &frame, err), out);
	KT_TRY_GOTO(kt_file_write_all(fd, frame.data, frame.len, "the token's owner", err), out);
	if (secret && secret->len)
		rc = kt_file_write_all(fd, secret->data, secret->len, "the token's owner", err);
out:
	kt_buf_free(&frame);
	return rc;
}

/* Exactly n bytes, or fewer at the end of the conversation: *got tells. */
static kt_code read_all(int fd, uint8_t *out, size_t n, size_t *got, kt_err *err)
{
	*got = 0;
	while (*got < n) {
		ssize_t r = read(fd, out + *got, n - *got);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno != ECONNRESET)
			return kt_fail_errno(err, errno, NULL, "the token's owner cannot be read");
		if (r <= 0)
			return KT_OK;
		*got += (size_t)r;
	}
	return KT_OK;
}

static kt_code read_frame(int fd, kt_frame_kind *kind, cJSON **payload, kt_err *err)
{
	kt_buf in = KT_BUF_INIT;
	kt_code rc;
	size_t more = KT_FRAME_HEADER;
	size_t got = 0;
	*payload = NULL;
	do {
		KT_TRY_GOTO(kt_buf_reserve(&in, more, err), out);
		KT_TRY_GOTO(read_all(fd, in.data + in.len, more, &got, err), out);
		in.len += got;
		in.data[in.len] = '\0';
		if (got < more)
			break; /* its end: an ended process may have left half a message */
		KT_TRY_GOTO(kt_frame_missing(&in, &more, err), out);
	} while (more);
	rc = more ? KT_OK : kt_frame_decode(&in, kind, payload, err);
out:
	kt_buf_free(&in);
	return rc;
}

static kt_code read_secret(int fd, const cJSON *payload, kt_secret *secret, bool *whole, kt_err *err)
{
	int64_t n;
	size_t got;
	*whole = true;
	KT_TRY(kt_json_opt_int(payload, "secret", 0, 0, SECRET_MOST, &n, err));
	if (n == 0)
		return KT_OK;
	KT_TRY(kt_secret_new(secret, (size_t)n, err));
	KT_TRY(read_all(fd, secret->data, secret->len, &got, err));
	*whole = got == secret->len;
	return KT_OK;
}

kt_code kt_owner_receive(int fd, kt_frame_kind *kind, cJSON **payload, kt_secret *secret, kt_err *err)
{
	bool whole = true;
	*secret = KT_SECRET_INIT;
	KT_TRY(read_frame(fd, kind, payload, err));
	if (!*payload)
		return KT_OK;
	kt_code rc = read_secret(fd, *payload, secret, &whole, err);
	if (rc == KT_OK && whole)
		return KT_OK;
	kt_secret_free(secret);
	cJSON_Delete(*payload);
	*payload = NULL;
	return rc;
}
