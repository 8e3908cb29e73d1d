"""Small contracts for tests: a sound one to break in one place each, all compiled at once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import descriptor_pb2

from mesh.contracts.compiling import compile_protos

HEAD = """\
syntax = "proto3";
package CASE;
import "google/protobuf/timestamp.proto";
import "isthmus/options/v1/options.proto";
"""

SERVICE = """\
service OrderService {
  option (isthmus.options.v1.service) = {
    workload: "orders" group: "orders" owner: "shop" runbook: "docs/orders.md"
  };
  rpc GetOrder(Order) returns (Order) {
    option idempotency_level = NO_SIDE_EFFECTS;
    option (isthmus.options.v1.method) = {
      callers: {workloads: "orders"} timeout: {seconds: 3}
      retry: {attempts: 3 per_try: {seconds: 1}} locality: LOCALITY_NEAREST
    };
  }
  rpc WatchOrders(Order) returns (stream Order) {
    option (isthmus.options.v1.method).stream_max_age.seconds = 60;
  }
}
"""

ENTITY = """\
message Order {
  option (isthmus.options.v1.entity) = {group: "orders" key: "order_id"};
  string order_id = 1;
  string title = 2 [(isthmus.options.v1.field).merge = MERGE_LATEST];
}
"""

SOUND = HEAD + SERVICE + ENTITY


def compiled(cases: Mapping[str, str]) -> dict[str, descriptor_pb2.FileDescriptorSet]:
    """One descriptor set for each case: `<name>.proto` in a package of that name."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, text in cases.items():
            (root / f"{name}.proto").write_text(text.replace("CASE", name))
        everything = compile_protos(root, [f"{name}.proto" for name in cases], root)
    own = {f"{name}.proto" for name in cases}
    sets = {}
    for name in cases:
        chosen = descriptor_pb2.FileDescriptorSet()
        chosen.file.extend(
            file for file in everything.file if file.name not in own - {f"{name}.proto"}
        )
        sets[name] = chosen
    return sets
