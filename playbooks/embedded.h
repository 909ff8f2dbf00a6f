/* SPDX-License-Identifier: Apache-2.0 */
/* The files of playbooks/, built into the program (playbooks/embed.cmake), so that it needs none beside it. */
#ifndef KT_PLAYBOOKS_EMBEDDED_H
#define KT_PLAYBOOKS_EMBEDDED_H

#include <stddef.h>

typedef struct kt_embedded {
	const char *name; /* file name: "looker.json", "cluster.schema.json" */
	const unsigned char *data;
	size_t len;
} kt_embedded;

/* Ends with an entry of which the name is NULL; schemas first, then playbooks, each in order of their names. */
extern const kt_embedded kt_embedded_files[];

#endif
