"""``safediff sign``: who released these files."""

from pathlib import Path
from typing import Annotated

import typer


def sign(
    release: Annotated[Path, typer.Argument(metavar="RELEASE", help="Release folder.")],
    key: Annotated[
        Path, typer.Option(metavar="FILE", help="Elliptic-curve private key, PEM, no password.")
    ],
) -> None:
    """Sign a release with a local key, offline (OpenSSF Model Signing).

    Its files must match its checksums. The signature is checked by: safediff verify --certificate
    FILE --public-key PEM RELEASE.
    """
    from safediff.errors import UsageError
    from safediff.release.certificate import CERTIFICATE_NAME
    from safediff.release.certificate_schema import read_certificate
    from safediff.release.checksums import verify_checksums
    from safediff.release.signing import sign_release

    if not (release / CERTIFICATE_NAME).is_file():
        raise UsageError(f"{release}: holds no {CERTIFICATE_NAME}", "give a release folder")
    read_certificate(release / CERTIFICATE_NAME)
    verify_checksums(release)
    print(f"signed   {sign_release(release, key)}")
