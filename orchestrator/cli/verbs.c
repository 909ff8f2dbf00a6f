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

static const kt_cli_option backup_restore_options[] = {
	{"to", 0, "FOLDER", "a folder on the node, which must not be there yet (0700)"},
	{NULL, 0, NULL, NULL},
};

static const kt_cli_option help_options[] = {
	{"man", 0, NULL, "print it as a man page (roff)"},
	{NULL, 0, NULL, NULL},
};

#define CUSTODIAN_OPTION                                                                                               \
	{                                                                                                              \
		"custodian", 0, "URI",                                                                                 \
			"the custodian's private key in their token, for blobs that were wrapped to them"              \
	}
#define WRAP_OPTIONS                                                                                                   \
	{"to", 0, "FILE", "wrap to this RSA public key (PEM)"},                                                        \
		{"under", 0, "LABEL", "wrap under this wrapping key of the same token"},                               \
		{"name", 0, "NAME", "the custodian's name, with --to; default: the file's"},                           \
	{                                                                                                              \
		"output", 'o', "FILE", "where the wrapped key goes (0600)"                                             \
	}

static const kt_cli_option key_generate_options[] = {
	{"wrapping", 0, NULL, "a wrapping key (escrow) instead of a cluster key"},
	{"activate", 0, NULL, "it is in use from now on; else it is pre-active until its first use"},
	{"cryptoperiod", 0, "DAYS", "for how long it should be used; `key list` warns after that"},
	{"custodian", 0, NULL, "a custodian's RSA pair in their own token; prints the public half"},
	{"output", 'o', "FILE", "with --custodian: where the public half goes"},
	{NULL, 0, NULL, NULL},
};

static const kt_cli_option key_policy_options[] = {
	{"create", 0, NULL, "also what `keyturn key generate awskms:alias/NAME` needs"},
	{NULL, 0, NULL, NULL},
};

static const kt_cli_option key_wrap_options[] = {WRAP_OPTIONS, {NULL, 0, NULL, NULL}};
static const kt_cli_option key_rewrap_options[] = {WRAP_OPTIONS, CUSTODIAN_OPTION, {NULL, 0, NULL, NULL}};
static const kt_cli_option key_open_options[] = {CUSTODIAN_OPTION, {NULL, 0, NULL, NULL}};

static const kt_cli_option key_unwrap_options[] = {
	CUSTODIAN_OPTION,
	{"plaintext-file", 0, NULL, "into a file: URI, the key in the clear (0400), as an application reads it"},
	{NULL, 0, NULL, NULL},
};

static const kt_cli_option key_deactivate_options[] = {
	{"compromised", 0, NULL, "somebody else may have it: marked so"},
	{"reason", 0, "TEXT", "for the history"},
	{NULL, 0, NULL, NULL},
};

