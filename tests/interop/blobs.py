# SPDX-License-Identifier: Apache-2.0
"""Wrapped keys by docs/FORMATS.md, section 5, and the openssl program; nothing of keyturn's code is in this file."""
import base64
import hashlib
import os
import struct

from ktlab import process

AES = ("rfc5649", "rfc3394")
RSA = ("rsa-oaep-sha256", "rsa-oaep-sha1", "rsa-aes-sha256", "rsa-aes-sha1")
NONCE = bytes(range(16))
IVS = {"rfc5649": "A65959A6", "rfc3394": "A6A6A6A6A6A6A6A6"}
CIPHERS = {"rfc5649": "-id-aes256-wrap-pad", "rfc3394": "-id-aes256-wrap"}


class Openssl:
    """The openssl program; what it reads and writes goes through files of a test's own folder."""

    def __init__(self, folder):
        self.folder, self.count = str(folder), 0

    def file(self, content=b""):
        self.count += 1
        path = os.path.join(self.folder, f"{self.count}")
        with open(path, "wb") as f:
            f.write(content)
        return path

    def run(self, *arguments, check=True):
        return process.run(["openssl", *arguments], check=check)

    def _through(self, content, *arguments):
        """What it makes of `content`; None when it refuses."""
        out = self.file()
        done = self.run(*arguments, "-in", self.file(content), "-out", out, check=False)
        with open(out, "rb") as f:
            return f.read() if done.returncode == 0 else None

    def cmac(self, key, content):
        done = self.run("mac", "-cipher", "AES-256-CBC", "-macopt", f"hexkey:{key.hex()}", "-in", self.file(content), "CMAC")
        return bytes.fromhex(done.stdout.strip())

    def mac_key(self, key):
        """What MACs and proofs are made under: SP 800-108 in counter mode with AES-CMAC."""
        done = self.run("kdf", "-keylen", "32", "-kdfopt", "mac:CMAC", "-kdfopt", "cipher:AES-256-CBC", "-kdfopt", f"hexkey:{key.hex()}",
                        "-kdfopt", "salt:keyturn-mac/1", "-kdfopt", "mode:counter", "KBKDF")
        return bytes.fromhex(done.stdout.strip().replace(":", ""))

    def aes_wrap(self, form, wrapping, key):
        return self._through(key, "enc", "-e", CIPHERS[form], "-K", wrapping.hex(), "-iv", IVS[form])

    def aes_unwrap(self, form, wrapping, wrapped):
        return self._through(wrapped, "enc", "-d", CIPHERS[form], "-K", wrapping.hex(), "-iv", IVS[form])

    @staticmethod
    def _oaep(form):
        name = "sha256" if form.endswith("sha256") else "sha1"
        return [option for setting in ("rsa_padding_mode:oaep", f"rsa_oaep_md:{name}", f"rsa_mgf1_md:{name}")
                for option in ("-pkeyopt", setting)]

    def rsa_wrap(self, form, public, key):
        if form.startswith("rsa-oaep"):
            return self._through(key, "pkeyutl", "-encrypt", "-pubin", "-inkey", public, *self._oaep(form))
        ephemeral = os.urandom(32)
        return (self._through(ephemeral, "pkeyutl", "-encrypt", "-pubin", "-inkey", public, *self._oaep(form))
                + self.aes_wrap("rfc5649", ephemeral, key))

    def rsa_unwrap(self, form, private, wrapped):
        if form.startswith("rsa-oaep"):
            return self._through(wrapped, "pkeyutl", "-decrypt", "-inkey", private, *self._oaep(form))
        ephemeral = self._through(wrapped[:-40], "pkeyutl", "-decrypt", "-inkey", private, *self._oaep(form))
        return ephemeral and self.aes_unwrap("rfc5649", ephemeral, wrapped[-40:])

    def rsa_pair(self, bits=2048):
        """(private, public): paths of PEM files."""
        private, public = self.file(), self.file()
        self.run("genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}", "-out", private)
        self.run("pkey", "-in", private, "-pubout", "-out", public)
        return private, public

    def spki_sha256(self, public):
        der = self.file()
        self.run("pkey", "-pubin", "-in", public, "-outform", "DER", "-out", der)
        with open(der, "rb") as f:
            return hashlib.sha256(f.read()).hexdigest()

    def kcv(self, key):
        return self.cmac(key, bytes(16))[:3].hex()

    def proof(self, key):
        return self.cmac(self.mac_key(key), b"interop\0" + NONCE).hex()

    def mac(self, key, blob):
        return self.cmac(self.mac_key(key), mac_input(blob)).hex()


def mac_input(blob):
    """The bytes that the MAC is over (FORMATS.md, section 5)."""
    def text(*path):
        value = blob
        for name in path:
            value = value.get(name, "" if name == path[-1] else {})
        return value.encode()

    fields = [text("purpose"), text("format"), text("mechanism"), bytes.fromhex(blob.get("mechanism_id", "00000000")),
              *(text("token", name) for name in ("label", "manufacturer", "serial", "model")),
              *(text("wrapping_key", name) for name in ("label", "id", "kcv", "spki_sha256")),
              text("key", "type"), struct.pack(">I", blob["key"]["bits"]), text("key", "kcv"), text("key", "kcv_method"),
              text("run"), text("node"), text("custodian"), base64.b64decode(blob["wrapped"])]
    return b"keyturn-blob/2\0" + b"".join(struct.pack(">H", len(field)) + field for field in fields)


def make(openssl, key, purpose, form, wrapped, wrapping_key, **address):
    """A whole blob around bytes that another program wrapped."""
    blob = {"v": 2, "purpose": purpose, "format": form, "mechanism": "another program", "wrapping_key": wrapping_key,
            "key": {"type": "aes", "bits": 256, "kcv": openssl.kcv(key), "kcv_method": "cmac-zero16"}, **address,
            "wrapped": base64.b64encode(wrapped).decode()}
    blob["mac"] = openssl.mac(key, blob)
    return blob


def escrow(openssl, key, form, wrapped, wrapping_kcv, label="", key_id=""):
    return make(openssl, key, "escrow", form, wrapped, {"label": label, "id": key_id, "kcv": wrapping_kcv}, run="R1")


def custodian(openssl, key, form, wrapped, public):
    return make(openssl, key, "custodian", form, wrapped, {"spki_sha256": openssl.spki_sha256(public)}, run="R1",
                custodian="alice")


def transport(openssl, key, form, wrapped, public):
    return make(openssl, key, "transport", form, wrapped, {"spki_sha256": openssl.spki_sha256(public)}, run="R1",
                node="web01")
