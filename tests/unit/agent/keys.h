/* SPDX-License-Identifier: Apache-2.0 */
/* Keys for tests: what the HSM does, with libcrypto; and the search for a key in everything that was written. */
#ifndef KT_TESTS_UNIT_AGENT_KEYS_H
#define KT_TESTS_UNIT_AGENT_KEYS_H

#include <dirent.h>
#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include "base/kcv.h"
#include "tests/unit/agent/client.h"
#include "wire/blob.h"

static const uint8_t canary[32] = "\x93"
				  "canary-key-\xe7\x1f\xaa of 32 bytes."
				  "\x05\xfe\x80\x99";
static const uint8_t other_key[32] = "another key, also of 32 bytes!!\x01";

static inline kt_secret secret_of(const uint8_t bytes[32])
{
	kt_err err = KT_ERR_INIT;
	kt_secret s;
	assert_kt_ok(kt_secret_copy(&s, bytes, 32, &err));
	return s;
}

/* A key's text; one of four static buffers in turn. */
static inline const char *base64_of(const uint8_t bytes[32])
{
	static char text[4][48];
	static unsigned next;
	char *out = text[next++ % 4];
	(void)EVP_EncodeBlock((unsigned char *)out, bytes, 32);
	return out;
}

static inline const char *kcv_of(const uint8_t bytes[32])
{
	static char kcv[4][KT_KCV_TEXT];
	static unsigned next;
	char *out = kcv[next++ % 4];
	kt_err err = KT_ERR_INIT;
	kt_secret s = secret_of(bytes);
	assert_kt_ok(kt_kcv_of(&s, out, &err));
	kt_secret_free(&s);
	return out;
}

/* What the node must answer for a nonce of 16 bytes 0x5a. */
static inline const char *proof_of(const uint8_t bytes[32], const char *run)
{
	static char hex[40];
	uint8_t nonce[16];
	uint8_t proof[KT_PROOF_LEN];
	kt_err err = KT_ERR_INIT;
	kt_secret s = secret_of(bytes);
	memset(nonce, 0x5a, sizeof nonce);
	char label[100];
	(void)snprintf(label, sizeof label, "keyturn-proof/1:%s:web01", run);
	assert_kt_ok(kt_proof_of(&s, label, nonce, sizeof nonce, proof, &err));
	kt_secret_free(&s);
	for (size_t i = 0; i < KT_PROOF_LEN; i++)
		(void)snprintf(hex + 2 * i, 3, "%02x", proof[i]);
	return hex;
}

#define NONCE_5A "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"

/* Make the node's transport key, and learn its public half. */
static inline EVP_PKEY *transport_key(client *c)
{
	const char *run = c->run;
	c->run = "-"; /* as enroll does */
	reply r = ask_ok(c, "key.transport", J("{'bits':2048}"));
	c->run = run;
	const char *pem = result_str(&r, "public_pem");
	BIO *bio = BIO_new_mem_buf(pem, (int)strlen(pem));
	EVP_PKEY *key = PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL);
	BIO_free(bio);
	assert_non_null(key);
	reply_free(&r);
	return key;
}

static inline size_t oaep(EVP_PKEY *to, const uint8_t *bytes, size_t n, uint8_t out[KT_BLOB_WRAPPED_MAX])
{
	size_t len = KT_BLOB_WRAPPED_MAX;
	EVP_PKEY_CTX *x = EVP_PKEY_CTX_new(to, NULL);
	assert_int_equal(EVP_PKEY_encrypt_init(x), 1);
	assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(x, RSA_PKCS1_OAEP_PADDING), 1);
	assert_int_equal(EVP_PKEY_CTX_set_rsa_oaep_md(x, EVP_sha256()), 1);
	assert_int_equal(EVP_PKEY_CTX_set_rsa_mgf1_md(x, EVP_sha256()), 1);
	assert_int_equal(EVP_PKEY_encrypt(x, out, &len, bytes, n), 1);
	EVP_PKEY_CTX_free(x);
	return len;
}

