/* SPDX-License-Identifier: Apache-2.0 */
/* How many sessions a token gives, and whether threads with one session each get right answers at the same time. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "pkcs11/probe_internal.h"

enum { SESSIONS = 64, THREADS = 4, ROUNDS = 25 };

static kt_probe_answer how_many(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	CK_SESSION_HANDLE s[SESSIONS];
	int n = 0;
	CK_RV rv = CKR_OK;
	while (n < SESSIONS && rv == CKR_OK) {
		rv = P11_RV(p->t->f, C_OpenSession, p->t->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &s[n]);
		n += rv == CKR_OK;
	}
	if (rv == CKR_OK)
		(void)snprintf(seen, KT_PROBE_SEEN, "%d and more", SESSIONS);
	else
		(void)snprintf(seen, KT_PROBE_SEEN, "%d, then %s", n, kt_p11_rv_name(rv));
	for (int i = 0; i < n; i++)
		(void)P11_RV(p->t->f, C_CloseSession, s[i]);
	return n >= THREADS ? KT_PROBE_GOOD : KT_PROBE_BAD;
}

/* One thread with its own session. */
typedef struct worker {
	kt_token token; /* the same module and slot, another session */
	int wrong;      /* answers that were not the same, or none */
	pthread_t thread;
	bool running;
} worker;

/* A key of this thread, its check value again and again: it must not change, whatever the others do. */
static void *work(void *arg)
{
	worker *w = arg;
	char first[KT_KCV_TEXT] = "", again[KT_KCV_TEXT];
	kt_p11_template tpl;
	CK_OBJECT_HANDLE key = 0;
	kt_p11_template_key(&tpl, &kt_p11_cluster_session);
	kt_code rc = kt_p11_generate(&w->token, &tpl, &kt_p11_cluster_session, &key, NULL);
	if (rc == KT_OK)
		rc = kt_p11_kcv(&w->token, key, first, NULL);
	for (int i = 0; rc == KT_OK && i < ROUNDS; i++) {
		rc = kt_p11_kcv(&w->token, key, again, NULL);
		w->wrong += rc == KT_OK && strcmp(first, again) != 0;
	}
	w->wrong += rc != KT_OK;
	kt_p11_discard(&w->token, key);
	return NULL;
}

/* Sessions for the workers, as many as the token gives. */
static int open_sessions(kt_probe *p, worker w[THREADS])
{
	int n = 0;
	CK_RV rv = CKR_OK;
	while (n < THREADS && rv == CKR_OK) {
		w[n] = (worker){.token = *p->t};
		rv = P11_RV(p->t->f, C_OpenSession, p->t->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL,
			    &w[n].token.session);
		n += rv == CKR_OK;
	}
	return n;
}

/* All at work at once; how many answers were wrong. */
static int run(worker *w, int n)
{
	int wrong = 0;
	for (int i = 0; i < n; i++)
		w[i].running = pthread_create(&w[i].thread, NULL, work, &w[i]) == 0;
	for (int i = 0; i < n; i++) {
		if (w[i].running)
			(void)pthread_join(w[i].thread, NULL);
		wrong += w[i].running ? w[i].wrong : 1;
	}
	return wrong;
}

static kt_probe_answer in_parallel(kt_probe *p, char seen[KT_PROBE_SEEN])
{
	static worker w[THREADS];
	if (!p->macs) {
		(void)snprintf(seen, KT_PROBE_SEEN, "not tried: it does no AES-CMAC to compare by");
		return KT_PROBE_SKIPPED;
	}
	int n = open_sessions(p, w);
	int wrong = n < 2 ? 0 : run(w, n);
	for (int i = 0; i < n; i++)
		(void)P11_RV(p->t->f, C_CloseSession, w[i].token.session);
	(void)snprintf(seen, KT_PROBE_SEEN,
		       n < 2 ? "not tried: there is %d session more" : "%d threads, %d wrong answers", n, wrong);
	if (n < 2)
		return KT_PROBE_SKIPPED;
	return wrong ? KT_PROBE_BAD : KT_PROBE_GOOD;
}

const kt_probe_question kt_probe_sessions[] = {
	{"sessions.open", "sessions at the same time", "4 or more", "", "it gives few sessions: keyturn works in one",
	 KT_PROBE_WARNING, .ask = how_many},
	{"sessions.parallel", "threads with a session each, at work together", "no wrong answer", "",
	 "it fails when two threads use it, each in a session of its own", KT_PROBE_UNFIT, .ask = in_parallel},
	{.id = NULL},
};
