#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A server that speaks AWS KMS's protocol on loopback: it wraps, opens, and checks every signature (SigV4) by itself.

It knows nothing of keyturn: signatures, encryption contexts and key states are checked as AWS documents them. Faults
are queued: the next requests are answered with them.

As a program it prints its port, and then does a command a line on its standard input, answering each with a line:
  fault KIND N [AT] the next N requests to KMS (with AT: after so many good ones) fail so (an error type of AWS; or http500, slow, garbage, cut, drop, huge,
                    wrongkey, wrongsource, otherkek: what ReEncrypt answers is another key's ciphertext)
  state STATE       of the key: Enabled, Disabled, PendingDeletion
  deny OPERATION    this operation is denied from now on ("-": none; ReEncryptFrom and ReEncryptTo are permissions of ReEncrypt)
  count             "N OPERATION...": the requests to KMS since the last count
"""
import base64
import hashlib
import hmac
import http.server
import json
import os
import re
import sys
import threading
import time
import uuid

REGION = "eu-west-1"
ACCOUNT = "123456789012"
KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER = "aaaabbbb-12ab-34cd-56ef-1234567890ab"
SIGNING = "ccccdddd-12ab-34cd-56ef-1234567890ab"
ALIASES = {"alias/looker": KEY, "alias/other": OTHER, "alias/signing": SIGNING}
USERS = {"AKIDEXAMPLE": ("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None), "ASIATEMPORARY": ("temporary/Secret+Key", "the/Session+Token==")}
EXPIRED = "an-expired-token"
AUTHORIZATION = "container-token"
METADATA_TOKEN = "metadata-session"


def arn_of(key):
    return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key}"


class Refused(Exception):
    def __init__(self, kind, message=""):
        super().__init__(kind, message)
        self.kind, self.message = kind, message


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def mac(key, text):
    return hmac.new(key, text.encode() if isinstance(text, str) else text, hashlib.sha256).digest()


def check_signature(handler, body):
    """AWS Signature Version 4, from its documentation."""
    words = handler.headers.get("Authorization", "")
    if not words.startswith("AWS4-HMAC-SHA256 "):
        raise Refused("MissingAuthenticationTokenException")
    fields = dict(part.strip().split("=", 1) for part in words[17:].split(","))
    user, day, region, service, end = fields["Credential"].split("/")
    if user not in USERS:
        raise Refused("UnrecognizedClientException", "The security token included in the request is invalid.")
    if (region, service, end) != (REGION, "kms", "aws4_request"):
        raise Refused("InvalidSignatureException", "Credential should be scoped to a valid region.")
    secret, token = USERS[user]
    given = handler.headers.get("X-Amz-Security-Token")
    if given == EXPIRED:
        raise Refused("ExpiredTokenException", "The security token included in the request is expired")
    if given != token:
        raise Refused("UnrecognizedClientException", "The security token included in the request is invalid.")
    signed = fields["SignedHeaders"].split(";")
    if not {"host", "x-amz-date"} <= set(signed) or (token and "x-amz-security-token" not in signed) or signed != sorted(signed):
        raise Refused("InvalidSignatureException", f"headers {signed}")
    headers = "".join(f"{name}:{' '.join(handler.headers[name].split())}\n" for name in signed)
    canonical = "\n".join(["POST", handler.path, "", headers, fields["SignedHeaders"], sha256(body)])
    when = handler.headers["X-Amz-Date"]
    scope = f"{day}/{region}/{service}/aws4_request"
    key = ("AWS4" + secret).encode()
    for part in (day, region, service, "aws4_request"):
        key = mac(key, part)
    right = mac(key, "\n".join(["AWS4-HMAC-SHA256", when, scope, sha256(canonical.encode())])).hex()
    if not hmac.compare_digest(right, fields["Signature"]):
        raise Refused("InvalidSignatureException", "The request signature we calculated does not match.")


class Kms:
    """The keys. A ciphertext is id, nonce, masked key and a MAC over all that and the encryption context."""

    def __init__(self):
        self.masters = {key: os.urandom(32) for key in (KEY, OTHER, SIGNING)}
        self.states = dict.fromkeys(self.masters, "Enabled")
        self.aliases = dict(ALIASES)
        self.faults, self.asked, self.denied = [], [], "-"

    def key(self, name, usable=True):
        name = name.split(":")[-1]
        key = self.aliases.get(name, name[4:] if name.startswith("key/") else name)
        if key not in self.masters:
            raise Refused("NotFoundException", f"Alias {name} is not found.")
        if usable and self.states[key] == "Disabled":
            raise Refused("DisabledException", f"{arn_of(key)} is disabled.")
        if usable and self.states[key] != "Enabled":
            raise Refused("KMSInvalidStateException", f"{arn_of(key)} is pending deletion.")
        if usable and key == SIGNING:
            raise Refused("InvalidKeyUsageException")
        return key

    def seal(self, key, plain, context):
        nonce = os.urandom(16)
        head = key.encode() + nonce
        mask = mac(self.masters[key], b"mask" + head)
        body = head + bytes(a ^ b for a, b in zip(plain, mask))
        return body + mac(self.masters[key], body + json.dumps(context, sort_keys=True).encode())

    def open(self, key, sealed, context):
        body, tag = sealed[:-32], sealed[-32:]
        if body[:36].decode(errors="replace") in self.masters and body[:36].decode() != key:
            raise Refused("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
        if not hmac.compare_digest(tag, mac(self.masters[key], body + json.dumps(context, sort_keys=True).encode())):
            raise Refused("InvalidCiphertextException")
        return bytes(a ^ b for a, b in zip(body[52:], mac(self.masters[key], b"mask" + body[:52])))

    def create(self, ask):
        if (ask["KeySpec"], ask["KeyUsage"]) != ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT") or not ask["Description"]:
            raise Refused("ValidationException")
        key = str(uuid.uuid4())
        self.masters[key], self.states[key] = os.urandom(32), "Enabled"
        return key

    def create_alias(self, alias, target):
        if not re.fullmatch(r"alias/(?!aws/)[a-zA-Z0-9/_-]+", alias):
            raise Refused("InvalidAliasNameException")
        if alias in self.aliases:
            raise Refused("AlreadyExistsException", f"An alias with the name {alias} already exists")
        self.aliases[alias] = self.key(target)

    def permit(self, operation):
        if operation == self.denied:
            raise Refused("AccessDeniedException", f"User: arn:aws:iam::{ACCOUNT}:user/looker is not authorized to perform: kms:{operation}")

    def reencrypt(self, ask):
        source, destination = self.key(ask["SourceKeyId"]), self.key(ask["DestinationKeyId"])
        self.permit("ReEncryptFrom")
        self.permit("ReEncryptTo")
        plain = self.open(source, base64.b64decode(ask["CiphertextBlob"], validate=True), ask["SourceEncryptionContext"])
        return {"SourceKeyId": arn_of(source), "KeyId": arn_of(destination), "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                "CiphertextBlob": base64.b64encode(self.seal(destination, plain, ask["DestinationEncryptionContext"])).decode()}

    def answer(self, operation, ask):
        self.permit(operation)
        if operation == "GenerateRandom":
            return {"Plaintext": base64.b64encode(os.urandom(ask["NumberOfBytes"])).decode()}
        if operation == "ReEncrypt":
            return self.reencrypt(ask)
        context = ask.get("EncryptionContext", {})
        if operation == "CreateAlias":
            return self.create_alias(ask["AliasName"], ask["TargetKeyId"])
        if operation in ("DescribeKey", "CreateKey"):
            key = self.key(ask["KeyId"], usable=False) if operation == "DescribeKey" else self.create(ask)
            usage = ("SIGN_VERIFY", "RSA_2048") if key == SIGNING else ("ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT")
            return {"KeyMetadata": {"Arn": arn_of(key), "KeyId": key, "KeyState": self.states[key], "KeyUsage": usage[0],
                                    "KeySpec": usage[1], "Enabled": self.states[key] == "Enabled", "CreationDate": 1.5e9}}
        key = self.key(ask["KeyId"])
        if operation == "Decrypt":
            plain = self.open(key, base64.b64decode(ask["CiphertextBlob"], validate=True), context)
            return {"KeyId": arn_of(key), "Plaintext": base64.b64encode(plain).decode(), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}
        plain = base64.b64decode(ask["Plaintext"], validate=True) if operation == "Encrypt" else os.urandom(32)
        answer = {"KeyId": arn_of(key), "CiphertextBlob": base64.b64encode(self.seal(key, plain, context)).decode()}
        if operation == "GenerateDataKey":
            answer["Plaintext"] = base64.b64encode(plain).decode()
        elif operation not in ("Encrypt", "GenerateDataKeyWithoutPlaintext"):
            raise Refused("UnknownOperationException")
        return answer


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            pass  # a client that did not wait

    def reply(self, status, body, kind="application/x-amz-json-1.1", length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, kind, message):
        self.reply(500 if kind in ("KMSInternalException", "DependencyTimeoutException") else 400,
                   json.dumps({"__type": kind, "message": message}).encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kms = self.server.kms
        operation = self.headers.get("X-Amz-Target", "").removeprefix("TrentService.")
        kms.asked.append(operation)
        fault = kms.faults.pop(0) if kms.faults else None
        if fault and fault not in ("slow", "cut", "drop", "wrongkey", "wrongsource", "otherkek"):
            return self.broken(fault)
        try:
            check_signature(self, body)
            answer = kms.answer(operation, json.loads(body))
        except Refused as e:
            return self.refuse(e.kind, e.message)
        if fault == "wrongkey":
            answer["KeyId"] = arn_of(SIGNING)
        if fault == "wrongsource":
            answer["SourceKeyId"] = arn_of(SIGNING)
        if fault == "otherkek":
            ask = json.loads(body)
            answer["CiphertextBlob"] = base64.b64encode(kms.seal(kms.key(ask["DestinationKeyId"]), os.urandom(32),
                                                                 ask["DestinationEncryptionContext"])).decode()
        text = json.dumps(answer).encode() if answer else b""
        if fault == "slow":
            time.sleep(2)
        if fault == "drop":
            self.close_connection = True
            return self.reply(200, text[:len(text) // 2], length=len(text) + 10)
        return self.reply(200, text[:len(text) // 2] if fault == "cut" else text)

    def broken(self, fault):
        if fault == "http500":
            return self.reply(500, b"<html>no</html>", "text/html")
        if fault == "garbage":
            return self.reply(200, b"\x00\xff{{{ not JSON", "text/html")
        if fault == "huge":
            return self.reply(200, b'{"x":"' + b"a" * 100000 + b'"}')
        return self.refuse(fault, "said the server")

    def credentials(self):
        return json.dumps({"Code": "Success", "AccessKeyId": "ASIATEMPORARY", "SecretAccessKey": USERS["ASIATEMPORARY"][0],
                           "Token": USERS["ASIATEMPORARY"][1], "Expiration": "2099-01-01T00:00:00Z"}).encode()

    def do_PUT(self):
        if self.path != "/latest/api/token" or not self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "").isdigit():
            return self.reply(404, b"no", "text/plain")
        return self.reply(200, METADATA_TOKEN.encode(), "text/plain")

    def do_GET(self):
        role = "/latest/meta-data/iam/security-credentials/"
        if self.path == "/container":
            if self.headers.get("Authorization") != AUTHORIZATION:
                return self.reply(401, b"no", "text/plain")
            return self.reply(200, self.credentials())
        if self.path.startswith(role):
            if self.headers.get("X-aws-ec2-metadata-token") != METADATA_TOKEN:
                return self.reply(401, b"no", "text/plain")
            return self.reply(200, self.credentials()) if self.path == role + "looker-role" else self.reply(200, b"looker-role", "text/plain")
        return self.reply(404, b"no", "text/plain")


class Server:
    """with Server() as server: server.kms, server.environment."""

    def __enter__(self):
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.kms = self.kms = Kms()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    @property
    def environment(self):
        return {"AWS_ENDPOINT_URL_KMS": self.url, "AWS_REGION": REGION, "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
                "AWS_SECRET_ACCESS_KEY": USERS["AKIDEXAMPLE"][0]}


def main():
    with Server() as server:
        print(server.http.server_address[1], flush=True)
        kms = server.kms
        for line in sys.stdin:
            verb, *rest = line.split()
            answer = "ok"
            if verb == "fault":
                kms.faults = [None] * int(rest[2] if rest[2:] else 0) + [rest[0]] * int(rest[1])
            elif verb == "state":
                kms.states[KEY] = rest[0]
            elif verb == "deny":
                kms.denied = rest[0]
            elif verb == "count":
                answer = " ".join([str(len(kms.asked)), *kms.asked])
                kms.asked = []
            print(answer, flush=True)


if __name__ == "__main__":
    main()
