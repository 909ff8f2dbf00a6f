/* SPDX-License-Identifier: Apache-2.0 */
/* The journal: all or nothing, whatever happens; every damage is seen; one coordinator at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "orchestrator/journal/journal.h"
#include "orchestrator/journal/replay.h"
#include "tests/sim/plan.h"

static char folder[256];
static char db[300];

/* As on a machine to which only the database came. */
static void forget_length(void)
{
	char path[400];
	(void)snprintf(path, sizeof path, "%s/journal.lock", folder);
	(void)remove(path);
}

/* A fresh folder for each test, below ctest's scratch folder. */
static int fresh(void **state)
{
	(void)state;
	(void)snprintf(folder, sizeof folder, "journal.XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	(void)snprintf(folder + strlen(folder), sizeof folder - strlen(folder), "/state");
	(void)snprintf(db, sizeof db, "%s/journal.db", folder);
	return 0;
}

static int tidy(void **state)
{
	static const char *const files[] = {"/journal.db", "/journal.db-journal", "/journal.lock", "/copy.db", ""};
	(void)state;
	for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
		char path[400];
		(void)snprintf(path, sizeof path, "%s%s", folder, files[i]);
		(void)remove(path);
	}
	*strrchr(folder, '/') = '\0';
	return rmdir(folder);
}

static kt_journal *open_ok(kt_journal_mode mode)
{
	kt_journal *j;
	kt_err err = KT_ERR_INIT;
	if (kt_journal_open(folder, mode, &j, &err) != KT_OK)
		fail_msg("%s", err.msg);
	return j;
}

static void open_fails(kt_journal_mode mode, kt_code code, const char *says)
{
	kt_journal *j;
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kt_journal_open(folder, mode, &j, &err), code);
	assert_null(j);
	if (!strstr(err.msg, says))
		fail_msg("\"%s\" does not say \"%s\"", err.msg, says);
}

static kt_entry entry(const char *run, const char *kind, const char *body)
{
	return (kt_entry){.run = run,
			  .epoch = 1,
			  .time_ms = 1700000000000,
			  .kind = kind,
			  .step = "stop",
			  .role = "do",
			  .node = "web01",
			  .attempt = 1,
			  .body = body};
}

static void append_ok(kt_journal *j, const kt_entry *e, size_t n)
{
	kt_err err = KT_ERR_INIT;
	if (kt_journal_append(j, e, n, &err) != KT_OK)
		fail_msg("%s", err.msg);
}

static void append_one(kt_journal *j, const char *run, const char *kind, const char *body)
{
	kt_entry e = entry(run, kind, body);
	append_ok(j, &e, 1);
}

static int64_t verify_ok(kt_journal *j)
{
	int64_t n;
	char head[65];
	kt_err err = KT_ERR_INIT;
	if (kt_journal_verify(j, &n, head, &err) != KT_OK)
		fail_msg("%s", err.msg);
	assert_int_equal(strlen(head), 64);
	return n;
}

/* --- Reading back ------------------------------------------------------------------------------------------------- */

typedef struct seen {
	size_t n;
	int64_t last;
	char text[4096];
} seen;

static kt_code see(void *user, const kt_entry *e, kt_err *err)
{
	(void)err;
	seen *s = user;
	assert_true(e->seq > s->last);
	s->last = e->seq;
	s->n++;
	size_t used = strlen(s->text);
	(void)snprintf(s->text + used, sizeof s->text - used, "%s/%s/%s/%s ", e->run, e->kind, e->node, e->body);
	return KT_OK;
}

static void test_append_and_read(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_journal *j = open_ok(KT_JOURNAL_WRITE);
	const kt_entry batch[] = {entry("a", "intent", ""), entry("b", "note", "{\"x\":\"ü\"}"),
				  entry("a", "outcome", "{\"status\":\"ok\"}")};
	append_ok(j, batch, 3);
	append_ok(j, batch, 0);
	kt_journal_close(j);
	j = open_ok(KT_JOURNAL_WRITE); /* the chain goes on after a restart */
	append_ok(j, batch, 1);
	seen s = {0};
	assert_int_equal(kt_journal_read(j, "a", see, &s, &err), KT_OK);
	assert_string_equal(s.text, "a/intent/web01/ a/outcome/web01/{\"status\":\"ok\"} a/intent/web01/ ");
	s = (seen){0};
	assert_int_equal(kt_journal_read(j, NULL, see, &s, &err), KT_OK);
	assert_int_equal(s.n, 4);
	assert_int_equal(verify_ok(j), 4);
	kt_journal_close(j);
}

