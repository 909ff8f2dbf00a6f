/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strict JSON over cJSON: RFC 8259, no duplicate names, no trailing text, bounded depth and size. Files (not frames)
 * may carry comments (slash-slash to the end of the line, slash-star to star-slash). Errors name the line; a JSON path
 * (`$.steps[3].name`) can be turned into its line. Integers are exact up to 2^53.
 */
#ifndef KT_BASE_JSON_H
#define KT_BASE_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

enum { KT_JSON_DEPTH = 32, KT_JSON_MAX = 8 * 1024 * 1024 };

/* A parsed file. `text` is kept, comments blanked, so that paths can be turned into lines. */
typedef struct kt_json_doc {
	char *name; /* file name for messages */
	char *text; /* NUL-terminated */
	size_t len;
	cJSON *root;
} kt_json_doc;

/* Parse `len` bytes without comments (frames, rows, blobs). *out is the caller's: cJSON_Delete. KT_E_INPUT. */
KT_MUST_CHECK kt_code kt_json_parse(const char *name, const void *text, size_t len, cJSON **out, kt_err *err);
/* Parse a text that may carry comments; load it from a file. Free with kt_json_doc_free. */
KT_MUST_CHECK kt_code kt_json_doc_parse(kt_json_doc *doc, const char *name, const void *text, size_t len, kt_err *err);
KT_MUST_CHECK kt_code kt_json_doc_load(kt_json_doc *doc, const char *path, kt_err *err);
void kt_json_doc_free(kt_json_doc *doc);

/* The line (from 1) on which the value at `path` begins; 0 when there is no such path. */
size_t kt_json_doc_line(const kt_json_doc *doc, const char *path);
/* An error about the value at `path`: "FILE:LINE: PATH: message". */
KT_MUST_CHECK kt_code kt_json_doc_fail(const kt_json_doc *doc, const char *path, kt_err *err, const char *remedy,
				       const char *fmt, ...) KT_PRINTF(5, 6);

/* The member of that name, or NULL. (Not by cJSON, whose look-up calls strcmp for each member; a turn looks up
 * millions.)
 */
const cJSON *kt_json_member(const cJSON *obj, const char *name);
/* Members of an object. The strings returned belong to `obj`. KT_E_INPUT names the member and what is wrong. */
KT_MUST_CHECK kt_code kt_json_str(const cJSON *obj, const char *name, const char **out, kt_err *err);
KT_MUST_CHECK kt_code kt_json_int(const cJSON *obj, const char *name, int64_t min, int64_t max, int64_t *out,
				  kt_err *err);
KT_MUST_CHECK kt_code kt_json_bool(const cJSON *obj, const char *name, bool *out, kt_err *err);
KT_MUST_CHECK kt_code kt_json_object(const cJSON *obj, const char *name, const cJSON **out, kt_err *err);
KT_MUST_CHECK kt_code kt_json_array(const cJSON *obj, const char *name, const cJSON **out, kt_err *err);
/* The same for members that may be absent: `fallback` then. Present but of another type is still an error. */
KT_MUST_CHECK kt_code kt_json_opt_str(const cJSON *obj, const char *name, const char *fallback, const char **out,
				      kt_err *err);
KT_MUST_CHECK kt_code kt_json_opt_int(const cJSON *obj, const char *name, int64_t fallback, int64_t min, int64_t max,
				      int64_t *out, kt_err *err);
KT_MUST_CHECK kt_code kt_json_opt_bool(const cJSON *obj, const char *name, bool fallback, bool *out, kt_err *err);

/* The members of an object in byte order of their names; the caller frees the array. NULL with *n = 0 for an empty one.
 */
KT_MUST_CHECK kt_code kt_json_sorted(const cJSON *obj, const cJSON ***out, size_t *n, kt_err *err);

/* Compact text with the members of every object in byte order of their names: what digests are taken of. */
KT_MUST_CHECK kt_code kt_json_canonical(const cJSON *value, kt_buf *out, kt_err *err);
/* Compact text in the given order, appended to `out`. */
KT_MUST_CHECK kt_code kt_json_print(const cJSON *value, kt_buf *out, kt_err *err);

/* Adding members; KT_E_INTERNAL when out of memory. `kt_json_add` takes ownership of `value`, also on failure. */
KT_MUST_CHECK kt_code kt_json_add(cJSON *obj, const char *name, cJSON *value, kt_err *err);
KT_MUST_CHECK kt_code kt_json_add_str(cJSON *obj, const char *name, const char *value, kt_err *err);
KT_MUST_CHECK kt_code kt_json_add_int(cJSON *obj, const char *name, int64_t value, kt_err *err);
KT_MUST_CHECK kt_code kt_json_add_bool(cJSON *obj, const char *name, bool value, kt_err *err);

#endif
