"""Signs a release and checks its signature: OpenSSF Model Signing with a local key, offline.

A signature says who released which files; what they are worth, the certificate says. ``model.sig``
is a sigstore bundle around an in-toto statement over the digests of all other files.
"""

import re
from pathlib import Path
from typing import Any

from safediff.errors import Inconclusive, UsageError
from safediff.release.checksums import SIGNATURE_NAME

INSTALL = "pip install 'safediff[sign]'"
NO_KEY = (OSError, TypeError, ValueError, AttributeError)
"""What the library raises where it can't take a key; the last one of RSA's."""
_FINDING = re.compile(
    r"Hash mismatch for '[^']+'|(?:Extra files found|Missing files) in model '[^']*': [^\"'\]]+"
)


def sign_release(release: Path, private_key: Path) -> Path:
    """Write ``model.sig`` over every other file; an earlier one is replaced.

    Args:
        release: a release whose files match its checksums.
        private_key: elliptic-curve key in PEM, without a password.

    Raises:
        UsageError: the key can't be read or is of another kind.
        Inconclusive: the signing extra is missing, or the release can't be read or written to.
    """
    signing, _ = _library()
    path = release / SIGNATURE_NAME
    temporary = release / f".{SIGNATURE_NAME}"  # written once all others were hashed
    try:
        config = signing.Config().set_hashing_config(_hashing())
        config.use_elliptic_key_signer(private_key=private_key)
    except NO_KEY as error:
        raise UsageError(
            f"{private_key}: cannot sign with this key: {_line(error)}",
            "openssl ecparam -name prime256v1 -genkey -noout -out private.pem",
        ) from error
    try:
        config.sign(release, temporary)
        temporary.chmod(0o644)  # as all other files of it, whatever the umask
        temporary.replace(path)
    except (OSError, TypeError, ValueError) as error:
        raise Inconclusive(
            f"{release}: can't be signed: {_line(error)}",
            "sign a folder without links that can be read and written to",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def check_signature(release: Path, public_key: Path) -> str | None:
    """What is wrong with the signature; None where it covers exactly these files.

    Raises:
        UsageError: the key can't be read or is of another kind.
        Inconclusive: the signing extra is missing.
    """
    _, verifying = _library()
    path = release / SIGNATURE_NAME
    if not path.exists():
        return f"{SIGNATURE_NAME} is missing, so there is no signature to check"
    try:
        config = verifying.Config().set_hashing_config(_hashing())
        config = config.use_elliptic_key_verifier(public_key=public_key)
    except NO_KEY as error:
        raise UsageError(
            f"{public_key}: not a public key: {_line(error)}",
            "openssl ec -in private.pem -pubout -out public.pem",
        ) from error
    try:
        config.verify(release, path)
    except Exception as error:  # the library raises whatever its parsers do
        return f"{SIGNATURE_NAME} does not fit files and key: {_findings(error)}"
    return None


def _hashing() -> Any:
    """All files but the signature, those of git included."""
    from model_signing import hashing

    new_config: Any = hashing.Config
    return new_config().set_ignored_paths(paths=[Path(SIGNATURE_NAME)], ignore_git_paths=False)


def _library() -> tuple[Any, Any]:
    try:
        from model_signing import signing, verifying
    except ImportError as error:
        raise Inconclusive(
            f"signatures need the signing extra, which is not installed ({error})", INSTALL
        ) from error
    return signing, verifying


def _findings(error: Exception) -> str:
    """Which files, where the library names some; without the digests that it prints raw."""
    found: list[str] = _FINDING.findall(str(error).replace("\\'", "'"))
    return "; ".join(found) or _line(error)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
