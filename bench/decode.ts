// Times 4-bit inference as it is served: prefill of a prompt, and decoding for one and for several sequences,
// beside the bound that memory sets (a stream copy) and beside other programs in alternating runs.
//   npm run bench:decode -- --model DIR [--prompt 128,1024 --batch 1,16 --new 64] [--dtype bfloat16] [--json]
//     [--peer 'NAME=COMMAND']...
// A peer is a command that takes two more arguments, prompt and new tokens, and whose last line is JSON with
// prefill_tok_s and decode_tok_s.
import { spawnSync } from "node:child_process";
import { availableParallelism, cpus } from "node:os";
import { parseArgs } from "node:util";
import { chooseIsa, convert, type Isa, isa, setThreadCount, supportedIsas, Tensor } from "#native";
import { elementsOf, llamaWeights, openModelFolder } from "#packages/hub";
import { ServedModel } from "../packages/engine/served-model.ts";
import { median } from "./harness/compare.ts";

const { values: options } = parseArgs({
  options: {
    model: { type: "string" },
    prompt: { type: "string", default: "128,1024" },
    batch: { type: "string", default: "1,16" },
    new: { type: "string", default: "64" },
    threads: { type: "string", default: String(availableParallelism()) },
    dtype: { type: "string", default: "bfloat16" },
    isa: { type: "string", default: isa() },
    runs: { type: "string", default: "5" },
    peer: { type: "string", multiple: true, default: [] },
    json: { type: "boolean", default: false },
  },
});
if (options.model === undefined) throw new Error("--model: expected the folder of a model");
if (!(supportedIsas() as string[]).includes(options.isa)) throw new Error(`this machine has no ${options.isa}`);
const modelDir = options.model;
const dtype = options.dtype === "float32" ? "float32" : "bfloat16";
const numbersOf = (list: string) => list.split(",").filter(Boolean).map(Number);
const [prompts, batches] = [numbersOf(options.prompt), numbersOf(options.batch)];
const [runs, newTokens] = [Number(options.runs), Number(options.new)];
const decodePrompt = 128; // tokens before the decoded ones
const longest = Math.max(...prompts, decodePrompt + newTokens);
const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };

/** What one run took: seconds on the clock, and seconds that cores worked. */
interface Taken {
  wall: number;
  cores: number;
}

/** A subject of the bench: its samples, in tokens a second, one a run. */
interface Row {
  what: string;
  tokens: number;
  takeOne: () => Promise<Taken>;
  taken: Taken[];
  peers: Record<string, number[]>;
  /** How a peer names the same; null where it has nothing like it. */
  peerField: "prefill_tok_s" | "decode_tok_s" | null;
  prompt: number;
}

function watch(): () => Taken {
  const [started, used] = [performance.now(), process.cpuUsage()];
  return () => {
    const { user, system } = process.cpuUsage(used);
    return { wall: (performance.now() - started) / 1e3, cores: (user + system) / 1e6 };
  };
}

const idsOf = (count: number, seed: number) => Array.from({ length: count }, (_, i) => 3 + ((i * 7919 + seed) % 30000));

/** Seconds to the first token of one prompt. */
async function prefill(model: ServedModel, prompt: number): Promise<Taken> {
  const stop = watch();
  const request = { inputIds: idsOf(prompt, 0), maxNewTokens: 1, sampling: greedy, adapterId: null };
  await model.generate(
    { ...request, ignoreEos: true, wantLogits: false, wantLogprobs: false },
    () => {},
    new AbortController().signal,
  );
  return stop();
}

/** Seconds from the first tokens of all sequences to their last. */
async function decode(model: ServedModel, batch: number): Promise<Taken> {
  let left = batch;
  let stop = watch();
  const onToken = () => {
    if (--left === 0) stop = watch();
  };
  const answers = Array.from({ length: batch }, (_, i) => {
    const request = { inputIds: idsOf(decodePrompt, i), maxNewTokens: newTokens + 1, sampling: greedy };
    const input = { ...request, adapterId: null, ignoreEos: true, wantLogits: false, wantLogprobs: false };
    return model.generate(input, onToken, new AbortController().signal);
  });
  await Promise.all(answers);
  return stop();
}

/** Bytes a second of a copy by all threads, reads and writes counted; the best of several. */
function streamCopy(): number {
  const count = 64 << 20;
  const at = { device: "cpu", kind: "workspace" } as const;
  const [x, y] = [Tensor.empty("float32", [count], at).zero(), Tensor.empty("float32", [count], at).zero()];
  const seconds = Array.from({ length: 5 }, () => {
    const stop = watch();
    convert(x, y);
    return stop().wall;
  });
  for (const t of [x, y]) t.free();
  return (8 * count) / Math.min(...seconds);
}

