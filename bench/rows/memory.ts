// The memory of `nibble train` beside what `nibble estimate` said before: what is counted, and what the process has.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Command, runJson, runLines } from "../harness/child.ts";
import { seriesOf } from "../harness/compare.ts";
import type { Result } from "../harness/row.ts";
import { ours, type Setting } from "../harness/setting.ts";

const [batch, length, steps] = [4, 256, 2];

/** Rows of random tokens, all of them trained. */
function writeRows(file: string): void {
  const ids = (row: number) => Array.from({ length }, (_, i) => 300 + (((row * length + i) * 7919) % 30_000));
  const rows = Array.from({ length: batch * steps }, (_, row) => ids(row)).map((input_ids) =>
    JSON.stringify({ input_ids, labels: input_ids.map((id, i) => (i === 0 ? -100 : id)) }),
  );
  writeFileSync(file, `${rows.join("\n")}\n`);
}

/** What was taken over what was said, as a row of the table. */
function beside(what: string, taken: number[], quoted: number): Result {
  const series = [
    seriesOf(
      "measured",
      taken.map((bytes) => bytes / 1e6),
    ),
    seriesOf("quoted", [quoted / 1e6]),
  ];
  const ratio = 1 - Math.abs((series[0]?.median ?? Number.NaN) / (quoted / 1e6) - 1);
  const goal = { text: "within 5 % of the quote", ratio, needed: 0.95, met: ratio >= 0.95 };
  return { what, unit: "MB", series, goals: [goal], notes: [] };
}

export async function measureMemory(setting: Setting): Promise<Result[]> {
  const model = await setting.models.quantized();
  const folder = mkdtempSync(join(dirname(model), "memory-"));
  try {
    const data = join(folder, "rows.jsonl");
    writeRows(data);
    const size = ["--batch-size", String(batch), "--grad-accum", "1", "--steps", String(steps), "--dtype", "bfloat16"];
    const job = ["--model", model, "--data", data, "--out", join(folder, "out"), ...size];
    const args = [...job, "--threads", String(setting.threads), "--json"];
    const cli = (command: string): Command => ours("../packages/cli/main.ts", [command, ...args]);
    const quote = await runJson(cli("estimate"));
    const [counted, quoted] = [Number(quote["memoryPeakBytes"]), Number(quote["processBytes"])];
    const [peaks, resident]: number[][] = [[], []];
    for (let run = 0; run < setting.runs; run++) {
      const printed = await runLines(ours("train-peak.ts", args));
      for (const line of printed) {
        if ("memoryPeakBytes" in line) peaks?.push(Number(line["memoryPeakBytes"]));
        if ("peak_rss" in line) resident?.push(Number(line["peak_rss"]));
      }
    }
    const what = `nibble train, pre-quantized, batch ${batch} × ${length}, r 16 on all linear layers`;
    return [
      beside(`${what}: tensors at their peak`, peaks ?? [], counted),
      beside(`${what}: the process's peak resident memory`, resident ?? [], counted + quoted),
    ];
  } finally {
    rmSync(folder, { recursive: true });
  }
}
