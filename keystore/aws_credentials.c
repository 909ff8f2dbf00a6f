/* SPDX-License-Identifier: Apache-2.0 */
/* Who asks AWS: environment, shared files, container endpoint, instance metadata (IMDSv2), in this order. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "keystore/aws.h"

enum { FILE_MAX = 16000, TOKEN_MAX = 4096, CONTAINER_MS = 2000, METADATA_MS = 1000 };

static const char *variable(const char *name)
{
	const char *value = getenv(name);
	return value && value[0] ? value : NULL;
}

void kt_aws_credentials_free(kt_aws_credentials *c)
{
	kt_secret_free(&c->secret);
	kt_secret_free(&c->token);
}

static kt_code take_id(kt_aws_credentials *c, const char *id, size_t n, kt_err *err)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
	if (n == 0 || n >= sizeof c->id || strspn(id, letters) < n)
		return kt_fail(err, KT_E_INPUT, "give the access key id that AWS gave (letters and digits)",
			       "%s: this is no access key id", c->source);
	memcpy(c->id, id, n);
	c->id[n] = '\0';
	return KT_OK;
}

/* --- Environment -------------------------------------------------------------------------------------------------- */

static kt_code from_environment(kt_aws_credentials *c, bool *found, kt_err *err)
{
	const char *id = variable("AWS_ACCESS_KEY_ID"), *secret = variable("AWS_SECRET_ACCESS_KEY");
	const char *token = variable("AWS_SESSION_TOKEN");
	if (!id && !secret)
		return KT_OK;
	(void)snprintf(c->source, sizeof c->source, "the environment (AWS_ACCESS_KEY_ID)");
	if (!id || !secret)
		return kt_fail(err, KT_E_INPUT, "set both, or unset both",
			       "one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set without the other");
	KT_TRY(take_id(c, id, strlen(id), err));
	KT_TRY(kt_secret_copy(&c->secret, secret, strlen(secret), err));
	if (token)
		KT_TRY(kt_secret_copy(&c->token, token, strlen(token), err));
	*found = true;
	return KT_OK;
}

/* --- Shared files ------------------------------------------------------------------------------------------------- */

typedef struct span {
	const char *at;
	size_t n;
} span;

static span trim(span s)
{
	while (s.n && (*s.at == ' ' || *s.at == '\t')) {
		s.at++;
		s.n--;
	}
	while (s.n && strchr(" \t\r", s.at[s.n - 1]))
		s.n--;
	return s;
}

static bool is(span s, const char *text)
{
	return s.n == strlen(text) && strncmp(s.at, text, s.n) == 0;
}

/* The next line; false at the end. */
static bool next_line(const char **at, const char *end, span *line)
{
	if (*at >= end)
		return false;
	const char *nl = memchr(*at, '\n', (size_t)(end - *at));
	const char *stop = nl ? nl : end;
	*line = trim((span){*at, (size_t)(stop - *at)});
	*at = nl ? nl + 1 : end;
	return true;
}

/* "[name]"; in the config file "[profile name]", and "[default]" for the default one. */
static bool is_section(span line, const char *profile)
{
	span name = trim((span){line.at + 1, line.n - 2});
	if (name.n > 8 && strncmp(name.at, "profile", 7) == 0 && (name.at[7] == ' ' || name.at[7] == '\t'))
		name = trim((span){name.at + 7, name.n - 7});
	return is(name, profile);
}

/* The value of `key` in the profile's section, n 0 where there is none. *section: is there such a section? */
static span look_up(const kt_secret *text, const char *profile, const char *key, bool *section)
{
	const char *at = text->len ? (const char *)text->data : "", *end = at + text->len;
	bool in = false;
	span line, none = {"", 0};
	while (next_line(&at, end, &line)) {
		if (line.n > 2 && line.at[0] == '[' && line.at[line.n - 1] == ']') {
			in = is_section(line, profile);
			*section |= in;
			continue;
		}
		const char *eq =
			in && line.n && line.at[0] != '#' && line.at[0] != ';' ? memchr(line.at, '=', line.n) : NULL;
		if (eq && is(trim((span){line.at, (size_t)(eq - line.at)}), key))
			return trim((span){eq + 1, line.n - (size_t)(eq + 1 - line.at)});
	}
	return none;
}

