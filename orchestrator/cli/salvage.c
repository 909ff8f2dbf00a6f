/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/salvage.h"

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"

/* The last entry that is good. */
typedef struct last {
	int64_t seq;
	char time[KT_TIME_TEXT];
	char run[KT_RUN_MAX + 1];
	char what[256]; /* kind, and where there is one: role, step, node */
} last;

static kt_code keep(void *user, const kt_entry *e, kt_err *err)
{
	last *l = user;
	(void)err;
	l->seq = e->seq;
	kt_clock_format(e->time_ms, l->time);
	(void)snprintf(l->run, sizeof l->run, "%s", e->run);
	(void)snprintf(l->what, sizeof l->what, "%s%s%s%s%s%s%s", e->kind, e->step[0] ? " of " : "",
		       strcmp(e->role, "do") == 0 ? "" : e->role, e->role[0] && strcmp(e->role, "do") != 0 ? " " : "",
		       e->step, e->node[0] ? " on " : "", e->node);
	return KT_OK;
}

kt_code kt_salvage_open(kt_ctx *c, kt_err *damage, kt_err *err)
{
	*damage = KT_ERR_INIT;
	kt_code rc = kt_ctx_open_journal(c, KT_JOURNAL_READ, err);
	if (rc != KT_E_AUDIT)
		return rc;
	KT_TRY(kt_ctx_open_journal(c, KT_JOURNAL_SALVAGE, err));
	*damage = *kt_journal_damage(c->journal);
	return KT_OK;
}

kt_code kt_salvage_tell(const kt_ctx *c, const kt_err *damage, kt_err *err)
{
	last l = {0};
	KT_TRY(kt_journal_read(c->journal, NULL, keep, &l, err));
	(void)fprintf(c->cli->out,
		      "THE JOURNAL IS DAMAGED: %s\n"
		      "What follows is what its first %" PRId64
		      " entries say, which are verified. What was done after them is "
		      "not known here:\nthe nodes know it (keyturn-recovery(7)).\n"
		      "  last good  entry %" PRId64 ", %s, run %s: %s\n\n",
		      damage->msg, l.seq, l.seq, l.time, l.run, l.what);
	return KT_OK;
}

kt_code kt_salvage_json(const kt_ctx *c, const kt_err *damage, cJSON *into, kt_err *err)
{
	last l = {0};
	KT_TRY(kt_journal_read(c->journal, NULL, keep, &l, err));
	cJSON *o = cJSON_AddObjectToObject(into, "damage");
	cJSON *at = o ? cJSON_AddObjectToObject(o, "last") : NULL;
	if (!at)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_json_add_str(o, "message", damage->msg, err));
	KT_TRY(kt_json_add_str(o, "remedy", damage->remedy, err));
	KT_TRY(kt_json_add_int(o, "entries", l.seq, err));
	KT_TRY(kt_json_add_str(at, "time", l.time, err));
	KT_TRY(kt_json_add_str(at, "run", l.run, err));
	return kt_json_add_str(at, "what", l.what, err);
}
