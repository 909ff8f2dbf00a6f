/* SPDX-License-Identifier: Apache-2.0 */
/* Replays a corpus through a fuzz target without libFuzzer: every file of the folders and every file given. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
	kt_err err = KT_ERR_INIT;
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_file_read(path, &text, &err);
	if (rc != KT_OK) {
		(void)fprintf(stderr, "%s\n", err.msg);
		kt_buf_free(&text);
		return -1;
	}
	/* An exact copy, so that a read past the end is seen by the sanitizer. */
	uint8_t *exact = malloc(text.len ? text.len : 1);
	if (exact && text.len)
		memcpy(exact, text.data, text.len);
	int result = exact ? LLVMFuzzerTestOneInput(exact, text.len) : -1;
	free(exact);
	kt_buf_free(&text);
	return result;
}

static int replay_folder(const char *folder, size_t *count)
{
	DIR *dir = opendir(folder);
	if (!dir) {
		perror(folder);
		return -1;
	}
	int result = 0;
	for (struct dirent *e = readdir(dir); e && result == 0; e = readdir(dir)) {
		char path[4096];
		if (e->d_name[0] == '.')
			continue;
		if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, e->d_name) >= sizeof path)
			result = -1;
		else
			result = replay_file(path);
		++*count;
	}
	(void)closedir(dir);
	return result;
}

int main(int argc, char **argv)
{
	size_t count = 0;
	for (int i = 1; i < argc; i++) {
		struct stat st;
		if (stat(argv[i], &st) != 0) {
			perror(argv[i]);
			return 1;
		}
		int result = S_ISDIR(st.st_mode) ? replay_folder(argv[i], &count) : replay_file(argv[i]);
		count += !S_ISDIR(st.st_mode);
		if (result != 0)
			return 1;
	}
	printf("%zu inputs replayed\n", count);
	return count ? 0 : 1;
}
