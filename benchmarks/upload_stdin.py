"""Streams standard input into one S3 object, as `aws s3 cp - s3://BUCKET/KEY` does: upload_stdin.py BUCKET KEY

The endpoint and the keys come from the AWS_... variables of the environment.
"""

import sys

import boto3
from botocore.client import Config


def main() -> None:
    """Upload in boto3's default parts; memory stays bounded whatever the size."""
    bucket, key = sys.argv[1:]
    client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
    client.upload_fileobj(sys.stdin.buffer, bucket, key)


if __name__ == "__main__":
    main()
