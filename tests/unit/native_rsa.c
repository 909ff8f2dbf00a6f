/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RSA keys for tests under valgrind, where making one takes half a minute: the openssl program makes them, outside of
 * it. The two functions stand before libcrypto's, also for a token's module in the process (SoftHSM), so that
 * everything else is as ever; without KT_VALGRIND they are libcrypto's own.
 */
#define OPENSSL_SUPPRESS_DEPRECATED /* RSA_*, which SoftHSM calls */
#include <dlfcn.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

typedef void any_function(void);

static any_function *next_of(const char *name)
{
	void *at = dlsym(RTLD_NEXT, name);
	any_function *function = NULL;
	if (!at)
		abort();
	memcpy(&function, &at, sizeof function);
	return function;
}

static EVP_PKEY *read_key(FILE *in)
{
	EVP_PKEY *key = in ? PEM_read_PrivateKey(in, NULL, NULL, NULL) : NULL;
	if (in)
		(void)fclose(in);
	return key;
}

static EVP_PKEY *make_outside(size_t bits)
{
	char size[48], program[] = "openssl", verb[] = "genpkey", algorithm[] = "-algorithm", rsa[] = "RSA",
		       option[] = "-pkeyopt";
	char *argv[] = {program, verb, algorithm, rsa, option, size, NULL};
	posix_spawn_file_actions_t files;
	int ends[2], status = -1;
	pid_t pid;
	(void)snprintf(size, sizeof size, "rsa_keygen_bits:%zu", bits);
	if (pipe(ends) != 0 || posix_spawn_file_actions_init(&files) != 0 ||
	    posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO) != 0 ||
	    posix_spawn_file_actions_addclose(&files, ends[0]) != 0 ||
	    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", 1, 0) != 0 ||
	    posix_spawnp(&pid, program, &files, NULL, argv, environ) != 0)
		abort();
	(void)posix_spawn_file_actions_destroy(&files);
	(void)close(ends[1]);
	EVP_PKEY *key = read_key(fdopen(ends[0], "r"));
	if (waitpid(pid, &status, 0) != pid || status != 0 || !key)
		abort();
	return key;
}

EVP_PKEY *EVP_PKEY_Q_keygen(OSSL_LIB_CTX *lib, const char *properties, const char *type, ...)
{
	typedef EVP_PKEY *function(OSSL_LIB_CTX *, const char *, const char *, ...);
	function *real = (function *)next_of("EVP_PKEY_Q_keygen");
	va_list more;
	EVP_PKEY *key;
	va_start(more, type);
	if (strcmp(type, "RSA") == 0) {
		size_t bits = va_arg(more, size_t);
		key = getenv("KT_VALGRIND") ? make_outside(bits) : real(lib, properties, type, bits);
	} else if (strcmp(type, "EC") == 0) {
		key = real(lib, properties, type, va_arg(more, char *));
	} else {
		key = real(lib, properties, type);
	}
	va_end(more);
	return key;
}

static BIGNUM *copy(const BIGNUM *n)
{
	BIGNUM *same = BN_dup(n);
	if (!same)
		abort();
	return same;
}

int RSA_generate_key_ex(RSA *rsa, int bits, BIGNUM *e, BN_GENCB *told)
{
	typedef int function(RSA *, int, BIGNUM *, BN_GENCB *);
	if (!getenv("KT_VALGRIND") || !BN_is_word(e, RSA_F4))
		return ((function *)next_of("RSA_generate_key_ex"))(rsa, bits, e, told);
	EVP_PKEY *made = make_outside((size_t)bits);
	const RSA *from = EVP_PKEY_get0_RSA(made);
	int good = RSA_set0_key(rsa, copy(RSA_get0_n(from)), copy(RSA_get0_e(from)), copy(RSA_get0_d(from))) &&
		   RSA_set0_factors(rsa, copy(RSA_get0_p(from)), copy(RSA_get0_q(from))) &&
		   RSA_set0_crt_params(rsa, copy(RSA_get0_dmp1(from)), copy(RSA_get0_dmq1(from)),
				       copy(RSA_get0_iqmp(from)));
	EVP_PKEY_free(made);
	return good;
}
