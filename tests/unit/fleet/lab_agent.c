/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PROGRAM lab-agent NODE [MODE]: an agent that does nothing but what the tests of the fleet need.
 * Modes: banner (prints a login message first), mute (never says hello), complain (writes to stderr and exits 3).
 * Verbs: echo (result = args), later (answers after args.ms, in the order of the requests), progress (args.n progress
 * frames), never, die (exits 9 without an answer), garbage, retry (answers retry), big (a text of args.n bytes),
 * stray (answers a request that was never made), run (runs /bin/echo n and answers when it has ended).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/spawn.h"
#include "tests/unit/fleet/lab.h"
#include "wire/frame.h"
#include "wire/message.h"

static kt_code put(kt_frame_kind kind, cJSON *payload, kt_err *err)
{
	kt_buf out = KT_BUF_INIT;
	kt_code rc = kt_frame_encode(kind, payload, &out, err);
	if (rc == KT_OK)
		rc = kt_file_write_all(1, out.data, out.len, "stdout", err);
	kt_buf_free(&out);
	cJSON_Delete(payload);
	return rc;
}

static kt_code say_hello(const char *node, kt_err *err)
{
	cJSON *payload;
	const kt_hello hello = {.agent = "0.1.0",
				.node = node,
				.hostname = "lab",
				.boot_id = "boot",
				.uid = getuid(),
				.time_ms = kt_clock_wall_ms()};
	KT_TRY(kt_hello_encode(&hello, &payload, err));
	return put(KT_FRAME_HELLO, payload, err);
}

static kt_code answer(int64_t id, kt_status status, const cJSON *result, kt_err *err)
{
	cJSON *payload;
	kt_reply reply = {.id = id, .status = status, .result = result};
	if (status != KT_STATUS_OK)
		KT_IGNORE(kt_fail(&reply.error, KT_E_REFUSED, "wait", "not yet"));
	KT_TRY(kt_reply_encode(&reply, &payload, err));
	return put(KT_FRAME_REPLY, payload, err);
}

static kt_code progress(const kt_request *r, int64_t n, kt_err *err)
{
	for (int64_t i = 1; i <= n; i++) {
		cJSON *payload;
		const kt_progress p = {.id = r->id, .done = i, .total = n, .text = "working"};
		KT_TRY(kt_progress_encode(&p, &payload, err));
		KT_TRY(put(KT_FRAME_PROGRESS, payload, err));
	}
	return answer(r->id, KT_STATUS_OK, r->args, err);
}

static kt_code big(const kt_request *r, int64_t n, kt_err *err)
{
	cJSON *result = cJSON_CreateObject();
	char *text = malloc((size_t)n + 1);
	if (!text || !result)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	memset(text, 'x', (size_t)n);
	text[n] = '\0';
	kt_code rc = kt_json_add_str(result, "text", text, err);
	if (rc == KT_OK)
		rc = answer(r->id, KT_STATUS_OK, result, err);
	free(text);
	cJSON_Delete(result);
	return rc;
}

static kt_code run(const kt_request *r, int64_t n, kt_err *err)
{
	char text[24];
	kt_spawn_end end;
	kt_buf out = KT_BUF_INIT;
	(void)snprintf(text, sizeof text, "%lld", (long long)n);
	const char *const argv[] = {"/bin/echo", text, NULL};
	const kt_spawn_what what = {.argv = argv, .timeout_ms = 10000};
	kt_code rc = kt_spawn_capture(&what, &out, NULL, &end, err);
	kt_buf_free(&out);
	return answer(r->id, rc == KT_OK && end.exit == 0 ? KT_STATUS_OK : KT_STATUS_FAILED, r->args, err);
}

static kt_code serve_request(const cJSON *payload, kt_err *err)
{
	kt_request r;
	int64_t n;
	KT_TRY(kt_request_decode(payload, &r, err));
	KT_TRY(kt_json_opt_int(r.args, "n", 0, 0, 2000000, &n, err));
	if (strcmp(r.verb, "echo") == 0)
		return answer(r.id, KT_STATUS_OK, r.args, err);
	if (strcmp(r.verb, "retry") == 0)
		return answer(r.id, KT_STATUS_RETRY, NULL, err);
	if (strcmp(r.verb, "progress") == 0)
		return progress(&r, n, err);
	if (strcmp(r.verb, "big") == 0)
		return big(&r, n, err);
	if (strcmp(r.verb, "run") == 0)
		return run(&r, n, err);
	if (strcmp(r.verb, "stray") == 0)
		return answer(r.id + 1000, KT_STATUS_OK, NULL, err);
	if (strcmp(r.verb, "later") == 0) {
		const struct timespec pause = {.tv_sec = n / 1000, .tv_nsec = n % 1000 * 1000000};
		(void)nanosleep(&pause, NULL);
		return answer(r.id, KT_STATUS_OK, r.args, err);
	}
	if (strcmp(r.verb, "die") == 0) {
		(void)fputs("the disk is on fire\n", stderr);
		_exit(9);
	}
	if (strcmp(r.verb, "garbage") == 0)
		return kt_file_write_all(1, "Segmentation fault\n", 19, "stdout", err);
	return KT_OK; /* never */
}

static kt_code serve_frames(kt_buf *in, bool *done, kt_err *err)
{
	for (;;) {
		kt_frame_kind kind;
		cJSON *payload = NULL;
		KT_TRY(kt_frame_decode(in, &kind, &payload, err));
		if (!payload)
			return KT_OK;
		kt_code rc = KT_OK;
		if (kind == KT_FRAME_PING)
			rc = put(KT_FRAME_PONG, cJSON_Duplicate(payload, true), err);
		else if (kind == KT_FRAME_REQUEST)
			rc = serve_request(payload, err);
		else if (kind == KT_FRAME_BYE)
			*done = true;
		cJSON_Delete(payload);
		KT_TRY(rc);
	}
}

static kt_code serve(const char *node, kt_err *err)
{
	static uint8_t chunk[65536];
	kt_buf in = KT_BUF_INIT;
	bool done = false;
	kt_code rc = say_hello(node, err);
	while (rc == KT_OK && !done) {
		ssize_t n = read(0, chunk, sizeof chunk);
		if (n <= 0)
			break;
		rc = kt_buf_append(&in, chunk, (size_t)n, err);
		if (rc == KT_OK)
			rc = serve_frames(&in, &done, err);
	}
	kt_buf_free(&in);
	return rc;
}

int lab_agent_main(int argc, char **argv)
{
	kt_err err = KT_ERR_INIT;
	const char *mode = argc > 3 ? argv[3] : "";
	if (argc < 3 || strcmp(argv[1], "lab-agent") != 0)
		return -1;
	if (strcmp(mode, "complain") == 0) {
		(void)fputs("sudo: a password is required\n", stderr);
		return 3;
	}
	if (strcmp(mode, "mute") == 0) {
		(void)sleep(20);
		return 0;
	}
	if (strcmp(mode, "banner") == 0)
		KT_IGNORE(kt_file_write_all(1, "Welcome to this machine!\n", 25, "stdout", &err));
	if (serve(argv[2], &err) == KT_OK)
		return 0;
	(void)fprintf(stderr, "%s\n", err.msg);
	return 1;
}
