/* SPDX-License-Identifier: Apache-2.0 */
/* Backup archives and their manifests: any bytes are refused or verified, never a crash; a manifest that is accepted
 * prints to a text that parses to the same. */
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

static void check_archive(const uint8_t *data, size_t size)
{
	kt_err err = KT_ERR_INIT;
	kt_manifest manifest;
	char name[] = "fuzz";
	kt_archive_reader r = {.path = name, .fd = memfd_create("fuzz", MFD_CLOEXEC), .bytes = size};
	require(r.fd >= 0, "a file in memory");
	require(kt_file_write_all(r.fd, data, size, name, &err) == KT_OK, "it is written");
	if (kt_archive_verify(&r, NULL, &manifest, &err) == KT_OK) {
		for (size_t i = 0; i < manifest.n; i++)
			require(kt_manifest_check_name(manifest.members[i].name, &err) == KT_OK, "only good names");
		kt_manifest_free(&manifest);
	} else {
		require(err.code != KT_OK && err.msg[0], "a refusal says why");
	}
	(void)close(r.fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_manifest(data, size);
	check_archive(data, size);
	return 0;
}
