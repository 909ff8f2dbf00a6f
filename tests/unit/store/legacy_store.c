/* SPDX-License-Identifier: Apache-2.0 */
/*
 * legacy_store DATABASE COUNT BYTES: a database as it was before envelopes, with test items fill/00000001 and so on in
 * the legacy form (docs/FORMATS.md, "Envelope"). The only code that writes that form. DATABASE is an SQLite file, or a
 * credentials file (*.yaml) of a server's database: then the statement that puts the key there is printed, for its
 * administrator.
 */
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/db.h"
#include "store/item.h"

enum { BLOCK = 16 };

/* "KTL1", IV, AES-128-CBC with the padding of PKCS#7. */
static bool encrypt(const uint8_t key[BLOCK], const kt_buf *plain, kt_buf *out)
{
	uint8_t iv[BLOCK];
	int n = 0, last = 0;
	kt_buf_clear(out);
	if (RAND_bytes(iv, sizeof iv) != 1 || kt_buf_str(out, "KTL1", NULL) != KT_OK ||
	    kt_buf_append(out, iv, sizeof iv, NULL) != KT_OK || kt_buf_reserve(out, plain->len + BLOCK, NULL) != KT_OK)
		return false;
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	bool good = c && EVP_EncryptInit_ex2(c, EVP_aes_128_cbc(), key, iv, NULL) == 1 &&
		    EVP_EncryptUpdate(c, out->data + out->len, &n, plain->data, (int)plain->len) == 1 &&
		    EVP_EncryptFinal_ex(c, out->data + out->len + n, &last) == 1;
	EVP_CIPHER_CTX_free(c);
	out->len += (size_t)(n + last);
	return good;
}

static bool write_key(const char *path, const uint8_t key[BLOCK])
{
	sqlite3 *sq = NULL;
	sqlite3_stmt *s = NULL;
	bool good = sqlite3_open(path, &sq) == SQLITE_OK &&
		    sqlite3_exec(sq, "CREATE TABLE legacy(key BLOB NOT NULL)", NULL, NULL, NULL) == SQLITE_OK &&
		    sqlite3_prepare_v2(sq, "INSERT INTO legacy VALUES(?1)", -1, &s, NULL) == SQLITE_OK &&
		    sqlite3_bind_blob(s, 1, key, BLOCK, SQLITE_STATIC) == SQLITE_OK && sqlite3_step(s) == SQLITE_DONE;
	(void)sqlite3_finalize(s);
	(void)sqlite3_close(sq);
	return good;
}

static bool print_key(const uint8_t key[BLOCK])
{
	(void)printf("INSERT INTO keyturn_legacy VALUES(1, x'");
	for (size_t i = 0; i < BLOCK; i++)
		(void)printf("%02x", key[i]);
	return printf("')\n") > 0;
}

static kt_code write_items(kt_db *db, const uint8_t key[BLOCK], long count, size_t size, kt_err *err)
{
	kt_buf plain = KT_BUF_INIT, out = KT_BUF_INIT;
	kt_code rc = KT_OK;
	for (long i = 1; rc == KT_OK && i <= count; i++) {
		char name[64];
		(void)snprintf(name, sizeof name, KT_ITEM_FILL_PREFIX "%08ld", i);
		kt_buf_clear(&plain);
		rc = kt_item_filler(name, size, &plain, err);
		if (rc == KT_OK && !encrypt(key, &plain, &out))
			rc = kt_fail(err, KT_E_INTERNAL, NULL, "libcrypto failed");
		if (rc == KT_OK)
			rc = kt_db_item_put(db, name, &out, err);
	}
	kt_buf_free(&plain);
	kt_buf_free(&out);
	return rc;
}

int main(int argc, char **argv)
{
	kt_db *db = NULL;
	kt_err err = KT_ERR_INIT;
	uint8_t key[BLOCK];
	if (argc != 4 || RAND_bytes(key, sizeof key) != 1) {
		(void)fprintf(stderr, "usage: legacy_store DATABASE COUNT BYTES\n");
		return KT_E_USAGE;
	}
	bool server = strlen(argv[1]) > 5 && strcmp(argv[1] + strlen(argv[1]) - 5, ".yaml") == 0;
	kt_db_place place = server ? (kt_db_place){.creds = argv[1]} : (kt_db_place){.text = argv[1]};
	kt_code rc = kt_secret_setup(&err);
	if (rc == KT_OK)
		rc = kt_db_open(place, KT_DB_CREATE, 1000, &db, &err);
	if (rc == KT_OK)
		rc = kt_db_begin(db, true, &err);
	if (rc == KT_OK)
		rc = kt_db_create_schema(db, &err);
	if (rc == KT_OK)
		rc = write_items(db, key, strtol(argv[2], NULL, 10), strtoul(argv[3], NULL, 10), &err);
	if (rc == KT_OK)
		rc = kt_db_commit(db, &err);
	if (rc == KT_OK && !(server ? print_key(key) : write_key(argv[1], key)))
		rc = kt_fail(&err, KT_E_IO, NULL, "the key cannot be written");
	kt_db_close(db);
	if (rc != KT_OK)
		(void)fprintf(stderr, "%s\n", err.msg);
	return (int)rc;
}
