/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that is none of ours, over the installed libkeyturn-envelope (test_envelope_library.py compiles it as C and
 * as C++):
 *   make URI RECORD              a KEK, its record into a file
 *   seal URI RECORD NAME         stdin -> envelope on stdout
 *   open URI RECORD NAME         envelope on stdin -> content on stdout
 *   wrap URI RECORD URI2 NEW     the same KEK under another CMK
 *   move URI RECORD URI2 RECORD2 NAME   stdin -> stdout, rewrapped; `anew` instead of `move`: encrypted anew
 * A failure prints its class, message and remedy, a line each, and exits with the code.
 */
#include <keyturn-envelope.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char in[65536], out[65536 + KTE_OVERHEAD];

static void must(kte_code rc, const kte_error *err)
{
	if (rc == KTE_OK)
		return;
	fprintf(stderr, "%s\n%s\n%s\n", kte_code_name(rc), err->message, err->remedy);
	exit(rc);
}

static size_t take(const char *path, unsigned char *bytes, size_t size)
{
	FILE *f = path ? fopen(path, "rb") : stdin;
	if (!f)
		exit(99);
	size_t n = fread(bytes, 1, size, f);
	if (path)
		fclose(f);
	return n;
}

static void put(const char *path, const unsigned char *bytes, size_t n)
{
	FILE *f = path ? fopen(path, "wb") : stdout;
	if (!f || fwrite(bytes, 1, n, f) != n || fflush(f) != 0)
		exit(99);
}

static kte_keystore *keystore(const char *uri)
{
	kte_error err;
	kte_keystore *ks;
	must(kte_keystore_open(uri, &ks, &err), &err);
	return ks;
}

static kte_kek *open_kek(const char *uri, const char *path)
{
	unsigned char record[KTE_RECORD_MAX];
	size_t len = take(path, record, sizeof record);
	kte_error err;
	kte_kek *kek;
	kte_keystore *ks = keystore(uri);
	must(kte_kek_open(ks, record, len, &kek, &err), &err);
	kte_keystore_close(ks);
	return kek;
}

static void new_record(char **argv, int wrap)
{
	unsigned char record[KTE_RECORD_MAX];
	size_t len;
	kte_error err;
	kte_kek *kek = wrap ? open_kek(argv[2], argv[3]) : NULL;
	kte_keystore *ks = keystore(argv[wrap ? 4 : 2]);
	must(wrap ? kte_kek_wrap(kek, ks, 1, record, sizeof record, &len, &err)
		  : kte_kek_make(ks, 1, 1, &kek, record, sizeof record, &len, &err),
	     &err);
	put(argv[wrap ? 5 : 3], record, len);
	kte_kek_close(kek);
	kte_keystore_close(ks);
}

static void item(const char *verb, kte_kek *kek, kte_kek *to, const char *name)
{
	size_t n = take(NULL, in, sizeof in), len = n;
	kte_error err;
	if (strcmp(verb, "seal") == 0) {
		must(kte_seal(kek, name, in, n, out, sizeof out, &err), &err);
		put(NULL, out, n + KTE_OVERHEAD);
		return;
	}
	if (strcmp(verb, "open") == 0) {
		must(kte_open(kek, name, in, n, out, sizeof out, &len, &err), &err);
		put(NULL, out, len);
		return;
	}
	must(strcmp(verb, "move") == 0 ? kte_rewrap(kek, to, name, in, n, &err)
				       : kte_reseal(kek, to, name, in, n, &err),
	     &err);
	put(NULL, in, n);
}

int main(int argc, char **argv)
{
	(void)signal(SIGPIPE, SIG_IGN);
	if (argc < 4)
		return 98;
	if (strcmp(argv[1], "make") == 0 || strcmp(argv[1], "wrap") == 0) {
		new_record(argv, argv[1][0] == 'w');
		return 0;
	}
	int two = argc == 7;
	kte_kek *kek = open_kek(argv[2], argv[3]), *to = two ? open_kek(argv[4], argv[5]) : NULL;
	item(argv[1], kek, to, argv[two ? 6 : 4]);
	kte_kek_close(kek);
	kte_kek_close(to);
	return 0;
}
