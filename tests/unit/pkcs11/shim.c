/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pkcs11/shim.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef SHIM_MODULES
#error "SHIM_MODULES: where SoftHSM may be"
#endif

extern shim_control shim;
shim_control shim;
CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list);

static CK_FUNCTION_LIST *real;
static CK_FUNCTION_LIST ours;

/* --- the folder that says what goes wrong ------------------------------------------------------------------------- */

static bool in_folder(const char *name, char path[512])
{
	const char *folder = getenv("KT_SHIM");
	return folder && (size_t)snprintf(path, 512, "%s/%s", folder, name) < 512;
}

/* What the file says, without its newline; false when there is none. */
static bool read_order(const char *path, char text[256])
{
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	bool got = fgets(text, 256, f) != NULL;
	(void)fclose(f);
	text[got ? strcspn(text, "\n") : 0] = '\0';
	return got;
}

/* "after N ..." becomes "after N-1 ..."; true while this call is one of those before. */
static bool not_yet(const char *path, char text[256])
{
	char *rest;
	if (strncmp(text, "after ", 6) != 0)
		return false;
	long n = strtol(text + 6, &rest, 10);
	if (n <= 0) {
		memmove(text, rest + 1, strlen(rest));
		return false;
	}
	FILE *f = fopen(path, "we");
	if (f) {
		(void)fprintf(f, "after %ld%s\n", n - 1, rest);
		(void)fclose(f);
	}
	return true;
}

static void hang(void)
{
	for (;;)
		(void)pause();
}

/* Do what the folder says of this call; CKR_OK: nothing, go on. */
static CK_RV ordered(const char *call)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	char path[512], text[256];
	pthread_mutex_lock(&lock);
	bool any = in_folder(call, path) && read_order(path, text) && !not_yet(path, text);
	const char *what = text;
	if (any && strncmp(what, "always ", 7) == 0)
		what += 7;
	else if (any)
		(void)unlink(path);
	pthread_mutex_unlock(&lock);
	if (!any)
		return CKR_OK;
	if (strcmp(what, "hang") == 0)
		hang();
	if (strcmp(what, "crash") == 0) {
		(void)signal(SIGSEGV, SIG_DFL); /* not a sanitizer's handler */
		(void)raise(SIGSEGV);
	}
	if (strncmp(what, "print ", 6) == 0)
		(void)fprintf(stderr, "%s\n", what + 6);
	return strncmp(what, "rv ", 3) == 0 ? strtoul(what + 3, NULL, 0) : CKR_OK;
}

#define ORDERED(call)                                                                                                  \
	do {                                                                                                           \
		CK_RV order = ordered(call);                                                                           \
		if (order != CKR_OK)                                                                                   \
			return order;                                                                                  \
	} while (0)

static void note_login(void)
{
	char path[512];
	FILE *f = in_folder("logins", path) ? fopen(path, "ae") : NULL;
	if (!f)
		return;
	(void)fprintf(f, "%ld\n", (long)getpid());
	(void)fclose(f);
}

/* --- the calls ---------------------------------------------------------------------------------------------------- */

static CK_RV initialize(void *args)
{
	ORDERED("C_Initialize");
	return shim.initialize_rv ? shim.initialize_rv : real->C_Initialize(args);
}

static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
	ORDERED("C_GetTokenInfo");
	if (shim.token_info_rv)
		return shim.token_info_rv;
	CK_RV rv = real->C_GetTokenInfo(slot, info);
	if (rv == CKR_OK)
		info->flags = (info->flags | shim.add_flags) & ~shim.drop_flags;
	return rv;
}

static CK_RV login(CK_SESSION_HANDLE s, CK_USER_TYPE user, CK_UTF8CHAR *pin, CK_ULONG n)
{
	shim.logins++;
	note_login();
	ORDERED("C_Login");
	return shim.login_rv ? shim.login_rv : real->C_Login(s, user, pin, n);
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *app, CK_NOTIFY notify, CK_SESSION_HANDLE *out)
{
	ORDERED("C_OpenSession");
	if (shim.session_limit && shim.sessions >= shim.session_limit)
		return CKR_SESSION_COUNT;
	CK_RV rv = real->C_OpenSession(slot, flags, app, notify, out);
	shim.sessions += rv == CKR_OK;
	return rv;
}

static CK_RV close_session(CK_SESSION_HANDLE s)
{
	CK_RV rv = real->C_CloseSession(s);
	shim.sessions -= rv == CKR_OK;
	return rv;
}

