/* SPDX-License-Identifier: Apache-2.0 */
/* The MariaDB back end's nodes, and who is connected by the server's own list. */
#include <stdio.h>
#include <string.h>

#include "store/mariadb.h"

kt_code kt_mariadb_node_put(kt_db *base, const kt_db_node *node, kt_err *err)
{
	return kt_mariadb_change(kt_mariadb_of(base), NODE_PUT,
				 VALUES(text(node->name), text(node->host), text(node->home), number(node->pid),
					text(node->address), number(node->started_ms), number(node->heartbeat_ms),
					number(node->interval_ms), number(node->beats)),
				 "the node cannot be registered", NULL, err);
}

kt_code kt_mariadb_node_beat(kt_db *base, const char *name, int64_t pid, int64_t now_ms, bool *known, kt_err *err)
{
	uint64_t rows = 0;
	kt_code rc = kt_mariadb_change(kt_mariadb_of(base), NODE_BEAT, VALUES(number(now_ms), text(name), number(pid)),
				       "the heartbeat cannot be written", &rows, err);
	*known = rc == KT_OK && rows == 1;
	return rc;
}

kt_code kt_mariadb_node_remove(kt_db *base, const char *name, int64_t pid, kt_err *err)
{
	return kt_mariadb_change(kt_mariadb_of(base), NODE_REMOVE, VALUES(text(name), number(pid)),
				 "the node cannot be deregistered", NULL, err);
}

static kt_code give_node(const cell *row, kt_db_node_fn *fn, void *arg, kt_err *err)
{
	kt_db_node node = {.name = kt_buf_cstr(&row[0].bytes),
			   .host = kt_buf_cstr(&row[1].bytes),
			   .home = kt_buf_cstr(&row[2].bytes),
			   .pid = row[3].number,
			   .address = kt_buf_cstr(&row[4].bytes),
			   .started_ms = row[5].number,
			   .heartbeat_ms = row[6].number,
			   .interval_ms = row[7].number,
			   .beats = row[8].number};
	return fn(arg, &node, err);
}

kt_code kt_mariadb_node_each(kt_db *base, kt_db_node_fn *fn, void *arg, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	MYSQL_STMT *s;
	bool more = true;
	KT_TRY(kt_mariadb_execute(db, NODE_EACH, NO_VALUES, "the nodes cannot be read", &s, err));
	kt_code rc = kt_mariadb_next_row(db, s, NODE_EACH, &more, err);
	while (rc == KT_OK && more) {
		rc = give_node(db->row, fn, arg, err);
		if (rc == KT_OK)
			rc = kt_mariadb_next_row(db, s, NODE_EACH, &more, err);
	}
	return kt_mariadb_end_rows(db, s, rc, err);
}

/* A list that may have gaps proves nothing: without PROCESS a server shows this user's connections alone. */
static kt_code check_privilege(kt_mariadb *db, kt_err *err)
{
	int rows;
	KT_TRY(kt_mariadb_one_row(db, PRIVILEGE, NO_VALUES, "the server's connections cannot be listed", &rows, err));
	if (db->row[1].number > 0)
		return KT_OK;
	char remedy[KT_ERR_REMEDY];
	(void)snprintf(remedy, sizeof remedy,
		       "as an administrator of the server: GRANT PROCESS ON *.* TO the user %.200s",
		       kt_buf_cstr(&db->row[0].bytes));
	return kt_fail(err, KT_E_REFUSED, remedy,
		       "%s: who else is connected cannot be seen: the user has no PROCESS privilege", db->base.name);
}

static kt_code give_client(const kt_mariadb *db, kt_db_client_fn *fn, void *arg, kt_err *err)
{
	char who[512];
	(void)snprintf(who, sizeof who, "connection %lld of %.80s from %.255s (%.40s)", db->row[0].number,
		       kt_buf_cstr(&db->row[1].bytes), kt_buf_cstr(&db->row[2].bytes), kt_buf_cstr(&db->row[3].bytes));
	return fn(arg, who, err);
}

kt_code kt_mariadb_client_each(kt_db *base, kt_db_client_fn *fn, void *arg, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	MYSQL_STMT *s;
	bool more = true;
	KT_TRY(check_privilege(db, err));
	KT_TRY(kt_mariadb_execute(db, CLIENTS, NO_VALUES, "the server's connections cannot be listed", &s, err));
	kt_code rc = kt_mariadb_next_row(db, s, CLIENTS, &more, err);
	while (rc == KT_OK && more) {
		rc = give_client(db, fn, arg, err);
		if (rc == KT_OK)
			rc = kt_mariadb_next_row(db, s, CLIENTS, &more, err);
	}
	return kt_mariadb_end_rows(db, s, rc, err);
}
