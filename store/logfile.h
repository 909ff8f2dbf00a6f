/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The application's own log, in the format that the documented procedures grep:
 *   2018-10-29 22:42:20.279 +0000 [INFO|007d0|crypt] :: text
 * One per process. Control characters are escaped, registered secrets replaced (base/log.h).
 */
#ifndef KT_STORE_LOGFILE_H
#define KT_STORE_LOGFILE_H

#include "base/log.h"

/* Append to `path`, whose folder is made; NULL turns the log off. KT_E_IO. */
KT_MUST_CHECK kt_code kt_logfile_open(const char *path, kt_err *err);
void kt_logfile_close(void);
/* `part` names the speaker: "node", "crypt", ... A log that cannot be written does not stop the work. */
void kt_logfile(kt_log_level level, const char *part, const char *fmt, ...) KT_PRINTF(3, 4);

#endif
