/* SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <stdlib.h>

#include "tests/unit/pkcs11/shim.h"
#include "tests/unit/support.h"

shim_control *shim_get(const char *path)
{
	/* The same file is loaded once in a process: this is the block that p11-kit's module uses. It stays loaded. */
	static void *module;
	if (!module)
		module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!module)
		fail_msg("the shim %s cannot be loaded: %s", path, dlerror());
	shim_control *control = dlsym(module, "shim");
	assert_non_null(control);
	*control = (shim_control){0};
	return control;
}
