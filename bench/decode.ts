// Times 4-bit inference as it is served: prefill of a prompt, and decoding for one and for several sequences,
// beside the bound that memory sets (a stream copy). Other programs are measured in turn with it by bench/rows/decode.ts.
//   npm run bench:decode -- --model DIR [--prompt 128,1024 --batch 1,16 --new 64] [--dtype bfloat16] [--json]
import { availableParallelism, cpus } from "node:os";
import { parseArgs } from "node:util";
import { chooseIsa, convert, type Isa, isa, setThreadCount, supportedIsas, Tensor } from "#native";
import { elementsOf, llamaWeights, openModelFolder } from "#packages/hub";
import { ServedModel } from "../packages/engine/served-model.ts";
import { alternate, median } from "./harness/compare.ts";

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

/** What is measured: one run of it makes so many tokens. */
interface Row {
  what: string;
  tokens: number;
  takeOne: () => Promise<Taken>;
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

function rowsOf(model: ServedModel): Row[] {
  const fill = prompts.map((prompt): Row => {
    return { what: `prefill ${prompt}`, tokens: prompt, takeOne: () => prefill(model, prompt) };
  });
  const steps = batches.map((batch): Row => {
    return { what: `decode ${batch}`, tokens: batch * newTokens, takeOne: () => decode(model, batch) };
  });
  return [...fill, ...steps];
}

/** Medians of `runs` rounds, after one that is not counted. */
async function measure(rows: readonly Row[]) {
  for (const { takeOne } of rows) await takeOne();
  const cores = rows.map((): number[] => []);
  const subjects = rows.map(({ what: name, takeOne }, i) => {
    const one = async () => {
      const taken = await takeOne();
      cores[i]?.push(taken.cores);
      return taken.wall;
    };
    return { name, measure: one };
  });
  const series = await alternate(subjects, runs);
  return rows.map(({ what, tokens }, i) => ({
    what,
    tokensPerSecond: tokens / (series[i]?.median ?? Number.NaN),
    tokensPerCoreSecond: tokens / median(cores[i] ?? []),
  }));
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
const results = await measure(rowsOf(model));
const [copy, bytes] = [streamCopy(), bytesOfStep(model)];
const bound = copy / bytes;
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
  for (const { what, tokensPerSecond: rate, tokensPerCoreSecond: each } of results) {
    const share = what === "decode 1" ? [`${((100 * rate) / bound).toFixed(0)} % of the bound`] : [];
    process.stdout.write(
      `${[`${what.padEnd(14)}${rate.toFixed(1).padStart(9)} tokens/s, ${each.toFixed(1)} a core's second`, ...share].join(", ")}\n`,
    );
  }
}
model.free();