static bool has_false(const CK_ATTRIBUTE *a, CK_ULONG n, CK_ATTRIBUTE_TYPE type)
{
	for (CK_ULONG i = 0; i < n; i++)
		if (a[i].type == type && *(const CK_BBOOL *)a[i].pValue == CK_FALSE)
			return true;
	return false;
}

/* A copy of a template in which one CK_BBOOL is its opposite; at most 24 attributes. */
enum { FLIPPED = 24 };
static CK_ATTRIBUTE *flip(CK_ATTRIBUTE *a, CK_ULONG n, CK_ATTRIBUTE_TYPE type, CK_ATTRIBUTE copy[FLIPPED])
{
	static CK_BBOOL values[2] = {CK_FALSE, CK_TRUE};
	if (!type || n > FLIPPED)
		return a;
	for (CK_ULONG i = 0; i < n; i++) {
		copy[i] = a[i];
		if (a[i].type == type)
			copy[i].pValue = &values[*(CK_BBOOL *)a[i].pValue ? 0 : 1];
	}
	return copy;
}

static CK_RV generate_key(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	ORDERED("C_GenerateKey");
	if (shim.no_readable && has_false(a, n, CKA_SENSITIVE))
		return CKR_TEMPLATE_INCONSISTENT;
	CK_ATTRIBUTE copy[FLIPPED];
	CK_RV rv = real->C_GenerateKey(s, m, flip(a, n, shim.flip_at_generate, copy), n, out);
	shim.objects += rv == CKR_OK;
	return rv;
}

static CK_RV generate_pair(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_ATTRIBUTE *a, CK_ULONG n, CK_ATTRIBUTE *b,
			   CK_ULONG k, CK_OBJECT_HANDLE *pub, CK_OBJECT_HANDLE *priv)
{
	CK_RV rv = real->C_GenerateKeyPair(s, m, a, n, b, k, pub, priv);
	shim.objects += rv == CKR_OK ? 2 : 0;
	return rv;
}

static CK_RV generate_random(CK_SESSION_HANDLE s, CK_BYTE *out, CK_ULONG n)
{
	ORDERED("C_GenerateRandom");
	shim.randoms++;
	return shim.random_rv ? shim.random_rv : real->C_GenerateRandom(s, out, n);
}

static CK_RV create_object(CK_SESSION_HANDLE s, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	ORDERED("C_CreateObject");
	CK_RV rv = shim.create_rv ? shim.create_rv : real->C_CreateObject(s, a, n, out);
	shim.objects += rv == CKR_OK;
	return rv;
}

static CK_RV destroy_object(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	CK_RV rv = real->C_DestroyObject(s, o);
	shim.objects -= rv == CKR_OK;
	return rv;
}

static CK_RV find_objects(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE *out, CK_ULONG max, CK_ULONG *n)
{
	CK_RV rv = real->C_FindObjects(s, out, max, n);
	if (shim.finds_nothing)
		*n = 0;
	return rv;
}

static CK_RV get_attributes(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *a, CK_ULONG n)
{
	CK_RV rv = real->C_GetAttributeValue(s, o, a, n);
	for (CK_ULONG i = 0; i < n; i++) {
		if (shim.shows_sensitive && a[i].type == CKA_VALUE && rv == CKR_ATTRIBUTE_SENSITIVE && a[i].pValue) {
			memset(a[i].pValue, 0, 32);
			a[i].ulValueLen = 32;
			rv = CKR_OK;
		}
		if (shim.lie_about && a[i].type == shim.lie_about && a[i].ulValueLen == sizeof(CK_BBOOL))
			*(CK_BBOOL *)a[i].pValue = !*(CK_BBOOL *)a[i].pValue;
		if (shim.hide_attributes && a[i].type == CKA_DECRYPT) {
			a[i].ulValueLen = CK_UNAVAILABLE_INFORMATION;
			rv = CKR_ATTRIBUTE_TYPE_INVALID;
		}
	}
	return rv;
}

/* CKM_RSA_AES_KEY_WRAP by the calls that it stands for. */
enum { RSA_AES_TAIL = 40 };

