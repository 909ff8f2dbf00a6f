/* SPDX-License-Identifier: Apache-2.0 */
/* The one file that calls libcurl. */
#include <curl/curl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "keystore/aws.h"

enum { CONNECT_MS = 3000 };

typedef struct transfer {
	kt_aws_answer *answer;
	bool too_long;
} transfer;

static size_t take_body(char *bytes, size_t size, size_t n, void *arg)
{
	transfer *t = arg;
	kt_secret *body = &t->answer->body;
	(void)size; /* always 1 */
	if (n > body->cap - body->len) {
		t->too_long = true;
		return 0;
	}
	memcpy(body->data + body->len, bytes, n);
	body->len += n;
	body->data[body->len] = '\0';
	return n;
}

/* The value of a header line of that name, without the space around it; NULL for another header. */
static const char *value_of(const char *line, size_t n, const char *name, size_t *len)
{
	size_t at = strlen(name);
	if (n <= at || strncasecmp(line, name, at) != 0 || line[at] != ':')
		return NULL;
	for (at++; at < n && line[at] == ' '; at++)
		;
	while (n > at && (line[n - 1] == '\r' || line[n - 1] == '\n' || line[n - 1] == ' '))
		n--;
	*len = n - at;
	return line + at;
}

static size_t take_header(char *line, size_t size, size_t n, void *arg)
{
	kt_aws_answer *a = ((transfer *)arg)->answer;
	size_t len;
	char date[64];
	(void)size;
	const char *value = value_of(line, n, "x-amzn-ErrorType", &len);
	if (value)
		(void)snprintf(a->type, sizeof a->type, "%.*s", (int)len, value);
	value = value_of(line, n, "Date", &len);
	if (value) {
		(void)snprintf(date, sizeof date, "%.*s", (int)len, value);
		a->date_s = (int64_t)curl_getdate(date, NULL);
	}
	return n;
}

bool kt_aws_is_loopback(const char *url)
{
	static const char *const hosts[] = {"127.0.0.1", "localhost", "[::1]"};
	static const char http[] = "http://";
	if (strncmp(url, http, sizeof http - 1) != 0)
		return false;
	const char *host = url + sizeof http - 1;
	for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
		size_t n = strlen(hosts[i]);
		if (strncmp(host, hosts[i], n) == 0 && (host[n] == '\0' || host[n] == ':' || host[n] == '/'))
			return true;
	}
	return false;
}

static bool add_header(struct curl_slist **list, const char *line)
{
	struct curl_slist *more = curl_slist_append(*list, line);
	if (more)
		*list = more;
	return more != NULL;
}

/* libcurl signs every header that it is given; the session token is one that it does not make itself. */
static bool add_headers(struct curl_slist **list, const kt_aws_request *r, kt_err *err)
{
	kt_secret line = KT_SECRET_INIT;
	bool done = true;
	for (size_t i = 0; done && r->headers && r->headers[i]; i++)
		done = add_header(list, r->headers[i]);
	if (done && r->signer && r->signer->token.len) {
		static const char name[] = "X-Amz-Security-Token: ";
		done = kt_secret_new(&line, sizeof name + r->signer->token.len, err) == KT_OK;
		if (done) {
			(void)snprintf((char *)line.data, line.cap, "%s%s", name, (char *)r->signer->token.data);
			done = add_header(list, (char *)line.data);
		}
		kt_secret_free(&line);
	}
	return done;
}

/* Headers can hold tokens: wiped before they are freed. */
static void free_headers(struct curl_slist *list)
{
	for (struct curl_slist *at = list; at; at = at->next)
		explicit_bzero(at->data, strlen(at->data));
	curl_slist_free_all(list);
}

#define SET(option, value) (curl_easy_setopt(c, option, value) == CURLE_OK)

