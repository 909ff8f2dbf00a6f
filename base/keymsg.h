/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator of Looker knows a bad master key by; word for word as documented there. Class KT_E_KEY. */
#ifndef KT_BASE_KEYMSG_H
#define KT_BASE_KEYMSG_H

#define KT_KEYMSG_MISSING "Looker can not start because: Missing backing keystore"
#define KT_KEYMSG_SIZE                                                                                                 \
	"Looker can not start because: Size of the Master Key is invalid it must be 32 bytes however is %zu"
#define KT_KEYMSG_MODE "Looker can not start because: Permission for backing key file must be 0400, but is %04o"

#endif
