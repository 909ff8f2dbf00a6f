/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/secret.h"

enum { NOBODY = 65534, AS_IT_MUST = 42 };
static int without_locked_memory; /* the end of a process that may lock none */

/* As a user who may lock no memory; before this process has set up its own. */
static int set_up_without_locking(void)
{
	int status = 0;
	pid_t pid = fork();
	if (pid == 0) {
		kt_err err = KT_ERR_INIT;
		const struct rlimit none = {0, 0};
		if (setrlimit(RLIMIT_MEMLOCK, &none) != 0 || (geteuid() == 0 && setuid(NOBODY) != 0))
			_exit(1);
		_exit(kt_secret_setup(&err) == KT_E_INTERNAL && strstr(err.remedy, "RLIMIT_MEMLOCK") ? AS_IT_MUST : 2);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

static int set_up(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	without_locked_memory = set_up_without_locking();
	return kt_secret_setup(&err) == KT_OK ? 0 : -1;
}

static void setup_locks_and_forbids_dumps(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	struct rlimit core;
	assert_kt_ok(kt_secret_setup(&err)); /* twice is fine */
	assert_int_equal(getrlimit(RLIMIT_CORE, &core), 0);
	assert_int_equal(core.rlim_cur, 0);
	assert_int_equal(core.rlim_max, 0);
	assert_int_equal(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 0);
	assert_int_equal(CRYPTO_secure_malloc_initialized(), 1);
}

static void memory_that_cannot_be_locked_is_an_error(void **state)
{
	(void)state;
	assert_int_equal(without_locked_memory, AS_IT_MUST);
}

static void lives_in_the_secure_heap(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret s;
	size_t before = CRYPTO_secure_used();
	assert_kt_ok(kt_secret_new(&s, 32, &err));
	assert_int_equal(CRYPTO_secure_allocated(s.data), 1);
	for (size_t i = 0; i <= 32; i++)
		assert_int_equal(s.data[i], 0);
	kt_secret_free(&s);
	assert_null(s.data);
	assert_int_equal(CRYPTO_secure_used(), before);
	kt_secret_free(&s);
	kt_secret_free(NULL);
}

static void refuses_odd_lengths(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret s;
	assert_kt_fails(KT_E_INPUT, kt_secret_new(&s, 0, &err));
	assert_kt_fails(KT_E_INPUT, kt_secret_new(&s, 16385, &err));
	assert_kt_fails(KT_E_INPUT, kt_secret_new(&s, SIZE_MAX, &err));
	assert_null(s.data);
	assert_kt_ok(kt_secret_new(&s, 16384, &err));
	kt_secret_free(&s);
}

static void says_when_the_heap_is_full(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret many[16] = {0};
	size_t n = 0;
	while (n < 16 && kt_secret_new(&many[n], 12000, &err) == KT_OK)
		n++;
	assert_in_range(n, 1, 15);
	assert_int_equal(err.code, KT_E_INTERNAL);
	assert_null(many[n].data);
	while (n--)
		kt_secret_free(&many[n]);
}

static void random_differs(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret a;
	kt_secret b;
	assert_kt_ok(kt_secret_random(&a, 32, &err));
	assert_kt_ok(kt_secret_random(&b, 32, &err));
	assert_false(kt_secret_equal(&a, &b));
	kt_secret_free(&a);
	kt_secret_free(&b);
}

/* libcrypto's own, with a look at what goes in. */
static const unsigned char *stirred;
static size_t stirred_len;

int EVP_RAND_reseed(EVP_RAND_CTX *ctx, int resist, const unsigned char *entropy, size_t entropy_len,
		    const unsigned char *additional, size_t additional_len)
{
	int (*real)(EVP_RAND_CTX *, int, const unsigned char *, size_t, const unsigned char *, size_t);
	*(void **)&real = dlsym(RTLD_NEXT, "EVP_RAND_reseed");
	assert_null(entropy); /* that is this machine's, always */
	stirred = additional;
	stirred_len = additional_len;
	return real(ctx, resist, entropy, entropy_len, additional, additional_len);
}

static unsigned seeded(void)
{
	unsigned count = 0;
	OSSL_PARAM ask[] = {OSSL_PARAM_construct_uint(OSSL_DRBG_PARAM_RESEED_COUNTER, &count),
			    OSSL_PARAM_construct_end()};
	assert_int_equal(EVP_RAND_CTX_get_params(RAND_get0_primary(NULL), ask), 1);
	return count;
}

static void stirring_seeds_anew(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret bytes, out;
	assert_kt_ok(kt_secret_random(&bytes, 32, &err));
	unsigned before = seeded();
	assert_kt_ok(kt_secret_stir(&bytes, &err));
	assert_int_equal(seeded(), before + 1);
	assert_ptr_equal(stirred, bytes.data);
	assert_int_equal(stirred_len, 32);
	assert_kt_ok(kt_secret_random(&out, 32, &err));
	assert_false(kt_secret_equal(&out, &bytes));
	kt_secret_free(&out);
	kt_secret_free(&bytes);
}

static void compares_length_and_every_byte(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret a;
	kt_secret b;
	assert_kt_ok(kt_secret_random(&a, 32, &err));
	assert_kt_ok(kt_secret_copy(&b, a.data, 32, &err));
	assert_true(kt_secret_equal(&a, &b));
	for (size_t i = 0; i < 32; i++) {
		b.data[i] ^= 1;
		assert_false(kt_secret_equal(&a, &b));
		b.data[i] ^= 1;
	}
	b.len = 31;
	assert_false(kt_secret_equal(&a, &b));
	const kt_secret none = KT_SECRET_INIT;
	assert_true(kt_secret_equal(&none, &none));
	assert_false(kt_secret_equal(&none, &a));
	kt_secret_free(&a);
	kt_secret_free(&b);
}

static void base64_round_trip(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	for (size_t n = 1; n <= 100; n++) {
		kt_secret in;
		kt_secret text;
		kt_secret back;
		assert_kt_ok(kt_secret_random(&in, n, &err));
		assert_kt_ok(kt_secret_to_base64(&in, &text, &err));
		assert_int_equal(text.len, (n + 2) / 3 * 4);
		assert_int_equal(CRYPTO_secure_allocated(text.data), 1);
		assert_kt_ok(kt_secret_from_base64(&text, &back, &err));
		assert_int_equal(CRYPTO_secure_allocated(back.data), 1);
		assert_true(kt_secret_equal(&in, &back));
		kt_secret_free(&in);
		kt_secret_free(&text);
		kt_secret_free(&back);
	}
}

static kt_code decode(const char *text, size_t n, kt_secret *out, kt_err *err)
{
	kt_secret in;
	KT_TRY(kt_secret_copy(&in, text, n, err));
	kt_code rc = kt_secret_from_base64(&in, out, err);
	kt_secret_free(&in);
	return rc;
}

static void base64_lets_one_line_break_pass(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret out;
	const char *const good[] = {"QUJD", "QUJD\n", "QUJD\r\n"};
	for (size_t i = 0; i < 3; i++) {
		assert_kt_ok(decode(good[i], strlen(good[i]), &out, &err));
		assert_int_equal(out.len, 3);
		assert_memory_equal(out.data, "ABC", 3);
		kt_secret_free(&out);
	}
}

static void base64_refuses_everything_else(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret out = KT_SECRET_INIT;
	const char *const bad[] = {"\n",   "\r\n", "QUJD\n\n", "\nQUJD", "QU\nJD", "QUJD ",    "QUJ",     "====",
				   "Q===", "Q=JD", "QUJD=",    "QU_D",   "QU-D",   "QUJDQ===", "QQ==QUJD"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		size_t used = CRYPTO_secure_used();
		assert_kt_fails(KT_E_INPUT, decode(bad[i], strlen(bad[i]), &out, &err));
		assert_int_equal(CRYPTO_secure_used(), used);
	}
	assert_kt_fails(KT_E_INPUT, decode("QU\0D", 4, &out, &err));
}

static void error_texts_do_not_quote_the_secret(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret out;
	assert_kt_fails(KT_E_INPUT, decode("CANARY!CANARY!!!", 16, &out, &err));
	assert_null(strstr(err.msg, "CANARY"));
	assert_null(strstr(err.remedy, "CANARY"));
}

static int file_with(const char *text, size_t n)
{
	int fd = open(".", O_TMPFILE | O_RDWR, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, n), (ssize_t)n);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

static void reads_a_file_up_to_its_bound(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret s;
	int fd = file_with("0123456789", 10);
	assert_kt_ok(kt_secret_read_fd(&s, fd, 10, "the PIN file", &err));
	assert_int_equal(s.len, 10);
	assert_string_equal((const char *)s.data, "0123456789");
	assert_int_equal(CRYPTO_secure_allocated(s.data), 1);
	kt_secret_free(&s);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_kt_fails(KT_E_INPUT, kt_secret_read_fd(&s, fd, 9, "the PIN file", &err));
	assert_non_null(strstr(err.msg, "the PIN file"));
	assert_null(strstr(err.msg, "0123"));
	assert_null(s.data);
	close(fd);
}

static void reads_an_empty_file(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret s;
	int fd = file_with("", 0);
	assert_kt_ok(kt_secret_read_fd(&s, fd, 10, "empty", &err));
	assert_int_equal(s.len, 0);
	kt_secret_free(&s);
	close(fd);
	assert_kt_fails(KT_E_IO, kt_secret_read_fd(&s, -1, 10, "closed", &err));
	assert_null(s.data);
}

static void reads_a_pipe_in_pieces(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret s;
	int ends[2];
	assert_int_equal(pipe(ends), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		for (int i = 0; i < 3; i++) {
			ssize_t n = write(ends[1], "abc", 3);
			if (n != 3)
				_exit(1);
			usleep(20000);
		}
		_exit(0);
	}
	close(ends[1]);
	assert_kt_ok(kt_secret_read_fd(&s, ends[0], 100, "pipe", &err));
	assert_string_equal((const char *)s.data, "abcabcabc");
	kt_secret_free(&s);
	close(ends[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(setup_locks_and_forbids_dumps),
		cmocka_unit_test(memory_that_cannot_be_locked_is_an_error),
		cmocka_unit_test(lives_in_the_secure_heap),
		cmocka_unit_test(refuses_odd_lengths),
		cmocka_unit_test(says_when_the_heap_is_full),
		cmocka_unit_test(random_differs),
		cmocka_unit_test(stirring_seeds_anew),
		cmocka_unit_test(compares_length_and_every_byte),
		cmocka_unit_test(base64_round_trip),
		cmocka_unit_test(base64_lets_one_line_break_pass),
		cmocka_unit_test(base64_refuses_everything_else),
		cmocka_unit_test(error_texts_do_not_quote_the_secret),
		cmocka_unit_test(reads_a_file_up_to_its_bound),
		cmocka_unit_test(reads_an_empty_file),
		cmocka_unit_test(reads_a_pipe_in_pieces),
	};
	return cmocka_run_group_tests(tests, set_up, NULL);
}
