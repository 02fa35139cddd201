// The table of a run, for people, and the whole of it, for those who check.
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Machine } from "./machine.ts";
import type { Goal, Result } from "./row.ts";

export interface Measured extends Result {
  row: string;
  /** Load of the machine before and after. */
  load: [number, number];
  /** Share of the cores that other processes took meanwhile: with much of it, a figure says little. */
  others: number;
}

export interface Report {
  /** UTC. */
  date: string;
  commit: string;
  machine: Machine;
  threads: number;
  runs: number;
  model: string;
  versions: Record<string, string>;
  measured: Measured[];
  /** Rows that could not be measured, and why. */
  failed: Record<string, string>;
}

const folder = fileURLToPath(new URL("../results", import.meta.url));

const git = (...args: string[]): string => {
  try {
    return execFileSync("git", args, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  } catch {
    return "";
  }
};

/** With a "+" when tracked files differ from it; a copy without its history is told by NIBBLE_COMMIT. */
export function commitName(): string {
  const told = process.env["NIBBLE_COMMIT"];
  if (told) return told.trim();
  mkdirSync(folder, { recursive: true });
  const changed = git("status", "--porcelain", "--untracked-files=no") !== "";
  return `${git("rev-parse", "--short", "HEAD") || "unknown"}${changed ? "+" : ""}`;
}

export function printed(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (value >= 100) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toPrecision(3);
}

export function goalText({ text, ratio, met }: Goal): string {
  return `${printed(ratio)} × (${text}: ${met ? "met" : "NOT met"})`;
}

export function figuresText({ series, unit }: Result): string {
  return series.map(({ name, median }) => `${name} ${printed(median)} ${unit}`).join(", ");
}

export function othersText({ others, load }: Measured): string {
  const share = Number.isFinite(others) ? `${(100 * others).toFixed(0)} % of the cores, ` : "";
  return `${share}load ${load.join(" → ")}`;
}

function markdown(report: Report): string {
  const { machine, versions } = report;
  const gib = (machine.memoryBytes / 2 ** 30).toFixed(1);
  const lines = [
    `# ${report.date}, commit ${report.commit}`,
    "",
    `${machine.cpu}, ${machine.cores} cores, ${gib} GiB, ${machine.isa}; ${machine.system}; Node ${machine.node}. ` +
      `${report.threads} threads, medians of ${report.runs} alternating runs, model ${report.model}.`,
    "",
    `Peers: ${Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(", ")}.`,
    "",
    "| row | what | medians | ratio and goal | other processes |",
    "|---|---|---|---|---|",
    ...report.measured.map((m) =>
      [
        "",
        ` ${m.row} `,
        ` ${m.what} `,
        ` ${figuresText(m)} `,
        ` ${m.goals.map(goalText).join("; ") || "–"} `,
        ` ${othersText(m)} `,
        "",
      ].join("|"),
    ),
    ...Object.entries(report.failed).map(([row, why]) => `| ${row} | could not be measured: ${why} | – | – | – |`),
  ];
  const notes = [...new Set(report.measured.flatMap((m) => m.notes))];
  return `${[...lines, "", ...notes.map((note) => `- ${note}`)].join("\n").trimEnd()}\n`;
}

/** Paths of the two files: <date>-<machine>.json and .md under bench/results; those of some rows have their names at the end. */
export function writeReport(report: Report, some: readonly string[]): string[] {
  mkdirSync(folder, { recursive: true });
  const { cpu, isa, cores } = report.machine;
  const machine = `${cpu.replace(/\(.*/, "").trim()} ${cores} ${isa}`.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");
  const name = join(folder, [report.date.slice(0, 10), machine, ...some].join("-"));
  writeFileSync(`${name}.json`, `${JSON.stringify(report, null, 1)}\n`);
  writeFileSync(`${name}.md`, markdown(report));
  return [`${name}.json`, `${name}.md`];
}
