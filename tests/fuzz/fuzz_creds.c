/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Credentials files of a database (db.yaml) and URLs of one. What parses is whole, what does not says why, and a
 * password stands in no message and in no name. The first byte chooses: 'U' an URL, anything else a file.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/creds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char canary[] = "canary-48151623";

static void require(int holds, const char *what)
{
	if (holds)
		return;
	(void)fprintf(stderr, "does not hold: %s\n", what);
	abort();
}

static void check_refusal(kt_code rc, const kt_err *err, const char *secret)
{
	require(rc == KT_E_INPUT && err->code == rc && err->msg[0], "a refusal says why");
	require(!strstr(err->msg, secret), "a password is never shown");
}

static int some(const char *text)
{
	return text && text[0];
}

static void check_address(const kt_db_address *a)
{
	require(some(a->name), "it has a name");
	if (!a->server)
		return;
	require(some(a->user) && some(a->database), "whose, and which one");
	require(some(a->host) || some(a->socket), "where");
	require(a->port >= 1 && a->port <= 65535, "a port");
	require(!a->ssl_ca || a->ssl, "a certificate to check means that it is checked");
	require(!a->socket || a->socket[0] == '/', "an absolute path");
}

/* The input, and after it the line with the password, if it has none. */
static void check_file(const uint8_t *data, size_t size)
{
	char text[KT_CREDS_MAX + 64];
	kt_db_address a;
	kt_err err = KT_ERR_INIT;
	if (size > KT_CREDS_MAX || (size && memmem(data, size, canary, sizeof canary - 1)))
		return;
	memcpy(text, data, size);
	int more = snprintf(text + size, sizeof text - size, "\npassword: %s\n", canary);
	kt_code rc = kt_creds_parse(text, size + (size_t)more, "/etc/looker/db.yaml", &a, &err);
	if (rc == KT_OK) {
		check_address(&a);
		require(!strstr(a.name, canary), "a password is in no name");
		require(!a.server || (a.password.len == sizeof canary - 1 &&
				      memcmp(a.password.data, canary, a.password.len) == 0),
			"the password is taken as it is");
	} else {
		check_refusal(rc, &err, canary);
	}
	require(rc == KT_OK || (!a.name && !a.user && !a.password.len), "a refusal leaves nothing");
	kt_db_address_free(&a);
}

static void check_url(const uint8_t *data, size_t size)
{
	char url[512], *password_file = NULL, *other = NULL;
	kt_db_address a, again;
	kt_err err = KT_ERR_INIT;
	if (size >= sizeof url)
		return;
	memcpy(url, data, size);
	url[size] = '\0';
	kt_code rc = kt_db_address_parse(url, &a, &password_file, &err);
	if (rc == KT_OK) {
		check_address(&a);
		require(!a.password.len, "an URL has no password");
		if (a.server) {
			require(kt_db_address_parse(a.name, &again, &other, &err) == KT_OK, "the name names it");
			require(strcmp(again.user, a.user) == 0 && strcmp(again.database, a.database) == 0 &&
					again.port == (a.socket ? KT_DB_PORT : a.port),
				"and nothing else");
			kt_db_address_free(&again);
		}
	} else {
		check_refusal(rc, &err, strlen(url) > 8 ? url : canary); /* nothing of it: there may be one in it */
	}
	free(password_file);
	free(other);
	kt_db_address_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size && data[0] == 'U')
		check_url(data + 1, size - 1);
	else
		check_file(data, size);
	return 0;
}
