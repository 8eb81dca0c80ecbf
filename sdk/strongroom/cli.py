"""The command line: `strongroom`."""

from __future__ import annotations

import click

from strongroom.commands.account import login, logout, whoami
from strongroom.commands.audit import audit
from strongroom.commands.batch import batch
from strongroom.commands.context import StrongroomGroup
from strongroom.commands.invoice import invoice, verify_invoice
from strongroom.commands.key import keys
from strongroom.commands.model import init, model, publish, push, versions
from strongroom.commands.payout import payout, verify_payout
from strongroom.commands.predict import predict, prediction, submit
from strongroom.commands.receipt import receipt, verify_receipt
from strongroom.commands.signing_key import signing_keys
from strongroom.commands.version import recover, reseal


@click.group(cls=StrongroomGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="strongroom")
def main() -> None:
    """Sell predictions, keep the weights.

    Creators: login, init, push, publish. Models are sealed on this machine; the platform
    receives only ciphertext; `audit` shows who was given the key. Consumers: keys create,
    predict, submit, prediction, batch, invoice, verify-invoice. Both: receipt, verify-receipt.
    Creators are paid: payout, verify-payout.

    Exit codes: 0 done, 1 refused, 2 wrong use.
    """


for command in (recover, reseal):
    model.add_command(command)
_COMMANDS = (
    *(login, logout, whoami, signing_keys),
    *(init, push, versions, publish, model),
    *(predict, submit, prediction, batch, keys, audit),
    *(receipt, verify_receipt, invoice, verify_invoice, payout, verify_payout),
)
for command in _COMMANDS:
    main.add_command(command)

if __name__ == "__main__":
    main()
