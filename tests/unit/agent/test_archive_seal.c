/* SPDX-License-Identifier: Apache-2.0 */
/* Encrypted archives: what is written comes back, and of what was changed, moved, cut off or grafted nothing does. */
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>

#include "agent/archive_seal.h"
#include "agent/unseal.h"
#include "base/clock.h"
#include "base/secret.h"
#include "tests/unit/agent/scratch.h"

#define CONTEXT "c/20261123T204726Z-1a2b3c/web01"
enum { HEADER = KT_SEAL_FIXED + sizeof CONTEXT - 1, CHUNK = (1 << KT_SEAL_CHUNK_BITS) + KT_SEAL_TAG };

static kt_secret key, other_key;
static const kt_archive_seal seal = {.key = &key, .context = CONTEXT};

/* `mib` MiB that no compression makes smaller, other ones for each seed. */
static void make_tree(size_t mib, unsigned seed)
{
	static uint8_t noise[1024 * 1024];
	put_folder("top", 0755);
	put_text("top/readme", "a text that is to be seen by nobody\n", 0644);
	for (size_t i = 0; i < mib; i++) {
		char name[32];
		for (size_t k = 0; k < sizeof noise; k++) {
			seed = seed * 1664525u + 1013904223u;
			noise[k] = (uint8_t)(seed >> 24);
		}
		(void)snprintf(name, sizeof name, "top/noise%zu", i);
		put_bytes(name, noise, sizeof noise, 0600);
	}
}

static kt_buf make_archive(const kt_archive_seal *with, kt_archive_made *made)
{
	kt_err err = KT_ERR_INIT;
	kt_buf bytes = KT_BUF_INIT;
	const kt_archive_source source = {.top = at("top")};
	assert_kt_ok(kt_archive_create(at("b/x"), &source, &(kt_archive_how){.seal = with}, made, &err));
	assert_kt_ok(kt_file_read(at("b/x"), &bytes, &err));
	return bytes;
}

/* Open and read all of these bytes as an archive with a digest that is right, as somebody would make it who can. */
static kt_code try_bytes(const void *bytes, size_t n, const kt_archive_seal *with, kt_err *err)
{
	char sha[KT_SHA256_HEX];
	kt_archive_reader *r = NULL;
	kt_manifest m;
	*err = KT_ERR_INIT;
	put_bytes("try", bytes, n, 0600);
	if (kt_sha256_hex(bytes, n, sha, err) != KT_OK)
		fail_msg("%s", err->msg);
	kt_code rc = kt_archive_open(at("try"), sha, with, &r, err);
	if (rc == KT_OK) {
		rc = kt_archive_verify(r, NULL, &m, err);
		if (rc == KT_OK)
			kt_manifest_free(&m);
		kt_archive_close(r);
	}
	return rc;
}

static void refused(const void *bytes, size_t n, const char *what)
{
	kt_err err;
	kt_code rc = try_bytes(bytes, n, &seal, &err);
	if (rc != KT_E_INPUT && rc != KT_E_KEY)
		fail_msg("%s: %d %s", what, (int)rc, err.msg);
	if (!strstr(err.msg, "/try"))
		fail_msg("%s: the archive is not named: %s", what, err.msg);
}

static void test_comes_back(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	kt_archive_reader *r = NULL;
	kt_manifest m;
	make_tree(3, 1);
	kt_buf bytes = make_archive(&seal, &made);
	assert_true(made.sealed);
	assert_int_equal(made.archive_bytes, bytes.len);
	assert_int_equal(mode_of("b/x"), 0600);
	assert_null(memmem(bytes.data, bytes.len, "seen by nobody", 14));
	assert_null(memmem(bytes.data, bytes.len, "\x28\xb5\x2f\xfd", 4)); /* zstd's magic number */
	put_folder("out", 0700);
	assert_kt_ok(kt_archive_open(at("b/x"), made.sha256, &seal, &r, &err));
	assert_kt_ok(kt_archive_extract(r, at("out"), NULL, NULL, &m, &err));
	assert_int_equal(m.n, 5);
	kt_manifest_free(&m);
	assert_kt_ok(kt_archive_verify(r, NULL, &m, &err));
	put_text("top/readme", "changed", 0644);
	uint64_t written = 0;
	assert_kt_ok(kt_archive_restore(r, &m, NULL, 0, NULL, &written, &err));
	assert_int_equal(written, 1);
	assert_text("top/readme", "a text that is to be seen by nobody\n");
	kt_manifest_free(&m);
	kt_archive_close(r);
	kt_buf_free(&bytes);
}

