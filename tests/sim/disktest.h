/* SPDX-License-Identifier: Apache-2.0 */
/* The disk in memory under a test program (cmocka): one for the group, and dice for its power cuts. */
#ifndef KT_TESTS_SIM_DISKTEST_H
#define KT_TESTS_SIM_DISKTEST_H

#include "tests/sim/chance.h"
#include "tests/sim/disk.h"

/* Owned by the group: disk_make makes it and puts it to use, disk_drop ends that. */
extern sim_disk *disk;
int disk_make(void **state);
int disk_drop(void **state);
/* Setup of a test: the disk is empty. */
int disk_fresh(void **state);

#endif
