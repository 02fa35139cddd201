// Times the inference service as its clients see it, over gRPC on this machine: many requests at once, many adapters, twice
// the load that it sustains, what gRPC adds, a thousand adapters under a budget. Service and clients share this process's
// main thread; the engine has its own.
//   npm run bench:serve -- --model DIR [--rows concurrent,adapters,overload,grpc,zipf] [--runs 5] [--threads 2]
//     [--dtype bfloat16] [--new 48] [--seconds 15] [--json]
//   … --rows peer,cold --gguf FILE --peers-node-llama DIR     beside node-llama-cpp
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { pino } from "pino";
import { normalFill } from "#native";
import { type Connection, connect } from "#packages/client";
import { Engine } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { openModelFolder } from "#packages/hub";
import { createServer } from "#packages/rpc";
import { createAdapter, freeAdapter, saveAdapter } from "../packages/engine/lora.ts";
import { type Config, readConfig } from "../services/inference/config.ts";
import { openInference } from "../services/inference/setup.ts";
import { runJson } from "./harness/child.ts";
import { alternate, median } from "./harness/compare.ts";
import { machine } from "./harness/machine.ts";
import { nodeLlamaEntry, peerScript } from "./harness/peers.ts";
import { coldStart } from "./rows/cold-start.ts";

const { values: options } = parseArgs({
  options: {
    model: { type: "string" },
    rows: { type: "string", default: "concurrent,adapters,overload,grpc,zipf" },
    runs: { type: "string", default: "5" },
    threads: { type: "string", default: "2" },
    dtype: { type: "string", default: "bfloat16" },
    new: { type: "string", default: "48" },
    seconds: { type: "string", default: "15" },
    gguf: { type: "string" },
    "peers-node-llama": { type: "string" },
    json: { type: "boolean", default: false },
  },
});
if (options.model === undefined) throw new Error("--model: expected the folder of a model");
const modelDir = options.model;
const [runs, threads, newTokens, seconds] = [options.runs, options.threads, options.new, options.seconds].map(
  Number,
) as [number, number, number, number];
const dtype = options.dtype === "float32" ? "float32" : "bfloat16";
const promptTokens = 32;
const folder = mkdtempSync(join(tmpdir(), "nibble-serve-"));
const print = (line: string) => process.stdout.write(`${line}\n`);
const results: Record<string, Record<string, number>> = {};

function report(row: string, figures: Record<string, number>, text: string): void {
  results[row] = figures;
  if (!options.json) print(`${row.padEnd(11)} ${text}`);
}

/** Uniform in [0, 1), the same in each run of the bench. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}
const random = randomFrom(12_345);
const prompt = (length = promptTokens): number[] => Array.from({ length }, () => 3 + Math.floor(random() * 10_000));

async function withService<T>(limits: Partial<Config>, work: (clients: Connection) => Promise<T>): Promise<T> {
  const place = { dir: join(folder, "service"), modelDir, dtype, threads, registry: "127.0.0.1:1" } as const;
  const config = { ...readConfig({}), ...place, prefixCache: false, ...limits };
  const logger = pino({ enabled: false });
  const setup = await openInference(config, { now: Date.now, logger });
  const server = await createServer({ ...setup, port: 0 });
  const clients = connect({ endpoint: server.address });
  try {
    return await work(clients);
  } finally {
    clients.close();
    await server.drain(1000);
    await setup.close?.();
  }
}

interface Answered {
  tokens: number;
  /** To the first token and to the end, in milliseconds. */
  firstMs: number;
  ms: number;
}

async function ask({ inference }: Connection, adapter = "", ids = prompt(), count = newTokens): Promise<Answered> {
  const started = performance.now();
  let [tokens, firstMs] = [0, 0];
  const request = { adapter, input: { case: "inputIds", value: { ids } } as const };
  for await (const { event } of inference.generate({
    ...request,
    sampling: { maxNewTokens: count, ignoreEos: true },
  })) {
    if (event.case !== "token") continue;
    arrivals.push(performance.now());
    firstMs ||= performance.now() - started;
    tokens++;
  }
  return { tokens, firstMs, ms: performance.now() - started };
}