static bool set_up(CURL *c, const kt_aws_request *r, transfer *t, struct curl_slist *headers, char why[CURL_ERROR_SIZE])
{
	return SET(CURLOPT_ERRORBUFFER, why) && SET(CURLOPT_URL, r->url) && SET(CURLOPT_PROTOCOLS_STR, "http,https") &&
	       SET(CURLOPT_NOSIGNAL, 1L) && SET(CURLOPT_FOLLOWLOCATION, 0L) &&
	       SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED) &&
	       SET(CURLOPT_CONNECTTIMEOUT_MS, r->timeout_ms < CONNECT_MS ? r->timeout_ms : (long)CONNECT_MS) &&
	       SET(CURLOPT_TIMEOUT_MS, r->timeout_ms) && SET(CURLOPT_HTTPHEADER, headers) &&
	       SET(CURLOPT_WRITEFUNCTION, take_body) && SET(CURLOPT_WRITEDATA, t) &&
	       SET(CURLOPT_HEADERFUNCTION, take_header) && SET(CURLOPT_HEADERDATA, t) &&
	       SET(CURLOPT_USERAGENT, "keyturn/" KT_VERSION) && SET(CURLOPT_CUSTOMREQUEST, r->method) &&
	       (strncmp(r->url, "http://", 7) != 0 || SET(CURLOPT_NOPROXY, "*"));
}

static bool set_body(CURL *c, const kt_aws_request *r)
{
	return !r->body || (SET(CURLOPT_POSTFIELDSIZE, (long)r->body->len) && SET(CURLOPT_POSTFIELDS, r->body->data));
}

static bool set_signer(CURL *c, const kt_aws_request *r)
{
	char how[32 + KT_AWS_REGION_MAX];
	if (!r->signer)
		return true;
	(void)snprintf(how, sizeof how, "aws:amz:%s:kms", r->region);
	return SET(CURLOPT_AWS_SIGV4, how) && SET(CURLOPT_USERNAME, r->signer->id) &&
	       SET(CURLOPT_PASSWORD, (char *)r->signer->secret.data);
}

static kt_code failed(CURLcode code, const char *url, const char *why, const transfer *t, kt_err *err)
{
	const char *text = why[0] ? why : curl_easy_strerror(code);
	if (t->too_long)
		return kt_fail(err, KT_E_INPUT, "see what it is that answers there",
			       "%s: the answer is longer than %d bytes", url, KT_AWS_BODY_MAX);
	if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE)
		return kt_fail(err, KT_E_REFUSED,
			       "install the system's CA certificates (ca-certificates), or look for a proxy in between",
			       "%s: the server's certificate is not trusted: %s", url, text);
	return kt_fail(err, KT_E_UNREACHABLE,
		       "check the network, the proxy (https_proxy), the region and the endpoint (AWS_ENDPOINT_URL_KMS)",
		       "%s: %s", url, text);
}

static kt_code perform(CURL *c, const kt_aws_request *r, transfer *t, kt_err *err)
{
	char why[CURL_ERROR_SIZE] = "";
	struct curl_slist *headers = NULL;
	kt_code rc = KT_OK;
	if (!add_headers(&headers, r, err) || !set_up(c, r, t, headers, why) || !set_body(c, r) || !set_signer(c, r)) {
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "a request to %s cannot be set up", r->url);
	} else {
		CURLcode code = curl_easy_perform(c);
		if (code == CURLE_OK)
			(void)curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &t->answer->status);
		else
			rc = failed(code, r->url, why, t, err);
	}
	free_headers(headers);
	return rc;
}

kt_code kt_aws_http(const kt_aws_request *request, kt_aws_answer *answer, kt_err *err)
{
	transfer t = {.answer = answer};
	*answer = (kt_aws_answer){.date_s = -1};
	KT_TRY(kt_secret_new(&answer->body, KT_AWS_BODY_MAX, err));
	answer->body.len = 0;
	CURL *c = curl_easy_init();
	if (!c)
		return kt_fail(err, KT_E_INTERNAL, NULL, "libcurl cannot be set up");
	kt_code rc = perform(c, request, &t, err);
	curl_easy_cleanup(c);
	return rc;
}

void kt_aws_answer_free(kt_aws_answer *answer)
{
	kt_secret_free(&answer->body);
}
