/* SPDX-License-Identifier: Apache-2.0 */
/* The conversation: hello, pings during work, and every way in which bytes can be wrong. */
#include "tests/unit/agent/client.h"

static void hello_says_who_it_is(void **state)
{
	(void)state;
	client c;
	kt_frame_kind kind = KT_FRAME_BYE;
	kt_hello h;
	kt_err err = KT_ERR_INIT;
	client_start_argv(
		&c, (const char *const[]){"keyturn-agent", "serve", "--node", "web01", "--state", state_dir(), NULL});
	cJSON *hello = client_frame(&c, &kind);
	assert_non_null(hello);
	assert_int_equal(kind, KT_FRAME_HELLO);
	assert_kt_ok(kt_hello_decode(hello, &h, &err));
	assert_string_equal(h.node, "web01");
	assert_int_equal(h.uid, geteuid());
	assert_int_equal(strlen(h.boot_id), 36);
	cJSON_Delete(hello);
	assert_int_equal(mode_of("state"), 0700);
	client_end(&c);
}

/* Send bytes after the hello; it must end with exit code 3 and say so. */
static void expect_refusal(const void *bytes, size_t n, bool close_it, const char *part)
{
	client c;
	client_start(&c);
	client_send_raw(&c, bytes, n);
	if (close_it) {
		(void)close(c.to);
		c.to = -1;
	}
	char text[4096];
	size_t len = 0;
	for (ssize_t got; len < sizeof text - 1 && (got = read(c.errs, text + len, sizeof text - 1 - len)) > 0;)
		len += (size_t)got;
	text[len] = '\0';
	int code = client_wait(&c);
	if (code != KT_E_INPUT || !strstr(text, part))
		fail_msg("exit %d, \"%s\"; wanted %d and \"%s\"", code, text, KT_E_INPUT, part);
}