static const kt_cli_option key_destroy_options[] = {
	{"gone", 0, "RUN", "the backups of this run, and what its rollback kept, are gone; the nodes are asked"},
	{"with-escrows", 0, NULL, "remove the key's escrows, too"},
	{"lost", 0, NULL, "its token is gone for good: only record it"},
	{"reason", 0, "TEXT", "for the history"},
	{"yes", 'y', NULL, "do not ask"},
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
	 "back with --replace NODE. A finished turn can be rolled back only as long as its nodes have the transport "
	 "keys\n"
	 "that they had in it.",
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
	{"backup list", "[RUN]", 1, "the backups that runs made",
	 "Lists, out of the journal, each backup of every run (or of RUN): node, archive, how much is in it, and "
	 "whether "
	 "it is\n"
	 "encrypted. No node is asked.",
	 "3 4 9 10", none, kt_verb_backup_list},
	{"backup verify", "RUN [NODE ...]", KT_CLI_ARGS,
	 "restore backups into a scratch folder, and open the data in them",
	 "Does for the backups of a run (or of the nodes named) what the run itself did before the rekey: the archive "
	 "is the "
	 "one\n"
	 "that was made, opens with the run's backup key, is unpacked into a scratch folder on its node, is what its "
	 "manifest "
	 "says,\n"
	 "holds no key in the clear, and the data in it opens with the old key (the playbook's restore_check; "
	 "load_check_command for a database's dump). What "
	 "was unpacked "
	 "is\n"
	 "removed again. The backup key is wrapped in the token to the node's transport key for this. After a turn "
	 "whose old "
	 "key was\n"
	 "in a variable, nothing can look into the data any more, and the verb says so.",
	 "3 4 7 8 9 10 11 12", none, kt_verb_backup_verify},
	{"backup restore", "RUN NODE", 2, "unpack a backup into a folder of its node",
	 "Unpacks the backup of NODE into FOLDER on that node, with owners, modes, times, ACLs and attributes, and "
	 "compares what "
	 "lies\n"
	 "there with the manifest. Nothing that is there is touched. A run is put back in place, with every node "
	 "stopped and the "
	 "env\n"
	 "files that belong to it, by `keyturn rollback RUN`.",
	 "3 4 7 8 9 10 11 12", backup_restore_options, kt_verb_backup_restore},
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
	{"key generate", "URI", 1, "make a key in a token, in AWS KMS, or in a file",
	 "Makes an AES-256 key in the token that a pkcs11: URI names, under the label object=LABEL, and enters it in "
	 "the "
	 "ledger.\n"
	 "Its attributes are read back. A file: URI gives a key file (0400, base64), which must not be there yet; an "
	 "awskms:alias/NAME\n"
	 "URI a symmetric key in AWS KMS with that alias, which must not be there yet, with the credentials of this "
	 "environment. "
	 "Nothing secret is\n"
	 "printed. The key is pre-active until it is used (a run turns to it; something is wrapped under it), or "
	 "with --activate.\n"
	 "Asked again after a crash it finishes what was begun.\n"
	 "--custodian makes an RSA pair for recovery in a custodian's token; it needs no cluster.json.",
	 "3 4 7 9 10 11 12", key_generate_options, kt_verb_key_generate},
	{"key policy", "[URI]", 1, "the IAM policy that keys of AWS KMS need",
	 "Prints a policy document (JSON) for what uses keys of AWS KMS: kms:GenerateRandom on everything, the rest on "
	 "every key, or\n"
	 "on the key that an awskms: URI names by ARN, id or alias (an alias is a condition: a policy knows keys by "
	 "ARN).",
	 "3", key_policy_options, kt_verb_key_policy},
	{"key list", "", 0, "all keys of this cluster with their states",
	 "Lists what the ledger and the runs know: state (SP 800-57), kind, check value, id, label. Warns of "
	 "cryptoperiods that\n"
	 "are over, of data without an escrow, and of what was begun and not finished.",
	 "3 9 10 12", none, kt_verb_key_list},
	{"key show", "KEY", 1, "one key: history, escrows, what depends on it",
	 "KEY is a pkcs11: URI with object= or id=, a file: URI, or what the ledger knows: an id, a label, the run "
	 "that "
	 "made it.",
	 "3 4 7 9 10 11 12", none, kt_verb_key_show},
	{"key wrap", "KEY", 1, "wrap a key for a public key, or under a wrapping key",
	 "Wraps a cluster key in its token to an RSA public key (--to) or under a wrapping key of the same token "
	 "(--under), and\n"
	 "writes the wrapped key to --output. The ledger notes it as an escrow.",
	 "3 4 7 9 10 11 12", key_wrap_options, kt_verb_key_wrap},
	{"key unwrap", "BLOB URI", 2, "open a wrapped key into a token",
	 "Opens BLOB with the wrapping key of the token of URI, or with a custodian's key (--custodian), into a key of "
	 "that\n"
	 "token named by object= and id=; never in the clear. Only --plaintext-file writes a key file.",
	 "3 4 7 9 10 11 12", key_unwrap_options, kt_verb_key_unwrap},
	{"key escrow", "KEY", 1, "wrap a key under the escrow key and to every custodian",
	 "Writes into the state folder: KEY under hsm.escrow_key, which is opened again in the token and proved, and "
	 "to "
	 "each of\n"
	 "the custodians of cluster.json.",
	 "3 4 7 9 10 11 12", none, kt_verb_key_escrow},
	{"key recover", "KEY BLOB...", 8, "rebuild a lost key from its escrows",
	 "For a key that was lost with its token. KEY names it (or a URI says where it goes: a fresh token); the BLOBs "
	 "are its\n"
	 "escrows. By the wrapping key, once the HSM's own backup has restored that; or by a custodian's token "
	 "(--custodian URI),\n"
	 "which wraps the key again to an RSA pair that the fresh token makes for this purpose: it is never in the "
	 "clear. Every\n"
	 "BLOB is opened and proved, and the verb says which are good.",
	 "3 4 7 9 10 11 12", key_open_options, kt_verb_key_recover},
	{"key rewrap", "BLOB", 1, "move a wrapped key to another wrapping key or custodian",
	 "Opens BLOB in the token and wraps the key anew there (--under, --to). Without --output it takes BLOB's "
	 "place, "
	 "at once.",
	 "3 4 7 9 10 11 12", key_rewrap_options, kt_verb_key_rewrap},
	{"key verify", "[BLOB...]", 8, "open every escrow in the token, and prove it",
	 "Opens each BLOB (default: every escrow that is known) in the token with a throw-away key, compares check "
	 "value and\n"
	 "proof with what was recorded when it was made, and says which are good, which not, and why. What only a "
	 "custodian can\n"
	 "open is untried without --custodian. Exits with 11 when one is not good.",
	 "3 4 7 9 10 11 12", key_open_options, kt_verb_key_verify},
	{"key deactivate", "KEY", 1, "a key protects nothing new any more",
	 "For keys that people made; a key that data is under is deactivated by the run that turns it. --compromised "
	 "marks a key\n"
	 "that somebody else may have, whatever is under it.",
	 "3 4 7 9 10 11 12", key_deactivate_options, kt_verb_key_deactivate},
	{"key destroy", "KEY", 1, "destroy a key for good",
	 "Refused while data, a backup, an open run or an escrow depends on it; each is named. Asks, or --yes. What is "
	 "about to be\n"
	 "destroyed is recorded first: after a crash the same command finishes it. Of a key that keyturn did not make "
	 "it\n"
	 "records that you have removed it.",
	 "3 4 7 9 10 11 12", key_destroy_options, kt_verb_key_destroy},
	{"help", "[VERB]", 2, "this help, or that of a verb", "Shows help.", "", help_options, kt_verb_help},
	{"version", "", 0, "the version", "Shows the version.", "", none, kt_verb_version},
	{NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL},
};

const kt_cli_verb *kt_cli_verbs(void)
{
	return verbs;
}
