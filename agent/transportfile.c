/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/transportfile.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/secret.h"

enum { PEM_MAX = 8000 };

static const kt_file_attr key_file = {.mode = 0400, .uid = (uid_t)KT_KEEP, .gid = (gid_t)KT_KEEP};
static const char *const names[KT_TRANSPORT_FILES] = {"transport.key", "transport.new"};

static kt_code path_of(const char *state, unsigned which, kt_buf *path, kt_err *err)
{
	kt_buf_clear(path);
	return kt_buf_printf(path, err, "%s/%s", state, names[which]);
}

/* A damaged key must never ask for a pass phrase on the terminal. */
static int no_pass_phrase(char *buf, int size, int rwflag, void *arg)
{
	(void)buf, (void)size, (void)rwflag, (void)arg;
	return -1;
}

static kt_code parse_pem(const kt_secret *pem, const char *path, EVP_PKEY **out, kt_err *err)
{
	BIO *bio = BIO_new_mem_buf(pem->data, (int)pem->len);
	*out = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_pass_phrase, NULL) : NULL;
	BIO_free(bio);
	ERR_clear_error();
	int bits = *out ? EVP_PKEY_get_bits(*out) : 0;
	if (*out && EVP_PKEY_is_a(*out, "RSA") && bits >= KT_TRANSPORT_BITS_MIN && bits <= KT_TRANSPORT_BITS_MAX)
		return KT_OK;
	EVP_PKEY_free(*out);
	*out = NULL;
	return kt_fail(err, KT_E_KEY,
		       "when no run of this node is under way, move it away and run `keyturn enroll` again",
		       "the transport key %s is damaged: it holds no RSA key of %d to %d bits", path,
		       (int)KT_TRANSPORT_BITS_MIN, (int)KT_TRANSPORT_BITS_MAX);
}

static kt_code read_transport_fd(int fd, const char *path, EVP_PKEY **out, kt_err *err)
{
	struct stat st;
	kt_secret pem;
	if (fstat(fd, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	if (!S_ISREG(st.st_mode) || (st.st_mode & 077) || st.st_uid != geteuid())
		return kt_fail(
			err, KT_E_KEY,
			"if others may have read it, move it away and run `keyturn enroll` again; else chmod 0400",
			"the transport key %s must be a regular file of ours with mode 0400 (uid %u, mode %04o)", path,
			(unsigned)st.st_uid, (unsigned)(st.st_mode & 07777));
	KT_TRY(kt_secret_read_fd(&pem, fd, PEM_MAX, path, err));
	kt_code rc = parse_pem(&pem, path, out, err);
	kt_secret_free(&pem);
	return rc;
}

/* *out stays NULL when there is none. */
static kt_code load_transport(const char *path, EVP_PKEY **out, kt_err *err)
{
	*out = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT)
		return KT_OK;
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "the transport key %s", path);
	kt_code rc = read_transport_fd(fd, path, out, err);
	(void)close(fd);
	return rc;
}

kt_code kt_transport_files_load(const char *state, EVP_PKEY *out[KT_TRANSPORT_FILES], kt_err *err)
{
	kt_buf path = KT_BUF_INIT;
	kt_code rc = KT_OK;
	out[0] = out[1] = NULL;
	for (unsigned i = 0; rc == KT_OK && i < KT_TRANSPORT_FILES; i++) {
		rc = path_of(state, i, &path, err);
		if (rc == KT_OK)
			rc = load_transport(kt_buf_cstr(&path), &out[i], err);
	}
	kt_buf_free(&path);
	if (rc != KT_OK)
		kt_transport_files_free(out);
	return rc;
}

void kt_transport_files_free(EVP_PKEY *keys[KT_TRANSPORT_FILES])
{
	for (unsigned i = 0; i < KT_TRANSPORT_FILES; i++) {
		EVP_PKEY_free(keys[i]);
		keys[i] = NULL;
	}
}

/* PKCS#8 text in locked memory (BIO_s_secmem). */
static kt_code to_pem(EVP_PKEY *key, kt_secret *pem, kt_err *err)
{
	char *text = NULL;
	*pem = KT_SECRET_INIT;
	BIO *bio = BIO_new(BIO_s_secmem());
	bool ok = bio && PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1;
	long n = ok ? BIO_get_mem_data(bio, &text) : 0;
	kt_code rc = n > 0 ? kt_secret_copy(pem, text, (size_t)n, err)
			   : kt_fail(err, KT_E_INTERNAL, NULL, "the transport key cannot be encoded");
	BIO_free(bio);
	return rc;
}

static kt_code write_new(const char *path, unsigned bits, bool *made, kt_err *err)
{
	kt_secret pem;
	EVP_PKEY *key = EVP_RSA_gen(bits);
	if (!key)
		return kt_fail(err, KT_E_INTERNAL, NULL, "an RSA key of %u bits cannot be made", bits);
	kt_code rc = to_pem(key, &pem, err);
	EVP_PKEY_free(key);
	if (rc == KT_OK)
		rc = kt_file_create(path, pem.data, pem.len, &key_file, made, err);
	kt_secret_free(&pem);
	return rc;
}

kt_code kt_transport_file_make(const char *state, unsigned which, unsigned bits, bool *made, kt_err *err)
{
	kt_buf path = KT_BUF_INIT;
	*made = false;
	kt_code rc = path_of(state, which, &path, err);
	if (rc == KT_OK)
		rc = write_new(kt_buf_cstr(&path), bits, made, err);
	kt_buf_free(&path);
	return rc;
}

/* The new key over the old one: whoever dies on the way leaves one of them under each name. */
static kt_code promote(const char *from, const char *to, const char *state, kt_err *err)
{
	if (rename(from, to) != 0 && errno != ENOENT)
		return kt_fail_errno(err, errno, NULL, "%s cannot be renamed to %s", from, to);
	return kt_file_sync_folder(state, err);
}

kt_code kt_transport_files_keep(const char *state, unsigned which, kt_err *err)
{
	kt_buf first = KT_BUF_INIT;
	kt_buf second = KT_BUF_INIT;
	kt_code rc = path_of(state, 0, &first, err);
	if (rc == KT_OK)
		rc = path_of(state, 1, &second, err);
	if (rc == KT_OK && which == 1)
		rc = promote(kt_buf_cstr(&second), kt_buf_cstr(&first), state, err);
	if (rc == KT_OK && which != 1)
		rc = kt_file_remove(kt_buf_cstr(&second), NULL, err);
	if (rc == KT_OK && which == KT_TRANSPORT_FILES)
		rc = kt_file_remove(kt_buf_cstr(&first), NULL, err);
	kt_buf_free(&first);
	kt_buf_free(&second);
	return rc;
}
