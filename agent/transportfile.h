/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transport keys in files of the state folder (0400, PEM of PKCS#8): `transport.key`, and `transport.new` beside it
 * while the key is being changed. A file that is damaged, or that others can read, is an error and stays.
 */
#ifndef KT_AGENT_TRANSPORTFILE_H
#define KT_AGENT_TRANSPORTFILE_H

#include <openssl/evp.h>

#include "base/codec.h"

enum { KT_TRANSPORT_FILES = 2, KT_TRANSPORT_BITS_MIN = 2048, KT_TRANSPORT_BITS = 3072, KT_TRANSPORT_BITS_MAX = 4096 };

/* The private keys that are there: out[0] of `transport.key`, out[1] of `transport.new`, NULL where there is none. Free
 * with kt_transport_files_free. KT_E_KEY: one is damaged, or readable by others. */
KT_MUST_CHECK kt_code kt_transport_files_load(const char *state, EVP_PKEY *out[KT_TRANSPORT_FILES], kt_err *err);
void kt_transport_files_free(EVP_PKEY *keys[KT_TRANSPORT_FILES]);
/* Make a key in file `which`, durably; what is there already stays. */
KT_MUST_CHECK kt_code kt_transport_file_make(const char *state, unsigned which, unsigned bits, bool *made, kt_err *err);
/* Only file `which` stays, as `transport.key`; none when `which` is KT_TRANSPORT_FILES. Durable; may be repeated. */
KT_MUST_CHECK kt_code kt_transport_files_keep(const char *state, unsigned which, kt_err *err);

#endif
