/* SPDX-License-Identifier: Apache-2.0 */
/* Private keys from files: OpenSSH's own format (openssh PROTOCOL.key) without a passphrase, and PEM; public keys from
 * `.pub` files, whose private half the ssh-agent may hold. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/file.h"
#include "base/secret.h"
#include "orchestrator/fleet/internal.h"
#include "orchestrator/fleet/sshbytes.h"

enum { FILE_MAX_BYTES = 16000, ED25519_LEN = 32 };

static const struct curve {
	const char *type, *name, *group; /* key type, its name inside the key, OpenSSL's name */
	const char *digest;
} curves[] = {
	{"ecdsa-sha2-nistp256", "nistp256", "P-256", "SHA256"},
	{"ecdsa-sha2-nistp384", "nistp384", "P-384", "SHA384"},
	{"ecdsa-sha2-nistp521", "nistp521", "P-521", "SHA512"},
};

static const struct curve *find_curve(const char *type)
{
	for (size_t i = 0; i < sizeof curves / sizeof *curves; i++)
		if (strcmp(curves[i].type, type) == 0)
			return &curves[i];
	return NULL;
}

bool kt_sshkey_usable(const char *type, const char **why)
{
	*why = NULL;
	if (strcmp(type, "ssh-ed25519") == 0 || find_curve(type))
		return true;
	if (strcmp(type, "ssh-rsa") == 0)
		*why = "RSA: libssh2 1.10 signs only with SHA-1, which OpenSSH 8.8 and newer refuse; use an ed25519 "
		       "key";
	else if (strncmp(type, "sk-", 3) == 0)
		*why = "security keys cannot be used here; use an ed25519 key";
	else if (strstr(type, "-cert-v01"))
		*why = "certificates cannot be used here";
	else
		*why = "this type of key cannot be used; use an ed25519 key";
	return false;
}

void kt_sshkey_free(kt_sshkey *key)
{
	kt_buf_free(&key->blob);
	EVP_PKEY_free(key->pkey);
	key->pkey = NULL;
}

static kt_code not_usable(const char *why, kt_err *err)
{
	return kt_fail(err, KT_E_KEY, "make one with `ssh-keygen -t ed25519`", "%s", why);
}

static kt_code set_type(kt_sshkey *key, kt_err *err)
{
	const char *why;
	KT_TRY(kt_hostkey_type(key->blob.data, key->blob.len, key->type, err));
	return kt_sshkey_usable(key->type, &why) ? KT_OK : not_usable(why, err);
}

/* ---- the private half, OpenSSH's format ---- */

static kt_code make_ed25519(kt_bytes *in, kt_sshkey *key, kt_err *err)
{
	kt_bytes public_half, both;
	if (!kt_bytes_string(in, &public_half) || !kt_bytes_string(in, &both) || both.len != 2 * ED25519_LEN)
		return not_usable("its ed25519 key is malformed", err);
	key->pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, both.at, ED25519_LEN);
	return key->pkey ? KT_OK : not_usable("its ed25519 key is malformed", err);
}

static EVP_PKEY *build_ec(const char *group, const kt_bytes *point, const BIGNUM *scalar)
{
	EVP_PKEY *pkey = NULL;
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	OSSL_PARAM *params = NULL;
	if (ctx && build && OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, group, 0) == 1 &&
	    OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point->at, point->len) == 1 &&
	    OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_PRIV_KEY, scalar) == 1)
		params = OSSL_PARAM_BLD_to_param(build);
	if (params && EVP_PKEY_fromdata_init(ctx) == 1)
		(void)EVP_PKEY_fromdata(ctx, &pkey, EVP_PKEY_KEYPAIR, params); /* pkey stays NULL when it fails */
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(build);
	EVP_PKEY_CTX_free(ctx);
	return pkey;
}

static kt_code make_ecdsa(const struct curve *curve, kt_bytes *in, kt_sshkey *key, kt_err *err)
{
	kt_bytes name, point, scalar;
	if (!kt_bytes_string(in, &name) || !kt_bytes_string(in, &point) || !kt_bytes_string(in, &scalar) ||
	    !kt_bytes_is(&name, curve->name) || scalar.len > 80)
		return not_usable("its ECDSA key is malformed", err);
	BIGNUM *d = BN_secure_new();
	if (d && BN_bin2bn(scalar.at, (int)scalar.len, d))
		key->pkey = build_ec(curve->group, &point, d);
	BN_clear_free(d);
	return key->pkey ? KT_OK : not_usable("its ECDSA key is malformed", err);
}

