/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/probed.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/codec.h"
#include "base/record.h"

enum { MODULE_MAX = 256 * 1024 * 1024 };

static const char again[] = "see why, then run `keyturn hsm probe` again";

static kt_code digest(const char *path, char out[KT_SHA256_HEX], kt_err *err)
{
	kt_buf bytes = {.max = MODULE_MAX};
	out[0] = '\0';
	kt_code rc = KT_OK;
	if (path[0] == '/' && kt_file_read(path, &bytes, NULL) == KT_OK)
		rc = kt_sha256_hex(bytes.data, bytes.len, out, err);
	kt_buf_free(&bytes);
	return rc;
}

kt_code kt_probed_identify(cJSON *token, kt_err *err)
{
	cJSON *module = cJSON_GetObjectItemCaseSensitive(token, "module");
	const char *path;
	char sum[KT_SHA256_HEX];
	KT_TRY(kt_json_str(module, "path", &path, err));
	KT_TRY(digest(path, sum, err));
	return kt_json_add_str(module, "sha256", sum, err);
}

/* Serials are printable, but not always fit for a file's name. */
static kt_code path_of(const char *state, const cJSON *token, char out[KT_RECORD_PATH], kt_err *err)
{
	const char *serial;
	char name[64];
	size_t n = 0;
	KT_TRY(kt_json_str(token, "serial", &serial, err));
	for (const char *p = serial; *p && n + 4 < sizeof name; p++) {
		bool plain = isalnum((unsigned char)*p) || *p == '-' || *p == '_';
		n += (size_t)snprintf(name + n, sizeof name - n, plain ? "%c" : "%%%02x", (unsigned char)*p);
	}
	name[n] = '\0';
	if (snprintf(out, KT_RECORD_PATH, "%s/hsm/%s.json", state, n ? name : "no-serial") >= KT_RECORD_PATH)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "the path of the state folder is too long");
	return KT_OK;
}

kt_code kt_probed_keep(const char *state, const cJSON *report, kt_err *err)
{
	char path[KT_RECORD_PATH], folder[KT_RECORD_PATH];
	kt_buf text = KT_BUF_INIT;
	const cJSON *token;
	KT_TRY(kt_json_object(report, "token", &token, err));
	KT_TRY(path_of(state, token, path, err));
	if (snprintf(folder, sizeof folder, "%s/hsm", state) >= (int)sizeof folder)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "the path of the state folder is too long");
	KT_TRY(kt_file_mkdirs(folder, 0700, err));
	kt_code rc = kt_json_print(report, &text, err);
	if (rc == KT_OK)
		rc = kt_record_replace(path, &text, &kt_record_private, err);
	kt_buf_free(&text);
	return rc;
}

/* One member of both; a difference is an error that says what was and what is. */
static kt_code same(const cJSON *was, const cJSON *is, const char *name, const char *what, kt_err *err)
{
	const char *before, *now;
	KT_TRY(kt_json_str(was, name, &before, err));
	KT_TRY(kt_json_str(is, name, &now, err));
	if (strcmp(before, now) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, again,
		       "the token is not as it was when it was probed: its %s was \"%.80s\" and is \"%.80s\"", what,
		       before, now);
}

static kt_code compare(const cJSON *was, const cJSON *is, kt_err *err)
{
	static const char *const token[] = {"label", "serial", "manufacturer", "model", "hardware", "firmware"};
	static const struct {
		const char *name, *what;
	} module[] = {{"library", "module's description"},
		      {"manufacturer", "module's manufacturer"},
		      {"version", "module's version"},
		      {"cryptoki", "module's version of PKCS#11"},
		      {"sha256", "module's file (SHA-256)"}};
	const cJSON *before, *now;
	for (size_t i = 0; i < sizeof token / sizeof token[0]; i++)
		KT_TRY(same(was, is, token[i], token[i], err));
	KT_TRY(kt_json_object(was, "module", &before, err));
	KT_TRY(kt_json_object(is, "module", &now, err));
	for (size_t i = 0; i < sizeof module / sizeof module[0]; i++)
		KT_TRY(same(before, now, module[i].name, module[i].what, err));
	return KT_OK;
}

/* Another keyturn may have kept it. */
static kt_code check_format(const cJSON *report, kt_err *err)
{
	const char *format;
	KT_TRY(kt_json_str(report, "format", &format, err));
	if (strcmp(format, "keyturn-probe/1") == 0)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "run `keyturn hsm probe` again",
		       "what is kept of the token's probe is of another version of keyturn (%.40s)", format);
}

static kt_code check_fit(const cJSON *report, kt_err *err)
{
	const cJSON *verdict;
	const char *words;
	bool fit;
	KT_TRY(kt_json_object(report, "coordinator", &verdict, err));
	KT_TRY(kt_json_bool(verdict, "fit", &fit, err));
	KT_TRY(kt_json_str(verdict, "verdict", &words, err));
	if (fit)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED,
		       "use another token, or a firmware that does it; `keyturn hsm probe` shows all",
		       "the token is %s", words);
}

kt_code kt_probed_check(const char *state, const cJSON *token, bool *kept, kt_err *err)
{
	char path[KT_RECORD_PATH];
	cJSON *report;
	const cJSON *was;
	*kept = false;
	KT_TRY(path_of(state, token, path, err));
	KT_TRY(kt_record_read_json(path, again, &report, err));
	if (!report)
		return KT_OK;
	*kept = true;
	kt_code rc = check_format(report, err);
	if (rc == KT_OK)
		rc = kt_json_object(report, "token", &was, err);
	if (rc == KT_OK)
		rc = compare(was, token, err);
	if (rc == KT_OK)
		rc = check_fit(report, err);
	cJSON_Delete(report);
	return rc;
}