/** When tokens came, of all requests, in milliseconds of performance.now(). */
let arrivals: number[] = [];

/** Tokens a second from `beginMs` to `endMs`. */
function rateBetween(beginMs: number, endMs: number): number {
  return arrivals.filter((at) => at >= beginMs && at < endMs).length / ((endMs - beginMs) / 1000);
}

/** New tokens a second of requests that begin together. */
async function together(clients: Connection, adapters: readonly string[]): Promise<number> {
  const started = performance.now();
  const answers = await Promise.all(adapters.map((adapter) => ask(clients, adapter)));
  return answers.reduce((sum, { tokens }) => sum + tokens, 0) / ((performance.now() - started) / 1000);
}

const rate = (value: number) => `${value.toFixed(0)} tokens/s`;
const percent = (value: number) => `${(100 * value).toFixed(1)} %`;

async function concurrent(): Promise<void> {
  await withService({ sequencesMax: 16, cacheTokensMax: 4096 }, async (clients) => {
    await together(clients, [""]);
    const subjects = [1, 8, 16].map((n) => ({
      name: String(n),
      measure: () => together(clients, new Array<string>(n).fill("")),
    }));
    const [one, eight, sixteen] = (await alternate(subjects, runs)).map((series) => series.median) as [
      number,
      number,
      number,
    ];
    const text = `1: ${rate(one)}, 8: ${rate(eight)}, 16: ${rate(sixteen)}; 16 to 1: ${(sixteen / one).toFixed(2)}`;
    report("concurrent", { one, eight, sixteen, ratio: sixteen / one }, text);
  });
}

/** Folders of adapters with random values; B is not zero, so that every product counts. */
function makeAdapters(count: number, rank: number, targetModules: "all-linear" | readonly string[]): string[] {
  using base = openModelFolder(modelDir);
  const shape = { rank, alpha: 2 * rank, dropout: 0, useRslora: false, rankPattern: {}, alphaPattern: {} };
  return Array.from({ length: count }, (_, seed) => {
    const adapter = createAdapter({ ...shape, targetModules, baseModelNameOrPath: "" }, base.config, "cpu", seed);
    let stream = 0;
    for (const { b } of adapter.layers.values()) normalFill(b, { mean: 0, std: 0.01, seed, stream: stream++ });
    const path = join(folder, `adapter-${rank}-${seed}`);
    mkdirSync(folder, { recursive: true });
    const card = { title: "bench", summary: "", figures: [] };
    saveAdapter(path, adapter, { base: base.config, baseDigest: null, card });
    freeAdapter(adapter);
    return path;
  });
}

async function load({ inference }: Connection, adapterId: string, dir: string): Promise<string> {
  const source = { case: "adapterDir", value: dir } as const;
  return (await inference.loadAdapter({ adapterId, source })).adapter?.name ?? "";
}

async function adapters(): Promise<void> {
  const count = 32;
  const dirs = makeAdapters(count, 16, "all-linear");
  await withService({ sequencesMax: count, cacheTokensMax: 8192, adapterBytesMax: 0 }, async (clients) => {
    const names: string[] = [];
    for (const [i, dir] of dirs.entries()) names.push(await load(clients, `a${i}`, dir));
    const subjects = [
      { name: "base", measure: () => together(clients, new Array<string>(count).fill("")) },
      { name: "adapters", measure: () => together(clients, names) },
    ];
    const [base, over] = (await alternate(subjects, runs)).map((series) => series.median) as [number, number];
    const text = `32 requests over the base: ${rate(base)}, over 32 adapters of rank 16: ${rate(over)} (${percent(over / base - 1)})`;
    report("adapters", { base, over, change: over / base - 1 }, text);
  });
}

function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}

/** Lengths of answers differ, so that they do not all begin and end at once. */
const someTokens = (): number => Math.ceil(newTokens * (0.5 + random()));

