"""The command line: `strongroom`."""

from __future__ import annotations

import click

from strongroom.commands.account import login, logout, whoami
from strongroom.commands.context import StrongroomGroup
from strongroom.commands.key import keys
from strongroom.commands.model import init, publish, push, versions
from strongroom.commands.predict import predict


@click.group(cls=StrongroomGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="strongroom")
def main() -> None:
    """Sell predictions, keep the weights.

    Creators: login, init, push, publish. Models are sealed on this machine; the platform
    receives only ciphertext. Consumers: keys create, predict.

    Exit codes: 0 done, 1 refused, 2 wrong use.
    """


for command in (login, logout, whoami, init, push, versions, publish, predict, keys):
    main.add_command(command)

if __name__ == "__main__":
    main()
