/* SPDX-License-Identifier: Apache-2.0 */
/* What an identity must be allowed for awskms:, as an IAM policy (version 2012-10-17). */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/keyuri.h"
#include "keystore/keystore.h"

enum { ARN_MAX = KT_AWSURI_NAME + 64 };

static kt_code out_of_memory(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

/* {"Sid", "Effect", "Action": [...], "Resource"}, owned by `list`. `actions` ends with NULL. */
static kt_code add_statement(cJSON *list, const char *sid, const char *const *actions, const char *resource,
			     cJSON **out, kt_err *err)
{
	cJSON *s = cJSON_CreateObject();
	if (!s || !cJSON_AddItemToArray(list, s)) {
		cJSON_Delete(s);
		return out_of_memory(err);
	}
	KT_TRY(kt_json_add_str(s, "Sid", sid, err));
	KT_TRY(kt_json_add_str(s, "Effect", "Allow", err));
	cJSON *names = cJSON_AddArrayToObject(s, "Action");
	for (; names && *actions; actions++)
		if (!cJSON_AddItemToArray(names, cJSON_CreateString(*actions)))
			return out_of_memory(err);
	*out = s;
	return names ? kt_json_add_str(s, "Resource", resource, err) : out_of_memory(err);
}

/* A policy names keys by ARN: an alias can only be a condition. */
static kt_code add_alias(cJSON *statement, const char *alias, kt_err *err)
{
	cJSON *condition = cJSON_AddObjectToObject(statement, "Condition");
	cJSON *test = condition ? cJSON_AddObjectToObject(condition, "ForAnyValue:StringEquals") : NULL;
	return test ? kt_json_add_str(test, "kms:ResourceAliases", alias, err) : out_of_memory(err);
}

/* The key's ARN, and its alias where it is named by one. */
static kt_code resource_of(const char *uri, char arn[ARN_MAX], char alias[KT_AWSURI_NAME], kt_err *err)
{
	kt_awsuri of = {.name = ""};
	if (uri && strncmp(uri, "awskms:", 7) != 0)
		return kt_fail(err, KT_E_INPUT, "write awskms:alias/NAME, or an ARN for alias/NAME",
			       "a policy is needed for keys of AWS KMS alone");
	if (uri)
		KT_TRY(kt_awsuri_parse(uri + 7, &of, err));
	const char *region = of.region[0] ? of.region : "*";
	const char *name = strncmp(of.name, "arn:", 4) == 0 ? strrchr(of.name, ':') + 1 : of.name;
	alias[0] = '\0';
	if (strncmp(name, "alias/", 6) == 0)
		(void)snprintf(alias, KT_AWSURI_NAME, "%s", name);
	if (name != of.name && !alias[0])
		(void)snprintf(arn, ARN_MAX, "%s", of.name);
	else
		(void)snprintf(arn, ARN_MAX, "arn:aws:kms:%s:*:key/%s", region, alias[0] || !name[0] ? "*" : name);
	return KT_OK;
}

static kt_code add_statements(cJSON *list, const char *uri, bool create, kt_err *err)
{
	static const char *const random[] = {"kms:GenerateRandom", NULL};
	static const char *const use[] = {"kms:DescribeKey", "kms:Generate*",  "kms:Encrypt",
					  "kms:Decrypt",     "kms:ReEncrypt*", NULL};
	static const char *const make[] = {"kms:CreateKey", NULL};
	static const char *const name[] = {"kms:CreateAlias", NULL};
	char arn[ARN_MAX], alias[KT_AWSURI_NAME], aliases[ARN_MAX];
	cJSON *s;
	KT_TRY(resource_of(uri, arn, alias, err));
	KT_TRY(add_statement(list, "Random", random, "*", &s, err));
	KT_TRY(add_statement(list, "UseKey", use, arn, &s, err));
	if (alias[0])
		KT_TRY(add_alias(s, alias, err));
	if (!create)
		return KT_OK;
	(void)snprintf(aliases, sizeof aliases, "arn:aws:kms:*:*:%s", alias[0] ? alias : "alias/*");
	KT_TRY(add_statement(list, "MakeKey", make, "*", &s, err));
	KT_TRY(add_statement(list, "NameKey", name, "arn:aws:kms:*:*:key/*", &s, err));
	return add_statement(list, "TakeAlias", name, aliases, &s, err);
}

kt_code kt_keystore_awskms_policy(const char *uri, bool create, kt_buf *out, kt_err *err)
{
	cJSON *policy = cJSON_CreateObject();
	cJSON *list = policy ? cJSON_CreateArray() : NULL;
	kt_code rc = list ? kt_json_add_str(policy, "Version", "2012-10-17", err) : out_of_memory(err);
	if (rc == KT_OK)
		rc = add_statements(list, uri, create, err);
	if (rc != KT_OK) {
		cJSON_Delete(list);
	} else {
		rc = kt_json_add(policy, "Statement", list, err);
	}
	char *text = rc == KT_OK ? cJSON_Print(policy) : NULL;
	if (rc == KT_OK)
		rc = text ? kt_buf_printf(out, err, "%s\n", text) : out_of_memory(err);
	cJSON_free(text);
	cJSON_Delete(policy);
	return rc;
}