static CK_MECHANISM oaep_in(const CK_MECHANISM *m)
{
	struct {
		CK_ULONG bits;
		CK_RSA_PKCS_OAEP_PARAMS *oaep;
	} p = {0, NULL};
	if (m->ulParameterLen == sizeof p)
		memcpy(&p, m->pParameter, sizeof p);
	return (CK_MECHANISM){p.bits == 256 ? CKM_RSA_PKCS_OAEP : CKM_VENDOR_DEFINED, p.oaep, sizeof *p.oaep};
}

static CK_RV rsa_aes_wrap(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE w, CK_OBJECT_HANDLE k, CK_BYTE *out,
			  CK_ULONG *n)
{
	CK_BBOOL yes = CK_TRUE;
	CK_ULONG bytes = 32, head = *n, tail = RSA_AES_TAIL;
	CK_ATTRIBUTE a[] = {{CKA_VALUE_LEN, &bytes, sizeof bytes},
			    {CKA_EXTRACTABLE, &yes, sizeof yes},
			    {CKA_WRAP, &yes, sizeof yes}};
	CK_MECHANISM generate = {CKM_AES_KEY_GEN, NULL, 0}, pad = {CKM_AES_KEY_WRAP_PAD, NULL, 0}, oaep = oaep_in(m);
	CK_OBJECT_HANDLE ephemeral;
	CK_RV rv = real->C_GenerateKey(s, &generate, a, 3, &ephemeral);
	if (rv != CKR_OK)
		return rv;
	rv = real->C_WrapKey(s, &oaep, w, ephemeral, out, &head);
	if (rv == CKR_OK)
		rv = real->C_WrapKey(s, &pad, ephemeral, k, out + head, &tail);
	*n = head + tail;
	(void)real->C_DestroyObject(s, ephemeral);
	shim.rsa_aes_calls++;
	return rv;
}

static CK_RV rsa_aes_unwrap(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE w, CK_BYTE *in, CK_ULONG len,
			    CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_KEY_TYPE type = CKK_AES;
	CK_BBOOL yes = CK_TRUE;
	CK_ATTRIBUTE own[] = {
		{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_UNWRAP, &yes, sizeof yes}};
	CK_MECHANISM pad = {CKM_AES_KEY_WRAP_PAD, NULL, 0}, oaep = oaep_in(m);
	CK_OBJECT_HANDLE ephemeral;
	CK_RV rv = real->C_UnwrapKey(s, &oaep, w, in, len - RSA_AES_TAIL, own, 3, &ephemeral);
	if (rv != CKR_OK)
		return rv;
	rv = real->C_UnwrapKey(s, &pad, ephemeral, in + len - RSA_AES_TAIL, RSA_AES_TAIL, a, n, out);
	(void)real->C_DestroyObject(s, ephemeral);
	shim.rsa_aes_calls++;
	return rv;
}

static CK_RV wrap_key(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE w, CK_OBJECT_HANDLE k, CK_BYTE *out,
		      CK_ULONG *n)
{
	ORDERED("C_WrapKey");
	CK_MECHANISM used = *m;
	CK_RSA_PKCS_OAEP_PARAMS sha1 = {.hashAlg = CKM_SHA_1, .mgf = CKG_MGF1_SHA1, .source = CKZ_DATA_SPECIFIED};
	for (int i = 0; i < 4; i++)
		if (shim.deny_wrap[i] && shim.deny_wrap[i] == m->mechanism)
			return CKR_MECHANISM_INVALID;
	if (shim.rsa_aes && m->mechanism == CKM_RSA_AES_KEY_WRAP)
		return rsa_aes_wrap(s, m, w, k, out, n);
	if (shim.pad_is_rfc3394 && m->mechanism == CKM_AES_KEY_WRAP_PAD)
		used.mechanism = CKM_AES_KEY_WRAP;
	if (shim.oaep_is_sha1 && m->mechanism == CKM_RSA_PKCS_OAEP)
		used.pParameter = &sha1;
	CK_RV rv = real->C_WrapKey(s, &used, w, k, out, n);
	if (rv == CKR_KEY_UNEXTRACTABLE && shim.wraps_all) {
		memset(out, 0x5A, 40);
		*n = 40;
		rv = CKR_OK;
	}
	if (rv == CKR_OK && shim.pad_is_long && m->mechanism == CKM_AES_KEY_WRAP_PAD) {
		memset(out + *n, 0xA5, 8);
		*n += 8;
	}
	return rv;
}