/* The file that `name` says, else ~/.aws/FILE; an empty secret where there is none. */
static kt_code read_shared(const char *name, const char *file, kt_secret *text, kt_err *err)
{
	char path[4096];
	const char *home = variable("HOME"), *said = variable(name);
	*text = KT_SECRET_INIT;
	if (!said && !home)
		return KT_OK;
	int n = said ? snprintf(path, sizeof path, "%s", said) : snprintf(path, sizeof path, "%s/.aws/%s", home, file);
	if (n < 0 || (size_t)n >= sizeof path)
		return kt_fail(err, KT_E_INPUT, NULL, "the path of the AWS file %s is too long", file);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? KT_OK : kt_fail_errno(err, errno, NULL, "%s", path);
	kt_code rc = kt_secret_read_fd(text, fd, FILE_MAX, path, err);
	(void)close(fd);
	return rc;
}

static const char *profile_name(void)
{
	const char *name = variable("AWS_PROFILE");
	return name ? name : "default";
}

static kt_code take_profile(const kt_secret *text, kt_aws_credentials *c, bool *section, bool *found, kt_err *err)
{
	const char *profile = profile_name();
	span id = look_up(text, profile, "aws_access_key_id", section);
	span secret = look_up(text, profile, "aws_secret_access_key", section);
	span token = look_up(text, profile, "aws_session_token", section);
	if (!id.n && !secret.n)
		return KT_OK;
	(void)snprintf(c->source, sizeof c->source, "the profile \"%.40s\"", profile);
	if (!id.n || !secret.n)
		return kt_fail(err, KT_E_INPUT, "write both into the profile",
			       "%s has one of aws_access_key_id and aws_secret_access_key without the other",
			       c->source);
	KT_TRY(take_id(c, id.at, id.n, err));
	KT_TRY(kt_secret_copy(&c->secret, secret.at, secret.n, err));
	if (token.n)
		KT_TRY(kt_secret_copy(&c->token, token.at, token.n, err));
	*found = true;
	return KT_OK;
}

static kt_code check_profile(bool section, kt_err *err)
{
	if (section)
		return kt_fail(err, KT_E_INPUT,
			       "put aws_access_key_id and aws_secret_access_key into it; role_arn, sso_* and "
			       "credential_process are not followed",
			       "the profile \"%.40s\" (AWS_PROFILE) has no access key", profile_name());
	return kt_fail(err, KT_E_INPUT, "correct AWS_PROFILE, or add the profile to ~/.aws/credentials",
		       "there is no profile \"%.40s\" (AWS_PROFILE) in the AWS files", profile_name());
}

static kt_code from_files(kt_aws_credentials *c, bool *found, kt_err *err)
{
	static const struct {
		const char *variable, *file;
	} files[] = {{"AWS_SHARED_CREDENTIALS_FILE", "credentials"}, {"AWS_CONFIG_FILE", "config"}};
	bool section = false;
	for (size_t i = 0; i < 2 && !*found; i++) {
		kt_secret text;
		KT_TRY(read_shared(files[i].variable, files[i].file, &text, err));
		kt_code rc = take_profile(&text, c, &section, found, err);
		kt_secret_free(&text);
		KT_TRY(rc);
	}
	return *found || !variable("AWS_PROFILE") ? KT_OK : check_profile(section, err);
}

