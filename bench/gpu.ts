// Every claim about a card, measured on one: `npm run bench:gpu`; the table of rows is bench/gpu/rows/index.ts.
//   [--rows step-65b,decode-7b] [--budget 540] [--out bench/results] [--peers-python python3]
//   [--device cuda] [--shape full|tiny]     a tiny run on the CPU shows that the rows run, and judges no goal
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { usableDevice } from "../packages/engine/device.ts";
import { lastLine } from "./gpu/last-line.ts";
import { measurePeaks } from "./gpu/rates.ts";
import { figuresText, type GpuReport, goalText, isJudged, newReport, writeReport } from "./gpu/report.ts";
import type { Peaks, Result, Setting } from "./gpu/row.ts";
import { rows, secondsOfAll } from "./gpu/rows/index.ts";

const { values: options } = parseArgs({
  options: {
    rows: { type: "string", default: Object.keys(rows).join(",") },
    budget: { type: "string", default: String(secondsOfAll) },
    out: { type: "string", default: fileURLToPath(new URL("results", import.meta.url)) },
    "peers-python": { type: "string", default: process.env["NIBBLE_PEERS_PYTHON"] ?? "python3" },
    device: { type: "string", default: "cuda" },
    shape: { type: "string", default: "full" },
  },
});
const print = (line: string) => process.stdout.write(`${line}\n`);
const script = fileURLToPath(new URL("gpu/run-row.ts", import.meta.url));

function run(name: string, seconds: number, report: GpuReport, peaks: Peaks): void {
  const started = performance.now();
  const { device, shape, "peers-python": peersPython } = options;
  const setting = { device: device as "cuda", shape: shape as "full", seconds, peersPython, peaks } satisfies Setting;
  const args = ["--disable-warning=ExperimentalWarning", script, name, JSON.stringify(setting)];
  const result = lastLine<Result>({ file: process.execPath, args }, seconds);
  const took = (performance.now() - started) / 1000;
  if (typeof result === "string") {
    report.failed[name] = result;
    process.exitCode = 1;
    print(`\n${name}: could not be measured: ${result} (${took.toFixed(0)} s)`);
    return;
  }
  report.measured.push({ row: name, ...result, seconds: took });
  print(`\n${name}: ${result.what} (${took.toFixed(0)} s)\n  ${figuresText(result)}`);
  for (const goal of result.goals) print(`  ${goalText(goal, isJudged(report))}`);
  for (const note of result.notes) print(`  ${note}`);
}

function main(): void {
  const wanted = options.rows.split(",");
  const unknown = wanted.filter((name) => rows[name] === undefined);
  if (unknown.length > 0) throw new Error(`--rows: expected some of ${Object.keys(rows)}, got ${unknown}`);
  if (options.shape !== "full" && options.shape !== "tiny")
    throw new Error(`--shape: expected full or tiny, got ${options.shape}`);
  usableDevice(options.device as "cuda");
  const report = newReport(options.device, options.shape);
  const ends = performance.now() + 1000 * Number(options.budget);
  print(
    `${report.card?.name ?? report.machine.cpu}, commit ${report.commit}; ${options.budget} s for ${wanted.length} rows`,
  );
  const peaks = measurePeaks(options.device as "cuda", options.shape, options["peers-python"]);
  for (const [i, name] of wanted.entries()) {
    // Its part of the time that is left: what the rows before it did not need is shared out.
    const left = wanted.slice(i).reduce((sum, other) => sum + (rows[other]?.seconds ?? 0), 0);
    const seconds = ((rows[name]?.seconds ?? 0) / left) * ((ends - performance.now()) / 1000);
    run(name, Math.max(seconds, 0.001), report, peaks);
    writeReport(report, options.out);
  }
  for (const path of writeReport(report, options.out)) print(path);
}

main();