static kt_code read_private(kt_bytes *in, kt_sshkey *key, kt_err *err)
{
	uint32_t check1, check2;
	kt_bytes type;
	if (!kt_bytes_u32(in, &check1) || !kt_bytes_u32(in, &check2) || check1 != check2 ||
	    !kt_bytes_string(in, &type) || !kt_bytes_is(&type, key->type))
		return not_usable("its private part is malformed", err);
	const struct curve *curve = find_curve(key->type);
	return curve ? make_ecdsa(curve, in, key, err) : make_ed25519(in, key, err);
}

static kt_code read_openssh(const kt_secret *body, kt_sshkey *key, kt_err *err)
{
	static const char magic[] = "openssh-key-v1";
	kt_bytes in = {body->data, body->len};
	kt_bytes cipher, kdf, options, blob, rest;
	uint32_t n;
	if (in.len < sizeof magic || memcmp(in.at, magic, sizeof magic) != 0)
		return not_usable("it is not an OpenSSH key", err);
	in = (kt_bytes){in.at + sizeof magic, in.len - sizeof magic};
	if (!kt_bytes_string(&in, &cipher) || !kt_bytes_string(&in, &kdf) || !kt_bytes_string(&in, &options) ||
	    !kt_bytes_u32(&in, &n) || n != 1 || !kt_bytes_string(&in, &blob) || !kt_bytes_string(&in, &rest))
		return not_usable("it is malformed", err);
	KT_TRY(kt_buf_append(&key->blob, blob.at, blob.len, err));
	KT_TRY(set_type(key, err));
	if (!kt_bytes_is(&cipher, "none"))
		return KT_OK; /* has a passphrase: the ssh-agent may hold it */
	return read_private(&rest, key, err);
}

/* The base64 between the BEGIN and END lines, without its line breaks. */
static kt_code unwrap(const kt_secret *file, kt_secret *out, kt_err *err)
{
	static const char begin[] = "-----BEGIN OPENSSH PRIVATE KEY-----";
	const char *from = strstr((const char *)file->data, begin);
	const char *to = from ? strstr(from, "-----END") : NULL;
	kt_secret text = KT_SECRET_INIT;
	if (!to)
		return not_usable("it has no end", err);
	from += sizeof begin - 1;
	KT_TRY(kt_secret_new(&text, (size_t)(to - from) + 1, err));
	text.len = 0;
	for (; from < to; from++)
		if (*from != '\n' && *from != '\r')
			text.data[text.len++] = (uint8_t)*from;
	text.data[text.len] = '\0';
	kt_code rc = kt_secret_from_base64(&text, out, err);
	kt_secret_free(&text);
	return rc;
}

/* ---- PEM: SEC 1, PKCS#8 ---- */

static int no_passphrase(char *buf, int size, int writing, void *arg)
{
	(void)buf;
	(void)size;
	(void)writing;
	*(bool *)arg = true;
	return 0;
}

static kt_code ec_blob(kt_sshkey *key, kt_err *err)
{
	char group[32];
	uint8_t point[160];
	size_t n = 0;
	if (EVP_PKEY_get_utf8_string_param(key->pkey, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof group, NULL) != 1 ||
	    EVP_PKEY_get_octet_string_param(key->pkey, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point, &n) != 1)
		return not_usable("its curve is not known", err);
	const int nid = EC_curve_nist2nid(group) != NID_undef ? EC_curve_nist2nid(group) : OBJ_sn2nid(group);
	for (size_t i = 0; i < sizeof curves / sizeof *curves; i++) {
		if (EC_curve_nist2nid(curves[i].group) != nid)
			continue;
		KT_TRY(kt_bytes_put(&key->blob, curves[i].type, strlen(curves[i].type), err));
		KT_TRY(kt_bytes_put(&key->blob, curves[i].name, strlen(curves[i].name), err));
		return kt_bytes_put(&key->blob, point, n, err);
	}
	return not_usable("its curve cannot be used with ssh", err);
}

static kt_code ed25519_blob(kt_sshkey *key, kt_err *err)
{
	uint8_t raw[ED25519_LEN];
	size_t n = sizeof raw;
	if (EVP_PKEY_get_raw_public_key(key->pkey, raw, &n) != 1)
		return not_usable("its ed25519 key is malformed", err);
	KT_TRY(kt_bytes_put(&key->blob, "ssh-ed25519", strlen("ssh-ed25519"), err));
	return kt_bytes_put(&key->blob, raw, n, err);
}

static kt_code read_pem(const kt_secret *file, kt_sshkey *key, kt_err *err)
{
	const char *why = NULL;
	bool encrypted = false;
	BIO *bio = BIO_new_mem_buf(file->data, (int)file->len);
	key->pkey = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &encrypted) : NULL;
	BIO_free(bio);
	if (!key->pkey && encrypted)
		return kt_fail(err, KT_E_KEY, "add it to the ssh-agent: ssh-add", "it has a passphrase");
	if (!key->pkey)
		return not_usable("it is not a private key", err);
	if (EVP_PKEY_is_a(key->pkey, "RSA") && !kt_sshkey_usable("ssh-rsa", &why))
		return not_usable(why, err);
	if (EVP_PKEY_is_a(key->pkey, "EC"))
		KT_TRY(ec_blob(key, err));
	else if (EVP_PKEY_is_a(key->pkey, "ED25519"))
		KT_TRY(ed25519_blob(key, err));
	else
		return not_usable("this type of key cannot be used", err);
	return set_type(key, err);
}

