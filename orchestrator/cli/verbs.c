/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "orchestrator/cli/cli.h"

static const kt_cli_option none[] = {{NULL, 0, NULL, NULL}};

static const kt_cli_option init_options[] = {
	{"output", 'o', "FILE", "where to write it; default cluster.json"},
	{"force", 0, NULL, "replace a file that is there"},
	{NULL, 0, NULL, NULL},
};

static const kt_cli_option enroll_options[] = {
	{"accept-host-keys", 0, NULL, "pin the host keys that the nodes show now, without asking"},
	{"create-escrow-key", 0, NULL, "make the HSM's escrow wrapping key when there is none"},
	{"rotate-transport", 0, NULL,
	 "change the transport keys: the new one is made, proved and pinned before the old one is destroyed"},
	{"replace", 0, NULL, "take another transport key than the pinned one from the nodes named, whose own is lost"},
	{"yes", 'y', NULL, "do not ask about keys that take the place of a pinned one"},
	{"agent", 0, "FOLDER", "the folder with the agent's program; default: the one that was installed with keyturn"},
	{NULL, 0, NULL, NULL},
};

static const kt_cli_option plan_options[] = {
	{"output", 'o', "FILE", "write the plan as canonical JSON, too"},
	{NULL, 0, NULL, NULL},
};

static const kt_cli_option run_options[] = {
	{"yes", 'y', NULL, "do not ask before the first change"},
	{NULL, 0, NULL, NULL},
};

static const kt_cli_option resume_options[] = {
	{"rollback", 0, NULL, "go back to the old key where that is still possible"},
	{"no-other-coordinator", 0, NULL,
	 "you know that whoever had this run before lives no more: go on though a node cannot be told"},
	{NULL, 0, NULL, NULL},
};

static const kt_cli_option rollback_options[] = {
	{"yes", 'y', NULL, "do not ask before the first change"},
	{NULL, 0, NULL, NULL},
};

static const kt_cli_option hsm_probe_options[] = {
	{"state", 0, "FOLDER", "keep what was found there, when the token is given by URI"},
	{"key-on-token", 0, NULL,
	 "where the token makes no RSA pair for a session alone (a TPM), make one on it, named keyturn-probe, and "
	 "destroy it afterwards"},
	{NULL, 0, NULL, NULL},
};

static const kt_cli_option help_options[] = {
	{"man", 0, NULL, "print it as a man page (roff)"},
	{NULL, 0, NULL, NULL},
};

