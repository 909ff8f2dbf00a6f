/* SPDX-License-Identifier: Apache-2.0 */
/* What the frames say (docs/FORMATS.md, section 1): request, reply, progress, hello. */
#ifndef KT_WIRE_MESSAGE_H
#define KT_WIRE_MESSAGE_H

#include "base/json.h"

enum { KT_PROTOCOL = 1, KT_NAME_MAX = 63, KT_RUN_MAX = 40 };

/* How a command ended. The numbers are only for tables; on the wire and in the journal it is the name. */
typedef enum kt_status {
	KT_STATUS_OK,     /* done */
	KT_STATUS_RETRY,  /* not now, ask again; nothing changed */
	KT_STATUS_FAILED, /* certainly not done */
	KT_STATUS_UNKNOWN /* started, outcome not known */
} kt_status;

typedef enum kt_role { KT_ROLE_DO, KT_ROLE_UNDO, KT_ROLE_PROBE } kt_role;

const char *kt_status_name(kt_status s);
KT_MUST_CHECK kt_code kt_status_parse(const char *name, kt_status *out, kt_err *err);
const char *kt_role_name(kt_role r);
KT_MUST_CHECK kt_code kt_role_parse(const char *name, kt_role *out, kt_err *err);

/* A request. Strings and args are borrowed: from the caller when encoding, from the payload when decoding. */
typedef struct kt_request {
	int64_t id; /* pairs the reply with it, on one connection */
	const char *cluster;
	const char *run; /* "-" outside a run */
	int64_t epoch;   /* fencing; 0 outside a run */
	int64_t link; /* rises with each connection to the node; the first one is drawn by the coordinator, so that not
			 even two of one epoch have the same; 0: not said */
	const char *step;
	kt_role role;
	const char *node;
	int64_t attempt; /* from 1 */
	const char *verb;
	bool settle;       /* answer out of the spool only; what has no outcome there is not done now (S1, S2) */
	const cJSON *args; /* an object */
} kt_request;

/* A reply. `result` is borrowed and may be NULL; `error` is set unless status is ok. */
typedef struct kt_reply {
	int64_t id;
	kt_status status;
	const cJSON *result;
	kt_err error;
} kt_reply;

typedef struct kt_progress {
	int64_t id;
	int64_t done;  /* -1 when absent */
	int64_t total; /* -1 when absent */
	const char *text;
} kt_progress;

typedef struct kt_hello {
	const char *agent; /* version */
	const char *node;
	const char *hostname;
	const char *boot_id;
	int64_t uid;
	int64_t time_ms;
} kt_hello;

/* Each encoder makes a new payload that the caller deletes, and that borrows all texts and objects; each decoder checks
 * every member (names: 1..63 characters of [A-Za-z0-9._-], "@" for a node, "/" refused) and borrows from the payload.
 * KT_E_INPUT names what is wrong. */
KT_MUST_CHECK kt_code kt_request_encode(const kt_request *r, cJSON **out, kt_err *err);
KT_MUST_CHECK kt_code kt_request_decode(const cJSON *payload, kt_request *r, kt_err *err);
KT_MUST_CHECK kt_code kt_reply_encode(const kt_reply *r, cJSON **out, kt_err *err);
KT_MUST_CHECK kt_code kt_reply_decode(const cJSON *payload, kt_reply *r, kt_err *err);
KT_MUST_CHECK kt_code kt_progress_encode(const kt_progress *p, cJSON **out, kt_err *err);
KT_MUST_CHECK kt_code kt_progress_decode(const cJSON *payload, kt_progress *p, kt_err *err);
KT_MUST_CHECK kt_code kt_hello_encode(const kt_hello *h, cJSON **out, kt_err *err);
KT_MUST_CHECK kt_code kt_hello_decode(const cJSON *payload, kt_hello *h, kt_err *err);

/* {"status","result","error"}: the part of a reply that spool and journal keep. `into` borrows result and error. */
KT_MUST_CHECK kt_code kt_outcome_encode(kt_status status, const cJSON *result, const kt_err *error, cJSON *into,
					kt_err *err);
KT_MUST_CHECK kt_code kt_outcome_decode(const cJSON *from, kt_status *status, const cJSON **result, kt_err *error,
					kt_err *err);

/* A name that may become a part of a path: 1..63 of [A-Za-z0-9._-], not beginning with '.'; KT_E_INPUT otherwise. */
KT_MUST_CHECK kt_code kt_name_check(const char *what, const char *name, kt_err *err);

#endif
