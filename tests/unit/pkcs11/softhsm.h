/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Real SoftHSM tokens for a test program: its own softhsm2.conf and token folder below the working directory,
 * SOFTHSM2_CONF set to it. softhsm2-util is exec'd, so tokens are made while no module is initialised in this process.
 * A missing SoftHSM fails the tests: nothing here skips.
 */
#ifndef KT_TESTS_UNIT_PKCS11_SOFTHSM_H
#define KT_TESTS_UNIT_PKCS11_SOFTHSM_H

#define SOFTHSM_PIN "canary-pin-48151623"

/* Group setup and teardown of cmocka: a fresh folder with one token "kt-test", and its removal. Also kt_secret_setup.
 */
int softhsm_start(void **state);
int softhsm_stop(void **state);

/* Make one more token. Fails the test when it cannot. */
void softhsm_add_token(const char *label);
/* Where things are. Static. */
const char *softhsm_module(void);
const char *softhsm_folder(void);     /* absolute; holds softhsm2.conf, tokens/ and the PIN file */
const char *softhsm_pin_source(void); /* "file:/..." with SOFTHSM_PIN and a newline */
const char *softhsm_shim(void);       /* path of the shim module (shim.h) over the same tokens */
/* "pkcs11:PATH?module-path=SoftHSM&pin-source=SOURCE"; path NULL: token=kt-test, source NULL: the PIN file. Static
 * buffer. */
const char *softhsm_uri(const char *path, const char *source);
const char *softhsm_shim_uri(void); /* the same through the shim */
/* Run a program to its end; its exit code. */
int softhsm_run(const char *const argv[]);
/* Write a file in the folder with a mode; its absolute path, static until the next call. */
const char *softhsm_file(const char *name, const void *bytes, unsigned long n, unsigned mode);

#endif
