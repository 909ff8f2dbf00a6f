/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logical volumes of LVM 2 (lvs(8), lvcreate(8), lvremove(8)): what there is, a snapshot of one, and its removal. Its
 * programs are looked for in the usual folders of an administrator. Nothing here is secret.
 */
#ifndef KT_AGENT_LVM_H
#define KT_AGENT_LVM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"

enum {
	KT_LVM_NAME = 128, /* names have at most 127 bytes (lvm(8), "VALID NAMES") */
	KT_LVM_TAGS = 1025,
	KT_LVM_UUID = 65 /* of the group and of the volume, 32 letters and digits each */
};

typedef struct kt_lvm_volume {
	char vg[KT_LVM_NAME], lv[KT_LVM_NAME];
	char origin[KT_LVM_NAME]; /* "" unless it is a snapshot */
	char uuid[KT_LVM_UUID];   /* as the kernel shows it in dm/uuid, behind "LVM-" */
	char tags[KT_LVM_TAGS];   /* divided by commas */
	bool thin;                /* in a thin pool: its snapshots need no size */
	bool invalid;             /* a snapshot that had no room for what was written to its origin */
	uint64_t bytes;           /* of the volume */
	uint64_t free;            /* of its group, bytes that belong to no volume */
} kt_lvm_volume;

/* What `lvs --reportformat json` prints of KT_LVM_FIELDS. *out is the caller's (free). KT_E_INPUT. */
KT_MUST_CHECK kt_code kt_lvm_parse(const void *text, size_t len, kt_lvm_volume **out, size_t *n, kt_err *err);
/* Every volume of this machine; *out is the caller's (free). KT_E_IO: lvm2 is not there, or failed. */
KT_MUST_CHECK kt_code kt_lvm_list(kt_lvm_volume **out, size_t *n, kt_err *err);

/* The uuid of the logical volume that a device is: `device` as of stat(2). *is is false for any other device. */
KT_MUST_CHECK kt_code kt_lvm_uuid_of(dev_t device, char out[KT_LVM_UUID], bool *is, kt_err *err);
bool kt_lvm_has_tag(const kt_lvm_volume *v, const char *word);

/* How large a snapshot is to be: "20%ORIGIN", "50%FREE", "512M", "10G" or "1T". KT_E_INPUT for anything else. *bytes:
 * of a snapshot of `v`. */
KT_MUST_CHECK kt_code kt_lvm_size(const char *size, const kt_lvm_volume *v, uint64_t *bytes, kt_err *err);
/* A snapshot of `v` in its group, active, with one tag; `size` as above, for a volume that is not thin. KT_E_IO. */
KT_MUST_CHECK kt_code kt_lvm_snapshot(const kt_lvm_volume *v, const char *name, const char *tag, const char *size,
				      kt_err *err);
/* Remove a snapshot; KT_E_REFUSED when `v` is none. KT_E_IO. */
KT_MUST_CHECK kt_code kt_lvm_remove(const kt_lvm_volume *v, kt_err *err);

#endif