static void frame(kt_buf *b, uint8_t version, uint8_t kind, uint32_t len, const char *payload)
{
	kt_err err = KT_ERR_INIT;
	uint8_t head[8] = {
		'K', 'T', version, kind, (uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len};
	kt_buf_clear(b);
	assert_kt_ok(kt_buf_append(b, head, sizeof head, &err));
	assert_kt_ok(kt_buf_str(b, payload, &err));
}

static void expect_payload_refusal(uint8_t kind, const char *payload, const char *part)
{
	kt_buf b = KT_BUF_INIT;
	frame(&b, 1, kind, (uint32_t)strlen(payload), payload);
	expect_refusal(b.data, b.len, false, part);
	kt_buf_free(&b);
}

static void malformed_frames_end_it(void **state)
{
	(void)state;
	kt_buf b = KT_BUF_INIT;
	expect_refusal("GET / HTTP/1.0\r\n", 16, false, "does not speak keyturn");
	frame(&b, 2, 2, 2, "{}");
	expect_refusal(b.data, b.len, false, "version 2");
	frame(&b, 1, 9, 2, "{}");
	expect_refusal(b.data, b.len, false, "frame kind 9");
	frame(&b, 1, 0, 2, "{}");
	expect_refusal(b.data, b.len, false, "frame kind 0");
	frame(&b, 1, 2, 0xffffffffu, "");
	expect_refusal(b.data, b.len, false, "larger than allowed");
	frame(&b, 1, 2, 1024 * 1024 + 1, "");
	expect_refusal(b.data, b.len, false, "larger than allowed");
	frame(&b, 1, 2, 100, "{\"id\":1");
	expect_refusal(b.data, b.len, true, "in the middle of a frame");
	expect_refusal("KT", 2, true, "in the middle of a frame");
	frame(&b, 1, 2, 0, "");
	expect_refusal(b.data, b.len, false, "not valid JSON");
	kt_buf_free(&b);
}

static void malformed_payloads_end_it(void **state)
{
	(void)state;
	expect_payload_refusal(KT_FRAME_REQUEST, "[1,2]", "not a JSON object");
	expect_payload_refusal(KT_FRAME_REQUEST, "{\"id\":1,\"id\":2}", "stands twice");
	expect_payload_refusal(KT_FRAME_REQUEST, "{\"id\":1", "not valid JSON");
	expect_payload_refusal(KT_FRAME_REQUEST, "{} {}", "not valid JSON");
	expect_payload_refusal(KT_FRAME_REQUEST, "{\"verb\":\"facts\"}", "\"id\" is missing");
	expect_payload_refusal(KT_FRAME_REQUEST, "{\"id\":-1}", "\"id\" must be");
	expect_payload_refusal(KT_FRAME_PING, "{}", "\"n\" is missing");
	expect_payload_refusal(KT_FRAME_HELLO, "{}", "not for an agent");
	expect_payload_refusal(KT_FRAME_REPLY, "{}", "not for an agent");
}

/* A request with an id that is wrong elsewhere is answered, and the conversation goes on. */
static void malformed_requests_are_answered(void **state)
{
	(void)state;
	static const char *const bad[] = {
		"{'id':7,'cluster':'looker','run':'R1','epoch':1,'step':'s','role':'do','node':'web01','attempt':1,'"
		"args':{}}",
		"{'id':7,'cluster':'../"
		"x','run':'R1','epoch':1,'step':'s','role':'do','node':'web01','attempt':1,'verb':'facts','args':{}}",
		"{'id':7,'cluster':'looker','run':'a/"
		"b','epoch':1,'step':'s','role':'do','node':'web01','attempt':1,'verb':'facts','args':{}}",
		"{'id':7,'cluster':'looker','run':'R1','epoch':1,'step':'..','role':'do','node':'web01','attempt':1,'"
		"verb':'facts','args':{}}",
		"{'id':7,'cluster':'looker','run':'R1','epoch':-1,'step':'s','role':'do','node':'web01','attempt':1,'"
		"verb':'facts','args':{}}",
		"{'id':7,'cluster':'looker','run':'R1','epoch':1,'step':'s','role':'help','node':'web01','attempt':1,'"
		"verb':'facts','args':{}}",
		"{'id':7,'cluster':'looker','run':'R1','epoch':1,'step':'s','role':'do','node':'web01','attempt':0,'"
		"verb':'facts','args':{}}",
		"{'id':7,'cluster':'looker','run':'R1','epoch':1,'step':'s','role':'do','node':'web01','attempt':1,'"
		"verb':'facts','args':[]}",
	};
	client c;
	client_start(&c);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		kt_buf b = KT_BUF_INIT;
		const char *text = J("%s", bad[i]);
		frame(&b, 1, KT_FRAME_REQUEST, (uint32_t)strlen(text), text);
		client_send_raw(&c, b.data, b.len);
		kt_buf_free(&b);
		reply r = client_reply(&c, 7);
		assert_int_equal(r.status, KT_STATUS_FAILED);
		assert_int_equal(r.error.code, KT_E_INPUT);
		reply_free(&r);
	}
	ask_done(&c, "facts", "{}");
	client_end(&c);
}

static void frames_may_come_in_pieces(void **state)
{
	(void)state;
	client c;
	kt_buf b = KT_BUF_INIT;
	client_start(&c);
	const char *text = J("{'id':5,'cluster':'looker','run':'-','epoch':0,'step':'facts','role':'do','node':'web01',"
			     "'attempt':1,'verb':'facts','args':{}}");
	frame(&b, 1, KT_FRAME_REQUEST, (uint32_t)strlen(text), text);
	for (size_t i = 0; i < b.len; i++) {
		client_send_raw(&c, b.data + i, 1);
		if (i % 16 == 0)
			pause_ms(1);
	}
	kt_buf_free(&b);
	reply r = client_reply(&c, 5);
	assert_int_equal(r.status, KT_STATUS_OK);
	assert_string_equal(result_str(&r, "agent"), KT_VERSION);
	assert_true(result_int(&r, "time_ms") > 1600000000000);
	reply_free(&r);
	client_end(&c);
}

static void pings_are_answered_during_work(void **state)
{
	(void)state;
	client c;
	kt_err err = KT_ERR_INIT;
	kt_frame_kind kind = KT_FRAME_BYE;
	client_start(&c);
	int64_t id = client_ask(&c, "command", J("{'command':{'argv':['sleep','6']}}"));
	const int64_t begin = kt_clock_mono_ms();
	for (int n = 1; n <= 3; n++) {
		cJSON *ping = cJSON_CreateObject();
		assert_kt_ok(kt_json_add_int(ping, "n", n, &err));
		client_send(&c, KT_FRAME_PING, ping);
		cJSON_Delete(ping);
		cJSON *pong = client_frame(&c, &kind);
		assert_int_equal(kind, KT_FRAME_PONG);
		int64_t got = 0;
		assert_kt_ok(kt_json_int(pong, "n", 0, 100, &got, &err));
		assert_int_equal(got, n);
		cJSON_Delete(pong);
	}
	assert_true(kt_clock_mono_ms() - begin < 5000);
	reply r = client_reply(&c, id);
	assert_int_equal(r.status, KT_STATUS_OK);
	assert_true(result_int(&r, "ms") >= 5900);
	reply_free(&r);
	client_end(&c);
}

