/* SPDX-License-Identifier: Apache-2.0 */
/* Changing a copy of the shipped playbook: values are written as JSON in which ' stands for ". */
#ifndef KT_TESTS_UNIT_PLAYBOOK_EDIT_H
#define KT_TESTS_UNIT_PLAYBOOK_EDIT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/playbook/playbook.h"
#include "playbooks/embedded.h"

static inline cJSON *edit_json(const char *text)
{
	char copy[2000];
	cJSON *v = NULL;
	kt_err err = KT_ERR_INIT;
	(void)snprintf(copy, sizeof copy, "%s", text);
	for (char *c = copy; *c; c++)
		if (*c == '\'')
			*c = '"';
	assert_kt_ok(kt_json_parse("edit", copy, strlen(copy), &v, &err));
	return v;
}

static inline cJSON *edit_shipped(void)
{
	kt_err err = KT_ERR_INIT;
	kt_json_doc doc;
	const kt_embedded *f = kt_embedded_files;
	while (f->name && strcmp(f->name, "looker.json") != 0)
		f++;
	assert_non_null(f->name);
	assert_kt_ok(kt_json_doc_parse(&doc, f->name, f->data, f->len, &err));
	cJSON *root = cJSON_Duplicate(doc.root, 1);
	kt_json_doc_free(&doc);
	return root;
}

static inline cJSON *edit_step(cJSON *root, const char *name)
{
	cJSON *s = cJSON_GetObjectItem(root, "steps")->child;
	while (s && strcmp(cJSON_GetObjectItem(s, "name")->valuestring, name) != 0)
		s = s->next;
	if (!s)
		fail_msg("no step %s", name);
	return s;
}

/* Set root's or a step's member by a dotted path ("steps.rekey.undo.do"); NULL removes it. */
static inline void edit_set(cJSON *root, const char *path, const char *value)
{
	char copy[200];
	(void)snprintf(copy, sizeof copy, "%s", path);
	cJSON *at = root;
	char *name = copy;
	for (char *dot = strchr(name, '.'); dot; dot = strchr(name, '.')) {
		*dot = '\0';
		if (cJSON_IsArray(at))
			at = edit_step(root, name);
		else
			at = cJSON_GetObjectItemCaseSensitive(at, name);
		if (!at)
			fail_msg("%s: no %s", path, name);
		name = dot + 1;
	}
	if (cJSON_IsArray(at)) {
		cJSON_Delete(cJSON_DetachItemViaPointer(at, edit_step(root, name)));
		return;
	}
	cJSON_DeleteItemFromObjectCaseSensitive(at, name);
	if (value)
		cJSON_AddItemToObject(at, name, edit_json(value));
}

/* Move (or copy, under another name) a step in front of another one. */
static inline void edit_before(cJSON *root, const char *name, const char *before, const char *copy_name)
{
	cJSON *steps = cJSON_GetObjectItem(root, "steps");
	cJSON *s = edit_step(root, name);
	s = copy_name ? cJSON_Duplicate(s, 1) : cJSON_DetachItemViaPointer(steps, s);
	if (copy_name)
		cJSON_ReplaceItemInObject(s, "name", cJSON_CreateString(copy_name));
	/* cJSON_InsertItemInArray of Debian 12 refuses new items: what follows is taken out and put back. */
	const cJSON *stop = edit_step(root, before);
	cJSON *made = cJSON_CreateArray();
	while (steps->child) {
		if (steps->child == stop)
			cJSON_AddItemToArray(made, s);
		cJSON_AddItemToArray(made, cJSON_DetachItemFromArray(steps, 0));
	}
	cJSON_ReplaceItemInObject(root, "steps", made);
}

/* Parse what was edited. Takes `root`. Printed with line breaks, so that lines mean something. */
static inline kt_code edit_parse(cJSON *root, kt_playbook *p, kt_err *err)
{
	char *text = cJSON_Print(root);
	kt_code rc = kt_playbook_parse("edited.json", text, strlen(text), p, err);
	cJSON_free(text);
	cJSON_Delete(root);
	return rc;
}

#endif