/** Bytes that a step reads: the 4-bit layers and the head. */
function bytesOfStep(model: ServedModel): number {
  using folder = openModelFolder(modelDir);
  const { config } = folder;
  const layers = (model.info.linearParameters * model.info.bitsPerParameter) / 8;
  const name = config.tieWordEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  const shape = llamaWeights(config).get(name);
  const stored = folder.tensors.get(name)?.info.byteLength;
  return layers + (stored ?? 2 * (shape ? elementsOf(shape) : 0));
}

function runPeer(command: string, prompt: number): Record<string, unknown> {
  const { stdout, status } = spawnSync("sh", ["-c", `${command} ${prompt} ${newTokens}`], { encoding: "utf8" });
  const last = stdout.trim().split("\n").at(-1) ?? "";
  if (status !== 0 || !last.startsWith("{")) throw new Error(`peer: expected a line of JSON from ${command}`);
  return JSON.parse(last);
}

const peers = options.peer.map((p) => ({ name: p.slice(0, p.indexOf("=")), command: p.slice(p.indexOf("=") + 1) }));

function rowsOf(model: ServedModel): Row[] {
  const fill = prompts.map((prompt): Row => {
    const takeOne = () => prefill(model, prompt);
    const subject = { what: `prefill ${prompt}`, tokens: prompt, takeOne, prompt };
    return { ...subject, taken: [], peers: {}, peerField: "prefill_tok_s" };
  });
  const steps = batches.map((batch): Row => {
    const takeOne = () => decode(model, batch);
    const subject = { what: `decode ${batch}`, tokens: batch * newTokens, takeOne, prompt: decodePrompt };
    return { ...subject, taken: [], peers: {}, peerField: batch === 1 ? "decode_tok_s" : null };
  });
  return [...fill, ...steps];
}

/** One round: each subject once, and each peer once for each prompt length. */
async function round(rows: readonly Row[], keep: boolean): Promise<void> {
  for (const row of rows) {
    const taken = await row.takeOne();
    if (keep) row.taken.push(taken);
  }
  for (const { name, command } of keep ? peers : []) {
    for (const prompt of new Set(rows.filter((r) => r.peerField).map((r) => r.prompt))) {
      const result = runPeer(command, prompt);
      for (const row of rows.filter((r) => r.prompt === prompt && r.peerField)) {
        const seen = row.peers[name] ?? [];
        row.peers[name] = [...seen, Number(result[row.peerField ?? ""])];
      }
    }
  }
}

chooseIsa(options.isa as Isa);
setThreadCount(Number(options.threads));
const most = Math.max(...batches, 1);
const model = ServedModel.open({
  modelDir,
  device: "cpu",
  dtype,
  quant: { type: "nf4", blockSize: 64, doubleQuant: true },
  sequencesMax: most,
  stepTokensMax: Math.max(longest, most * decodePrompt),
  cacheTokensMax: most * (longest + 32),
  waitingMax: most,
});
const rows = rowsOf(model);
await round(rows, false);
for (let i = 0; i < runs; i++) await round(rows, true);
const [copy, bytes] = [streamCopy(), bytesOfStep(model)];
const bound = copy / bytes;
const results = rows.map(({ what, tokens, taken, peers: others }) => ({
  what,
  tokensPerSecond: tokens / median(taken.map((t) => t.wall)),
  tokensPerCoreSecond: tokens / median(taken.map((t) => t.cores)),
  ratios: Object.fromEntries(
    Object.entries(others).map(([name, values]) => [name, tokens / median(taken.map((t) => t.wall)) / median(values)]),
  ),
}));
const machine = { cpu: cpus()[0]?.model.trim(), threads: Number(options.threads), isa: isa(), dtype, runs };
if (options.json) {
  process.stdout.write(
    `${JSON.stringify({ ...machine, copyBytesPerSecond: copy, bytesOfStep: bytes, boundTokensPerSecond: bound, results })}\n`,
  );
} else {
  process.stdout.write(`${Object.values(machine).join(", ")}\n`);
  process.stdout.write(
    `copy ${(copy / 1e9).toFixed(1)} GB/s, ${(bytes / 1e6).toFixed(0)} MB a step: bound ${bound.toFixed(0)} tokens/s\n`,
  );
  for (const { what, tokensPerSecond: rate, tokensPerCoreSecond: each, ratios } of results) {
    const beside = Object.entries(ratios).map(([name, ratio]) => `${ratio.toFixed(2)} x ${name}`);
    const share = what === "decode 1" ? [`${((100 * rate) / bound).toFixed(0)} % of the bound`] : [];
    process.stdout.write(
      `${[`${what.padEnd(14)}${rate.toFixed(1).padStart(9)} tokens/s, ${each.toFixed(1)} a core's second`, ...share, ...beside].join(", ")}\n`,
    );
  }
}
model.free();
