/* SPDX-License-Identifier: Apache-2.0 */
/* Frames between coordinator and agent (docs/FORMATS.md, section 1): encode and decode side by side. */
#ifndef KT_WIRE_FRAME_H
#define KT_WIRE_FRAME_H

#include "base/json.h"

enum { KT_FRAME_HEADER = 8, KT_FRAME_VERSION = 1, KT_FRAME_PAYLOAD_MAX = 1024 * 1024 };

typedef enum kt_frame_kind {
	KT_FRAME_HELLO = 1,
	KT_FRAME_REQUEST = 2,
	KT_FRAME_REPLY = 3,
	KT_FRAME_PROGRESS = 4,
	KT_FRAME_PING = 5,
	KT_FRAME_PONG = 6,
	KT_FRAME_BYE = 7
} kt_frame_kind;

/* Append one frame to `out`. KT_E_INPUT when the payload is larger than KT_FRAME_PAYLOAD_MAX. */
KT_MUST_CHECK kt_code kt_frame_encode(kt_frame_kind kind, const cJSON *payload, kt_buf *out, kt_err *err);

/* How many bytes are still missing until the first frame of `in` is whole, as far as it can tell (its header first); 0
 * when it is. For who must not read further than a frame. KT_E_INPUT: this is not our format. */
KT_MUST_CHECK kt_code kt_frame_missing(const kt_buf *in, size_t *n, kt_err *err);

/*
 * Take one frame off the front of `in`. When a whole frame is there: *payload is the caller's (cJSON_Delete) and *kind
 * is set; when more bytes are needed: *payload is NULL and KT_OK is returned. KT_E_INPUT: this is not our format; the
 * conversation is over.
 */
KT_MUST_CHECK kt_code kt_frame_decode(kt_buf *in, kt_frame_kind *kind, cJSON **payload, kt_err *err);

#endif