bool kt_aws_region_valid(const char *region)
{
	size_t n = strlen(region);
	return n > 0 && n < KT_AWS_REGION_MAX && strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

static kt_code profile_region(char out[KT_AWS_REGION_MAX], kt_err *err)
{
	kt_secret text;
	bool section = false;
	KT_TRY(read_shared("AWS_CONFIG_FILE", "config", &text, err));
	span region = look_up(&text, profile_name(), "region", &section);
	(void)snprintf(out, KT_AWS_REGION_MAX, "%.*s", (int)region.n, region.at);
	kt_secret_free(&text);
	return KT_OK;
}

kt_code kt_aws_region_find(char out[KT_AWS_REGION_MAX], kt_err *err)
{
	const char *said = variable("AWS_REGION") ? variable("AWS_REGION") : variable("AWS_DEFAULT_REGION");
	if (!said)
		return profile_region(out, err);
	(void)snprintf(out, KT_AWS_REGION_MAX, "%s", said);
	return KT_OK;
}

/* --- Endpoints that give credentials ------------------------------------------------------------------------------ */

kt_code kt_aws_take_secret(cJSON *o, const char *name, kt_secret *out, kt_err *err)
{
	const char *text;
	*out = KT_SECRET_INIT;
	KT_TRY(kt_json_str(o, name, &text, err));
	if (!text[0])
		return kt_fail(err, KT_E_INPUT, NULL, "\"%s\" is empty", name);
	kt_code rc = kt_secret_copy(out, text, strlen(text), err);
	char *there = cJSON_GetObjectItemCaseSensitive(o, name)->valuestring;
	explicit_bzero(there, strlen(there));
	return rc;
}

static kt_code take_answer(cJSON *o, kt_aws_credentials *c, kt_err *err)
{
	const char *id;
	KT_TRY(kt_json_str(o, "AccessKeyId", &id, err));
	KT_TRY(take_id(c, id, strlen(id), err));
	KT_TRY(kt_aws_take_secret(o, "SecretAccessKey", &c->secret, err));
	return kt_aws_take_secret(o, "Token", &c->token, err);
}

static kt_code ask(const char *method, const char *url, const char *header, long timeout_ms, kt_aws_answer *a,
		   kt_err *err)
{
	const char *const headers[] = {header, NULL};
	KT_TRY(kt_aws_http(
		&(kt_aws_request){.method = method, .url = url, .headers = headers, .timeout_ms = timeout_ms}, a, err));
	if (a->status == 200)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "see whether a role is attached to this machine or container",
		       "%s answers with HTTP status %ld", url, a->status);
}

/* GET url with an optional header; its JSON is credentials. */
static kt_code get_credentials(const char *url, const char *header, long timeout_ms, kt_aws_credentials *c, kt_err *err)
{
	kt_aws_answer a;
	cJSON *o;
	kt_code rc = ask("GET", url, header, timeout_ms, &a, err);
	if (rc == KT_OK)
		rc = kt_json_parse(url, a.body.data, a.body.len, &o, err);
	if (rc == KT_OK) {
		rc = take_answer(o, c, err);
		cJSON_Delete(o);
	}
	kt_aws_answer_free(&a);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "credentials from %s", c->source);
}

/* The credentials are as good as a password: in the clear only to this machine and the addresses that AWS names. */
static bool may_ask(const char *url)
{
	static const char *const addresses[] = {"http://169.254.170.2", "http://169.254.170.23",
						"http://[fd00:ec2::23]"};
	if (strncmp(url, "https://", 8) == 0 || kt_aws_is_loopback(url))
		return true;
	for (size_t i = 0; i < 3; i++) {
		size_t n = strlen(addresses[i]);
		if (strncmp(url, addresses[i], n) == 0 && (url[n] == '/' || url[n] == ':' || url[n] == '\0'))
			return true;
	}
	return false;
}

