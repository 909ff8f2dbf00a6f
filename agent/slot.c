/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/slot.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/keyref.h"
#include "base/record.h"
#include "wire/message.h"

enum { PEM_MAX = 8000, BLOB_MAX = 16 * 1024 };

static const kt_file_attr key_file = {.mode = 0400, .uid = (uid_t)KT_KEEP, .gid = (gid_t)KT_KEEP};

static const char enroll[] = "run `keyturn enroll` for this node";

/* --- The transport key ----------------------------------------------------------------------------------------------
 */

static kt_code transport_path(const char *state, kt_buf *path, kt_err *err)
{
	kt_buf_clear(path);
	return kt_buf_printf(path, err, "%s/transport.key", state);
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

kt_code kt_transport_load(const char *state, EVP_PKEY **out, kt_err *err)
{
	kt_buf path = KT_BUF_INIT;
	*out = NULL;
	kt_code rc = transport_path(state, &path, err);
	if (rc == KT_OK)
		rc = load_transport(kt_buf_cstr(&path), out, err);
	if (rc == KT_OK && !*out)
		rc = kt_fail(err, KT_E_KEY, enroll, "this node has no transport key (%s)", kt_buf_cstr(&path));
	kt_buf_free(&path);
	return rc;
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

kt_code kt_transport_ensure(const char *state, unsigned bits, bool *made, EVP_PKEY **out, kt_err *err)
{
	kt_buf path = KT_BUF_INIT;
	*out = NULL;
	*made = false;
	kt_code rc = transport_path(state, &path, err);
	if (rc == KT_OK)
		rc = load_transport(kt_buf_cstr(&path), out, err);
	if (rc == KT_OK && !*out)
		rc = write_new(kt_buf_cstr(&path), bits, made, err);
	/* Read back what is there: what can't be read again must be found out now. */
	if (rc == KT_OK && !*out)
		rc = kt_transport_load(state, out, err);
	kt_buf_free(&path);
	return rc;
}

/* --- Slots ----------------------------------------------------------------------------------------------------------
 */

kt_code kt_slot_path(const char *state, const char *slot, kt_buf *path, kt_err *err)
{
	KT_TRY(kt_name_check("slot", slot, err));
	kt_buf_clear(path);
	return kt_buf_printf(path, err, "%s/slots/%s.json", state, slot);
}

kt_code kt_slot_unwrap(const char *state, const kt_blob *blob, kt_secret *key, kt_err *err)
{
	EVP_PKEY *priv;
	char kcv[KT_KCV_TEXT];
	*key = KT_SECRET_INIT;
	KT_TRY(kt_transport_load(state, &priv, err));
	kt_code rc = kt_blob_unwrap_rsa(blob, priv, key, err);
	EVP_PKEY_free(priv);
	if (rc == KT_OK && key->len != KT_KEY_LEN)
		rc = kt_fail(err, KT_E_KEY, NULL, "the wrapped key has %zu bytes, not %d", key->len, (int)KT_KEY_LEN);
	if (rc == KT_OK)
		rc = kt_kcv_of(key, kcv, err);
	if (rc == KT_OK && strcmp(kcv, blob->kcv) != 0)
		rc = kt_fail(err, KT_E_KEY, "send it again", "the unwrapped key has check value %s, not %s", kcv,
			     blob->kcv);
	if (rc != KT_OK)
		kt_secret_free(key);
	return rc;
}

static const char lost_slot[] = "`keyturn rollback` removes it, and the next run delivers a new key";

/* *found is false when there is none. */
static kt_code load_slot(const char *path, bool *found, kt_blob *blob, kt_err *err)
{
	kt_buf text = {.max = BLOB_MAX};
	kt_code rc = kt_record_read(path, lost_slot, found, &text, err);
	if (rc == KT_OK && *found)
		rc = kt_blob_from_text(path, text.data, text.len, blob, err);
	kt_buf_free(&text);
	return rc;
}

static kt_code write_slot(const char *path, const kt_blob *blob, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_blob_to_text(blob, &text, err);
	if (rc == KT_OK)
		rc = kt_record_replace(path, &text, &key_file, err);
	kt_buf_free(&text);
	return rc;
}

static kt_code make_slots_folder(const char *state, kt_err *err)
{
	kt_buf dir = KT_BUF_INIT;
	kt_code rc = kt_buf_printf(&dir, err, "%s/slots", state);
	if (rc == KT_OK)
		rc = kt_file_mkdirs(kt_buf_cstr(&dir), 0700, err);
	if (rc == KT_OK)
		rc = kt_file_sync_folder(kt_buf_cstr(&dir), err);
	kt_buf_free(&dir);
	return rc;
}

static kt_code keep_at(const char *path, const char *slot, const kt_blob *blob, kt_err *err)
{
	kt_blob old;
	bool found;
	KT_TRY(load_slot(path, &found, &old, err));
	if (found && strcmp(old.kcv, blob->kcv) != 0)
		return kt_fail(err, KT_E_KEY, "a new key needs a new run",
			       "the slot %s holds another key already (%s, not %s)", slot, old.kcv, blob->kcv);
	return write_slot(path, blob, err);
}

kt_code kt_slot_keep(const char *state, const char *slot, const kt_blob *blob, kt_err *err)
{
	kt_buf path = KT_BUF_INIT;
	kt_code rc = kt_slot_path(state, slot, &path, err);
	if (rc == KT_OK)
		rc = make_slots_folder(state, err);
	if (rc == KT_OK)
		rc = keep_at(kt_buf_cstr(&path), slot, blob, err);
	kt_buf_free(&path);
	return rc;
}

kt_code kt_slot_open(const char *state, const char *slot, kt_secret *key, kt_err *err)
{
	kt_buf path = KT_BUF_INIT;
	kt_blob blob;
	bool found = false;
	*key = KT_SECRET_INIT;
	kt_code rc = kt_slot_path(state, slot, &path, err);
	if (rc == KT_OK)
		rc = load_slot(kt_buf_cstr(&path), &found, &blob, err);
	if (rc == KT_OK && !found)
		rc = kt_fail(err, KT_E_KEY, "deliver the key again: resume the run", "no key was received in slot %s",
			     slot);
	if (rc == KT_OK)
		rc = kt_slot_unwrap(state, &blob, key, err);
	kt_buf_free(&path);
	return rc;
}

kt_code kt_slot_forget(const char *state, const char *slot, kt_err *err)
{
	kt_buf path = KT_BUF_INIT;
	kt_code rc = kt_slot_path(state, slot, &path, err);
	if (rc == KT_OK)
		rc = kt_file_remove(kt_buf_cstr(&path), NULL, err);
	kt_buf_free(&path);
	return rc;
}
