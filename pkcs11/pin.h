/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a PIN comes from (`pin-source` of a URI):
 *   file:/path, file:///path or /path   a regular file of ours or root's that others cannot read; one trailing newline
 * is dropped fd:N                                an open descriptor, read to its end and closed (0 to 2 stay open)
 *   env:NAME                            an environment variable, overwritten and removed once it was read
 *   (empty)                             a prompt on /dev/tty with echo off
 */
#ifndef KT_PKCS11_PIN_H
#define KT_PKCS11_PIN_H

#include "base/secret.h"

enum { KT_PIN_MAX = 255 };

/* `prompt` is shown when a person is asked ("PIN of token X: "). KT_E_INPUT for a source of unknown kind, KT_E_HSM when
 * there is no PIN to be had, KT_E_IO when the file cannot be read or others can read it. */
KT_MUST_CHECK kt_code kt_pin_read(const char *source, const char *prompt, kt_secret *pin, kt_err *err);

/* Can the PIN be had a second time, without a person? Only from a file: the others are read once and never kept. */
bool kt_pin_repeatable(const char *source);
/* The descriptor of a source "fd:N", else -1. */
int kt_pin_fd(const char *source);
/* This process has handed the source over to a child: wipe it from the environment, or close it. */
void kt_pin_handed_over(const char *source);

#endif
