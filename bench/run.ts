// Every figure that Nibble claims, beside its peers, in one run on one machine:
//   npm run bench [-- --rows train,decode --runs 5 --threads 2 --peers-python PATH --peers-node-llama DIR
//     --model DIR --gguf FILE]
// Without peers only our figures are printed, and how to install the peers. Models are made under build/bench.
// bench/results gets the table and every single measurement.

import { availableParallelism } from "node:os";
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { load, machine, watchOthers } from "./harness/machine.ts";
import { Models } from "./harness/models.ts";
import { Peers } from "./harness/peers.ts";
import {
  commitName,
  figuresText,
  goalText,
  type Measured,
  othersText,
  type Report,
  writeReport,
} from "./harness/report.ts";
import type { Row } from "./harness/row.ts";
import { measureBatch, measureDecode, measurePrefill } from "./rows/decode.ts";
import { measureMatmul } from "./rows/matmul.ts";
import { measureMemory } from "./rows/memory.ts";
import { measureQuantize } from "./rows/quantize.ts";
import { measureStart } from "./rows/start.ts";
import { measurePacked, measureTrain, measureTrainAvx2 } from "./rows/train.ts";

const rows: readonly Row[] = [
  { name: "matmul", measure: measureMatmul },
  { name: "train", measure: measureTrain },
  { name: "train-avx2", measure: measureTrainAvx2 },
  { name: "packed", measure: measurePacked },
  { name: "decode", measure: measureDecode },
  { name: "prefill", measure: measurePrefill },
  { name: "batch", measure: measureBatch },
  { name: "memory", measure: measureMemory },
  { name: "quantize", measure: measureQuantize },
  { name: "start", measure: measureStart },
];

const { values: options } = parseArgs({
  options: {
    rows: { type: "string", default: rows.map((row) => row.name).join(",") },
    runs: { type: "string", default: "5" },
    threads: { type: "string", default: String(availableParallelism()) },
    "peers-python": { type: "string", default: process.env["NIBBLE_PEERS_PYTHON"] ?? "python3" },
    "peers-node-llama": { type: "string", default: process.env["NIBBLE_PEERS_NODE_LLAMA"] ?? "" },
    model: { type: "string" },
    gguf: { type: "string" },
  },
});

const print = (line: string) => process.stdout.write(`${line}\n`);

async function main(): Promise<void> {
  const wanted = options.rows.split(",");
  const unknown = wanted.filter((name) => !rows.some((row) => row.name === name));
  if (unknown.length > 0) throw new Error(`--rows: expected ${rows.map((r) => r.name)}, got ${unknown}`);
  const peers = new Peers(options["peers-python"], options["peers-node-llama"] || null);
  const models = new Models({ model: options.model ?? null, gguf: options.gguf ?? null, peers });
  const setting = { runs: Number(options.runs), threads: Number(options.threads), models, peers };
  const report: Report = {
    date: new Date().toISOString(),
    commit: commitName(),
    machine: machine(),
    threads: setting.threads,
    runs: setting.runs,
    model: basename(models.plain()),
    versions: peers.versions,
    measured: [],
    failed: {},
  };
  const { cpu, cores, isa, memoryBytes } = report.machine;
  print(`${cpu}, ${cores} cores, ${(memoryBytes / 2 ** 30).toFixed(1)} GiB, ${isa}; load ${load()}`);
  print(
    `${setting.threads} threads, medians of ${setting.runs} alternating runs; ${report.model}; commit ${report.commit}`,
  );
  for (const row of rows.filter(({ name }) => wanted.includes(name))) await measure(row, setting, report);
  for (const path of writeReport(report, wanted.length < rows.length ? wanted : [])) print(path);
}

async function measure(row: Row, setting: Parameters<Row["measure"]>[0], report: Report): Promise<void> {
  const before = load();
  const watched = watchOthers();
  try {
    const results = await row.measure(setting);
    const others = watched();
    for (const result of results) {
      const measured: Measured = { row: row.name, ...result, load: [before, load()], others };
      report.measured.push(measured);
      print(`\n${row.name}: ${result.what}\n  ${figuresText(result)}`);
      for (const goal of result.goals) print(`  ${goalText(goal)}`);
      for (const note of result.notes) print(`  ${note}`);
      print(`  other processes: ${othersText(measured)}`);
    }
  } catch (thrown) {
    const why = thrown instanceof Error ? thrown.message : String(thrown);
    report.failed[row.name] = why.split("\n")[0] ?? "";
    print(`\n${row.name}: could not be measured: ${why}`);
    process.exitCode = 1;
  }
}

await main();