/* The format as docs/FORMATS.md has it, by nothing but libcrypto. */
static void test_opens_by_the_book(void **state)
{
	(void)state;
	kt_archive_made made;
	make_tree(0, 1);
	kt_buf b = make_archive(&seal, &made);
	assert_memory_equal(b.data, "KTBACKUP\1\1\24\37", 12);
	assert_memory_equal(b.data + 76, CONTEXT, sizeof CONTEXT - 1);
	uint8_t info[256] = "keyturn-archive/1";
	memcpy(info + 18, b.data, 12);
	memcpy(info + 30, CONTEXT, sizeof CONTEXT - 1);
	uint8_t out[64];
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char[]){"SHA256"}, 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, key.data, 32),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, b.data + 12, 32),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, 30 + sizeof CONTEXT - 1),
		OSSL_PARAM_construct_end(),
	};
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *kc = EVP_KDF_CTX_new(kdf);
	assert_int_equal(EVP_KDF_derive(kc, out, sizeof out, params), 1);
	assert_memory_equal(out + 32, b.data + 44, 32);
	const uint8_t nonce[12] = {[11] = 1}; /* the first chunk, and the last */
	uint8_t plain[4096];
	int n = 0, rest = 0;
	int len = (int)(b.len - HEADER - 16);
	assert_true(len > 0 && len < (int)sizeof plain);
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	assert_int_equal(EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), NULL, out, nonce), 1);
	assert_int_equal(EVP_DecryptUpdate(c, plain, &n, b.data + HEADER, len), 1);
	assert_int_equal(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, 16, b.data + b.len - 16), 1);
	assert_int_equal(EVP_DecryptFinal_ex(c, plain + n, &rest), 1);
	assert_memory_equal(plain, "\x28\xb5\x2f\xfd", 4);
	EVP_CIPHER_CTX_free(c);
	EVP_KDF_CTX_free(kc);
	EVP_KDF_free(kdf);
	kt_buf_free(&b);
}

static void test_every_byte_and_every_length(void **state)
{
	(void)state;
	kt_archive_made made;
	make_tree(0, 1);
	kt_buf b = make_archive(&seal, &made);
	for (size_t i = 0; i < b.len; i++) {
		char what[64];
		(void)snprintf(what, sizeof what, "byte %zu flipped", i);
		b.data[i] ^= (uint8_t)(1u << (i % 8));
		refused(b.data, b.len, what);
		b.data[i] ^= (uint8_t)(1u << (i % 8));
		(void)snprintf(what, sizeof what, "cut to %zu bytes", i);
		refused(b.data, i, what);
	}
	kt_err err;
	assert_int_equal(try_bytes(b.data, b.len, &seal, &err), KT_OK);
	kt_buf_free(&b);
}

/* An archive put together out of parts of others. */
typedef struct made_up {
	uint8_t *data;
	size_t n;
} made_up;

static void add(made_up *m, const kt_buf *from, size_t at_byte, size_t n)
{
	size_t end = at_byte + n < from->len ? at_byte + n : from->len;
	m->data = realloc(m->data, m->n + (end - at_byte));
	assert_non_null(m->data);
	memcpy(m->data + m->n, from->data + at_byte, end - at_byte);
	m->n += end - at_byte;
}

static void add_chunk(made_up *m, const kt_buf *from, size_t i)
{
	add(m, from, HEADER + i * CHUNK, CHUNK);
}

static void check_made_up(made_up *m, const char *what)
{
	refused(m->data, m->n, what);
	free(m->data);
	*m = (made_up){0};
}

