/* SPDX-License-Identifier: Apache-2.0 */
#include "base/shell.h"

#include <string.h>

/* What no shell gives a meaning to, wherever it stands. '=' is not among them: `A=b` as a first word is an assignment.
 */
static bool is_plain(const char *word)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+:,./-";
	return word[0] && strspn(word, plain) == strlen(word);
}

/* Inside single quotes nothing is special but the quote itself, which becomes '\'' (POSIX XCU 2.2.2). */
kt_code kt_shell_quote_word(const char *word, kt_buf *out, kt_err *err)
{
	if (is_plain(word))
		return kt_buf_str(out, word, err);
	KT_TRY(kt_buf_str(out, "'", err));
	for (;;) {
		size_t n = strcspn(word, "'");
		KT_TRY(kt_buf_append(out, word, n, err));
		if (!word[n])
			return kt_buf_str(out, "'", err);
		KT_TRY(kt_buf_str(out, "'\\''", err));
		word += n + 1;
	}
}

kt_code kt_shell_quote(const char *const *argv, kt_buf *out, kt_err *err)
{
	if (!argv || !argv[0])
		return kt_fail(err, KT_E_USAGE, NULL, "a command without a word");
	for (size_t i = 0; argv[i]; i++) {
		if (i)
			KT_TRY(kt_buf_str(out, " ", err));
		KT_TRY(kt_shell_quote_word(argv[i], out, err));
	}
	return KT_OK;
}
