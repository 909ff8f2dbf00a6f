/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A laboratory of real ssh servers on loopback for the tests and the benchmark of the fleet: keys, one sshd with its
 * own configuration, or many light nodes (one listener that runs `sshd -i` with the node's own host key for every
 * connection), and a small agent that speaks the frames of keyturn. Functions return 0, or -1 after saying why on
 * stderr.
 */
#ifndef KT_TESTS_UNIT_FLEET_LAB_H
#define KT_TESTS_UNIT_FLEET_LAB_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { LAB_PATH = 512, LAB_NODES_MAX = 256, LAB_SKIP = 77 };

typedef struct lab {
	char dir[256];  /* scratch folder, removed by lab_close */
	char self[256]; /* this program, which is the agent when called `PROGRAM lab-agent ...` */
	char user[64];
	bool made_run_sshd;
} lab;

typedef struct lab_server {
	pid_t pid;
	char address[32];
	unsigned port;
	char log[LAB_PATH];
} lab_server;

int lab_open(lab *l);
void lab_close(lab *l);
/* Run a program with its output in DIR/tool.log and wait; its exit status. */
int lab_run(const lab *l, const char *const *argv);
/* DIR/NAME */
const char *lab_path(const lab *l, const char *name, char out[LAB_PATH]);
/* A key pair DIR/NAME and DIR/NAME.pub; type as for ssh-keygen; passphrase may be "". */
int lab_keygen(const lab *l, const char *name, const char *type, const char *passphrase);
/* Let this public key log in (DIR/authorized_keys, which all servers use). */
int lab_authorize(const lab *l, const char *name);
/* "ssh-ed25519 AAAA" of DIR/NAME.pub, for known_hosts lines. */
int lab_public(const lab *l, const char *name, char *out, size_t max);

/* An sshd on `address` with a free port and the host key DIR/HOSTKEY; `extra` are further lines of sshd_config. */
int lab_server_start(lab *l, lab_server *s, const char *address, const char *hostkey, const char *extra);
void lab_server_stop(lab_server *s);
/* Send a signal to everything that a process has started. */
void lab_signal_children(pid_t pid, int signal);

/* N light nodes: node i (from 0) is 127.42.8.(i + 1) with the host key DIR/node-i, all on s->port. */
int lab_nodes_start(lab *l, lab_server *s, size_t n);
/* Write a known_hosts file DIR/NAME for them. */
int lab_nodes_known(const lab *l, const lab_server *s, size_t n, const char *name);

/* main() of a program that uses the lab calls this first: the exit status when it was called as the agent, else -1. */
int lab_agent_main(int argc, char **argv);

#endif