static CK_RV another_key(CK_SESSION_HANDLE s, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	CK_MECHANISM generate = {CKM_AES_KEY_GEN, NULL, 0};
	CK_ATTRIBUTE with[FLIPPED + 1];
	CK_ULONG bytes = 32;
	if (n > FLIPPED)
		return CKR_GENERAL_ERROR;
	memcpy(with, a, n * sizeof *a);
	with[n] = (CK_ATTRIBUTE){CKA_VALUE_LEN, &bytes, sizeof bytes};
	return real->C_GenerateKey(s, &generate, with, n + 1, out);
}

static CK_RV unwrap_key(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE w, CK_BYTE *in, CK_ULONG len,
			CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	ORDERED("C_UnwrapKey");
	CK_MECHANISM used = *m;
	CK_ULONG last = n ? n - 1 : 0;
	if (shim.unwrap_rv)
		return shim.unwrap_rv;
	if (shim.unwrap_wants_len && (n == 0 || a[last].type != CKA_VALUE_LEN))
		return CKR_TEMPLATE_INCOMPLETE;
	if (shim.pad_is_rfc3394 && m->mechanism == CKM_AES_KEY_WRAP_PAD)
		used.mechanism = CKM_AES_KEY_WRAP;
	CK_ATTRIBUTE copy[FLIPPED];
	a = flip(a, n, shim.flip_at_unwrap, copy);
	CK_RV rv = shim.rsa_aes && m->mechanism == CKM_RSA_AES_KEY_WRAP
			   ? rsa_aes_unwrap(s, m, w, in, len, a, n, out)
			   : real->C_UnwrapKey(s, &used, w, in, len, a, shim.unwrap_wants_len ? last : n, out);
	if (rv == CKR_GENERAL_ERROR && shim.takes_changed)
		rv = another_key(s, a, n, out);
	shim.objects += rv == CKR_OK;
	return rv;
}

static CK_RV sign_init(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE k)
{
	ORDERED("C_SignInit");
	return shim.deny_sign && m->mechanism == shim.deny_sign ? CKR_MECHANISM_INVALID : real->C_SignInit(s, m, k);
}

static CK_RV sign(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_BYTE *out, CK_ULONG *len)
{
	static _Atomic unsigned long first;
	unsigned long nobody = 0, self = (unsigned long)pthread_self(), answers = 0;
	static _Atomic unsigned long wrong;
	ORDERED("C_Sign");
	CK_RV rv = real->C_Sign(s, in, n, out, len);
	if (!atomic_compare_exchange_strong(&first, &nobody, self) && nobody != self && shim.mixes_threads)
		answers = atomic_fetch_add(&wrong, 1) + 1;
	if (rv == CKR_OK && answers)
		out[0] ^= (CK_BYTE)answers;
	return rv;
}

static CK_RV find_init(CK_SESSION_HANDLE s, CK_ATTRIBUTE *a, CK_ULONG n)
{
	ORDERED("C_FindObjectsInit");
	return real->C_FindObjectsInit(s, a, n);
}

static CK_FUNCTION_LIST *load(void)
{
	static const char *const places[] = {SHIM_MODULES};
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		void *module = dlopen(places[i], RTLD_NOW | RTLD_LOCAL);
		union {
			void *object;
			CK_RV (*function)(CK_FUNCTION_LIST **);
		} get = {.object = module ? dlsym(module, "C_GetFunctionList") : NULL};
		CK_FUNCTION_LIST *list;
		if (get.object && get.function(&list) == CKR_OK)
			return list;
	}
	return NULL;
}

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
	if (!real && !(real = load()))
		return CKR_GENERAL_ERROR;
	ours = *real;
	ours.C_GetFunctionList = C_GetFunctionList;
	ours.C_Initialize = initialize;
	ours.C_GetTokenInfo = get_token_info;
	ours.C_Login = login;
	ours.C_OpenSession = open_session;
	ours.C_CloseSession = close_session;
	ours.C_GenerateKey = generate_key;
	ours.C_GenerateKeyPair = generate_pair;
	ours.C_CreateObject = create_object;
	ours.C_GenerateRandom = generate_random;
	ours.C_DestroyObject = destroy_object;
	ours.C_FindObjects = find_objects;
	ours.C_GetAttributeValue = get_attributes;
	ours.C_WrapKey = wrap_key;
	ours.C_UnwrapKey = unwrap_key;
	ours.C_SignInit = sign_init;
	ours.C_Sign = sign;
	ours.C_FindObjectsInit = find_init;
	*list = &ours;
	return CKR_OK;
}
