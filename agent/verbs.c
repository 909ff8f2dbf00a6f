/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's verbs: a row each. */
#include "agent/dispatch.h"

const kt_agent_verb kt_agent_verbs[] = {
	{"facts", KT_VERB_READS, KT_VERB_AGAIN, false, false, false, NULL, kt_action_facts},
	{"service.status", KT_VERB_READS, KT_VERB_AGAIN, false, false, false, NULL, kt_action_service_status},
	{"service.stop", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, kt_action_service_stop},
	{"service.start", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, kt_action_service_start},
	{"preflight", KT_VERB_READS, KT_VERB_AGAIN, false, false, false, NULL, kt_action_preflight},
	{"gate.check", KT_VERB_READS, KT_VERB_AGAIN, false, false, true, NULL, kt_action_gate_check},
	{"backup.create", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, "blob", kt_action_backup_create},
	{"backup.check", KT_VERB_CHANGES, KT_VERB_AGAIN, true, false, false, "blob", kt_action_backup_check},
	{"backup.restore", KT_VERB_CHANGES, KT_VERB_AGAIN, true, false, false, "blob", kt_action_backup_restore},
	{"key.transport", KT_VERB_CHANGES, KT_VERB_AGAIN, true, false, false, NULL, kt_action_key_transport},
	{"key.retire", KT_VERB_CHANGES, KT_VERB_AGAIN, true, false, false, NULL, kt_action_key_retire},
	{"key.locate", KT_VERB_READS, KT_VERB_AGAIN, false, false, false, NULL, kt_action_key_locate},
	{"key.receive", KT_VERB_CHANGES, KT_VERB_AGAIN, true, false, false, "blob", kt_action_key_receive},
	{"key.install", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, kt_action_key_install},
	{"key.forget", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, kt_action_key_forget},
	{"env.install", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, kt_action_env_install},
	{"env.restore", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, kt_action_env_restore},
	{"exec", KT_VERB_CHANGES, KT_VERB_ONCE, false, false, false, NULL, kt_action_exec},
	{"command", KT_VERB_READS, KT_VERB_AGAIN, false, false, false, NULL, kt_action_command},
	{"probe", KT_VERB_READS, KT_VERB_AGAIN, false, true, true, NULL, kt_action_probe},
	{"log.check", KT_VERB_READS, KT_VERB_AGAIN, false, false, false, NULL, kt_action_log_check},
	{"file.remove", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, kt_action_file_remove},
	{"run.release", KT_VERB_ENDS, KT_VERB_AGAIN, false, false, false, NULL, kt_action_run_release},
	{0},
};
