#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints one value of a vault: misc/get_key.py VAULT KEY"""

import os
import sys
from pathlib import Path

# The vault's password is where ansible.cfg beside this directory says, from anywhere.
os.environ.setdefault("ANSIBLE_CONFIG", str(Path(__file__).resolve().parent.parent / "ansible.cfg"))

from ansible import constants
from ansible.cli import CLI
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    vault, key = sys.argv[1:]
    loader = DataLoader()
    try:
        CLI.setup_vault_secrets(loader, constants.DEFAULT_VAULT_IDENTITY_LIST)
        values = loader.load_from_file(vault)
    except AnsibleError as error:
        sys.exit(f"{vault}: {error}")
    if key not in (values or {}):
        sys.exit(f"{vault} has no {key}; it has {', '.join(values or {})}")
    print(values[key])


main()
