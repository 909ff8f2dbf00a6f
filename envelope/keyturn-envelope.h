/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libkeyturn-envelope: items encrypted one by one, each under a data key (DEK) of its own; the DEKs are wrapped by a
 * key encryption key (KEK), and the KEK by a customer master key (CMK) that stays in its keystore: a file, an
 * environment variable, an HSM (PKCS#11) or AWS KMS. Everything is AES-256-GCM; an envelope belongs to the name of its
 * item, and a change of any byte of it is refused. libkeyturn-envelope(3) has an example; the bytes are those of
 * FORMATS.md, section 9, so that keyturn-store and this library read one another's data.
 *
 * Results. A function that can fail returns a kte_code and, on failure alone, says in *err (the caller's; NULL is fine)
 * what is wrong, where, and what to do next. After a failure what it would have given is not there, and what it was to
 * change is as it was, unless it says otherwise below.
 *
 * Memory. Handles are the caller's until closed; closing NULL does nothing. Results go to memory of the caller, whose
 * size is given, and which must not overlap what they are made of. Texts of a handle live as long as it does. Keys are
 * kept in libcrypto's secure heap: locked, not dumped, wiped. Where the application has not set one up
 * (CRYPTO_secure_malloc_init), the first keystore that is opened does, with 64 KiB, enough for 60 KEKs.
 *
 * Threads. One thread at a time for each handle; different handles may be used at the same time. After fork() both
 * processes may go on with a kte_kek; a kte_keystore is of no use to the child.
 *
 * Compatibility. What an application was built with goes on to work while the number behind ".so." is the same.
 */
#ifndef KEYTURN_ENVELOPE_H
#define KEYTURN_ENVELOPE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KTE_MUST_CHECK __attribute__((__warn_unused_result__))
#else
#define KTE_MUST_CHECK
#endif

/* Their values never change; a later version may add some, so treat what you do not know as a failure. */
typedef enum kte_code {
	KTE_OK = 0,
	KTE_E_INTERNAL = 1, /* a bug of ours, or memory (locked memory, too) is exhausted */
	KTE_E_USAGE = 2,    /* a call that is wrong: NULL, a number out of range, a buffer that is too small */
	KTE_E_INPUT = 3,    /* an envelope, a record, a URI or a name is malformed, was altered or belongs elsewhere */
	KTE_E_REFUSED = 4,  /* not allowed: a weak mechanism, permissions or a key's state in AWS KMS */
	KTE_E_HSM = 7,      /* token, module, PIN or mechanism */
	KTE_E_UNREACHABLE = 8, /* AWS KMS could not be asked */
	KTE_E_IO = 10,         /* the operating system: permission, missing file */
	KTE_E_KEY = 11,        /* a key is missing, of wrong size or mode, or is not the one that opens this */
	KTE_E_INTERRUPTED = 14 /* Ctrl-C at the prompt for a PIN */
} kte_code;

/* Both texts end in NUL, are of one line, and hold no secret; `remedy` may be empty. */
typedef struct kte_error {
	kte_code code;
	char message[1024];
	char remedy[512];
} kte_error;

typedef struct kte_keystore kte_keystore; /* where a CMK lives, open */
typedef struct kte_kek kte_kek;           /* a KEK, made ready for work */

/* The version of the library that is running, "0.1.0", and the lower-case name of a code, "input". Static. */
const char *kte_version(void);
const char *kte_code_name(kte_code code);

/*
 * --- Keystores ---
 * Named by URI: file:/absolute/path (base64 of 32 bytes, mode 0400), env:NAME (the same in a variable), pkcs11:... (RFC
 * 7512, with object= or id= of a wrapping key; the PIN comes from pin-source), awskms:KEY[?region=...][&context=...]
 * (alias/NAME, a key's id or an ARN; credentials as AWS's own tools find them). The module of a pkcs11: URI is loaded
 * into this process, which should ignore SIGPIPE then. libkeyturn-envelope(3) says more.
 */

KTE_MUST_CHECK kte_code kte_keystore_open(const char *uri, kte_keystore **out, kte_error *err);
void kte_keystore_close(kte_keystore *keystore);
/* The URI without a pin-source, and the CMK's check value: 6 hex digits that tell keys apart (AES-CMAC of a block of
 * zeros); "none" for AWS KMS, where nobody can take one. */
const char *kte_keystore_uri(const kte_keystore *keystore);
const char *kte_keystore_check_value(const kte_keystore *keystore);

/*
 * --- KEKs ---
 * A KEK is kept as its record: wrapped by the CMK, with its id, generation and check values, under a MAC by the KEK.
 * The record is no secret; keep it beside the items. Without it they cannot be opened by anybody.
 */

#define KTE_RECORD_MAX 4176 /* bytes of the longest record */

/* A new random KEK, wrapped by `cmk`, and its record. `generation` is 1 for the first KEK of a store and one more with
 * each that follows; `created_ms` is the time, in milliseconds since 1970. `record` has `size` bytes, *len is how many
 * were used; KTE_RECORD_MAX are always enough. */
KTE_MUST_CHECK kte_code kte_kek_make(kte_keystore *cmk, uint32_t generation, int64_t created_ms, kte_kek **out,
				     void *record, size_t size, size_t *len, kte_error *err);
/* Have `cmk` unwrap the KEK of a record. KTE_E_KEY: it is another CMK's (both are named). KTE_E_INPUT: the record is
 * malformed (with the offset) or was altered. */
KTE_MUST_CHECK kte_code kte_kek_open(kte_keystore *cmk, const void *record, size_t len, kte_kek **out, kte_error *err);
/* A record of the same KEK under another CMK: no item changes. Arguments as for kte_kek_make. */
KTE_MUST_CHECK kte_code kte_kek_wrap(const kte_kek *kek, kte_keystore *cmk, int64_t created_ms, void *record,
				     size_t size, size_t *len, kte_error *err);
void kte_kek_close(kte_kek *kek);

typedef struct kte_kek_info {
	char id[33]; /* hex; the texts end in NUL */
	uint32_t generation;
	int64_t created_ms;
	char check_value[7];
	char cmk_check_value[7];
} kte_kek_info;

/* What a record says without any key; so nothing of it is proven yet. */
KTE_MUST_CHECK kte_code kte_kek_inspect(const void *record, size_t len, kte_kek_info *info, kte_error *err);

/*
 * --- Items ---
 * `name` is a text of 1 to KTE_NAME_MAX bytes that tells the item from all others of the store; an envelope opens under
 * the name that it was sealed for alone. What nobody can see: an older envelope of the same item and KEK, put back in
 * its place. One KEK may seal and wrap 2^32 items in its life (SP 800-38D, section 8.3).
 */

#define KTE_NAME_MAX 512
#define KTE_CONTENT_MAX 16777216 /* bytes of an item, which may be empty */
#define KTE_OVERHEAD 136         /* an envelope is that much longer than its content */
#define KTE_HEAD 120             /* bytes of an envelope that kte_rewrap needs and changes */

/* Seal `len` bytes of content: the envelope has len + KTE_OVERHEAD bytes, which `envelope`, of `size` bytes, must hold.
 */
KTE_MUST_CHECK kte_code kte_seal(kte_kek *kek, const char *name, const void *content, size_t len, void *envelope,
				 size_t size, kte_error *err);
/*
 * Open an envelope of `len` bytes: its content has len - KTE_OVERHEAD bytes, which `content`, of `size` bytes, must
 * hold; *content_len is how many there are. KTE_E_INPUT: the envelope is malformed (with the offset), was altered, or
 * is of another item. KTE_E_KEY: it is under another KEK (both ids are named). On failure `content` has nothing of it.
 */
KTE_MUST_CHECK kte_code kte_open(kte_kek *kek, const char *name, const void *envelope, size_t len, void *content,
				 size_t size, size_t *content_len, kte_error *err);
/* Move an envelope of `total` bytes to another KEK, in place: its DEK is wrapped anew. `head` is its first KTE_HEAD
 * bytes; the rest is not looked at and stays. Errors as kte_open. */
KTE_MUST_CHECK kte_code kte_rewrap(kte_kek *from, kte_kek *to, const char *name, void *head, size_t total,
				   kte_error *err);
/* Encrypt an item anew, under a new DEK and the KEK of `to`, in place: its length stays. For a while the content stands
 * there in the clear. After a failure the bytes there are of no use, so work on a copy. Errors as kte_open. */
KTE_MUST_CHECK kte_code kte_reseal(kte_kek *from, kte_kek *to, const char *name, void *envelope, size_t len,
				   kte_error *err);

typedef struct kte_info {
	unsigned version;
	char id[33];     /* of the envelope: hex; the texts end in NUL */
	char kek_id[33]; /* of the KEK that it is under */
	size_t content_len;
} kte_info;

/* What an envelope says without any key; so nothing of it is proven yet. */
KTE_MUST_CHECK kte_code kte_inspect(const void *envelope, size_t len, kte_info *info, kte_error *err);

#ifdef __cplusplus
}
#endif

#endif
