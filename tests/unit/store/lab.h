/* SPDX-License-Identifier: Apache-2.0 */
/* An installation of keyturn-store in a scratch folder, as people have it: a program named looker, store.json, key
 * files. */
#ifndef KT_TESTS_UNIT_STORE_LAB_H
#define KT_TESTS_UNIT_STORE_LAB_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/buf.h"

/* A new scratch folder with two keys (cmk, cmk2, mode 0400) and the node web01; it is the working folder then. All
 * LKR_* variables are cleared, the plain one is set to cmk. */
int lab_set_up(void **state);
/* Stops every node that the test started, by its pid file, and removes the folder. */
int lab_tear_down(void **state);

/* One more installation `node` on the same database, in a folder of that name. */
void lab_node(const char *node);
/* Write a file of the working folder. */
void lab_write(const char *path, mode_t mode, const void *bytes, size_t n);

typedef struct lab_result {
	int code; /* exit code, or 128 + signal */
	char out[65536];
	char err[8192];
} lab_result;

/* Run DIR/looker with these arguments (the last is NULL), DIR "." for the first node. The result is valid until the
 * next call. */
const lab_result *lab_run(const char *dir, const char *const args[]);
#define lab(...) lab_run(".", (const char *const[]){__VA_ARGS__, NULL})
#define lab_at(dir, ...) lab_run(dir, (const char *const[]){__VA_ARGS__, NULL})
/* When we are root: from now on programs run as nobody, and what is in the folder is his. */
void lab_not_as_root(void);
/* Start it without waiting. */
pid_t lab_spawn(const char *const args[]);

/* The pid in DIR/looker.pid, 0 when there is none. */
pid_t lab_pid(const char *dir);
/* Talk to the node's listener: send a text, return what came back until the end of the connection. */
const char *lab_talk(const char *dir, const char *send);
/* An open connection to it. */
int lab_connect(const char *dir);
/* Where the envelope of an item begins in the bytes of a database. */
uint8_t *lab_envelope(const kt_buf *db, const char *name);
/* The value of a number or string member in a JSON text, as text; "" when it is not there. */
const char *lab_json(const char *json, const char *name);
void lab_sleep_ms(int ms);

#endif