/* bye, the end of input and a signal all end it soon, with a command under way, which is ended too. */
static void it_ends_soon(void **state)
{
	(void)state;
	for (int how = 0; how < 3; how++) {
		client c;
		client_start(&c);
		(void)client_ask(&c, "command",
				 J("{'command':{'argv':['sh','-c','echo $$ >%s; exec sleep 60']}}", at("pid")));
		WAIT_UNTIL(strchr(text_of("pid"), '\n'));
		pid_t child = (pid_t)atol(text_of("pid"));
		const int64_t begin = kt_clock_mono_ms();
		if (how == 0) {
			cJSON *empty = cJSON_CreateObject();
			client_send(&c, KT_FRAME_BYE, empty);
			cJSON_Delete(empty);
		} else if (how == 1) {
			(void)close(c.to);
			c.to = -1;
		} else {
			assert_int_equal(kill(c.pid, SIGTERM), 0);
		}
		assert_int_equal(client_wait(&c), 0);
		assert_true(kt_clock_mono_ms() - begin < 30000);
		WAIT_UNTIL(kill(child, 0) != 0);
		assert_int_equal(unlink(at("pid")), 0);
	}
}

static void too_many_requests_at_once(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	(void)client_ask(&c, "command", J("{'command':{'argv':['sleep','60']}}"));
	for (int i = 0; i < 70; i++)
		(void)client_ask(&c, "facts", "{}");
	assert_int_equal(client_wait(&c), KT_E_INPUT);
}

static int run_plain(const char *const *argv)
{
	client c;
	client_start_argv(&c, argv);
	return client_wait(&c);
}

static void command_line(void **state)
{
	(void)state;
	assert_int_equal(run_plain((const char *const[]){"keyturn-agent", "--version", NULL}), 0);
	assert_int_equal(run_plain((const char *const[]){"keyturn-agent", "--help", NULL}), 0);
	assert_int_equal(run_plain((const char *const[]){"keyturn-agent", NULL}), KT_E_USAGE);
	assert_int_equal(run_plain((const char *const[]){"keyturn-agent", "sing", NULL}), KT_E_USAGE);
	assert_int_equal(run_plain((const char *const[]){"keyturn-agent", "serve", NULL}), KT_E_USAGE);
	assert_int_equal(run_plain((const char *const[]){"keyturn-agent", "serve", "--node", "a/b", NULL}), KT_E_USAGE);
	assert_int_equal(
		run_plain((const char *const[]){"keyturn-agent", "serve", "--node", "a", "--state", "rel", NULL}),
		KT_E_USAGE);
	assert_int_equal(run_plain((const char *const[]){"keyturn-agent", "serve", "--node", "a", "--bogus", NULL}),
			 KT_E_USAGE);
	assert_int_equal(run_plain((const char *const[]){"keyturn-agent", "run", NULL}), KT_E_USAGE);
	assert_int_equal(run_plain((const char *const[]){"keyturn-agent", "run", at("no/such/folder/here"), NULL}),
			 KT_E_AUDIT);
}

static void state_folder_must_be_ours_alone(void **state)
{
	(void)state;
	put_folder("state", 0755);
	assert_int_equal(
		run_plain((const char *const[]){"keyturn-agent", "serve", "--node", "a", "--state", state_dir(), NULL}),
		KT_E_IO);
	put_text("file", "x", 0600);
	assert_int_equal(
		run_plain((const char *const[]){"keyturn-agent", "serve", "--node", "a", "--state", at("file"), NULL}),
		KT_E_IO);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(hello_says_who_it_is),
		TEST(malformed_frames_end_it),
		TEST(malformed_payloads_end_it),
		TEST(malformed_requests_are_answered),
		TEST(frames_may_come_in_pieces),
		TEST(pings_are_answered_during_work),
		TEST(it_ends_soon),
		TEST(too_many_requests_at_once),
		TEST(command_line),
		TEST(state_folder_must_be_ours_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
