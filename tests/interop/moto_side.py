# SPDX-License-Identifier: Apache-2.0
"""AWS's own SDK against moto's server, in the environment of moto.txt: `setup` makes a key with an alias and prints its ARN; `another` one without;
`arn ALIAS` prints that of an alias's key;
`open CONTEXT`, with a wrapped key (JSON) on stdin, prints the check value of what it opens to, or the error's type."""
import base64
import json
import os
import sys

import boto3
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC


def main():
    kms = boto3.client("kms", endpoint_url=os.environ["AWS_ENDPOINT_URL_KMS"])
    if sys.argv[1] == "setup":
        key = kms.create_key(KeyUsage="ENCRYPT_DECRYPT", KeySpec="SYMMETRIC_DEFAULT")["KeyMetadata"]
        kms.create_alias(AliasName="alias/looker", TargetKeyId=key["KeyId"])
        print(key["Arn"])
        return
    if sys.argv[1] == "another":
        print(kms.create_key(KeyUsage="ENCRYPT_DECRYPT", KeySpec="SYMMETRIC_DEFAULT")["KeyMetadata"]["Arn"])
        return
    if sys.argv[1] == "arn":
        print(kms.describe_key(KeyId=sys.argv[2])["KeyMetadata"]["Arn"])
        return
    blob = json.load(sys.stdin)
    try:
        opened = kms.decrypt(CiphertextBlob=base64.b64decode(blob["wrapped"]), KeyId=blob["wrapping_key"]["arn"],
                             EncryptionContext={"Looker_Encryption_Context": sys.argv[2]})
    except ClientError as e:
        print(e.response["Error"]["Code"])
        return
    mac = CMAC(AES(opened["Plaintext"]))
    mac.update(bytes(16))
    print(mac.finalize()[:3].hex())


if __name__ == "__main__":
    main()
