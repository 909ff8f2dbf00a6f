/* SPDX-License-Identifier: Apache-2.0 */
/* An open store: its database, and its KEK as the CMK opened it. What reads and writes items works on one.
 *
 * A store of before migrate_encryption needs no CMK: without any master key set it is read in its legacy form, and
 * never written. With one set it is refused until it is migrated. */
#ifndef KT_STORE_SESSION_H
#define KT_STORE_SESSION_H

#include "envelope/envelope.h"
#include "store/config.h"
#include "store/db.h"
#include "store/keys.h"

typedef struct kt_session {
	const kt_store_config *cfg; /* the caller's, for as long as the session */
	kt_db *db;
	kt_envelope_ctx *ctx; /* NULL: the legacy form, under the key `legacy`, which is empty otherwise */
	kt_secret legacy;
	kt_kek_info kek; /* of the database, when it was opened */
	int64_t epoch;
} kt_session;

/*
 * Open the configured database with the plain variables' key. KT_E_KEY: no key, or not the one that opens the data.
 * KT_E_INPUT: not initialised yet, or not a store. The caller ends it with kt_session_close, also after a failure.
 */
KT_MUST_CHECK kt_code kt_session_open(kt_session *s, const kt_store_config *cfg, kt_db_mode mode, kt_err *err);
void kt_session_close(kt_session *s);

/* Is no master key set, and is the configured database one that needs none, so that a session is of the legacy form?
 * No database, and one that is not initialised, is none. Errors of the database pass by. */
KT_MUST_CHECK kt_code kt_session_without_key(const kt_store_config *cfg, bool *yes, kt_err *err);
/* Take the legacy key and the epoch into the session, whose database is open. In the caller's transaction if there is
 * one. KT_E_INPUT when the migration has begun; KT_E_KEY when the database is not legacy. */
KT_MUST_CHECK kt_code kt_session_read_legacy(kt_session *s, kt_err *err);
/* Open an item's bytes as the database has them, of either form; the content is appended. Errors as kt_envelope_open
 * and kt_legacy_open. */
KT_MUST_CHECK kt_code kt_session_open_item(const kt_session *s, const char *name, const void *bytes, size_t len,
					   kt_buf *out, kt_err *err);

/* The KEK record of a database: what it says, and the epoch. KT_E_INPUT when the database is not initialised, or its
 * migration from the legacy form or a rekey in shards has not ended (the message counts the items, or the ranges). In
 * the caller's transaction if there is one. */
KT_MUST_CHECK kt_code kt_session_read_kek(kt_db *db, kt_buf *record, kt_kek_info *info, int64_t *epoch, kt_err *err);
/* Before data keys are made: kt_keystore_stir, of which a refusal is a warning in the application's log. Other errors
 * pass by. */
KT_MUST_CHECK kt_code kt_session_stir(kt_keystore *cmk, kt_err *err);
/* A context for the KEK of a record, opened by `cmk`. */
KT_MUST_CHECK kt_code kt_session_unlock(const kt_buf *record, kt_keystore *cmk, kt_envelope_ctx **out, kt_err *err);
/* KT_E_KEY when the database was rekeyed since this session was opened. */
KT_MUST_CHECK kt_code kt_session_check_epoch(kt_session *s, kt_err *err);

/* How long a verb waits for another process's transaction. */
enum { KT_SESSION_BUSY_MS = 10 * 1000 };

#endif
