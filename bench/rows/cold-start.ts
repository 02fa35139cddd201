// From the start of the inference service's process to the first token that a client gets, beside node-llama-cpp from the start
// of its own process to its first token, with no network between. Files are in the page cache, compiled sources as the
// environment says (NODE_COMPILE_CACHE; npm's scripts set it).
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { connect } from "#packages/client";
import { secondsToFirstByte } from "../harness/child.ts";
import { alternate } from "../harness/compare.ts";
import { peerScript } from "../harness/peers.ts";

export interface ColdStart {
  modelDir: string;
  /** For the service's adapters: nothing is written there. */
  dir: string;
  threads: number;
  dtype: "float32" | "bfloat16";
  runs: number;
  /** node-llama-cpp's entry and a file of the same shape; null: without. */
  peer: { entry: string; gguf: string } | null;
}

async function secondsToServed({ modelDir, dir, threads, dtype }: ColdStart): Promise<number> {
  const main = fileURLToPath(new URL("../../services/inference/main.ts", import.meta.url));
  const settings = { MODEL: modelDir, DIR: dir, PORT: "0", THREADS: String(threads), DTYPE: dtype };
  const env = Object.fromEntries(Object.entries(settings).map(([key, value]) => [`NIBBLE_INFERENCE_${key}`, value]));
  const started = performance.now();
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", main], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "exit");
  try {
    for await (const text of createInterface({ input: child.stdout })) {
      const { msg, address } = JSON.parse(text) as { msg: string; address?: string };
      if (msg === "listening" && address !== undefined) return ((await firstToken(address)) - started) / 1000;
    }
    throw new Error(`${main}: ended before it listened`);
  } finally {
    child.kill("SIGTERM");
    await ended;
  }
}

/** When it came, by performance.now(). */
async function firstToken(endpoint: string): Promise<number> {
  using clients = connect({ endpoint });
  const input = { case: "inputIds" as const, value: { ids: [1, 2, 3, 4] } };
  for await (const { event } of clients.inference.generate({ input, sampling: { maxNewTokens: 1, ignoreEos: true } })) {
    if (event.case === "token") return performance.now();
  }
  throw new Error("expected a token, got none");
}

export async function coldStart(setting: ColdStart): Promise<{ figures: Record<string, number>; text: string }> {
  const { peer, threads, runs } = setting;
  const subjects = [{ name: "served", measure: () => secondsToServed(setting) }];
  if (peer) {
    const args = [peerScript("first_token.mjs"), peer.entry, peer.gguf, String(threads)];
    subjects.push({ name: "peer", measure: () => secondsToFirstByte({ file: process.execPath, args }) });
  }
  for (const { measure } of subjects) await measure();
  const [seconds = Number.NaN, peerSeconds] = (await alternate(subjects, runs)).map((series) => series.median);
  const mine = `process start to first token of a client: ${seconds.toFixed(2)} s`;
  if (peerSeconds === undefined) return { figures: { seconds }, text: mine };
  const ratio = seconds / peerSeconds;
  const text = `${mine}, node-llama-cpp in its process ${peerSeconds.toFixed(2)} s (${ratio.toFixed(2)} ×, goal ≤ 1.2)`;
  return { figures: { seconds, peerSeconds, ratio }, text };
}
