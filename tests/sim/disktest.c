/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/disktest.h"

sim_disk *disk;

int disk_make(void **state)
{
	(void)state;
	disk = sim_disk_new();
	sim_disk_use(disk);
	return 0;
}

int disk_drop(void **state)
{
	(void)state;
	sim_disk_use(NULL);
	sim_disk_free(disk);
	return 0;
}

int disk_fresh(void **state)
{
	(void)state;
	sim_disk_reset(disk);
	return 0;
}
