/* SPDX-License-Identifier: Apache-2.0 */
/* A master key's text, in a file and in a variable: base64 of 32 bytes opens, nothing else does, and both say the same.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "keystore/keystore.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXT = 44 }; /* base64 of 32 bytes */

static void require(int holds, const char *what)
{
	if (holds)
		return;
	(void)fprintf(stderr, "does not hold: %s\n", what);
	abort();
}

/* What keystore.h promises, said another way: the 44 characters, and at most one line's end behind them. */
static int is_key(const uint8_t *text, size_t n)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	n -= n && text[n - 1] == '\n';
	n -= n && text[n - 1] == '\r';
	if (n != TEXT || text[TEXT - 1] != '=')
		return 0;
	for (size_t i = 0; i < TEXT - 1; i++)
		if (!text[i] || !strchr(letters, text[i]))
			return 0;
	return 1;
}

static void check_refusal(kt_code rc, const kt_err *err, const char *text)
{
	require(rc == KT_E_KEY && err->code == rc && err->msg[0] && err->remedy[0],
		"a refusal says why, and what next");
	require(strlen(text) < 8 || !strstr(err->msg, text), "the text of a key is never shown");
}

static void check_open(const char *uri, int good, const char *text, char kcv[KT_KCV_TEXT])
{
	kt_keystore *ks;
	kt_err err = KT_ERR_INIT;
	kt_secret kek, again;
	kt_blob blob;
	kt_code rc = kt_keystore_open(uri, &ks, &err);
	require((rc == KT_OK) == (good != 0) && (rc == KT_OK) == (ks != NULL), "a key opens, and nothing else does");
	if (rc != KT_OK) {
		check_refusal(rc, &err, text);
		return;
	}
	require(strlen(kt_keystore_kcv(ks)) == KT_KCV_TEXT - 1, "a check value");
	memcpy(kcv, kt_keystore_kcv(ks), KT_KCV_TEXT);
	require(kt_keystore_new_kek(ks, &kek, &blob, NULL) == KT_OK, "it wraps");
	require(kt_keystore_unwrap_kek(ks, &blob, &again, NULL) == KT_OK && kt_secret_equal(&kek, &again), "and opens");
	kt_secret_free(&kek);
	kt_secret_free(&again);
	kt_keystore_close(ks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char uri[64], text[8192], kcv[2][KT_KCV_TEXT] = {"", ""};
	int fd = memfd_create("key", MFD_CLOEXEC);
	if (size >= sizeof text)
		return 0;
	require(fd >= 0 && fchmod(fd, 0400) == 0, "a file in memory");
	require(kt_file_write_all(fd, data, size, "key", NULL) == KT_OK, "it is written");
	memcpy(text, data, size);
	text[size] = '\0';
	(void)snprintf(uri, sizeof uri, "file:/proc/self/fd/%d", fd);
	check_open(uri, is_key(data, size), text, kcv[0]);
	(void)close(fd);
	if (memchr(data, '\0', size) || size == 0) /* no variable can hold that */
		return 0;
	require(setenv("FUZZ_KEY", text, 1) == 0, "a variable");
	check_open("env:FUZZ_KEY", is_key(data, size), text, kcv[1]);
	require(strcmp(kcv[0], kcv[1]) == 0, "both hold the same key");
	return 0;
}
