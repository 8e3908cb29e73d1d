"""An identity where its Envoy reads it."""

from __future__ import annotations

import os
import secrets

from mesh.envoy import tls
from mesh.envoy.parts import folder
from mesh.identity.folder import generation, read
from mesh.place import Place


def write_credentials(place: Place) -> str:
    """Gives the Envoy at `place` what its identity folder holds now; one that runs takes it up.

    Returns that generation's name. Raises `IdentityFolderError` if the folder holds no identity.
    """
    given = generation(place.identity)
    into = folder(place)
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in tls.secrets(read(place.identity)).items():
        fresh = into / f"{name}.{secrets.token_hex(4)}"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
        # Envoy looks when a file is moved in, not when one is written to.
        fresh.replace(into / name)
    return given
