// What the HTTP door adds to an answer by gRPC: time to the first token and to the last, medians of alternating
// requests to one stack. `npm run bench:gateway [MODEL_DIR]`; prints JSON.
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { connect } from "#packages/client";
import { Stack } from "../packages/cli/stack/stack.ts";

const model = process.argv[2] ?? fileURLToPath(new URL("../models/quickstart", import.meta.url));
const rounds = 200;
const tokens = 32;
const prompt = "Kurt Vale is";

interface Times {
  firstMs: number;
  lastMs: number;
}

const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1] ?? 0;
const rounded = (ms: number): number => Math.round(ms * 1000) / 1000;

async function timed(pieces: () => AsyncIterable<unknown>): Promise<Times> {
  const started = performance.now();
  let first: number | undefined;
  for await (const _ of pieces()) first ??= performance.now();
  return { firstMs: (first ?? started) - started, lastMs: performance.now() - started };
}

const home = mkdtempSync(join(tmpdir(), "nibble-bench-"));
const stack = await Stack.start({ config: { host: "127.0.0.1", port: 0, home, model } });
try {
  using grpc = connect({ endpoints: stack.addresses });
  const direct = () =>
    grpc.inference.generate({
      input: { case: "prompt", value: prompt },
      sampling: { maxNewTokens: tokens, ignoreEos: true },
    });
  const body = JSON.stringify({
    model: "base",
    prompt,
    max_tokens: tokens,
    temperature: 0,
    ignore_eos: true,
    stream: true,
  });
  async function* http(): AsyncGenerator<Uint8Array> {
    const url = `http://${stack.addresses.gateway}/v1/completions`;
    const answer = await fetch(url, { method: "POST", body });
    if (answer.body) yield* answer.body;
  }
  const times: Record<"grpc" | "http", Times[]> = { grpc: [], http: [] };
  for (let round = -10; round < rounds; round++) {
    const [a, b] = [await timed(direct), await timed(http)];
    if (round < 0) continue;
    times.grpc.push(a);
    times.http.push(b);
  }
  const row = (of: Times[]) => ({
    firstMs: rounded(median(of.map(({ firstMs }) => firstMs))),
    lastMs: rounded(median(of.map(({ lastMs }) => lastMs))),
  });
  const [byGrpc, byHttp] = [row(times.grpc), row(times.http)];
  const added = { firstMs: rounded(byHttp.firstMs - byGrpc.firstMs), lastMs: rounded(byHttp.lastMs - byGrpc.lastMs) };
  const machine = `${cpus()[0]?.model ?? "?"}, ${cpus().length} cores`;
  process.stdout.write(
    `${JSON.stringify({ machine, model, rounds, tokens, grpc: byGrpc, http: byHttp, added }, null, 2)}\n`,
  );
} finally {
  await stack.stop();
  rmSync(home, { recursive: true, force: true });
}
