"""The secret that names are hidden with: `keys/private/pseudonyms.secret`, 32 bytes, 0600, made once.

Where it is lost, the robot is a new one to whoever receives its bundles. A backup does not hold it, as it holds no
private keys.
"""

from __future__ import annotations

import os

from continuonbrain.cloud.errors import ExportRefused
from continuonbrain.cloud.privacy import SECRET_BYTES, Pseudonyms
from continuonbrain.storage.durable import remove_staging_leftovers, write_bytes_durably
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.owned_file import make_folder, read_owned
from continuonbrain.storage.trusted_keys import TrustedKeys


def pseudonyms_of(layout: BrainLayout) -> Pseudonyms:
    """The pseudonyms of a root; the first call makes its secret.

    Raises:
        ExportRefused: the file is damaged. FileNotSafeError, LockHeldError, OSError.
    """
    path = layout.pseudonyms_path
    make_folder(path.parent, private=True)
    with TrustedKeys(layout).lock("read the secret of pseudonyms"):
        try:
            secret = read_owned(path, private=True)
        except FileNotFoundError:
            remove_staging_leftovers(path.parent)
            secret = os.urandom(SECRET_BYTES)
            write_bytes_durably(path, secret, mode=0o600)
    if len(secret) != SECRET_BYTES:
        raise ExportRefused(
            f"{path} has {len(secret)} bytes, not {SECRET_BYTES}",
            remedy=f"restore it; or remove it, and this robot gets new pseudonyms: rm {path}",
        )
    return Pseudonyms(secret)
