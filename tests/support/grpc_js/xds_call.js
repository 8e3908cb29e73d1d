// A process that calls `xds:///greeter` with grpc-js-xds, as `xds_call.py` does with grpcio.
"use strict";

const readline = require("node:readline");
const grpc = require("@grpc/grpc-js");
require("@grpc/grpc-js-xds").register();

const client = new grpc.Client("xds:///greeter", grpc.credentials.createInsecure());
const bytes = (value) => value;

function call() {
  return new Promise((resolve) => {
    const deadline = Date.now() + 20000;
    client.makeUnaryRequest(
      "/test.v1.Greeter/Who",
      bytes,
      bytes,
      Buffer.alloc(0),
      new grpc.Metadata({ waitForReady: true }),
      { deadline },
      (error, answer) => resolve(error ? `failed: ${error.message}` : answer.toString()),
    );
  });
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const answers = {};
    for (let left = Number(line); left > 0; left--) {
      const answer = await call();
      answers[answer] = (answers[answer] ?? 0) + 1;
    }
    process.stdout.write(JSON.stringify(answers) + "\n");
  }
  process.exit(0);
}

main();
