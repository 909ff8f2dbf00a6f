/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"
#include "pkcs11/internal.h"

#include <errno.h>
#include <p11-kit/p11-kit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *last_message(void)
{
	const char *text = p11_kit_message();
	return text ? text : "no reason given";
}

/* `reserved`: the parameter string that goes with a module that was loaded by path (NSS cannot do without); NULL for
 * none. Modules that p11-kit is configured for have theirs from there. */
static kt_code start(kt_p11_module *m, char *reserved, kt_err *err)
{
	CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK, .pReserved = reserved};
	kt_watch_begin("C_Initialize");
	CK_RV rv = reserved ? m->f->C_Initialize(&args) : p11_kit_module_initialize(m->f);
	kt_code rc = kt_p11_check(m->name, "C_Initialize", rv, err);
	m->ready = rc == KT_OK;
	return rc;
}

static kt_code allocate(kt_p11_modules *m, size_t n, kt_err *err)
{
	m->list = calloc(n ? n : 1, sizeof *m->list);
	return m->list ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code load_by_path(const kt_uri *uri, kt_p11_modules *m, kt_err *err)
{
	const char *path = uri->module_path;
	char reserved[sizeof uri->init_reserved]; /* PKCS#11 takes it as writable */
	static const char remedy[] = "install the PKCS#11 module of the token, or correct module-path in the URI";
	if (access(path, R_OK) != 0)
		return kt_fail(err, KT_E_HSM, remedy, "the PKCS#11 module %s cannot be loaded: %s", path,
			       strerror(errno));
	KT_TRY(allocate(m, 1, err));
	kt_watch_begin("loading the module");
	m->list[0].f = p11_kit_module_load(path, 0);
	kt_watch_end();
	if (!m->list[0].f)
		return kt_fail(err, KT_E_HSM, remedy, "the PKCS#11 module %s cannot be loaded: %s", path,
			       last_message());
	m->n = 1;
	(void)snprintf(m->list[0].name, sizeof m->list[0].name, "%s", path);
	(void)snprintf(reserved, sizeof reserved, "%s", uri->init_reserved);
	return start(&m->list[0], reserved[0] ? reserved : NULL, err);
}

/* A module that p11-kit is configured for, unless the URI names another. */
static void add_configured(CK_FUNCTION_LIST *f, const char *wanted, kt_p11_modules *m)
{
	kt_p11_module *slot = &m->list[m->n];
	kt_err why = KT_ERR_INIT;
	char *name = p11_kit_module_get_name(f);
	char *file = p11_kit_module_get_filename(f);
	if (!wanted[0] || (name && strcmp(name, wanted) == 0)) {
		slot->f = f;
		(void)snprintf(slot->name, sizeof slot->name, "%s", file ? file : name ? name : "a module");
		m->n++;
		if (start(slot, NULL, &why) != KT_OK) {
			kt_log(KT_LOG_WARN, "%s", why.msg);
			if (m->failed.code == KT_OK)
				m->failed = why;
		}
	}
	free(name);
	free(file);
}

static kt_code load_configured(const char *wanted, kt_p11_modules *m, kt_err *err)
{
	size_t n = 0;
	kt_watch_begin("loading the modules");
	m->loaded = p11_kit_modules_load(NULL, 0);
	kt_watch_end();
	if (!m->loaded)
		return kt_fail(err, KT_E_HSM, "correct p11-kit's configuration, or name the module by module-path=",
			       "the PKCS#11 modules cannot be loaded: %s", last_message());
	while (m->loaded[n])
		n++;
	KT_TRY(allocate(m, n, err));
	for (size_t i = 0; i < n; i++)
		add_configured(m->loaded[i], wanted, m);
	if (m->n == 0)
		return kt_fail(err, KT_E_HSM, "see `p11-kit list-modules`, or name the module by module-path=",
			       wanted[0] ? "p11-kit has no PKCS#11 module named \"%s\""
					 : "p11-kit has no PKCS#11 module configured%s",
			       wanted);
	return KT_OK;
}

kt_code kt_p11_modules_open(const kt_uri *uri, kt_p11_modules *out, kt_err *err)
{
	*out = (kt_p11_modules){.failed = KT_ERR_INIT};
	p11_kit_be_quiet();
	kt_code rc = uri->module_path[0] ? load_by_path(uri, out, err) : load_configured(uri->module_name, out, err);
	if (rc != KT_OK)
		kt_p11_modules_close(out);
	return rc;
}

static void stop(kt_p11_module *m)
{
	if (m->ready) {
		kt_watch_begin("C_Finalize");
		(void)kt_p11_trace("C_Finalize", p11_kit_module_finalize(m->f));
	}
	m->ready = false;
}

void kt_p11_modules_keep(kt_p11_modules *m, const CK_FUNCTION_LIST *f)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->list[i].f != f)
			stop(&m->list[i]);
}

void kt_p11_modules_close(kt_p11_modules *m)
{
	for (size_t i = 0; i < m->n; i++)
		stop(&m->list[i]);
	if (m->loaded)
		p11_kit_modules_release(m->loaded);
	else if (m->n)
		p11_kit_module_release(m->list[0].f);
	free(m->list);
	*m = (kt_p11_modules){.failed = KT_ERR_INIT};
}
