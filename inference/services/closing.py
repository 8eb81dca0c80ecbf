"""What deleting an account means for what runs; see `marketplace.services.closing`."""

from __future__ import annotations

from django.db import connection
from django.db.models import QuerySet

from inference.models import (
    AlertChannel,
    AlertRule,
    APIRequest,
    Batch,
    Deployment,
    File,
    Job,
    Prediction,
    QuerySample,
    Replica,
    SharedRun,
    SigningKey,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    WebhookSecret,
)
from inference.services import batch, file, job
from inference.services.deployment import stop_deployment
from inference.services.shredding import shred_ended_model
from marketplace.models import Account, AccountDeletion, AIModel, User
from marketplace.services.closing import Closer, NotYet, Obstacle

SYSTEM_LABEL = "system:deletion"
REASON = "The account that owned the model was deleted."
# A prediction that runs is over in minutes.
RUNNING_STATES = (Prediction.State.QUEUED, Prediction.State.LEASED, Prediction.State.RUNNING)
BATCH_SIZE = 5_000


def foretell(account: Account) -> list[str]:
    """Deployments that stop, keys that are destroyed, runs that are on their way."""
    deployments = _deployments(account).count()
    told = []
    if deployments:
        told.append(f"{_count(deployments, 'deployment')} stopped.")
    sealed = AIModel.objects.filter(account=account, versions__artifact__isnull=False).distinct()
    if count := sealed.count():
        some = f"{count} sealed model{'' if count == 1 else 's'}"
        told.append(
            f"The keys of {some} are destroyed: every copy of their files here and in backups is "
            "useless then. Your own recovery key still opens your copies."
        )
    if running := _running(account):
        told.append(f"{_count(running, 'prediction')} waiting or running now canceled.")
    if batches := Batch.objects.filter(account=account).count():
        some = f"{batches} batch{'' if batches == 1 else 'es'}"
        told.append(f"{some} deleted with all results; what has not run is canceled.")
    if shared := SharedRun.objects.filter(account=account).count():
        told.append(f"{_count(shared, 'shared run')} deleted; their links stop working.")
    if hooks := WebhookEndpoint.objects.filter(account=account).count():
        told.append(f"{_count(hooks, 'webhook endpoint')} deleted; nothing is sent there.")
    if files := File.objects.filter(account=account).count():
        told.append(f"{_count(files, 'file')} deleted.")
    return told


def find_obstacles(account: Account) -> list[Obstacle]:
    """Nothing that runs stands in the way: it is stopped, or it ends by itself."""
    return []


def stop_serving(deletion: AccountDeletion) -> str:
    """Stop all deployments of the account's models."""
    found = list(_deployments(deletion.account).values_list("pk", flat=True))
    for deployment_id in found:
        stop_deployment(deployment_id=deployment_id)
    # A version that was tried out just now is in no deployment.
    Replica.objects.filter(version__model__account=deletion.account, wanted=True).update(
        wanted=False
    )
    return f"{_count(len(found), 'deployment')} stopped."


def destroy_keys(deletion: AccountDeletion) -> str:
    """Shred the keys of all models that were ever sealed here."""
    count = 0
    models = AIModel.objects.filter(account=deletion.account).select_related("account")
    for model in models.order_by("name"):
        # Only a push has a key made. Asking again for what is destroyed gets the same proof.
        if model.versions.filter(upload__isnull=False).exists():
            shred_ended_model(model=model, label=SYSTEM_LABEL, reason=REASON)
            count += 1
    return f"The keys of {count} model{'' if count == 1 else 's'} are destroyed."


def delete_contents(deletion: AccountDeletion) -> str:
    """Delete what went into predictions and came out of them, and who is told of alerts."""
    account = deletion.account
    batch.stop_batches(account)
    job.cancel_jobs(account)
    if _running(account):
        raise NotYet("A prediction is still running.")
    count = 0
    while touched := _empty_some(account):
        count += touched
    SharedRun.objects.filter(account=account).delete()
    APIRequest.objects.filter(account_id=account.pk).delete()
    QuerySample.objects.filter(account=account).delete()
    AlertChannel.objects.filter(model__account=account).delete()
    AlertRule.objects.filter(model__account=account).delete()
    _delete_webhooks(account)
    job.erase_jobs(account)
    batch.erase_batches(account)
    if file.delete_files(account):
        raise NotYet("The object store does not delete files right now.")
    return f"The contents of {count} prediction{'' if count == 1 else 's'} are deleted."


def _delete_webhooks(account: Account) -> None:
    """Events after those who are told: nobody makes a delivery of them any more."""
    WebhookEndpoint.objects.filter(account=account).delete()
    WebhookDelivery.objects.filter(account=account).delete()
    WebhookEvent.objects.filter(account_id=account.pk).delete()
    WebhookSecret.objects.filter(account=account).delete()


def forget_person(user: User, label: str, pseudonym: str) -> None:
    """Who registered a signing key."""
    SigningKey.objects.filter(registered_by=label).update(registered_by=pseudonym)


def _empty_some(account: Account) -> int:
    # One statement: an input that is null in JSON is no SQL null, and counts as content too.
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE inference_prediction SET input = NULL, output = NULL, error = ''
               WHERE id IN (SELECT id FROM inference_prediction WHERE account_id = %s
                   AND (input IS NOT NULL OR output IS NOT NULL OR error <> '') LIMIT %s)""",
            [account.pk, BATCH_SIZE],
        )
        return cursor.rowcount


def _deployments(account: Account) -> QuerySet[Deployment]:
    return Deployment.objects.filter(version__model__account=account, stopped_at=None)


def _running(account: Account) -> int:
    return Job.objects.filter(account_id=account.pk, state__in=RUNNING_STATES).count()


def _count(count: int, noun: str) -> str:
    return f"{count} {noun} is" if count == 1 else f"{count} {noun}s are"


CLOSER = Closer(
    name="inference",
    foretell=foretell,
    find_obstacles=find_obstacles,
    steps={"serving": stop_serving, "model_keys": destroy_keys, "contents": delete_contents},
    forget_person=forget_person,
)
