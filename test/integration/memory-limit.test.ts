// A process under a limit of its memory: with paged optimizer state it trains as without the limit, without paging it
// is refused before its first step. And the most that a process takes is what its quote said.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { writeNewModel } from "../../packages/engine/new-model.ts";
import type { Quote } from "../../packages/engine/quote.ts";
import type { TrainReport } from "../../packages/engine/train-job.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
// Beside the addon: a temporary folder of the system may be memory, which is no place to page to.
mkdirSync(join(root, "build"), { recursive: true });
const folder = mkdtempSync(join(root, "build", "memory-limit-"));
after(() => rmSync(folder, { recursive: true, force: true }));

/** 26 million parameters: their optimizer state, 8 bytes each, is most of what a step of short rows takes. */
const config = {
  ...JSON.parse(readFileSync(join(root, "models/quickstart/config.json"), "utf8")),
  ...{ hidden_size: 512, intermediate_size: 1408, num_hidden_layers: 8, num_attention_heads: 16, head_dim: 32 },
  ...{ num_key_value_heads: 16, max_position_embeddings: 1024 },
};
const model = join(folder, "model");
const source = join(folder, "source");
mkdirSync(source);
writeFileSync(join(source, "config.json"), JSON.stringify(config));
for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
  copyFileSync(join(root, "models/quickstart", name), join(source, name));
}
writeNewModel({ sourceDir: source, out: model, seed: 1, std: 0.02 });

/** Short rows, and a long one in the middle. */
const data = join(folder, "rows.jsonl");
const lengths = [20, 31, 700, 25, 18];
const row = (length: number) => {
  const ids = Array.from({ length }, (_, i) => 3 + ((i * 37 + length) % 1500));
  return JSON.stringify({ input_ids: ids, labels: ids });
};
writeFileSync(data, lengths.map(row).join("\n"));

let runs = 0;
const recipeOf = (optimizer: string) => ({
  ...{ model, data, out: join(folder, `out-${runs++}`), full: true, bits: 16, optimizer, threads: 2 },
  ...{ batchSize: 1, gradAccum: 1, shuffle: false, steps: lengths.length, lr: 1e-3, gradientCheckpointing: "full" },
});

interface Facts {
  quote: Quote;
  before: { data: number; rss: number };
  report?: TrainReport;
  error?: { code: string; message: string; details: Record<string, string> };
  rssMax: number;
}

/** Runs a job in a process of its own, started by a shell after `first`. */
async function train(recipe: ReturnType<typeof recipeOf>, first = ":"): Promise<Facts & { losses: number[] }> {
  const script = join(root, "test/support/train-process.ts");
  const args = [process.execPath, "--disable-warning=ExperimentalWarning", script, JSON.stringify(recipe)];
  const child = spawn("/bin/sh", ["-c", `${first}; exec "$@"`, "sh", ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (text) => (stdout += text));
  child.stderr.on("data", (text) => (stderr += text));
  const code = await new Promise((resolve) => child.once("close", resolve));
  assert.equal(code, 0, stderr);
  const facts: Facts = JSON.parse(stdout);
  const metrics = join(recipe.out, "metrics.jsonl");
  const lines = existsSync(metrics) ? readFileSync(metrics, "utf8").trim().split("\n") : [];
  return { ...facts, losses: lines.map((line) => JSON.parse(line).loss) };
}

/** A control group of this process's own, where the machine lets it make one; else why not. */
function makeGroup(bytes: number): { folder: string } | { why: string } {
  const name = `nibble-test-${process.pid}`;
  const first = existsSync("/sys/fs/cgroup/memory");
  const group = join(first ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup", name);
  try {
    mkdirSync(group);
    writeFileSync(join(group, first ? "memory.limit_in_bytes" : "memory.max"), String(bytes));
    return { folder: group };
  } catch (thrown) {
    if (existsSync(group)) rmdirSync(group);
    return { why: `no control group can be made here: ${(thrown as Error).message}` };
  }
}

describe("a limit below the unpaged peak", async () => {
  const free = await train(recipeOf("adamw_32bit"));
  const paged = await train(recipeOf("paged_adamw_32bit"));
  // Halfway between what the two take.
  const between = (free.quote.memory.peakTotal + paged.quote.memory.peakTotal) / 2;

  test("the state is a real part of the peak, and paging changes no loss", () => {
    assert.ok(free.quote.memory.peakTotal - paged.quote.memory.peakTotal > 0.4 * free.quote.memory.peakTotal);
    assert.equal(free.losses.length, lengths.length);
    assert.deepEqual(paged.losses, free.losses);
  });

  test("the most that the process took is within 5 % of its quote", () => {
    for (const { quote, rssMax } of [free]) {
      const said = quote.memory.peakTotal + quote.processBytes;
      assert.ok(Math.abs(rssMax / said - 1) < 0.05, `said ${said}, took ${rssMax}`);
    }
  });

  describe("ulimit", () => {
    const limit = `ulimit -d ${Math.round((free.before.data + between) / 1024)}`;

    test("paged, the run with a long row ends with the losses of one without a limit", async () => {
      const limited = await train(recipeOf("paged_adamw_32bit"), limit);
      assert.deepEqual(limited.losses, free.losses, JSON.stringify(limited.error));
    });

    test("unpaged, it is refused up front, with the numbers", async () => {
      const { error, losses } = await train(recipeOf("adamw_32bit"), limit);
      assert.deepEqual([error?.code, losses], ["RESOURCE_EXHAUSTED", []]);
      assert.match(error?.message ?? "", /needs .*optimizer .*ulimit.* leaves .*optimizer paged_adamw_32bit \(then /);
    });
  });

  const group = makeGroup(free.before.rss + between);
  const skip = "why" in group ? group.why : false;
  describe("control group", { skip }, () => {
    const join_ = "why" in group ? ":" : `echo $$ > ${group.folder}/cgroup.procs`;
    after(() => "folder" in group && rmdirSync(group.folder));

    test("paged, the run with a long row ends with the losses of one without a limit", async () => {
      const limited = await train(recipeOf("paged_adamw_32bit"), join_);
      assert.deepEqual(limited.losses, free.losses, JSON.stringify(limited.error));
    });

    test("unpaged, it is refused up front, with the numbers", async () => {
      const { error, losses } = await train(recipeOf("adamw_32bit"), join_);
      assert.deepEqual([error?.code, losses], ["RESOURCE_EXHAUSTED", []]);
      assert.match(error?.message ?? "", /the control group leaves/);
    });
  });
});
