/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal: what was meant to be done and what came of it, durable and chained by hashes (docs/FORMATS.md,
 * section 8). The one place of the coordinator that calls SQLite.
 *
 * One folder is one cluster. An append is all or nothing and on the disk when the call returns (S8). The database is
 * one file: a rollback journal (truncated after each commit), so that a copy of the folder of a finished or crashed
 * coordinator is complete. One thread at a time.
 */
#ifndef KT_ORCHESTRATOR_JOURNAL_H
#define KT_ORCHESTRATOR_JOURNAL_H

#include "base/json.h"
#include "wire/message.h"

typedef struct kt_journal kt_journal;

enum { KT_JOURNAL_FORMAT = 1 };

/* One entry. In both directions the strings are borrowed. */
typedef struct kt_entry {
	int64_t seq;      /* from 1; given by the journal, ignored by append */
	const char *run;  /* not NULL */
	int64_t epoch;    /* 0 before the first take */
	int64_t time_ms;  /* wall clock, milliseconds since 1970 */
	const char *kind; /* begin, take, intent, outcome, interrupt, rollback, resume, note, end */
	const char *step; /* "" where there is none, as for the next two */
	const char *role;
	const char *node;
	int64_t attempt;  /* 0 where there is none */
	const char *body; /* JSON text or "" */
} kt_entry;

typedef enum kt_journal_mode {
	KT_JOURNAL_READ,    /* status, report, audit: no lock, the journal must be there */
	KT_JOURNAL_SALVAGE, /* the same of a damaged one: what is good of it is read, see kt_journal_damage */
	KT_JOURNAL_WRITE    /* a coordinator: made when it is not there, and locked until it is closed */
} kt_journal_mode;

/*
 * Open the journal in `folder`. For writing, the folder is made (0700) and the database too (0600), and `journal.lock`
 * is locked for this process. Errors, nothing changed by any: KT_E_BUSY names pid, host and start of who holds it;
 * KT_E_INPUT when the file is no journal, or of a newer format; KT_E_AUDIT when it is damaged, its chain is broken (the
 * whole chain is verified), it is shorter than journal.lock remembers, or a rollback journal lies beside it that is not
 * its own; KT_E_IO for the operating system.
 */
KT_MUST_CHECK kt_code kt_journal_open(const char *folder, kt_journal_mode mode, kt_journal **out, kt_err *err);
void kt_journal_close(kt_journal *j);

/* Of one that was opened for KT_JOURNAL_SALVAGE: what is wrong with it (code KT_OK: nothing). The entries before the
 * first one that is missing, altered or unreadable are given by kt_journal_read and what rests on it, as if there were
 * no more. A file of which nothing can be read is still an error of kt_journal_open. */
const kt_err *kt_journal_damage(const kt_journal *j);

/* Append n entries in one transaction. On any failure none is there. KT_E_IO when the disk is full or not writable,
 * KT_E_AUDIT when the database is damaged, KT_E_INPUT when an entry could not be read back (no UTF-8, no JSON). */
KT_MUST_CHECK kt_code kt_journal_append(kt_journal *j, const kt_entry *entries, size_t n, kt_err *err);

/* Take a run: its new epoch is `time_ms`, but at least one more than the highest of any run; the `take` entry
 * {"host","pid"} makes it durable. */
KT_MUST_CHECK kt_code kt_journal_take(kt_journal *j, const char *run, int64_t time_ms, int64_t *epoch, kt_err *err);

/* Each entry of `run` (NULL: of all runs) in order of seq. The chain is verified over the whole journal while reading;
 * KT_E_AUDIT names the first seq that does not fit, after the good ones before it were given. A code other than KT_OK
 * from `cb` ends the walk and is returned. `cb` must not use the journal. */
typedef kt_code (*kt_entry_cb)(void *user, const kt_entry *e, kt_err *err);
KT_MUST_CHECK kt_code kt_journal_read(kt_journal *j, const char *run, kt_entry_cb cb, void *user, kt_err *err);

/* The whole chain; *entries (may be NULL) is how many were verified, head (may be NULL) the last hash in hex. */
KT_MUST_CHECK kt_code kt_journal_verify(kt_journal *j, int64_t *entries, char head[65], kt_err *err);

/* One run. */
typedef struct kt_run_info {
	char run[KT_RUN_MAX + 1];
	int64_t begun_ms;
	int64_t last_ms;
	int64_t epoch; /* of its latest take */
	int64_t entries;
	char state[16]; /* the latest `end` says; "open" when there is none, or when it was taken again after it */
	char message[KT_ERR_MSG];
} kt_run_info;

/* All runs, oldest first; *out is the caller's: free(). */
KT_MUST_CHECK kt_code kt_journal_runs(kt_journal *j, kt_run_info **out, size_t *n, kt_err *err);
/* The run that was begun last; KT_E_REFUSED when there is none. */
KT_MUST_CHECK kt_code kt_journal_latest(kt_journal *j, kt_run_info *out, kt_err *err);

#endif
