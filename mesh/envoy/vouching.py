"""Whom an edge let in, told to services by the edge's signature: `isthmus-principal-bin`.

Envoy cannot sign. So it asks its agent, who holds the same key, and keeps each answer for a minute;
a call waits for that once a minute and principal, for a millisecond. If the agent does not answer,
the call goes on without: services still know from the edge's own certificate who is behind it.
"""

from __future__ import annotations

from string import Template

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.http.lua import v3 as lua
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm

from mesh.envoy import clusters, jwt
from mesh.envoy.text import Packed
from mesh.identity.end_principals import LIFETIME, METADATA_KEY
from mesh.topology import Topology

FILTER = "envoy.filters.http.lua"
VOUCH = "/isthmus.mesh.v1.EdgeAgent/Vouch"
"""The method that the agent answers: a SPIFFE ID in, the metadata's value out, both as text."""

# Globals are a worker's own. A gRPC message is framed by a byte and its length in four.
_SCRIPT = Template(
    """\
local signed, count = {}, 0

local function who(handle)
  local tls = handle:streamInfo():downstreamSslConnection()
  if tls ~= nil and tls:peerCertificatePresented() then
    return tls:uriSanPeerCertificate()[1]
  end
  local token = handle:streamInfo():dynamicMetadata():get("$jwt")
  if token ~= nil and token["$claims"] ~= nil and token["$claims"]["$subject"] ~= nil then
    return "spiffe://$domain/operator/" .. token["$claims"]["$subject"]
  end
  return nil
end

local function ask(handle, name)
  local size = #name
  local frame = string.char(0, 0, 0, math.floor(size / 256) % 256, size % 256) .. name
  local headers, body = handle:httpCall("$cluster", {
    [":method"] = "POST", [":path"] = "$method", [":authority"] = "agent",
    ["content-type"] = "application/grpc", ["te"] = "trailers",
  }, frame, 1000)
  if headers == nil or headers[":status"] ~= "200" or body == nil or #body <= 5 then
    return nil
  end
  return string.sub(body, 6)
end

function envoy_on_request(handle)
  handle:headers():remove("$header")
  local name = who(handle)
  if name == nil then
    return
  end
  local held, now = signed[name], os.time()
  if held == nil or held.until_ <= now or held.since > now then
    if count >= $most then
      signed, count = {}, 0
    end
    if signed[name] == nil then
      count = count + 1
    end
    local value = ask(handle, name)
    -- Who got no answer asks again in a second, not with each call.
    held = {value = value, since = now, until_ = now + (value ~= nil and $renewed or 1)}
    signed[name] = held
  end
  if held.value ~= nil then
    handle:headers():add("$header", held.value)
  end
end
"""
)
_MOST = 10_000
"""Principals whose signatures a worker keeps: some 2 KB each."""


def principals(topology: Topology) -> hcm.HttpFilter:
    """The filter. What clients send under that name is dropped in any case."""
    script = _SCRIPT.substitute(
        header=METADATA_KEY,
        domain=topology.trust_domain,
        jwt=jwt.FILTER,
        claims=jwt.CLAIMS,
        subject=jwt.SUBJECT,
        cluster=clusters.APP,
        method=VOUCH,
        most=_MOST,
        renewed=int(LIFETIME.total_seconds()) // 2,
    )
    config = lua.Lua(default_source_code=core.DataSource(inline_string=script))
    return hcm.HttpFilter(name=FILTER, typed_config=Packed(config))