/* ---- a public key alone ---- */

static kt_code read_public(const char *text, kt_sshkey *key, kt_err *err)
{
	const char *body = strchr(text, ' ');
	if (!body)
		return not_usable("it is not a key", err);
	body++;
	if (kt_base64_decode(body, strcspn(body, " \t\r\n"), &key->blob, err) != KT_OK)
		return not_usable("it is not a key", err);
	return set_type(key, err);
}

static kt_code load_public(const char *path, kt_sshkey *key, kt_err *err)
{
	kt_buf name = KT_BUF_INIT;
	kt_buf text = {.max = FILE_MAX_BYTES};
	kt_code rc = kt_buf_printf(&name, err, "%s.pub", path);
	if (rc == KT_OK)
		rc = kt_file_read(kt_buf_cstr(&name), &text, err);
	if (rc == KT_OK)
		rc = read_public(kt_buf_cstr(&text), key, err);
	kt_buf_free(&name);
	kt_buf_free(&text);
	return rc;
}

/* ---- */

static kt_code read_any(const kt_secret *file, kt_sshkey *key, kt_err *err)
{
	const char *text = (const char *)file->data;
	kt_secret body = KT_SECRET_INIT;
	if (strlen(text) != file->len)
		return not_usable("it is not a private key", err);
	if (!strstr(text, "-----BEGIN"))
		return read_public(text, key, err);
	if (!strstr(text, "-----BEGIN OPENSSH PRIVATE KEY-----"))
		return read_pem(file, key, err);
	KT_TRY(unwrap(file, &body, err));
	kt_code rc = read_openssh(&body, key, err);
	kt_secret_free(&body);
	return rc;
}

kt_code kt_sshkey_load(const char *path, kt_sshkey *key, kt_err *err)
{
	kt_secret file = KT_SECRET_INIT;
	*key = (kt_sshkey){.pkey = NULL};
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT) {
		kt_err ignored = KT_ERR_INIT;
		if (load_public(path, key, &ignored) == KT_OK)
			return KT_OK;
		kt_sshkey_free(key);
		return kt_fail(err, KT_E_IO, "give the path of an ed25519 key as ssh.identity",
			       "there is no such file");
	}
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "it cannot be read");
	kt_code rc = kt_secret_read_fd(&file, fd, FILE_MAX_BYTES, path, err);
	(void)close(fd);
	if (rc == KT_OK)
		rc = read_any(&file, key, err);
	kt_secret_free(&file);
	if (rc != KT_OK)
		kt_sshkey_free(key);
	return rc;
}

/* ---- signing ---- */

static kt_code put_mpint(const BIGNUM *n, kt_buf *out, kt_err *err)
{
	uint8_t bytes[80] = {0}; /* a leading 0 keeps it positive */
	const int len = BN_num_bytes(n);
	(void)BN_bn2bin(n, bytes + 1);
	const bool high = len > 0 && (bytes[1] & 0x80);
	return kt_bytes_put(out, bytes + (high ? 0 : 1), (size_t)len + (high ? 1 : 0), err);
}

static kt_code der_to_ssh(const uint8_t *der, size_t n, kt_buf *out, kt_err *err)
{
	ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &der, (long)n);
	if (!sig)
		return kt_fail(err, KT_E_INTERNAL, NULL, "the ECDSA signature is malformed");
	kt_code rc = put_mpint(ECDSA_SIG_get0_r(sig), out, err);
	if (rc == KT_OK)
		rc = put_mpint(ECDSA_SIG_get0_s(sig), out, err);
	ECDSA_SIG_free(sig);
	return rc;
}

kt_code kt_sshkey_sign(const kt_sshkey *key, const uint8_t *data, size_t len, kt_buf *out, kt_err *err)
{
	uint8_t raw[256];
	size_t n = sizeof raw;
	const struct curve *curve = find_curve(key->type);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	const bool ok =
		ctx &&
		EVP_DigestSignInit_ex(ctx, NULL, curve ? curve->digest : NULL, NULL, NULL, key->pkey, NULL) == 1 &&
		EVP_DigestSign(ctx, raw, &n, data, len) == 1;
	EVP_MD_CTX_free(ctx);
	if (!ok)
		return kt_fail(err, KT_E_INTERNAL, NULL, "signing with the login key failed");
	return curve ? der_to_ssh(raw, n, out, err) : kt_buf_append(out, raw, n, err);
}
