/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/playbook/names.h"

#include <stddef.h>
#include <string.h>

static const char *const names[] = {
	"node",       "host",        "run",        "cluster",   "nodes",      "is_rekey",    "is_canary",
	"from.uri",   "from.kind",   "from.path",  "from.name", "from.files", "from.region", "from.context",
	"from.stays", "from.legacy", "from.kcv",   "to.uri",    "to.kind",    "to.path",     "to.name",
	"to.files",   "to.region",   "to.context", "to.stays",  "to.kcv",     "scratch",     NULL};

const char *const *kt_builtin_names(void)
{
	return names;
}

bool kt_builtin_is(const char *name)
{
	for (size_t i = 0; names[i]; i++)
		if (strcmp(names[i], name) == 0)
			return true;
	return false;
}

bool kt_builtin_reserved(const char *name)
{
	return kt_builtin_is(name) || strcmp(name, "from") == 0 || strcmp(name, "to") == 0 ||
	       strcmp(name, "key") == 0 || strcmp(name, "plan") == 0;
}
