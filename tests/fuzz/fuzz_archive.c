/* SPDX-License-Identifier: Apache-2.0 */
/* Backup archives, plain and sealed, and their manifests: any bytes are refused or verified, never a crash; a manifest
 * that is accepted prints to a text that parses to the same; what was sealed is judged as it was before, and one
 * changed byte of it is refused. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/archive_reader.h"
#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds, const char *what)
{
	if (holds)
		return;
	(void)fprintf(stderr, "does not hold: %s\n", what);
	abort();
}

static void check_manifest(const uint8_t *data, size_t size)
{
	kt_err err = KT_ERR_INIT;
	kt_manifest first;
	kt_manifest second;
	kt_buf text = KT_BUF_INIT;
	kt_buf again = KT_BUF_INIT;
	if (kt_manifest_parse(data, size, &first, &err) != KT_OK)
		return;
	require(kt_manifest_print(&first, &text, &err) == KT_OK, "it prints");
	require(kt_manifest_parse(text.data, text.len, &second, &err) == KT_OK, "what is printed parses");
	const kt_manifest_compare all = {.owner = true};
	require(kt_manifest_equal(&first, &second, &all, &err) == KT_OK, "the same members");
	require(kt_manifest_print(&second, &again, &err) == KT_OK, "it prints again");
	require(text.len == again.len && memcmp(text.data, again.data, text.len) == 0, "to the same text");
	kt_manifest_free(&first);
	kt_manifest_free(&second);
	kt_buf_free(&text);
	kt_buf_free(&again);
}

static int file_of(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	require(fd >= 0 && kt_file_write_all(fd, data, size, "fuzz", NULL) == KT_OK, "a file in memory");
	return fd;
}

static kt_code verify(const uint8_t *data, size_t size, const kt_archive_seal *seal)
{
	kt_err err = KT_ERR_INIT;
	kt_manifest manifest;
	char name[] = "fuzz";
	kt_archive_reader r = {.path = name, .fd = file_of(data, size), .bytes = size, .seal = seal};
	kt_code rc = kt_archive_verify(&r, NULL, &manifest, &err);
	if (rc == KT_OK) {
		for (size_t i = 0; i < manifest.n; i++)
			require(kt_manifest_check_name(manifest.members[i].name, &err) == KT_OK, "only good names");
		kt_manifest_free(&manifest);
	} else {
		require(err.code != KT_OK && err.msg[0], "a refusal says why");
	}
	(void)close(r.fd);
	return rc;
}

static kt_code into_buffer(void *arg, const void *bytes, size_t n, kt_err *err)
{
	return kt_buf_append(arg, bytes, n, err);
}

/* FNV-1a of the input: what is to be as if by chance, and the same each time. */
static uint32_t draw(const uint8_t *data, size_t size)
{
	uint32_t drawn = 2166136261;
	for (size_t i = 0; i < size; i++)
		drawn = (drawn ^ data[i]) * 16777619;
	return drawn;
}

/* Read to its end: a failure before anything of a chunk is handed on, whatever the archive within would say. */
static kt_code unseal(const uint8_t *data, size_t size, const kt_archive_seal *seal)
{
	kt_seal_reader *r = NULL;
	const uint8_t *bytes;
	size_t n = 1;
	uint64_t at;
	int fd = file_of(data, size);
	kt_code rc = kt_seal_reader_new(seal, fd, size, "fuzz", &r, NULL);
	while (rc == KT_OK && n)
		rc = kt_seal_reader_next(r, &bytes, &n, &at, NULL);
	kt_seal_reader_free(r);
	(void)close(fd);
	return rc;
}

static void check_sealed(const uint8_t *data, size_t size, kt_code unsealed)
{
	static kt_secret key;
	static const uint8_t key_bytes[32] = {1};
	kt_archive_seal seal = {.key = &key, .context = "looker/R1/web01"};
	kt_buf sealed = KT_BUF_INIT;
	kt_sealer *s;
	uint32_t drawn = draw(data, size);
	require(key.len || kt_secret_copy(&key, key_bytes, sizeof key_bytes, NULL) == KT_OK, "a key");
	require(verify(data, size, &seal) != KT_OK, "nobody seals without the key");
	require(kt_sealer_new(&seal, into_buffer, &sealed, &s, NULL) == KT_OK, "it begins");
	require(kt_sealer_feed(s, data, size, NULL) == KT_OK && kt_sealer_end(s, NULL) == KT_OK, "it is sealed");
	kt_sealer_free(s);
	require(verify(sealed.data, sealed.len, &seal) == unsealed, "sealed, it is judged as it was");
	sealed.data[drawn % sealed.len] ^= (uint8_t)(1 << (drawn >> 29));
	kt_code rc = unseal(sealed.data, sealed.len, &seal);
	require(rc == KT_E_INPUT || rc == KT_E_KEY, "what was changed is refused");
	kt_buf_free(&sealed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_manifest(data, size);
	kt_code unsealed = verify(data, size, NULL);
#ifdef KT_FUZZING
	if (draw(data, size) % 16) /* chunks of 1 MiB are slow, and see no difference between most inputs */
		return 0;
#endif
	check_sealed(data, size, unsealed);
	return 0;
}