/* With the MAC that the key `bytes` makes of it as it is. */
static inline kt_blob sealed(kt_blob b, const uint8_t bytes[32])
{
	kt_err err = KT_ERR_INIT;
	kt_secret s = secret_of(bytes);
	assert_kt_ok(kt_blob_seal(&b, &s, &err));
	kt_secret_free(&s);
	return b;
}

static inline kt_blob wrap_for(EVP_PKEY *to, const uint8_t bytes[32], const char *run)
{
	kt_err err = KT_ERR_INIT;
	kt_blob b = {.purpose = KT_BLOB_TRANSPORT, .format = KT_BLOB_RSA_OAEP_SHA256, .mechanism = "CKM_RSA_PKCS_OAEP"};
	assert_kt_ok(kt_blob_spki_sha256(to, b.spki_sha256, &err));
	(void)snprintf(b.kcv, sizeof b.kcv, "%s", kcv_of(bytes));
	(void)snprintf(b.run, sizeof b.run, "%s", run);
	(void)snprintf(b.node, sizeof b.node, "web01");
	b.wrapped_len = oaep(to, bytes, 32, b.wrapped);
	return sealed(b, bytes);
}

/* The arguments of key.receive. */
static inline const char *delivery_of(const kt_blob *b, const char *slot, bool keep)
{
	kt_err err = KT_ERR_INIT;
	kt_buf text = KT_BUF_INIT;
	assert_kt_ok(kt_blob_to_text(b, &text, &err));
	const char *out =
		J("{'slot':'%s','keep':%s,'label':'keyturn-proof/1:R1:web01','nonce':'" NONCE_5A "','blob':%s}", slot,
		  keep ? "true" : "false", kt_buf_cstr(&text));
	kt_buf_free(&text);
	return out;
}

/* Deliver `bytes` into slot R1, as a run does. */
static inline void deliver(client *c, const uint8_t bytes[32])
{
	EVP_PKEY *to = transport_key(c);
	kt_blob b = wrap_for(to, bytes, "R1");
	const char *step = c->step;
	c->step = "deliver";
	reply r = ask_ok(c, "key.receive", delivery_of(&b, "R1", true));
	assert_string_equal(result_str(&r, "kcv"), kcv_of(bytes));
	assert_string_equal(result_str(&r, "proof"), proof_of(bytes, "R1"));
	reply_free(&r);
	c->step = step;
	EVP_PKEY_free(to);
}

/* --- The search -----------------------------------------------------------------------------------------------------
 */

/* Bytes that hold the canary in any shape? */
static inline bool has_canary(const void *bytes, size_t n)
{
	char hex[65];
	for (size_t i = 0; i < 32; i++)
		(void)snprintf(hex + 2 * i, 3, "%02x", canary[i]);
	return memmem(bytes, n, canary, 32) || memmem(bytes, n, base64_of(canary), 40) || memmem(bytes, n, hex, 60);
}

static inline void assert_file_clean(const char *path)
{
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	uint8_t chunk[65536];
	for (ssize_t n; (n = read(fd, chunk, sizeof chunk)) > 0;)
		assert_kt_ok(kt_buf_append(&b, chunk, (size_t)n, &err));
	(void)close(fd);
	if (has_canary(b.data ? (const void *)b.data : "", b.len))
		fail_msg("the key is in %s", path);
	kt_buf_free(&b);
}

/* No file below a folder holds the canary; how many were looked at. */
static inline int assert_folder_clean(const char *path)
{
	int seen = 0;
	DIR *d = opendir(path);
	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));) {
		char sub[PATH_MAX];
		struct stat st;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		assert_true((size_t)snprintf(sub, sizeof sub, "%s/%s", path, e->d_name) < sizeof sub);
		assert_int_equal(lstat(sub, &st), 0);
		if (S_ISDIR(st.st_mode)) {
			seen += assert_folder_clean(sub);
		} else if (S_ISREG(st.st_mode)) {
			assert_file_clean(sub);
			seen++;
		}
	}
	(void)closedir(d);
	return seen;
}

static inline void assert_process_clean(pid_t pid)
{
	static const char *const files[] = {"environ", "cmdline", "comm"};
	for (size_t i = 0; i < 3; i++) {
		char path[64];
		(void)snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, files[i]);
		assert_file_clean(path);
	}
}

#endif
