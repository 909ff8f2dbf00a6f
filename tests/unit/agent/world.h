/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process space of the tests' own: what else runs on this machine is not the gate's business here, and may be beyond
 * even root's sight (the first process of a container often is).
 */
#ifndef KT_TESTS_UNIT_AGENT_WORLD_H
#define KT_TESTS_UNIT_AGENT_WORLD_H

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static inline int exit_of(pid_t pid)
{
	int status;
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* The first process of the new space: only waits, since its kind takes no signals (which a leak check needs). */
static inline _Noreturn void first_process(int (*all_tests)(void))
{
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (mount("none", "/", "none", MS_REC | MS_PRIVATE, "") != 0 || mount("proc", "/proc", "proc", 0, "") != 0) {
		perror("/proc cannot be mounted");
		_exit(1);
	}
	pid_t pid = fork();
	if (pid == 0)
		exit(all_tests());
	_exit(exit_of(pid));
}

/* Run the tests in new process and mount namespaces with their own /proc. Without root they are skipped, which is a
 * failure where KT_NEED_ROOT is set. */
static inline int in_own_world(int (*all_tests)(void))
{
	if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) {
		perror("skipped: a process namespace needs root");
		return getenv("KT_NEED_ROOT") ? 1 : 0;
	}
	pid_t pid = fork();
	if (pid == 0)
		first_process(all_tests);
	_exit(exit_of(pid)); /* no leak check here: it would not find itself in the new /proc */
}

#endif