static void test_modes_and_one_file(void **state)
{
	(void)state;
	struct stat st;
	char path[400];
	mode_t mask = umask(0);
	kt_journal *j = open_ok(KT_JOURNAL_WRITE);
	(void)umask(mask);
	append_one(j, "a", "note", "");
	kt_journal_close(j);
	assert_int_equal(stat(folder, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(stat(db, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	(void)snprintf(path, sizeof path, "%s-wal", db);
	assert_int_equal(stat(path, &st), -1);
	(void)snprintf(path, sizeof path, "%s-journal", db); /* truncated, or not there */
	assert_true(stat(path, &st) == -1 || st.st_size == 0);
}

static void test_entries_that_are_refused(void **state)
{
	(void)state;
	kt_journal *j = open_ok(KT_JOURNAL_WRITE);
	kt_err err = KT_ERR_INIT;
	static const char *const texts[] = {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\xe2\x82"};
	for (size_t i = 0; i < 5; i++) {
		const kt_entry batch[] = {entry("a", "note", ""), entry("a", "note", texts[i])};
		assert_int_equal(kt_journal_append(j, batch, 2, &err), KT_E_INPUT);
	}
	kt_entry e = entry("", "note", "");
	assert_int_equal(kt_journal_append(j, &e, 1, &err), KT_E_INPUT);
	e = entry("a", "note", NULL);
	assert_int_equal(kt_journal_append(j, &e, 1, &err), KT_E_INPUT);
	assert_int_equal(verify_ok(j), 0); /* the good half of a bad batch is not there either */
	append_one(j, "a", "note", "");
	assert_int_equal(verify_ok(j), 1);
	kt_journal_close(j);
}

static void test_epochs_rise(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	int64_t epoch;
	static const int64_t time_ms[] = {1000, 2000, 500};
	static const int64_t want[] = {1000, 2000, 2001}; /* of the cluster, not of the run; the clock may go back */
	for (int64_t i = 0; i < 3; i++) {
		kt_journal *j = open_ok(KT_JOURNAL_WRITE);
		assert_int_equal(kt_journal_take(j, i == 1 ? "other" : "a", time_ms[i], &epoch, &err), KT_OK);
		assert_int_equal(epoch, want[i]);
		kt_journal_close(j);
	}
}

static void test_runs(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_run_info *list;
	kt_run_info latest;
	size_t n;
	int64_t epoch;
	kt_journal *j = open_ok(KT_JOURNAL_WRITE);
	assert_int_equal(kt_journal_latest(j, &latest, &err), KT_E_REFUSED);
	append_one(j, "a", "begin", "{}");
	assert_int_equal(kt_journal_take(j, "a", 5, &epoch, &err), KT_OK);
	append_one(j, "a", "end", "{\"message\":\"why\",\"state\":\"held\"}");
	append_one(j, "b", "begin", "{}");
	assert_int_equal(kt_journal_runs(j, &list, &n, &err), KT_OK);
	assert_int_equal(n, 2);
	assert_string_equal(list[0].run, "a");
	assert_string_equal(list[0].state, "held");
	assert_string_equal(list[0].message, "why");
	assert_int_equal(list[0].entries, 3);
	assert_string_equal(list[1].state, "open");
	free(list);
	assert_int_equal(kt_journal_take(j, "a", 9, &epoch, &err), KT_OK);
	assert_int_equal(epoch, 9);
	assert_int_equal(kt_journal_latest(j, &latest, &err), KT_OK);
	assert_string_equal(latest.run, "b");
	assert_int_equal(kt_journal_runs(j, &list, &n, &err), KT_OK);
	assert_string_equal(list[0].state, "open"); /* taken again */
	assert_int_equal(list[0].epoch, 9);
	free(list);
	kt_journal_close(j);
}

/* --- The lock ----------------------------------------------------------------------------------------------------- */

static void test_one_coordinator(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	char me[32];
	kt_journal *j = open_ok(KT_JOURNAL_WRITE);
	(void)snprintf(me, sizeof me, "pid %ld on ", (long)getpid());
	open_fails(KT_JOURNAL_WRITE, KT_E_BUSY, me);
	kt_journal *reader = open_ok(KT_JOURNAL_READ); /* status of a run that is going on */
	kt_entry e = entry("a", "note", "");
	assert_int_equal(kt_journal_append(reader, &e, 1, &err), KT_E_INTERNAL);
	append_one(j, "a", "note", "");
	assert_int_equal(verify_ok(reader), 1);
	kt_journal_close(reader);
	kt_journal_close(j);
	kt_journal_close(open_ok(KT_JOURNAL_WRITE));
}

static void test_reading_needs_a_journal(void **state)
{
	(void)state;
	open_fails(KT_JOURNAL_READ, KT_E_IO, "journal.db");
}

/* --- Death in the middle ------------------------------------------------------------------------------------------ */

enum { BATCH = 7 };

/* Append batches of BATCH entries until killed; after each one a byte on the pipe: "that one is durable". */
static void child_appends(int out)
{
	kt_journal *j;
	if (kt_journal_open(folder, KT_JOURNAL_WRITE, &j, NULL) != KT_OK)
		_exit(1);
	char body[2048];
	memset(body, 'x', sizeof body);
	body[0] = body[sizeof body - 2] = '"';
	body[sizeof body - 1] = '\0';
	kt_entry batch[BATCH];
	for (size_t i = 0; i < BATCH; i++)
		batch[i] = entry("a", "note", body);
	for (;;) {
		if (kt_journal_append(j, batch, BATCH, NULL) != KT_OK || write(out, "k", 1) != 1)
			_exit(1);
	}
}

/* Killed so long after it was started or, when `first` is set, after its first batch. */
static size_t kill_after(unsigned microseconds, bool first)
{
	int fd[2];
	char bytes[4096];
	size_t acknowledged = 0;
	assert_int_equal(pipe(fd), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)close(fd[0]);
		child_appends(fd[1]);
	}
	(void)close(fd[1]);
	if (first)
		acknowledged += read(fd[0], bytes, 1) == 1;
	(void)usleep(microseconds);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	for (ssize_t n; (n = read(fd[0], bytes, sizeof bytes)) > 0;)
		acknowledged += (size_t)n;
	(void)close(fd[0]);
	return acknowledged;
}

static void test_killed_at_any_time(void **state)
{
	(void)state;
	int64_t before = 0;
	size_t interrupted = 0;
	const unsigned rounds = getenv("KT_VALGRIND") ? 12 : 40;
	kt_journal_close(open_ok(KT_JOURNAL_WRITE));
	for (unsigned i = 0; i < rounds; i++) {
		size_t acknowledged = kill_after((i * 7919) % 10000, i % 4 != 0);
		kt_journal *j = open_ok(KT_JOURNAL_WRITE); /* the lock died with its holder */
		int64_t now = verify_ok(j);
		kt_journal_close(j);
		assert_int_equal(now % BATCH, 0); /* whole batches only */
		int64_t batches = (now - before) / BATCH;
		/* Nothing that was acknowledged is lost; at most the one that was being acknowledged is there too. */
		assert_true(batches == (int64_t)acknowledged || batches == (int64_t)acknowledged + 1);
		interrupted += acknowledged > 0;
		before = now;
	}
	assert_true(interrupted > rounds / 4);
}

/* --- Full disk ---------------------------------------------------------------------------------------------------- */

static void fill_until_it_fails(kt_journal *j)
{
	char body[4096];
	kt_err err = KT_ERR_INIT;
	kt_code rc = KT_OK;
	int64_t entries = 0;
	memset(body, 'x', sizeof body);
	body[0] = body[sizeof body - 2] = '"';
	body[sizeof body - 1] = '\0';
	const kt_entry batch[] = {entry("a", "note", body), entry("a", "note", body), entry("a", "note", body)};
	for (int i = 0; rc == KT_OK && i < 1000; i++) {
		rc = kt_journal_append(j, batch, 3, &err);
		entries += rc == KT_OK ? 3 : 0;
	}
	assert_int_equal(rc, KT_E_IO);
	assert_non_null(strstr(err.msg, "No space left"));
	assert_true(err.remedy[0]);
	assert_true(entries > 0);
	assert_int_equal(verify_ok(j), entries);
}

static void test_full_disk(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	char filler[400];
	assert_int_equal(kt_file_mkdirs(folder, 0700, &err), KT_OK);
	if (mount("tmpfs", folder, "tmpfs", 0, "size=512k,mode=0700") != 0) {
		print_message("skipped: a small tmpfs cannot be mounted here (%s)\n", strerror(errno));
		skip();
	}
	kt_journal *j = open_ok(KT_JOURNAL_WRITE);
	fill_until_it_fails(j);
	kt_journal_close(j);
	j = open_ok(KT_JOURNAL_WRITE); /* still whole, and it can go on when there is room */
	int64_t before = verify_ok(j);
	kt_journal_close(j);
	(void)snprintf(filler, sizeof filler, "size=%s,mode=0700", "1m");
	assert_int_equal(mount("tmpfs", folder, "tmpfs", MS_REMOUNT, filler), 0);
	j = open_ok(KT_JOURNAL_WRITE);
	append_one(j, "a", "note", "");
	assert_int_equal(verify_ok(j), before + 1);
	kt_journal_close(j);
	assert_int_equal(umount2(folder, MNT_DETACH), 0);
}

/* --- Damage ------------------------------------------------------------------------------------------------------- */

static void make_some(void)
{
	kt_journal *j = open_ok(KT_JOURNAL_WRITE);
	for (int i = 0; i < 12; i++)
		append_one(j, "a", i % 2 ? "outcome" : "intent", i % 2 ? "{\"status\":\"ok\"}" : "");
	kt_journal_close(j);
}

static kt_buf slurp(const char *path)
{
	kt_buf b = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	if (kt_file_read(path, &b, &err) != KT_OK)
		fail_msg("%s", err.msg);
	return b;
}

static void spill(const char *path, const void *bytes, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(kt_file_write_all(fd, bytes, n, path, NULL), KT_OK);
	(void)close(fd);
}

/* All entries as one text; false when the journal says that it is damaged. */
static bool read_all(seen *s)
{
	kt_journal *j;
	kt_err err = KT_ERR_INIT;
	*s = (seen){0};
	kt_code rc = kt_journal_open(folder, KT_JOURNAL_READ, &j, &err);
	if (rc == KT_OK)
		rc = kt_journal_read(j, NULL, see, s, &err);
	if (rc != KT_OK)
		assert_true(err.msg[0]);
	kt_journal_close(j);
	return rc == KT_OK;
}

/* Each byte of the file is changed. Either it is seen, or it was in a place that holds nothing of ours: then every
 * entry reads as before. */
static void test_every_byte(void **state)
{
	(void)state;
	make_some();
	kt_buf good = slurp(db);
	seen before;
	seen after;
	size_t noticed = 0;
	const size_t stride = getenv("KT_VALGRIND") ? 7 : 1;
	assert_true(read_all(&before));
	for (size_t i = 0; i < good.len; i += stride) {
		/* Free space between the pages' cells is long and dull. */
		if (good.data[i] == 0 && i % 16 != 0)
			continue;
		good.data[i] ^= 0x55;
		spill(db, good.data, good.len);
		good.data[i] ^= 0x55;
		if (!read_all(&after))
			noticed++;
		else if (strcmp(before.text, after.text) != 0 || before.n != after.n)
			fail_msg("a changed byte at %zu goes unseen", i);
	}
	assert_true(noticed > 1000 / stride);
	spill(db, good.data, good.len);
	kt_buf_free(&good);
}

static void test_truncated(void **state)
{
	(void)state;
	make_some();
	kt_buf good = slurp(db);
	seen s;
	for (size_t n = 0; n < good.len; n += 97) {
		spill(db, good.data, n);
		assert_false(read_all(&s));
	}
	kt_buf_free(&good);
}

/* Run SQL statements as somebody else would. */
static void edit(const char *sql)
{
	static const char program[] = "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1])\n"
				      "[c.execute(s) for s in sys.argv[2].split(';')]\nc.commit()\n";
	int status;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)execlp("python3", "python3", "-c", program, db, sql, (char *)NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* What only the chain can see: somebody edits the database with SQLite's own tool. */
static void test_edited(void **state)
{
	(void)state;
	static const struct {
		const char *sql, *says;
	} edits[] = {
		{"UPDATE entry SET node='web02' WHERE seq=5", "entry 5"},
		{"UPDATE entry SET attempt=2 WHERE seq=12", "entry 12"},
		{"UPDATE entry SET time_ms=time_ms+1 WHERE seq=1", "entry 1"},
		{"DELETE FROM entry WHERE seq=6", "entry 6"},
		{"DELETE FROM entry WHERE seq=1", "entry 1"},
		{"UPDATE entry SET prev=zeroblob(32) WHERE seq=3", "entry 3"},
		{"UPDATE entry SET hash=zeroblob(31) WHERE seq=3", "entry 3"},
		{"UPDATE entry SET body=body||char(0)||'x' WHERE seq=4", "entry 4"},
		{"DROP TABLE entry", "no such table"},
	};
	make_some();
	kt_buf good = slurp(db);
	for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
		spill(db, good.data, good.len);
		edit(edits[i].sql);
		open_fails(KT_JOURNAL_WRITE, KT_E_AUDIT, edits[i].says);
		open_fails(KT_JOURNAL_READ, KT_E_AUDIT, edits[i].says);
	}
	kt_buf_free(&good);
}

/* An entry that is whole in itself, out of another journal: only its place in the chain is wrong. */
static void test_transplanted(void **state)
{
	(void)state;
	char copy[400];
	char sql[600];
	make_some();
	kt_buf other = slurp(db);
	(void)snprintf(copy, sizeof copy, "%s/copy.db", folder);
	spill(copy, other.data, other.len);
	kt_buf_free(&other);
	assert_int_equal(remove(db), 0);
	forget_length();
	kt_journal *j = open_ok(KT_JOURNAL_WRITE);
	append_one(j, "b", "note", "");
	kt_journal_close(j);
	make_some();
	(void)snprintf(sql, sizeof sql,
		       "ATTACH '%s' AS o;DELETE FROM main.entry WHERE seq=5;"
		       "INSERT INTO main.entry SELECT * FROM o.entry WHERE seq=5",
		       copy);
	edit(sql);
	open_fails(KT_JOURNAL_READ, KT_E_AUDIT, "entry 5 does not follow");
}

static void set_header(size_t at, unsigned value)
{
	kt_buf b = slurp(db);
	for (size_t i = 0; i < 4; i++)
		b.data[at + i] = (uint8_t)(value >> (24 - 8 * i));
	spill(db, b.data, b.len);
	kt_buf_free(&b);
}

static void test_foreign_and_newer(void **state)
{
	(void)state;
	make_some();
	set_header(60, 2); /* user_version, SQLite file format §1.3 */
	open_fails(KT_JOURNAL_WRITE, KT_E_INPUT, "format 2");
	set_header(60, 0);
	open_fails(KT_JOURNAL_WRITE, KT_E_AUDIT, "format 0");
	set_header(60, 1);
	set_header(68, 1);                                                 /* application_id */
	open_fails(KT_JOURNAL_WRITE, KT_E_AUDIT, "not that of a journal"); /* it was one */
	forget_length();
	open_fails(KT_JOURNAL_WRITE, KT_E_INPUT, "no journal of keyturn");
	static const char text[] = "this is not a database, and long enough for one page of a small one";
	spill(db, text, sizeof text);
	open_fails(KT_JOURNAL_WRITE, KT_E_INPUT, "no journal of keyturn");
	kt_buf b = slurp(db);
	assert_memory_equal(b.data, text, sizeof text); /* and it is left alone */
	kt_buf_free(&b);
}

/* --- A run out of its journal ------------------------------------------------------------------------------------- */

static void append_event(kt_journal *j, const kt_event *ev)
{
	kt_err err = KT_ERR_INIT;
	kt_buf body = KT_BUF_INIT;
	kt_entry e;
	assert_int_equal(kt_entry_of_event(ev, "r", 1, 1000, "said", &body, &e, &err), KT_OK);
	append_ok(j, &e, 1);
	kt_buf_free(&body);
}

static void begin_run(kt_journal *j)
{
	kt_err err = KT_ERR_INIT;
	kt_buf body = KT_BUF_INIT;
	kt_entry e;
	int64_t epoch;
	cJSON *plan = sim_plan(2);
	assert_int_equal(kt_entry_of_plan(plan, "r", 1000, &body, &e, &err), KT_OK);
	append_ok(j, &e, 1);
	assert_int_equal(kt_journal_take(j, "r", 1000, &epoch, &err), KT_OK);
	kt_buf_free(&body);
	cJSON_Delete(plan);
}

static void test_replay(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_replay r;
	kt_err why = KT_ERR_INIT;
	KT_IGNORE(kt_fail(&why, KT_E_UNREACHABLE, "look", "no route"));
	kt_journal *j = open_ok(KT_JOURNAL_WRITE);
	assert_int_equal(kt_replay_run(j, "r", &r, &err), KT_E_REFUSED);
	begin_run(j);
	kt_event ev = {.kind = KT_EVENT_INTENT, .step = "preflight", .node = "n0", .attempt = 1};
	append_event(j, &ev);
	ev.kind = KT_EVENT_OUTCOME;
	ev.status = KT_STATUS_FAILED;
	ev.error = &why;
	append_event(j, &ev);
	append_event(j, &(kt_event){.kind = KT_EVENT_NOTE});
	append_event(j, &(kt_event){.kind = KT_EVENT_END, .state = KT_RUN_REFUSED});
	assert_int_equal(kt_replay_run(j, "r", &r, &err), KT_OK);
	kt_engine_status s = kt_engine_state(r.engine);
	assert_int_equal(s.state, KT_RUN_REFUSED);
	assert_int_equal(s.reason->code, KT_E_UNREACHABLE);
	assert_string_equal(s.reason->msg, "no route");
	assert_string_equal(s.reason->remedy, "look");
	assert_string_equal(s.failed_node, "n0");
	kt_replay_free(&r);
	append_event(j, &(kt_event){.kind = KT_EVENT_RESUME}); /* does not fit */
	assert_int_equal(kt_replay_run(j, "r", &r, &err), KT_E_AUDIT);
	assert_non_null(strstr(err.msg, "entry 7"));
	kt_journal_close(j);
}

static void test_bodies_that_do_not_parse(void **state)
{
	(void)state;
	static const char *const bodies[] = {"", "{", "[]", "{}", "{\"status\":\"fine\"}", "{\"status\":\"failed\"}"};
	for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
		kt_event ev;
		kt_err error;
		kt_err err = KT_ERR_INIT;
		cJSON *body;
		kt_entry e = entry("r", "outcome", bodies[i]);
		e.seq = 33;
		assert_int_equal(kt_event_of_entry(&e, &ev, &body, &error, &err), KT_E_AUDIT);
		assert_non_null(strstr(err.msg, "entry 33"));
		assert_null(body);
	}
}

int main(void)
{
#define WITH_FOLDER(t) cmocka_unit_test_setup_teardown(t, fresh, tidy)
	const struct CMUnitTest tests[] = {
		WITH_FOLDER(test_append_and_read),
		WITH_FOLDER(test_modes_and_one_file),
		WITH_FOLDER(test_entries_that_are_refused),
		WITH_FOLDER(test_epochs_rise),
		WITH_FOLDER(test_runs),
		WITH_FOLDER(test_one_coordinator),
		WITH_FOLDER(test_reading_needs_a_journal),
		WITH_FOLDER(test_killed_at_any_time),
		WITH_FOLDER(test_full_disk),
		WITH_FOLDER(test_every_byte),
		WITH_FOLDER(test_truncated),
		WITH_FOLDER(test_edited),
		WITH_FOLDER(test_transplanted),
		WITH_FOLDER(test_foreign_and_newer),
		WITH_FOLDER(test_replay),
		cmocka_unit_test(test_bodies_that_do_not_parse),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
