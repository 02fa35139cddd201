// `npm run test:leaks`: what the process takes after 1,000 training steps, and after 1,000 loads and unloads of an
// adapter with an answer each, is within 1 % of what it took after 100. `-- --short` does a
// quarter of it, as CI does.
// Rows are of differing lengths, so blocks of many sizes come and go; every 50 steps the same ones, so that the largest
// has been there before the first look. Garbage is collected before each look.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { getHeapStatistics } from "node:v8";
import { memory } from "#native";
import { parseRecipe } from "#packages/data";
import { defaultQuant } from "../packages/engine/quantize-tensor.ts";
import { ServedModel } from "../packages/engine/served-model.ts";
import { runTrainJob } from "../packages/engine/train-job.ts";

/** A young generation of one size: JavaScript's engine would make it larger when it likes. */
const flags = ["--expose-gc", "--max-semi-space-size=1", "--disable-warning=ExperimentalWarning"];
if (!process.execArgv.includes("--expose-gc")) {
  const again = spawnSync(process.execPath, [...flags, ...process.argv.slice(1)], {
    stdio: "inherit",
    // One arena: those of the compiler's threads grow for a while and are no leak.
    env: { ...process.env, MALLOC_ARENA_MAX: "1" },
  });
  process.exit(again.status ?? 1);
}
const collect = (globalThis as unknown as { gc: () => void }).gc;
const isShort = process.argv.includes("--short");
const [early, late] = isShort ? [60, 240] : [100, 1000];

const model = fileURLToPath(new URL("../models/quickstart", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "nibble-leaks-"));

interface Look {
  /** What the process takes. */
  rss: number;
  /** Of it, what is JavaScript's: live objects. */
  live: number;
  /** Of it, tensors in use or kept for the next ones. */
  tensors: number;
}

/** When garbage is gone. */
function look(): Look {
  for (let i = 0; i < 3; i++) collect();
  memory.trim();
  const { current, cached } = memory.report();
  const tensors = Object.values(current).reduce((a, b) => a + b, cached);
  return { rss: process.memoryUsage.rss(), live: getHeapStatistics().used_heap_size, tensors };
}

const least = (a: Look | null, b: Look): Look =>
  a === null
    ? b
    : { rss: Math.min(a.rss, b.rss), live: Math.min(a.live, b.live), tensors: Math.min(a.tensors, b.tensors) };

/** The least of a few looks that end at `early` and at `late`: code is compiled in between. */
class Looks {
  first: Look | null = null;
  last: Look | null = null;

  at(round: number): void {
    if (round % 5 !== 0) return;
    if (round > early - 30 && round <= early) this.first = least(this.first, look());
    if (round > late - 30 && round <= late) this.last = least(this.last, look());
  }
}

function writeRows(): string {
  const file = join(folder, "rows.jsonl");
  const row = (i: number) => {
    const ids = Array.from({ length: 4 + ((i * 37) % 120) }, (_, k) => 3 + ((i + k * 11) % 1500));
    return JSON.stringify({ input_ids: ids, labels: ids });
  };
  writeFileSync(file, Array.from({ length: 200 }, (_, i) => row(i)).join("\n"));
  return file;
}

async function afterSteps(out: string): Promise<Looks> {
  const fields = { model, data: writeRows(), out, steps: late, batchSize: 4, gradAccum: 1, shuffle: false };
  const job = { recipe: parseRecipe({ flags: fields }), evalFile: null, evalSteps: 0, device: "cpu" } as const;
  const looks = new Looks();
  await runTrainJob(job, {
    signal: new AbortController().signal,
    onEvent: (event) => {
      if (event.kind === "step") looks.at(event.step);
    },
  });
  return looks;
}

async function afterLoads(adapter: string): Promise<Looks> {
  const limits = { sequencesMax: 4, stepTokensMax: 64, cacheTokensMax: 256, waitingMax: 8 };
  const served = ServedModel.open({ modelDir: model, device: "cpu", dtype: "float32", quant: defaultQuant, ...limits });
  const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
  const input = { inputIds: [5, 6, 7], maxNewTokens: 2, sampling, ignoreEos: true, wantLogits: false };
  const looks = new Looks();
  for (let i = 1; i <= late; i++) {
    await served.loadAdapter("a", adapter);
    await served.generate({ ...input, adapterId: "a" }, () => {}, new AbortController().signal);
    await served.unloadAdapter("a");
    looks.at(i);
  }
  served.free();
  return looks;
}

/**
 * Growth in parts of what the process took at first. In a short run the engine of JavaScript is still compiling: then
 * the process may grow by more, and what it is asked to keep may not.
 */
const allowed: Look = isShort ? { rss: 0.25, live: 0.01, tensors: 0.01 } : { rss: 0.01, live: 0.01, tensors: 0.01 };

function judge(what: string, { first, last }: Looks): boolean {
  if (!first || !last) throw new RangeError("[leaks] expected looks, got none");
  const growth = (key: keyof Look) => (last[key] - first[key]) / first.rss;
  const mb = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
  const percent = (key: keyof Look) => `${(100 * growth(key)).toFixed(2)} %`;
  const isOk = (["rss", "live", "tensors"] as const).every((key) => growth(key) <= allowed[key]);
  const parts = `live objects ${percent("live")}, tensors ${percent("tensors")}`;
  const rss = `${mb(first.rss)} after ${early}, ${mb(last.rss)} after ${late}, ${percent("rss")}`;
  console.log(`${what}: ${rss} (${parts})  ${isOk ? "ok" : "LEAK"}`);
  return isOk;
}

const out = join(folder, "adapter");
// JavaScript's engine compiles for some hundred rounds and keeps what it compiled: these are not judged.
if (!isShort) await afterSteps(out);
if (!isShort) await afterLoads(out);
const results = [judge("training steps", await afterSteps(out)), judge("adapters loaded", await afterLoads(out))];
memory.trim();
const left = Object.values(memory.report().current).reduce((a, b) => a + b, 0);
console.log(`native memory in use at the end: ${left} bytes`);
rmSync(folder, { recursive: true });
process.exitCode = results.every(Boolean) && left === 0 ? 0 : 1;