/** What the service sustains: as many clients as there are places, each with the next request at once. */
async function sustained(clients: Connection, places: number): Promise<number> {
  const [begin, end] = [performance.now() + rampMs, performance.now() + seconds * 500];
  const client = async () => {
    while (performance.now() < end) await ask(clients, "", prompt(), someTokens());
  };
  await Promise.all(Array.from({ length: places }, client));
  return rateBetween(begin, end);
}

/** Until all places are taken. */
const rampMs = 2000;

async function overload(): Promise<void> {
  const places = 16;
  await withService({ sequencesMax: places, waitingMax: places, cacheTokensMax: 4096 }, async (clients) => {
    const peak = await sustained(clients, places);
    arrivals = [];
    const perSecond = (2 * peak) / newTokens;
    const [begin, end] = [performance.now() + rampMs, performance.now() + seconds * 1000];
    const asked: Promise<Answered | NibbleError>[] = [];
    while (performance.now() < end) {
      asked.push(ask(clients, "", prompt(), someTokens()).catch((thrown) => NibbleError.from(thrown)));
      await sleep((-Math.log(1 - random()) * 1000) / perSecond);
    }
    const ended = await Promise.all(asked);
    // Every token is of an answer that ends well, unless there are other errors than refusals.
    const goodput = rateBetween(begin, end);
    const answered = ended.filter((one): one is Answered => !(one instanceof NibbleError));
    const refused = ended.filter((one) => one instanceof NibbleError && one.code === "RESOURCE_EXHAUSTED").length;
    const others = ended.length - answered.length - refused;
    const times = answered.map(({ ms }) => ms);
    const [p50Ms, p99Ms] = [quantile(times, 0.5), quantile(times, 0.99)];
    const figures = { peak, goodput, share: goodput / peak, asked: ended.length, refused, others, p50Ms, p99Ms };
    const text =
      `sustained ${rate(peak)}; at twice that: ${rate(goodput)} (${percent(goodput / peak)}), ${ended.length} requests, ` +
      `${refused} refused, ${others} other errors; whole answers p50 ${p50Ms.toFixed(0)} ms, p99 ${p99Ms.toFixed(0)} ms`;
    report("overload", figures, text);
  });
}

async function grpc(): Promise<void> {
  const limits = { sequencesMax: 1, stepTokensMax: 512, cacheTokensMax: 1024, waitingMax: 4 };
  const engine = new Engine({ threads });
  const model = await engine.openModel({ modelDir, device: "cpu", dtype, quant: null, ...limits });
  const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
  const asked = { maxNewTokens: 1, sampling, adapterId: null, ignoreEos: true, wantLogits: false, wantLogprobs: false };
  const alone = async () => {
    const inputIds = prompt(128);
    const started = performance.now();
    let ms = 0;
    await model.generate({ ...asked, inputIds }, { onEvent: () => (ms ||= performance.now() - started) });
    return ms;
  };
  await withService(limits, async (clients) => {
    const served = async () => (await ask(clients, "", prompt(128), 1)).firstMs;
    await alone();
    await served();
    const series = await alternate(
      [
        { name: "engine", measure: alone },
        { name: "grpc", measure: served },
      ],
      Math.max(15, runs),
    );
    const [engineMs, grpcMs] = series.map(({ values }) => median(values)) as [number, number];
    const text = `time to the first token, prompt of 128: engine alone ${engineMs.toFixed(1)} ms, over gRPC ${grpcMs.toFixed(1)} ms (+${percent(grpcMs / engineMs - 1)})`;
    report("grpc", { engineMs, grpcMs, change: grpcMs / engineMs - 1 }, text);
  });
  await model.close();
  await engine.close();
}