/* "Authorization: TOKEN" of AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE, else of AWS_CONTAINER_AUTHORIZATION_TOKEN. */
static kt_code container_header(kt_secret *header, kt_err *err)
{
	static const char name[] = "Authorization: ";
	const char *file = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
	const char *text = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN");
	kt_secret token = KT_SECRET_INIT;
	*header = KT_SECRET_INIT;
	if (file) {
		int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
		if (fd < 0)
			return kt_fail_errno(err, errno, NULL, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: %s", file);
		kt_code rc = kt_secret_read_fd(&token, fd, TOKEN_MAX, file, err);
		(void)close(fd);
		KT_TRY(rc);
		text = (const char *)token.data;
	}
	kt_code rc = KT_OK;
	if (text && strpbrk(text, "\r\n"))
		rc = kt_fail(err, KT_E_INPUT, "write the token alone, without a line's end",
			     "the container's authorization token has a line's end in it");
	else if (text)
		rc = kt_secret_new(header, sizeof name + strlen(text), err);
	if (rc == KT_OK && text)
		(void)snprintf((char *)header->data, header->cap, "%s%s", name, text);
	kt_secret_free(&token);
	return rc;
}

static kt_code from_container(kt_aws_credentials *c, bool *found, kt_err *err)
{
	const char *relative = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
	const char *full = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
	kt_secret header;
	char url[1024];
	if (!relative && !full)
		return KT_OK;
	(void)snprintf(c->source, sizeof c->source, "the container's endpoint");
	int n = relative ? snprintf(url, sizeof url, "http://169.254.170.2%s", relative)
			 : snprintf(url, sizeof url, "%s", full);
	if (n < 0 || (size_t)n >= sizeof url || (relative && relative[0] != '/') || !may_ask(url))
		return kt_fail(err, KT_E_REFUSED, "use https, or http to this machine or to AWS's own addresses",
			       "the container's credentials would be asked for at an address that is not allowed");
	KT_TRY(container_header(&header, err));
	kt_code rc = get_credentials(url, (const char *)header.data, CONTAINER_MS, c, err);
	kt_secret_free(&header);
	*found = rc == KT_OK;
	return rc;
}

/* A session token, or the name of a role: it becomes a part of a header or of an URL, and of messages. */
static bool is_word(const kt_secret *text)
{
	for (size_t i = 0; i < text->len; i++)
		if (text->data[i] <= ' ' || text->data[i] > '~')
			return false;
	return text->len > 0 && text->len <= TOKEN_MAX;
}

/* A word that the metadata service answers with, behind `prefix`, into out. */
static kt_code metadata_word(const char *method, const char *url, const char *header, const char *prefix,
			     kt_secret *out, kt_err *err)
{
	kt_aws_answer a;
	*out = KT_SECRET_INIT;
	kt_code rc = ask(method, url, header, METADATA_MS, &a, err);
	const char *text = (const char *)a.body.data;
	if (rc == KT_OK && !is_word(&a.body))
		rc = kt_fail(err, KT_E_INPUT, NULL, "%s does not answer with one word", url);
	if (rc == KT_OK)
		rc = kt_secret_new(out, strlen(prefix) + a.body.len + 1, err);
	if (rc == KT_OK)
		(void)snprintf((char *)out->data, out->cap, "%s%s", prefix, text);
	kt_aws_answer_free(&a);
	return rc;
}

/* Version 2 alone: without its session token nothing is asked. */
static kt_code ask_metadata(const char *base, kt_aws_credentials *c, kt_err *err)
{
	char url[512];
	kt_secret token = KT_SECRET_INIT, role = KT_SECRET_INIT;
	kt_code rc;
	(void)snprintf(url, sizeof url, "%s/latest/api/token", base);
	KT_TRY_GOTO(metadata_word("PUT", url, "X-aws-ec2-metadata-token-ttl-seconds: 300",
				  "X-aws-ec2-metadata-token: ", &token, err),
		    out);
	(void)snprintf(url, sizeof url, "%s/latest/meta-data/iam/security-credentials/", base);
	KT_TRY_GOTO(metadata_word("GET", url, (char *)token.data, url, &role, err), out);
	rc = get_credentials((char *)role.data, (char *)token.data, METADATA_MS, c, err);
out:
	kt_secret_free(&token);
	kt_secret_free(&role);
	return rc;
}

static kt_code from_metadata(kt_aws_credentials *c, bool *found, kt_err *err)
{
	const char *disabled = variable("AWS_EC2_METADATA_DISABLED"),
		   *said = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
	char base[256];
	if (disabled && strcmp(disabled, "true") == 0)
		return KT_OK;
	(void)snprintf(c->source, sizeof c->source, "the instance metadata service");
	(void)snprintf(base, sizeof base, "%s", said ? said : "http://169.254.169.254");
	size_t n = strlen(base);
	if (n && base[n - 1] == '/')
		base[n - 1] = '\0';
	kt_code rc = ask_metadata(base, c, err);
	*found = rc == KT_OK;
	return rc == KT_OK || (rc == KT_E_UNREACHABLE && !said) ? KT_OK : rc;
}

/* --- The chain ---------------------------------------------------------------------------------------------------- */

static kt_code none(kt_err *err)
{
	return kt_fail(
		err, KT_E_REFUSED,
		"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or attach a role to this machine",
		"there are no AWS credentials: neither environment nor ~/.aws nor container nor instance has some");
}

kt_code kt_aws_credentials_find(kt_aws_credentials *out, kt_err *err)
{
	static kt_code (*const sources[])(kt_aws_credentials *, bool *, kt_err *) = {from_environment, from_files,
										     from_container, from_metadata};
	bool found = false;
	kt_code rc = KT_OK;
	*out = (kt_aws_credentials){0};
	for (size_t i = 0; rc == KT_OK && !found && i < sizeof sources / sizeof sources[0]; i++)
		rc = sources[i](out, &found, err);
	if (rc == KT_OK && !found)
		rc = none(err);
	if (rc != KT_OK)
		kt_aws_credentials_free(out);
	return rc;
}