static const kt_cli_verb verbs[] = {
	{"init", "[PLAYBOOK]", 1, "write a commented cluster.json for a playbook",
	 "Writes a cluster.json with every setting of the playbook (default: looker), explained. Fill in the hosts and "
	 "the\n"
	 "token, then run `keyturn enroll`.",
	 "3 10", init_options, kt_verb_init},
	{"enroll", "[NODE ...]", KT_CLI_ARGS, "pin host keys, put the agent on the nodes, make their transport keys",
	 "For every node (or those named, as in web[01-03]): pins its ssh host key (asks, or --accept-host-keys), "
	 "puts\n"
	 "the agent's program there, makes the node's transport key, in a file or in the token that cluster.json "
	 "names\n"
	 "(transport_key), has the node prove that it opens what is wrapped for it, and pins its public half. Checks "
	 "the\n"
	 "HSM's escrow wrapping key, and makes it with --create-escrow-key. Enrolling again changes nothing that is "
	 "right\n"
	 "already; another host key or another transport key than the pinned one is refused.\n"
	 "A transport key is changed with --rotate-transport, also to another place: it is refused while a run holds "
	 "the\n"
	 "node, and what was broken off is brought to its end by enrolling again. A node that has lost its key is "
	 "taken\n"
	 "back with --replace NODE.",
	 "3 4 7 8 10", enroll_options, kt_verb_enroll},
	{"doctor", "", 0, "the preflight alone: every finding with its remedy",
	 "Runs every preflight check of the playbook on every node and in the HSM, the rehearsal with a throw-away "
	 "key\n"
	 "included, and goes on after a finding. Nothing is changed.",
	 "3 4 7 8 11", none, kt_verb_doctor},
	{"plan", "", 0, "every command on every node, before anything happens",
	 "Prints what a run would do, and the digest of the plan. Where cluster.json does not say where the old key "
	 "is\n"
	 "(key.from), the nodes are asked.",
	 "3 4 8", plan_options, kt_verb_plan},
	{"run", "", 0, "turn the key",
	 "Makes the plan, shows what it is about, asks (or --yes), and executes it. Ends turned (all data opens with "
	 "the new\n"
	 "key), rolled back (all data opens with the old key), refused (nothing was changed), or held for a person. "
	 "The\n"
	 "first Ctrl-C turns back as long as the rekey has not begun; a second one stops at once, for `keyturn "
	 "resume`.\n"
	 "SIGTERM is taken like Ctrl-C. A closed terminal (SIGHUP), or output that nobody reads any more, does not end "
	 "a run.",
	 "3 4 5 6 7 8 9 10 11 12 14", run_options, kt_verb_run},
	{"resume", "[RUN]", 1, "go on with a run that was interrupted or is held",
	 "Takes up a run (default: the latest) where its journal ends: after a crash, a second Ctrl-C, or when it is "
	 "held.\n"
	 "What was under way is settled with the nodes first; nothing is done twice. --rollback is heeded until the "
	 "canary "
	 "was\n"
	 "verified (after that see `keyturn rollback`).\n"
	 "A run that is over is told again to its nodes: one that did not hear it refuses the runs of other clusters.",
	 "3 4 5 6 7 8 9 10 11 12 14", resume_options, kt_verb_resume},
	{"rollback", "RUN", 1, "take a run back, a finished one too",
	 "Stops every node, makes sure that nobody is connected, restores the backup of that run and its env files, "
	 "and "
	 "starts\n"
	 "the nodes with the old key once the probe has said that it opens the data. What was written since the turn "
	 "is "
	 "not\n"
	 "in the data afterwards; each file that the restore replaces is kept beside it. Refused when a later run "
	 "turned "
	 "the\n"
	 "key again. When it is cut off, `keyturn resume` goes on with it. The token is not needed.",
	 "3 4 6 7 8 9 10 11 12 14", rollback_options, kt_verb_rollback},
	{"status", "[RUN]", 1, "where a run stands",
	 "Shows a run (default: the latest) step by step, from the journal alone. No node is asked. Of a damaged "
	 "journal it\n"
	 "shows what its good part says, and exits with 9; keyturn-recovery(7) has what to do then.",
	 "4 9 10", none, kt_verb_status},
	{"runs", "", 0, "all runs of this cluster", "Lists every run in the journal with its outcome.", "9 10", none,
	 kt_verb_runs},
	{"hsm list", "[URI]", 1, "the tokens that can be seen here",
	 "Lists every token of the modules that p11-kit is configured for, or of the module that a pkcs11: URI names\n"
	 "(module-path= or module-name=). Nobody logs in.",
	 "3 7", none, kt_verb_hsm_list},
	{"hsm probe", "[URI]", 1, "what a token really does, tried",
	 "Makes throw-away keys in a session of the token (default: the cluster's), and tries with them what keyturn "
	 "needs\n"
	 "and what the standard promises; nothing stays on the token. Every finding is told in plain words, and the "
	 "verdict:\n"
	 "fit, fit with warnings, or unfit and why, as the coordinator's token (exit status 4 when unfit) and as a "
	 "node's.\n"
	 "A key that the URI names (object= or id=) is a node's transport key, and is asked to open what was wrapped "
	 "to "
	 "it.\n"
	 "What was found on the cluster's token is kept, with its serial, versions and the digest of its module: "
	 "`keyturn\n"
	 "run`, `resume` and `doctor` refuse the token once one of these has changed, until it is probed again.",
	 "3 4 7 10", hsm_probe_options, kt_verb_hsm_probe},
	{"hsm mechanisms", "", 0, "the wrapping mechanisms that keyturn knows, in order of preference",
	 "Of each format of a wrapped key the mechanisms that may give it, with their numbers; a maker's own are tried "
	 "on "
	 "its\n"
	 "modules alone. None is believed before a throw-away key has gone there and back by it (keyturn hsm probe). "
	 "What\n"
	 "was never tried on a token of that kind here is called untested.",
	 "", none, kt_verb_hsm_mechanisms},
	{"help", "[VERB]", 2, "this help, or that of a verb", "Shows help.", "", help_options, kt_verb_help},
	{"version", "", 0, "the version", "Shows the version.", "", none, kt_verb_version},
	{NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL},
};

const kt_cli_verb *kt_cli_verbs(void)
{
	return verbs;
}