async function zipf(): Promise<void> {
  const known = 1000;
  const dirs = makeAdapters(40, 16, ["q_proj", "v_proj"]);
  await withService({ sequencesMax: 16, cacheTokensMax: 4096, adapterBytesMax: 1e9 }, async (clients) => {
    const names: string[] = [];
    for (let i = 0; i < known; i++) names.push(await load(clients, `a${i}`, dirs[i % dirs.length] ?? ""));
    const weights = names.map((_, i) => 1 / (i + 1));
    let total = 0;
    const bounds = weights.map((weight) => {
      total += weight;
      return total;
    });
    const one = () => {
      const at = random() * total;
      return names[bounds.findIndex((bound) => at <= bound)] ?? "";
    };
    const errors: string[] = [];
    let requests = 0;
    const firsts: number[] = [];
    const end = performance.now() + seconds * 1000;
    const client = async () => {
      while (performance.now() < end) {
        requests++;
        try {
          firsts.push((await ask(clients, one(), prompt(), 8)).firstMs);
        } catch (thrown) {
          errors.push(String(thrown));
        }
      }
    };
    await Promise.all(Array.from({ length: 16 }, client));
    const stats = await clients.inference.getServingStats({});
    const [resident, bytes] = [stats.adaptersResident, Number(stats.adapterBytesResident)];
    const figures = {
      requests,
      errors: errors.length,
      known: stats.adaptersKnown,
      resident,
      bytes,
      p99Ms: quantile(firsts, 0.99),
    };
    const text =
      `${stats.adaptersKnown} adapters known, ${resident} in memory (${(bytes / 1e6).toFixed(0)} MB of 1,000), ` +
      `${requests} requests, ${errors.length} errors; first token p50 ${quantile(firsts, 0.5).toFixed(0)} ms, p99 ${figures.p99Ms.toFixed(0)} ms`;
    report("zipf", figures, errors.length > 0 ? `${text}: ${errors[0]}` : text);
  });
}

/** node-llama-cpp in a process of its own, without a network between: its best case. */
async function peer(): Promise<void> {
  const { gguf, "peers-node-llama": dir } = options;
  if (gguf === undefined || dir === undefined)
    throw new Error("--rows peer: expected --gguf FILE and --peers-node-llama DIR");
  const entry = nodeLlamaEntry(dir);
  const numbers = [promptTokens, newTokens, threads].map(String);
  const command = { file: process.execPath, args: [peerScript("llama_serve.mjs"), entry, gguf, ...numbers, "1,8"] };
  const theirs = (await runJson(command)) as Record<string, number>;
  await withService({ sequencesMax: 16, cacheTokensMax: 4096 }, async (clients) => {
    await together(clients, [""]);
    const subjects = [1, 8].map((n) => ({
      name: String(n),
      measure: () => together(clients, new Array<string>(n).fill("")),
    }));
    const [one, eight] = (await alternate(subjects, runs)).map((series) => series.median) as [number, number];
    const [peerOne = 0, peerEight = 0] = [theirs["1"], theirs["8"]];
    const figures = { one, peerOne, eight, peerEight, ratioOne: one / peerOne, ratioEight: eight / peerEight };
    const beside = (mine: number, other: number) =>
      `${rate(mine)} beside ${rate(other)} (${(mine / other).toFixed(2)} ×)`;
    const text = `over gRPC beside node-llama-cpp in its process: 1: ${beside(one, peerOne)}, 8: ${beside(eight, peerEight)}`;
    report("peer", figures, text);
  });
}

async function cold(): Promise<void> {
  const { gguf, "peers-node-llama": dir } = options;
  const peer = gguf && dir ? { gguf, entry: nodeLlamaEntry(dir) } : null;
  const { figures, text } = await coldStart({ modelDir, dir: join(folder, "cold"), threads, dtype, runs, peer });
  report("cold", figures, text);
}

const rows: Record<string, () => Promise<void>> = { concurrent, adapters, overload, grpc, zipf, peer, cold };
const wanted = options.rows.split(",");
const unknown = wanted.filter((name) => !(name in rows));
if (unknown.length > 0) throw new Error(`--rows: expected ${Object.keys(rows)}, got ${unknown}`);
try {
  if (!options.json)
    print(
      `${JSON.stringify(machine())}; ${threads} threads, ${dtype}, prompts of ${promptTokens}, ${newTokens} new tokens`,
    );
  for (const name of wanted) await rows[name]?.();
  if (options.json) print(JSON.stringify(results));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
