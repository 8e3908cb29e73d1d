"""A process that calls `xds:///greeter` with grpcio's own client, as often as it is told to.

Each line of its input is a number of calls; it answers with JSON: how many each backend answered,
and how many failed. GRPC_XDS_BOOTSTRAP says where the control plane is.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

import grpc


def main() -> None:
    """Until the input ends."""
    with grpc.insecure_channel("xds:///greeter") as channel:
        call = channel.unary_unary("/test.v1.Greeter/Who")
        for line in sys.stdin:
            answers: Counter[str] = Counter()
            for _ in range(int(line)):
                try:
                    answers[call(b"", timeout=20, wait_for_ready=True).decode()] += 1
                except grpc.RpcError as error:
                    answers[f"failed: {error}"] += 1
            print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