static void test_chunks_stay_in_their_place(void **state)
{
	(void)state;
	kt_archive_made made;
	made_up m = {0};
	make_tree(3, 1);
	kt_buf a = make_archive(&seal, &made);
	kt_buf twin = make_archive(&seal, &made); /* the same tree, key and context */
	assert_true(a.len > HEADER + 3 * CHUNK && a.len < HEADER + 4 * CHUNK);
	add(&m, &a, 0, a.len);
	kt_err err;
	assert_int_equal(try_bytes(m.data, m.n, &seal, &err), KT_OK);
	m.n = 0;
	static const struct {
		const char *what;
		int chunk[6]; /* -1: no more; from 10 on: the twin's */
	} parts[] = {
		{"two chunks swapped", {1, 0, 2, 3, -1}},
		{"a chunk left out", {0, 2, 3, -1}},
		{"the last one left out", {0, 1, 2, -1}},
		{"a chunk twice", {0, 1, 1, 2, 3, -1}},
		{"the last one twice", {0, 1, 2, 3, 3, -1}},
		{"the twin's chunk", {0, 11, 2, 3, -1}},
		{"the twin's end", {0, 1, 2, 13, -1}},
		{"the twin's chunks", {10, 11, 12, 13, -1}},
		{"the last one first", {3, -1}},
		{"no chunk", {-1}},
	};
	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
		add(&m, &a, 0, HEADER);
		for (const int *c = parts[i].chunk; *c >= 0; c++)
			add_chunk(&m, *c >= 10 ? &twin : &a, (size_t)(*c % 10));
		check_made_up(&m, parts[i].what);
	}
	/* The header of one over the chunks of the other; and what hangs behind the end. */
	add(&m, &twin, 0, HEADER);
	add(&m, &a, HEADER, a.len);
	check_made_up(&m, "the twin's header");
	add(&m, &a, 0, a.len);
	add(&m, &a, 0, 1);
	check_made_up(&m, "a byte more");
	add(&m, &a, 0, a.len);
	add(&m, &twin, 0, twin.len);
	check_made_up(&m, "an archive behind an archive");
	kt_buf_free(&a);
	kt_buf_free(&twin);
}

static void test_only_its_own_key_and_name(void **state)
{
	(void)state;
	kt_err err;
	kt_archive_made made;
	kt_secret half = KT_SECRET_INIT;
	make_tree(0, 1);
	kt_buf a = make_archive(&seal, &made);
	kt_archive_seal bad = {.key = &other_key, .context = CONTEXT};
	assert_int_equal(try_bytes(a.data, a.len, &bad, &err), KT_E_KEY);
	assert_non_null(strstr(err.msg, "does not open with this key"));
	bad = (kt_archive_seal){.key = &key, .context = "c/20261123T204726Z-1a2b3c/web02"};
	assert_int_equal(try_bytes(a.data, a.len, &bad, &err), KT_E_INPUT);
	assert_non_null(strstr(err.msg, CONTEXT ", not of c/20261123T204726Z-1a2b3c/web02"));
	assert_int_equal(try_bytes(a.data, a.len, NULL, &err), KT_E_KEY);
	assert_non_null(strstr(err.msg, "is encrypted"));
	assert_kt_ok(kt_secret_random(&half, 16, &err));
	bad = (kt_archive_seal){.key = &half, .context = CONTEXT};
	assert_int_equal(try_bytes(a.data, a.len, &bad, &err), KT_E_KEY);
	kt_buf plain = make_archive(NULL, &made);
	assert_false(made.sealed);
	assert_int_equal(try_bytes(plain.data, plain.len, NULL, &err), KT_OK);
	assert_int_equal(try_bytes(plain.data, plain.len, &seal, &err), KT_E_INPUT);
	assert_non_null(strstr(err.msg, "is not an encrypted backup"));
	const kt_archive_source source = {.top = at("top")};
	char name[KT_SEAL_CONTEXT_MAX + 2] = "";
	memset(name, 'n', sizeof name - 1);
	const kt_archive_seal none[] = {{&half, CONTEXT}, {&key, ""}, {&key, name}};
	for (size_t i = 0; i < 3; i++) {
		kt_code rc = kt_archive_create(at("b/y"), &source, &(kt_archive_how){.seal = &none[i]}, &made, &err);
		assert_int_equal(rc, i ? KT_E_INPUT : KT_E_KEY);
		assert_false(is_there("b/y"));
		assert_false(is_there("b/y.part"));
	}
	kt_secret_free(&half);
	kt_buf_free(&a);
	kt_buf_free(&plain);
}

/* 3 MiB at 4 MiB a second take three quarters of a second, on whichever machine; none of it is lost. */
static void test_rate(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	make_tree(3, 1);
	const kt_archive_source source = {.top = at("top")};
	const kt_archive_how how = {.seal = &seal, .rate = 4 * 1024 * 1024};
	int64_t began = kt_clock_mono_ms();
	assert_kt_ok(kt_archive_create(at("b/x"), &source, &how, &made, &err));
	assert_true(kt_clock_mono_ms() - began >= 750);
	assert_int_equal(made.files, 4);
}

