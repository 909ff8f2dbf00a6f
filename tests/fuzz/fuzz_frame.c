/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames and what they say. What must hold for every input: no crash; taking frames off in pieces gives the same frames
 * as at once; a message that is accepted is encoded to a frame that says the same; an accepted name never leads out of
 * a folder.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/blob.h"
#include "wire/frame.h"
#include "wire/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds, const char *what)
{
	if (holds)
		return;
	(void)fprintf(stderr, "does not hold: %s\n", what);
	abort();
}

/* `again` is `made` sent and received. */
static cJSON *send_and_receive(kt_frame_kind kind, const cJSON *made)
{
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	kt_frame_kind got = KT_FRAME_BYE;
	cJSON *again = NULL;
	require(kt_frame_encode(kind, made, &b, &err) == KT_OK, "what was encoded fits a frame");
	require(kt_frame_decode(&b, &got, &again, &err) == KT_OK && again, "our own frame is accepted");
	require(got == kind && b.len == 0, "it is the same kind, and nothing is left over");
	kt_buf_free(&b);
	return again;
}

static void check_name(const char *name)
{
	require(!strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && name[0], "a safe name");
}

static void check_request(const cJSON *payload)
{
	kt_err err = KT_ERR_INIT;
	kt_request r;
	kt_request s;
	cJSON *made = NULL;
	if (kt_request_decode(payload, &r, &err) != KT_OK)
		return;
	check_name(r.cluster);
	check_name(r.run);
	check_name(r.step);
	check_name(r.node);
	require(r.epoch >= 0 && r.attempt >= 1 && cJSON_IsObject(r.args),
		"numbers in their ranges, arguments an object");
	require(kt_request_encode(&r, &made, &err) == KT_OK, "an accepted request can be sent on");
	cJSON *again = send_and_receive(KT_FRAME_REQUEST, made);
	require(kt_request_decode(again, &s, &err) == KT_OK, "and is accepted again");
	require(s.id == r.id && s.role == r.role && strcmp(s.verb, r.verb) == 0 && cJSON_Compare(s.args, r.args, 1),
		"and says the same");
	cJSON_Delete(again);
	cJSON_Delete(made);
	kt_blob blob;
	const cJSON *json = cJSON_GetObjectItemCaseSensitive(r.args, "blob");
	if (json && kt_blob_from_json(json, &blob, &err) == KT_OK)
		require(blob.wrapped_len <= sizeof blob.wrapped, "a wrapped key stays in its bounds");
}

static void check_reply(const cJSON *payload)
{
	kt_err err = KT_ERR_INIT;
	kt_reply r;
	cJSON *made = NULL;
	if (kt_reply_decode(payload, &r, &err) != KT_OK)
		return;
	require(r.status == KT_STATUS_OK || r.error.code != KT_OK, "a reason with every status but ok");
	require(kt_reply_encode(&r, &made, &err) == KT_OK, "an accepted reply can be sent on");
	cJSON_Delete(send_and_receive(KT_FRAME_REPLY, made));
	cJSON_Delete(made);
}

static void check_rest(const cJSON *payload)
{
	kt_err err = KT_ERR_INIT;
	kt_progress p;
	kt_hello h;
	cJSON *made = NULL;
	if (kt_progress_decode(payload, &p, &err) == KT_OK) {
		require(kt_progress_encode(&p, &made, &err) == KT_OK, "accepted progress can be sent on");
		cJSON_Delete(send_and_receive(KT_FRAME_PROGRESS, made));
		cJSON_Delete(made);
	}
	if (kt_hello_decode(payload, &h, &err) == KT_OK) {
		require(kt_hello_encode(&h, &made, &err) == KT_OK, "an accepted hello can be sent on");
		cJSON_Delete(send_and_receive(KT_FRAME_HELLO, made));
		cJSON_Delete(made);
	}
}

/* Take all frames; `step` bytes come at a time. The number of frames, and whether the conversation ended badly. */
static size_t converse(const uint8_t *data, size_t size, size_t step, int look, int *bad)
{
	kt_buf in = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	size_t frames = 0;
	*bad = 0;
	for (size_t at = 0; at < size && !*bad; at += step) {
		require(kt_buf_append(&in, data + at, size - at < step ? size - at : step, &err) == KT_OK,
			"there is room");
		for (;;) {
			kt_frame_kind kind = KT_FRAME_BYE;
			cJSON *payload = NULL;
			kt_code rc = kt_frame_decode(&in, &kind, &payload, &err);
			*bad = rc != KT_OK;
			require(!*bad || (!payload && err.msg[0]), "a refusal has a message and no payload");
			if (!payload)
				break;
			frames++;
			require(kind >= KT_FRAME_HELLO && kind <= KT_FRAME_BYE, "a known kind");
			if (look) {
				check_request(payload);
				check_reply(payload);
				check_rest(payload);
			}
			cJSON_Delete(payload);
		}
		require(kt_buf_sane(&in), "the buffer keeps its invariants");
	}
	kt_buf_free(&in);
	return frames;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int bad;
	int bad_in_pieces;
	if (size > 65536)
		return 0;
	size_t frames = converse(data, size, size ? size : 1, 1, &bad);
	size_t in_pieces = converse(data, size, 1 + size / 16, 0, &bad_in_pieces);
	require(frames == in_pieces && bad == bad_in_pieces, "the pieces do not matter");
	return 0;
}
