/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/mechanism.h"

#include <string.h>
#include <strings.h>

#define VENDOR(n) (CKM_VENDOR_DEFINED | (n))

/*
 * Under a wrapping key RFC 5649 comes before RFC 3394 (it takes any length and says it inside), to a node SHA-256
 * before SHA-1. CKM_AES_KEY_WRAP_PAD promises nothing: RFC 5649 in SoftHSM, RFC 3394 of PKCS#7-padded bytes in NSS.
 * What is never used (kt_blob_refuse_mechanism) has no row, CloudHSM's 0x8000210A among it, which pads as no RFC does.
 */
static const kt_p11_mechanism rows[] = {
	{CKM_AES_KEY_WRAP_KWP, "CKM_AES_KEY_WRAP_KWP", KT_BLOB_RFC5649, .named = true, .tested = true,
	 .note = "PKCS#11 v3.0"},
	{CKM_AES_KEY_WRAP_PAD, "CKM_AES_KEY_WRAP_PAD", KT_BLOB_RFC5649, .tested = true,
	 .note = "RFC 5649 in SoftHSM, RFC 3394 of PKCS#7-padded bytes in NSS"},
	{VENDOR(0x216F), "CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD", KT_BLOB_RFC5649, .named = true, .maker = KT_P11_CLOUDHSM,
	 .note = "client SDK 5"},
	{VENDOR(0x171), "CKM_LUNA_AES_KWP", KT_BLOB_RFC5649, .named = true, .maker = KT_P11_LUNA, .note = "Luna 7"},
	{CKM_AES_KEY_WRAP_PAD, "CKM_AES_KEY_WRAP_PAD", KT_BLOB_RFC5649, .named = true, .maker = KT_P11_NSHIELD,
	 .note = "nShield 12.50 and later"},
	{CKM_AES_KEY_WRAP, "CKM_AES_KEY_WRAP", KT_BLOB_RFC3394, .named = true, .tested = true, .note = "PKCS#11 v2.40"},
	{VENDOR(0x2109), "CKM_CLOUDHSM_AES_KEY_WRAP_NO_PAD", KT_BLOB_RFC3394, .named = true, .maker = KT_P11_CLOUDHSM,
	 .note = "client SDK 5"},
	{VENDOR(0x170), "CKM_LUNA_AES_KW", KT_BLOB_RFC3394, .named = true, .maker = KT_P11_LUNA, .note = "Luna 7"},
	{CKM_AES_KEY_WRAP, "CKM_AES_KEY_WRAP", KT_BLOB_RFC3394, .named = true, .maker = KT_P11_NSHIELD,
	 .note = "nShield 12.50 and later"},
	{CKM_RSA_PKCS_OAEP, "CKM_RSA_PKCS_OAEP", KT_BLOB_RSA_OAEP_SHA256, .named = true, .parameter = KT_P11_OAEP,
	 .tested = true, .note = "PKCS#11 v2.40"},
	{CKM_RSA_PKCS_OAEP, "CKM_RSA_PKCS_OAEP", KT_BLOB_RSA_OAEP_SHA1, .named = true, .parameter = KT_P11_OAEP,
	 .tested = true, .note = "PKCS#11 v2.40; SoftHSM does no other hash"},
	{CKM_RSA_AES_KEY_WRAP, "CKM_RSA_AES_KEY_WRAP", KT_BLOB_RSA_AES_SHA256, .named = true,
	 .parameter = KT_P11_RSA_AES,
	 .note = "PKCS#11 v2.40; where it is missing, OAEP and RFC 5649 make the same bytes"},
	{CKM_RSA_AES_KEY_WRAP, "CKM_RSA_AES_KEY_WRAP", KT_BLOB_RSA_AES_SHA1, .named = true, .parameter = KT_P11_RSA_AES,
	 .note = "PKCS#11 v2.40; SoftHSM 2.7"},
	{CKM_RSA_AES_KEY_WRAP, "CKM_RSA_AES_KEY_WRAP", KT_BLOB_RSA_AES_SHA256, .named = true, .maker = KT_P11_YUBIHSM,
	 .parameter = KT_P11_RSA_AES, .note = "the only way to wrap to an RSA key in a YubiHSM 2"},
	{.name = NULL},
};

static const struct maker {
	const char *name;
	const char *words[5]; /* in CK_INFO's manufacturer or description, or the token's manufacturer */
} makers[KT_P11_MAKERS] = {
	[KT_P11_ANYBODY] = {"", {NULL}},
	[KT_P11_CLOUDHSM] = {"AWS CloudHSM", {"cloudhsm", "marvell", "cavium", "amazon"}},
	[KT_P11_LUNA] = {"Thales Luna", {"safenet", "chrystoki", "luna", "gemalto"}},
	[KT_P11_NSHIELD] = {"Entrust nShield", {"ncipher", "nshield", "entrust"}},
	[KT_P11_YUBIHSM] = {"YubiHSM 2", {"yubihsm"}},
};

const kt_p11_mechanism *kt_p11_mechanisms(void)
{
	return rows;
}

static bool says(const char *const *texts, const struct maker *m)
{
	for (; *texts; texts++)
		for (size_t i = 0; i < sizeof m->words / sizeof m->words[0] && m->words[i]; i++)
			if (strcasestr(*texts, m->words[i]))
				return true;
	return false;
}

kt_p11_maker kt_p11_maker_of(const char *const *texts)
{
	for (int i = 0; i < KT_P11_MAKERS; i++)
		if (says(texts, &makers[i]))
			return (kt_p11_maker)i;
	return KT_P11_ANYBODY;
}

const char *kt_p11_maker_name(kt_p11_maker maker)
{
	return maker < KT_P11_MAKERS ? makers[maker].name : "";
}

const kt_p11_mechanism *kt_p11_mechanism_of(kt_blob_format format, kt_p11_maker maker)
{
	const kt_p11_mechanism *m = rows;
	while (m->name && (m->format != format || !kt_p11_applies(m, maker)))
		m++;
	return m;
}

/* Does the maker have a row of its own for what this one is about? */
static bool has_own(const kt_p11_mechanism *mechanism, kt_p11_maker maker)
{
	for (const kt_p11_mechanism *m = rows; m->name; m++)
		if (m->maker == maker && m->type == mechanism->type && m->format == mechanism->format)
			return true;
	return false;
}

bool kt_p11_applies(const kt_p11_mechanism *mechanism, kt_p11_maker maker)
{
	if (mechanism->maker != KT_P11_ANYBODY)
		return mechanism->maker == maker;
	return maker == KT_P11_ANYBODY || !has_own(mechanism, maker);
}
