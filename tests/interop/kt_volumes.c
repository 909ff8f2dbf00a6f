/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In the machine of test_lvm.py: the agent's verbs backup.create, backup.restore, preflight and run.release, called as
 * a coordinator would have them called, and what a machine without anything else needs. kt_volumes VERB ARGUMENTS
 * [COMMAND]   the verb with that JSON; its outcome is printed as a line of JSON. COMMAND (for a shell) is run at the
 * first progress, by a process that saw no snapshot; "kill": this process is killed then kt_volumes insmod FILE...
 * kernel modules kt_volumes poweroff
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/action.h"
#include "base/secret.h"

static int asked = -1, answered = -1;

static int fail(const char *why)
{
	(void)fprintf(stderr, "kt_volumes: %s\n", why);
	return 2;
}

/* A process of its own, which waits to be asked: who reads the snapshot sees nothing else. */
static void prepare(const char *command)
{
	int there[2], back[2];
	char c;
	if (pipe2(there, O_CLOEXEC) != 0 || pipe2(back, O_CLOEXEC) != 0)
		exit(fail("no pipes"));
	pid_t parent = getpid();
	if (fork() == 0) {
		(void)close(there[1]);
		if (read(there[0], &c, 1) != 1)
			_exit(0);
		if (strcmp(command, "kill") == 0)
			_exit(kill(parent, SIGKILL));
		pid_t shell = fork();
		if (shell == 0) {
			(void)execl("/bin/bash", "bash", "-c", command, (char *)NULL);
			_exit(127);
		}
		(void)waitpid(shell, NULL, 0);
		_exit(write(back[1], "x", 1) != 1);
	}
	asked = there[1];
	answered = back[0];
	(void)close(there[0]);
	(void)close(back[1]);
}

static void report(void *arg, int64_t done, int64_t total, const char *text)
{
	char c;
	(void)arg;
	(void)total;
	if (done < 0)
		(void)fprintf(stderr, "progress: %s\n", text);
	if (done < 0 || asked < 0)
		return;
	int fd = asked;
	asked = -1;
	if (write(fd, "x", 1) != 1 || read(answered, &c, 1) != 1)
		(void)fail("no answer");
}

static int print(kt_status status, const cJSON *result, const kt_err *err)
{
	cJSON *o = cJSON_CreateObject();
	(void)cJSON_AddStringToObject(o, "status", status == KT_STATUS_OK ? "ok" : "failed");
	(void)cJSON_AddItemReferenceToObject(o, "result", (cJSON *)(uintptr_t)result);
	(void)cJSON_AddStringToObject(o, "message", status == KT_STATUS_OK ? "" : err->msg);
	(void)cJSON_AddStringToObject(o, "remedy", status == KT_STATUS_OK ? "" : err->remedy);
	char *text = cJSON_PrintUnformatted(o);
	(void)printf("%s\n", text);
	cJSON_free(text);
	cJSON_Delete(o);
	return status != KT_STATUS_OK;
}

static int ask(kt_action_fn *act, const char *arguments, bool in_run)
{
	kt_err err = KT_ERR_INIT;
	cJSON *args, *result = cJSON_CreateObject();
	kt_agent_ctx ctx = {.state = "/state",
			    .node = "web01",
			    .cluster = "c",
			    .run = in_run ? "20261126T120000Z-1a2b3c" : "-",
			    .step = "s",
			    .verb = "v",
			    .attempt = 1,
			    .lock_fd = -1,
			    .report = report};
	if (kt_secret_setup(&err) != KT_OK ||
	    kt_json_parse("arguments", arguments, strlen(arguments), &args, &err) != KT_OK)
		return fail(err.msg);
	int code = print(act(&ctx, args, result, &err), result, &err);
	cJSON_Delete(args);
	cJSON_Delete(result);
	return code;
}

static int insmod(char **files)
{
	for (; *files; files++) {
		int fd = open(*files, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) != 0)
			return fail(*files);
		(void)close(fd);
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		kt_action_fn *act;
		bool in_run;
	} verbs[] = {{"backup.create", kt_action_backup_create, true},
		     {"backup.restore", kt_action_backup_restore, false},
		     {"preflight", kt_action_preflight, true},
		     {"run.release", kt_action_run_release, true}};
	if (argc == 2 && strcmp(argv[1], "poweroff") == 0)
		return reboot(RB_POWER_OFF);
	if (argc > 2 && strcmp(argv[1], "insmod") == 0)
		return insmod(argv + 2);
	if (argc > 3)
		prepare(argv[3]);
	for (size_t i = 0; argc > 2 && i < sizeof verbs / sizeof *verbs; i++)
		if (strcmp(argv[1], verbs[i].name) == 0)
			return ask(verbs[i].act, argv[2], verbs[i].in_run);
	return fail("kt_volumes VERB ARGUMENTS [COMMAND]");
}
