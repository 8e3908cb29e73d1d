"""Operators by JSON Web Token (RFC 7519) at an edge, instead of by certificate.

The claim `sub` names the operator. The edge verifies the token, takes it off the request, and says
who calls as it does for a certificate: in `x-forwarded-client-cert`, of which it lets nothing in.
Who shows a certificate is whom that names, whatever the token says. A good token of somebody who is
no operator is refused (403, PERMISSION_DENIED).
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.rbac import v3 as rbac
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.jwt_authn import v3 as authn
from envoy_data_plane.envoy.extensions.filters.http.rbac import v3 as filter_rbac
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Empty

from mesh.access import Claim, JwtIssuer
from mesh.envoy.text import Packed
from mesh.topology import Topology

FILTER = "envoy.filters.http.jwt_authn"
LONGEST = timedelta(hours=24)
"""No token is taken that is good for longer: there is no taking it back."""
NAME = "[a-z]([a-z0-9-]*[a-z0-9])?"
"""What may follow `/operator/` in an identity. Envoy takes no repetition that is counted up to 61.
"""
_PROVIDER = "operators"
CLAIMS = "claims"
"""Where in the metadata of `FILTER` a token's claims are."""
SUBJECT = "sub"
OPERATORS = "operators"
"""The filter that asks what makes an operator, and its policy in an edge's log."""


def tokens(issuer: JwtIssuer) -> hcm.HttpFilter:
    """Refuses bad tokens (401, UNAUTHENTICATED); requests without any go on, as nobody."""
    provider = authn.JwtProvider(
        issuer=issuer.issuer,
        audiences=[issuer.audience],
        subjects=_names(),
        require_expiration=True,
        max_lifetime=LONGEST,
        local_jwks=core.DataSource(inline_string=issuer.keys),
        # Not from the query, which ends in logs.
        from_headers=[authn.JwtHeader(name="authorization", value_prefix="Bearer ")],
        payload_in_metadata=CLAIMS,
    )
    either = authn.JwtRequirementOrList(
        requirements=[
            authn.JwtRequirement(provider_name=_PROVIDER),
            authn.JwtRequirement(allow_missing=Empty()),
        ]
    )
    config = authn.JwtAuthentication(
        providers={_PROVIDER: provider},
        rules=[
            authn.RequirementRule(
                match=route.RouteMatch(prefix="/"),
                requires=authn.JwtRequirement(requires_any=either),
            )
        ],
        bypass_cors_preflight=True,
    )
    return hcm.HttpFilter(name=FILTER, typed_config=Packed(config))


def operators(claim: Claim) -> hcm.HttpFilter:
    """Refuses who comes by a token without what makes an operator."""
    role = rbac.Principal(
        or_ids=rbac.PrincipalSet(
            ids=[_claimed(claim.path, match) for v in claim.values for match in _is_or_has(v)]
        )
    )
    stranger = rbac.PrincipalSet(ids=[operator(), rbac.Principal(not_id=role)])
    policy = rbac.Policy(
        permissions=[rbac.Permission(any=True)], principals=[rbac.Principal(and_ids=stranger)]
    )
    rules = rbac.Rbac(action=rbac.RbacAction.DENY, policies={OPERATORS: policy})
    return hcm.HttpFilter(name=OPERATORS, typed_config=Packed(filter_rbac.Rbac(rules=rules)))


def operator() -> rbac.Principal:
    """Whoever showed a good token, and no certificate."""
    certified = rbac.Principal(
        authenticated=rbac.PrincipalAuthenticated(
            principal_name=matcher.StringMatcher(prefix="spiffe://")
        )
    )
    named = _whose(_names())
    return rbac.Principal(and_ids=rbac.PrincipalSet(ids=[rbac.Principal(not_id=certified), named]))


def subject(name: str) -> rbac.Principal:
    """Whoever showed a token of this operator."""
    return _whose(matcher.StringMatcher(exact=name))


def _whose(subject: matcher.StringMatcher) -> rbac.Principal:
    return _claimed((SUBJECT,), matcher.ValueMatcher(string_match=subject))


def _is_or_has(value: str) -> tuple[matcher.ValueMatcher, matcher.ValueMatcher]:
    text = matcher.ValueMatcher(string_match=matcher.StringMatcher(exact=value))
    return text, matcher.ValueMatcher(list_match=matcher.ListMatcher(one_of=text))


def _claimed(path: tuple[str, ...], value: matcher.ValueMatcher) -> rbac.Principal:
    keys = (CLAIMS, *path)
    return rbac.Principal(
        sourced_metadata=rbac.SourcedMetadata(
            metadata_matcher=matcher.MetadataMatcher(
                filter=FILTER,
                path=[matcher.MetadataMatcherPathSegment(key=key) for key in keys],
                value=value,
            )
        )
    )


def identity(topology: Topology) -> list[core.HeaderValueOption]:
    """A virtual host's `request_headers_to_add`: who the token is of, where no certificate says."""
    if topology.access.jwt is None:
        return []
    subject = f"%DYNAMIC_METADATA({FILTER}:{CLAIMS}:{SUBJECT})%"
    return [
        core.HeaderValueOption(
            header=core.HeaderValue(
                key="x-forwarded-client-cert",
                value=f"URI=spiffe://{topology.trust_domain}/operator/{subject}",
            ),
            append_action=core.HeaderValueOptionHeaderAppendAction.ADD_IF_ABSENT,
        )
    ]


def _names() -> matcher.StringMatcher:
    return matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=NAME))
