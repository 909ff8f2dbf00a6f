/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/pin.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "base/file.h"

enum { CTRL_C = 3 };

static kt_code check_file(int fd, const char *path, kt_err *err)
{
	struct stat st;
	if (fstat(fd, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "the PIN file %s", path);
	if (!S_ISREG(st.st_mode))
		return kt_fail(err, KT_E_IO, "give the path of a regular file, or use fd:N",
			       "the PIN file %s is not a file", path);
	if (st.st_mode & 0007)
		return kt_fail(err, KT_E_IO, "chmod 0400 it, and change the PIN if others may have read it",
			       "the PIN file %s is open to everybody (mode %04o); the PIN was not used", path,
			       (unsigned)st.st_mode & 07777);
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return kt_fail(err, KT_E_IO, "chown it to the user that runs this",
			       "the PIN file %s belongs to user %u, not to us or root", path, (unsigned)st.st_uid);
	return KT_OK;
}

static kt_code from_file(const char *path, kt_secret *pin, kt_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "the PIN file %s", path);
	kt_code rc = check_file(fd, path, err);
	if (rc == KT_OK)
		rc = kt_secret_read_fd(pin, fd, KT_PIN_MAX + 1, path, err);
	(void)close(fd);
	return rc;
}

int kt_pin_fd(const char *source)
{
	char *end;
	if (!source || strncmp(source, "fd:", 3) != 0 || source[3] < '0' || source[3] > '9')
		return -1;
	errno = 0;
	long fd = strtol(source + 3, &end, 10);
	return *end || errno || fd > 1 << 20 ? -1 : (int)fd;
}

static kt_code from_fd(const char *source, kt_secret *pin, kt_err *err)
{
	int fd = kt_pin_fd(source);
	if (fd < 0)
		return kt_fail(err, KT_E_INPUT, "write pin-source=fd:N, as in fd:3",
			       "pin-source: no descriptor number");
	kt_code rc = kt_secret_read_fd(pin, fd, KT_PIN_MAX + 1, "the PIN's descriptor", err);
	if (fd > STDERR_FILENO)
		(void)close(fd);
	return rc;
}

/* Also where the kernel shows it: in the memory that /proc/PID/environ reads. */
static void forget_env(const char *name)
{
	char *value = getenv(name);
	if (value)
		OPENSSL_cleanse(value, strlen(value));
	(void)unsetenv(name);
}

static kt_code from_env(const char *name, kt_secret *pin, kt_err *err)
{
	char *value = getenv(name);
	if (!value || !value[0])
		return kt_fail(err, KT_E_HSM, "set it for this command; it is removed once it was read",
			       "the environment variable %.64s, which is to hold the PIN, is not set", name);
	size_t n = strlen(value);
	kt_code rc = n > KT_PIN_MAX ? kt_fail(err, KT_E_INPUT, NULL, "the PIN in %.64s is longer than %d bytes", name,
					      KT_PIN_MAX)
				    : kt_secret_copy(pin, value, n, err);
	forget_env(name);
	return rc;
}

/* One line from the terminal, without its newline. */
static kt_code read_line(int tty, kt_secret *pin, kt_err *err)
{
	KT_TRY(kt_secret_new(pin, KT_PIN_MAX, err));
	for (size_t n = 0;;) {
		char c = 0;
		ssize_t got = read(tty, &c, 1);
		if (got < 0 && errno == EINTR)
			continue;
		if (got > 0 && c == CTRL_C)
			return kt_fail(err, KT_E_INTERRUPTED, NULL, "interrupted at the PIN prompt; no PIN was used");
		if (got <= 0 || c == '\n' || n == KT_PIN_MAX) {
			pin->len = n;
			pin->data[n] = '\0';
			return got > 0 && c == '\n'
				       ? KT_OK
				       : kt_fail(err, KT_E_HSM, NULL, "no PIN was typed (1 to %d bytes)", KT_PIN_MAX);
		}
		pin->data[n++] = (uint8_t)c;
	}
}

static kt_code ask(int tty, const char *prompt, kt_secret *pin, kt_err *err)
{
	struct termios was;
	if (tcgetattr(tty, &was) != 0)
		return kt_fail_errno(err, errno, NULL, "the terminal cannot be asked for the PIN");
	struct termios quiet = was;
	/* Ctrl-C ends the line instead of the process, which would leave the terminal without echo. */
	quiet.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
	quiet.c_cc[VEOL] = CTRL_C;
	if (tcsetattr(tty, TCSAFLUSH, &quiet) != 0)
		return kt_fail_errno(err, errno, NULL, "the terminal's echo cannot be turned off");
	kt_code rc = kt_file_write_all(tty, prompt, strlen(prompt), "the terminal", err);
	if (rc == KT_OK)
		rc = read_line(tty, pin, err);
	(void)tcsetattr(tty, TCSAFLUSH, &was);
	KT_IGNORE(kt_file_write_all(tty, "\n", 1, "the terminal", NULL));
	return rc;
}

static kt_code from_terminal(const char *prompt, kt_secret *pin, kt_err *err)
{
	int tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
	if (tty < 0)
		return kt_fail(err, KT_E_HSM,
			       "add pin-source=file:/path, pin-source=fd:N or pin-source=env:NAME to the URI's query",
			       "the token needs a PIN; the URI has no pin-source and there is no terminal to ask at");
	kt_code rc = ask(tty, prompt, pin, err);
	(void)close(tty);
	return rc;
}

/* Files and pipes end in a newline that is no part of the PIN. */
static void drop_newline(kt_secret *pin)
{
	if (pin->len && pin->data[pin->len - 1] == '\n')
		pin->len--;
	if (pin->len && pin->data[pin->len - 1] == '\r')
		pin->len--;
	pin->data[pin->len] = '\0';
}

static kt_code from_source(const char *source, const char *prompt, kt_secret *pin, kt_err *err)
{
	if (!source || !source[0])
		return from_terminal(prompt, pin, err);
	if (strncmp(source, "fd:", 3) == 0)
		return from_fd(source, pin, err);
	if (strncmp(source, "env:", 4) == 0)
		return from_env(source + 4, pin, err);
	const char *path = strncmp(source, "file:", 5) == 0 ? source + 5 : source;
	if (strncmp(path, "///", 3) == 0)
		path += 2;
	if (path[0] != '/')
		return kt_fail(err, KT_E_INPUT, "use file:/absolute/path, fd:N or env:NAME",
			       "pin-source is of a kind that is not known");
	return from_file(path, pin, err);
}

kt_code kt_pin_read(const char *source, const char *prompt, kt_secret *pin, kt_err *err)
{
	*pin = KT_SECRET_INIT;
	kt_code rc = from_source(source, prompt, pin, err);
	if (rc == KT_OK) {
		drop_newline(pin);
		if (pin->len == 0 || pin->len > KT_PIN_MAX)
			rc = kt_fail(err, KT_E_HSM, "see that the pin-source of the URI holds the PIN",
				     "the PIN is empty or longer than %d bytes; it was not used", KT_PIN_MAX);
	}
	if (rc != KT_OK)
		kt_secret_free(pin);
	return rc;
}

bool kt_pin_repeatable(const char *source)
{
	return source && source[0] && strncmp(source, "fd:", 3) != 0 && strncmp(source, "env:", 4) != 0;
}

void kt_pin_handed_over(const char *source)
{
	int fd = kt_pin_fd(source);
	if (fd > STDERR_FILENO)
		(void)close(fd);
	if (source && strncmp(source, "env:", 4) == 0)
		forget_env(source + 4);
}
