"""Errors of the identity package.

IdentityError
├── SpiffeError              not a name of this mesh
├── SigningRequestRefused    the CSR is not one that the authority signs
├── IssuerExpired            the issuing certificate cannot sign any longer
├── IdentityFolderError      the folder holds no usable identity
├── StatementRefused         a workload's statement was not made by whom it names
└── TokenRefused             unknown, used, expired, or of another region or authority
"""

from __future__ import annotations


class IdentityError(Exception):
    """Something about an identity is not as it must be; the message says what to do."""


class SpiffeError(IdentityError):
    """Not a name of this mesh."""


class SigningRequestRefused(IdentityError):
    """The certificate signing request is not one that the authority signs."""


class IssuerExpired(IdentityError):
    """The issuing certificate has too little time left to sign with."""


class IdentityFolderError(IdentityError):
    """The folder holds no usable identity."""


class TokenRefused(IdentityError):
    """The join token cannot be used here. What a caller is told never says which reason it was."""


class StatementRefused(IdentityError):
    """A statement was not made by whom it names, at the time that it names."""


class AuthorityUnreachable(IdentityError):
    """No authority answered: trying again makes sense."""