static kt_code give_up(void *arg, uint64_t done, uint64_t total, kt_err *err)
{
	(void)arg, (void)total;
	return done ? kt_fail(err, KT_E_INTERRUPTED, NULL, "stopped") : KT_OK;
}

/* Whoever waits for a rate can be stopped: this one would take an hour. */
static void test_rate_can_be_stopped(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	make_tree(1, 1);
	const kt_archive_source source = {.top = at("top")};
	const kt_archive_hooks hooks = {.progress = give_up};
	const kt_archive_how how = {.rate = 300, .hooks = &hooks};
	assert_kt_fails(KT_E_INTERRUPTED, kt_archive_create(at("b/x"), &source, &how, &made, &err));
	assert_false(is_there("b/x.part"));
}

/* By hand, with the key in a file: all of it, or an error. */
static void test_unsealed_by_hand(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	kt_secret text;
	kt_buf out = KT_BUF_INIT;
	make_tree(2, 1);
	kt_buf a = make_archive(&seal, &made);
	kt_buf plain = make_archive(NULL, &made);
	assert_kt_ok(kt_secret_to_base64(&key, &text, &err));
	put_bytes("key", text.data, text.len, 0400);
	put_bytes("sealed", a.data, a.len, 0600);
	put_bytes("cut", a.data, HEADER + 2 * CHUNK, 0600);
	int fd = open(at("out"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_kt_ok(kt_unseal(at("key"), at("sealed"), fd, &err));
	assert_kt_ok(kt_file_read(at("out"), &out, &err));
	assert_int_equal(out.len, plain.len);
	assert_memory_equal(out.data, "\x28\xb5\x2f\xfd", 4);
	assert_kt_fails(KT_E_INPUT, kt_unseal(at("key"), at("cut"), fd, &err));
	put_text("open", "not 0400", 0600);
	assert_kt_fails(KT_E_KEY, kt_unseal(at("open"), at("sealed"), fd, &err));
	assert_kt_fails(KT_E_IO, kt_unseal(at("key"), at("gone"), fd, &err));
	assert_int_equal(close(fd), 0);
	kt_secret_free(&text);
	kt_buf_free(&out);
	kt_buf_free(&plain);
	kt_buf_free(&a);
}

/* Whatever made it: an archive with a key in it does not pass (S6). */
static void test_a_key_inside_is_found(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	kt_archive_reader *r = NULL;
	kt_keyscan *scan;
	kt_manifest m;
	kt_secret text;
	make_tree(0, 1);
	assert_kt_ok(kt_secret_to_base64(&other_key, &text, &err));
	put_bytes("top/notes", text.data, text.len, 0600);
	kt_buf b = make_archive(&seal, &made);
	put_folder("out", 0700);
	assert_kt_ok(kt_keyscan_new(&other_key, 1, &scan, &err));
	const kt_archive_hooks hooks = {.scan = scan};
	assert_kt_ok(kt_archive_open(at("b/x"), made.sha256, &seal, &r, &err));
	assert_kt_fails(KT_E_KEY, kt_archive_extract(r, at("out"), NULL, &hooks, &m, &err));
	assert_non_null(strstr(err.msg, "top/notes"));
	assert_non_null(strstr(err.msg, "a key in the clear"));
	kt_keyscan_free(scan);
	kt_archive_close(r);
	kt_secret_free(&text);
	kt_buf_free(&b);
}

static int make_keys(void **state)
{
	kt_err err = KT_ERR_INIT;
	(void)state;
	return kt_secret_random(&key, 32, &err) == KT_OK && kt_secret_random(&other_key, 32, &err) == KT_OK ? 0 : -1;
}

static int drop_keys(void **state)
{
	(void)state;
	kt_secret_free(&key);
	kt_secret_free(&other_key);
	return 0;
}

int main(void)
{
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK) {
		(void)fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_drop)
	const struct CMUnitTest tests[] = {
		TEST(test_comes_back),
		TEST(test_opens_by_the_book),
		TEST(test_every_byte_and_every_length),
		TEST(test_chunks_stay_in_their_place),
		TEST(test_only_its_own_key_and_name),
		TEST(test_rate),
		TEST(test_rate_can_be_stopped),
		TEST(test_a_key_inside_is_found),
		TEST(test_unsealed_by_hand),
	};
	return cmocka_run_group_tests(tests, make_keys, drop_keys);
}
