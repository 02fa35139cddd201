// Times training steps of a model folder: QLoRA on every linear layer, full rows of random tokens.
//   npm run bench:train -- MODEL_DIR [--batch 4] [--seq 256 | --lengths 40,300,...] [--padded] [--rank 16] [--steps 5]
//     [--dtype bfloat16] [--threads 2] [--checkpointing selective] [--isa avx2] [--ops] [--json]
// --lengths packs rows of these lengths instead; --padded fills each up to the longest, trained or not, as a padding
// trainer does. --ops adds the time by native op (CPU time of the process, so of all threads).

import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { chooseIsa, type Isa, isa, memory, setThreadCount } from "#native";
import { openModelFolder } from "#packages/hub";
import { addon } from "../native/addon.ts";
import { kilobytes } from "../packages/engine/available-memory.ts";
import { type Example, ignoredLabel } from "../packages/engine/batch.ts";
import { adapterParameters, attachAdapter, createAdapter } from "../packages/engine/lora.ts";
import { loadModel } from "../packages/engine/model-load.ts";
import { Adamw } from "../packages/engine/optimizer.ts";
import { Trainer } from "../packages/engine/trainer.ts";
import { seeded } from "../test/support/tensors.ts";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    batch: { type: "string", default: "4" },
    seq: { type: "string", default: "256" },
    lengths: { type: "string" },
    padded: { type: "boolean", default: false },
    rank: { type: "string", default: "16" },
    steps: { type: "string", default: "5" },
    dtype: { type: "string", default: "bfloat16" },
    threads: { type: "string", default: String(availableParallelism()) },
    checkpointing: { type: "string", default: "selective" },
    isa: { type: "string", default: isa() },
    ops: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});
const dir = positionals[0];
if (dir === undefined) throw new Error("expected a model folder");
chooseIsa(options.isa as Isa);
setThreadCount(Number(options.threads));

const seconds: Record<string, { calls: number; cpu: number; clock: number }> = {};
function timeOps(): void {
  for (const [name, op] of Object.entries(addon)) {
    if (typeof op !== "function") continue;
    (addon as unknown as Record<string, unknown>)[name] = (...args: unknown[]) => {
      const [cpu, clock] = [process.cpuUsage(), performance.now()];
      const result = (op as (...a: unknown[]) => unknown)(...args);
      const used = process.cpuUsage(cpu);
      seconds[name] ??= { calls: 0, cpu: 0, clock: 0 };
      const sum = seconds[name];
      sum.calls++;
      sum.cpu += (used.user + used.system) / 1e6;
      sum.clock += (performance.now() - clock) / 1e3;
      return result;
    };
  }
}

function examples(vocabulary: number): Example[] {
  const rng = seeded(0);
  const lengths = options.lengths?.split(",").map(Number) ?? Array(Number(options.batch)).fill(Number(options.seq));
  const longest = Math.max(...lengths);
  return lengths.map((length: number) => {
    const rows = options.padded ? longest : length;
    const inputIds = Int32Array.from({ length: rows }, () => 3 + Math.floor(rng() * (vocabulary - 3)));
    return { inputIds, labels: inputIds.map((id, i) => (i < length ? id : ignoredLabel)) };
  });
}

/** Peak resident set in bytes. */
const peakRss = () => kilobytes(readFileSync("/proc/self/status", "utf8"), "VmHWM");

using folder = openModelFolder(dir);
const device = "cpu";
const model = loadModel(folder, { device, quant: { type: "nf4", blockSize: 64, doubleQuant: true }, positions: 4096 });
const rank = Number(options.rank);
const lora = { rank, alpha: 16, dropout: 0, useRslora: false, rankPattern: {}, alphaPattern: {} };
const adapter = createAdapter(
  { ...lora, targetModules: "all-linear", baseModelNameOrPath: dir },
  model.config,
  device,
  1,
);
attachAdapter(model, adapter);
const optimizer = new Adamw(adapterParameters(adapter), {
  ...{ beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, maxGradNorm: 0.3 },
  ...{ optimizer: "adamw_32bit", pagingDir: "." },
});
const trainer = new Trainer(model, optimizer, {
  ...{ device, dtype: options.dtype as "float32", seed: 1 },
  gradientCheckpointing: options.checkpointing as "none",
  schedule: { kind: "constant", lr: 2e-4, warmupSteps: 0, steps: 1000 },
});
const rows = examples(model.config.vocabSize);
const nothing = async () => {};
await trainer.step([rows], nothing); // the first step takes memory
if (options.ops) timeOps();
const times: number[] = [];
const cpu = process.cpuUsage();
let loss = 0;
let tokens = 0;
for (let i = 0; i < Number(options.steps); i++) {
  const started = performance.now();
  ({ loss, trainedTokens: tokens } = await trainer.step([rows], nothing));
  times.push((performance.now() - started) / 1000);
}
const used = process.cpuUsage(cpu);
const step = times.toSorted((a, b) => a - b)[times.length >> 1]!;
const report = {
  step_s: step,
  cpu_s: (used.user + used.system) / 1e6 / times.length,
  trained_tokens: tokens,
  tokens_per_s: tokens / step,
  peak_rss: peakRss(),
  memory: memory.report(),
  loss,
  isa: isa(),
  dtype: options.dtype,
  threads: Number(options.threads),
};
if (options.json) process.stdout.write(`${JSON.stringify(report)}\n`);
else {
  process.stdout.write(
    `${step.toFixed(3)} s a step (CPU time ${report.cpu_s.toFixed(3)} s), ${report.tokens_per_s.toFixed(1)} tokens/s, ` +
      `peak ${(report.peak_rss / 2 ** 20).toFixed(0)} MiB resident, ` +
      `${(report.memory.peakTotal / 2 ** 20).toFixed(0)} MiB counted, loss ${loss.toFixed(4)}\n`,
  );
}
if (options.ops) {
  for (const [name, s] of Object.entries(seconds).sort((a, b) => b[1].cpu - a[1].cpu)) {
    const each = 1000 / times.length;
    process.stdout.write(
      `${name.padEnd(24)}${(s.calls / times.length).toFixed(0).padStart(6)} calls ${(s.clock * each).toFixed(1).padStart(9)} ms ` +
        `${(s.cpu * each).toFixed(1).padStart(9)} ms CPU\n`,
    );
  }
}
