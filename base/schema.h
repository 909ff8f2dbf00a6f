/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Validates JSON against a JSON Schema (draft 2020-12), the part of it that our schemas use:
 *   $ref (to "#/$defs/NAME"), type, enum, const, properties, required, additionalProperties, patternProperties,
 *   propertyNames (pattern only), minProperties, items, minItems, maxItems, uniqueItems, pattern (what POSIX extended
 *   expressions and ECMA-262 have in common), minLength, maxLength (in characters), minimum, maximum, oneOf, anyOf;
 *   annotations: $schema, $id, $defs, $comment, title, description, default, examples.
 * Any other keyword makes the schema itself refused, so that no schema checks less than it says.
 */
#ifndef KT_BASE_SCHEMA_H
#define KT_BASE_SCHEMA_H

#include "base/json.h"

/*
 * Check `doc` against `schema` (both borrowed). The first fault found is reported with its place: "FILE:LINE: PATH:
 * message" (kt_json_doc_fail), a missing member at the object that lacks it, an unknown one with the nearest known
 * name. KT_E_INPUT: the document is at fault. KT_E_INTERNAL: the schema is (unknown keyword, bad $ref, bad pattern).
 */
KT_MUST_CHECK kt_code kt_schema_check(const cJSON *schema, const kt_json_doc *doc, kt_err *err);

/* Check a schema alone: every keyword is known and well formed, every $ref leads somewhere. KT_E_INTERNAL. */
KT_MUST_CHECK kt_code kt_schema_lint(const cJSON *schema, kt_err *err);

#endif
