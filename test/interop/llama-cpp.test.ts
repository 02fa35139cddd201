// A GGUF file that Nibble writes, run by llama.cpp: the same prompt ids and the same greedy tokens in F16. Runs where
// node-llama-cpp is found (NIBBLE_PEERS_NODE_LLAMA: a folder with it and Node in node_modules); elsewhere it says so.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { loadTokenizer } from "#packages/data";
import { Engine } from "#packages/engine";

const peers = process.env["NIBBLE_PEERS_NODE_LLAMA"] ?? "";
const entry = join(peers, "node_modules/node-llama-cpp/dist/index.js");
const skip = peers !== "" && existsSync(entry) ? false : "no node-llama-cpp (NIBBLE_PEERS_NODE_LLAMA)";
const script = fileURLToPath(new URL("greedy_llama_cpp.mjs", import.meta.url));
const model = "models/quickstart";
const texts = ["Kurt Vale works as", "The pet of Agnes", "In the evening, 12 people met; they"];
const count = 24;
const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };

interface Peer {
  prompt: number[];
  answer: number[];
}

function ask(file: string): Peer[] {
  const run = spawnSync("node", [script, entry, file, String(count), ...texts], { encoding: "utf8" });
  assert.equal(run.status, 0, run.stderr);
  return JSON.parse(run.stdout) as Peer[];
}

describe("llama.cpp", { skip }, () => {
  const folder = mkdtempSync(join(tmpdir(), "nibble-gguf-"));
  const engine = new Engine();
  const own: Peer[] = [];

  before(async () => {
    const limits = { sequencesMax: 1, stepTokensMax: 128, cacheTokensMax: 256, waitingMax: 1 };
    const served = await engine.openModel({ modelDir: model, device: "cpu", dtype: "float32", quant: null, ...limits });
    const tokenizer = loadTokenizer(model);
    for (const text of texts) {
      const answer: number[] = [];
      const prompt = tokenizer.encode(text);
      const request = { inputIds: prompt, maxNewTokens: count, sampling: greedy, adapterId: null };
      const onEvent = ({ id }: { id: number }) => void answer.push(id);
      await served.generate({ ...request, ignoreEos: true, wantLogits: false }, { onEvent });
      own.push({ prompt, answer });
    }
    await served.close();
  });
  after(async () => {
    await engine.close();
    rmSync(folder, { recursive: true });
  });

  test("F16: the same prompt ids and the same greedy tokens", async () => {
    const outFile = join(folder, "f16.gguf");
    await engine.exportGguf({ modelDir: model, adapterDir: null, quant: null, outFile, type: "f16" });
    assert.deepEqual(ask(outFile), own);
  });

  for (const type of ["q8_0", "q4_0", "bf16", "f32"] as const) {
    test(`${type}: it loads and answers`, async () => {
      const outFile = join(folder, `${type}.gguf`);
      await engine.exportGguf({ modelDir: model, adapterDir: null, quant: null, outFile, type });
      const answers = ask(outFile);
      assert.deepEqual(
        answers.map(({ prompt, answer }) => [prompt, answer.length]),
        own.map(({ prompt }) => [prompt, count]),
      );
    });
  }
});
