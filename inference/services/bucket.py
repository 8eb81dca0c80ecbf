"""The bucket that ciphertext lies in: make it where it is missing, and look at how it is kept.

It is private, and has no versioning: every object is written once under a name of its own, and
one that is deleted (a withdrawn upload, an account that leaves) must be gone, not hidden.
"""

from __future__ import annotations

import logging
from typing import Any

from botocore.exceptions import ClientError

from inference.services.s3_storage import FAILURES

logger = logging.getLogger(__name__)

# Answers of compatible stores that do not know a request.
UNKNOWN_CODES = frozenset({"NotImplemented", "MethodNotAllowed", "MalformedXML", "XNotImplemented"})
# Where a bucket is made without saying so.
REGION_DEFAULT = "us-east-1"


class BucketError(Exception):
    """The bucket is not there, or is not ours to use."""


def ensure_bucket(client: Any, name: str) -> bool:
    """Make a bucket if there is none, closed to the public; safe to run again.

    Args:
        client: Of botocore, for S3.
        name: Of the bucket.

    Returns:
        Whether it was made just now.

    Raises:
        BucketError: It belongs to others, keeps old versions, or the store does not answer.
    """
    try:
        is_new = not _exists(client, name)
        if is_new:
            _make(client, name)
        _close(client, name)
        versioning = _get_versioning(client, name)
    except FAILURES as error:
        raise BucketError(f"the bucket {name}: {error}") from error
    if versioning == "Enabled":
        raise BucketError(
            f"the bucket {name} keeps old versions: what is deleted would stay. Suspend versioning"
        )
    return is_new


def _exists(client: Any, name: str) -> bool:
    try:
        client.head_bucket(Bucket=name)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status == 404:
            return False
        if status == 403:
            detail = "is somebody else's, or these credentials may not use it"
            raise BucketError(f"the bucket {name} {detail}") from error
        raise
    return True


def _make(client: Any, name: str) -> None:
    region = client.meta.region_name or REGION_DEFAULT
    place = {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        client.create_bucket(Bucket=name, **({} if region == REGION_DEFAULT else place))
    except ClientError as error:
        # Another one made it in this moment.
        if error.response["Error"].get("Code") != "BucketAlreadyOwnedByYou":
            raise


def _close(client: Any, name: str) -> None:
    blocks = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    try:
        client.put_public_access_block(
            Bucket=name, PublicAccessBlockConfiguration=dict.fromkeys(blocks, True)
        )
    except ClientError as error:
        if error.response["Error"].get("Code") not in UNKNOWN_CODES:
            raise
        logger.warning("this store has no blocks against public access: give %s no policy", name)


def _get_versioning(client: Any, name: str) -> str:
    try:
        return str(client.get_bucket_versioning(Bucket=name).get("Status", ""))
    except ClientError as error:
        if error.response["Error"].get("Code") not in UNKNOWN_CODES:
            raise
        return ""
