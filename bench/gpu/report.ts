// The results of a run: all of it as JSON, a table for people. Written after every row, so that what was measured is there
// whatever happens to the rest.
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CudaDevice, cuda } from "#native";
import { type Machine, machine } from "../harness/machine.ts";
import { commitName, printed } from "../harness/report.ts";
import { type Goal, isMet, type Result } from "./row.ts";
import type { ShapeName } from "./shapes.ts";

export interface Measured extends Result {
  row: string;
  seconds: number;
}

export interface GpuReport {
  /** UTC. */
  date: string;
  commit: string;
  device: string;
  shape: ShapeName;
  card: CudaDevice | null;
  /** nvidia-smi's lines: driver, clocks now and at most, power limit; empty where there is none. */
  driver: Record<string, string>;
  machine: Machine;
  measured: Measured[];
  /** Rows that could not be measured, and why. */
  failed: Record<string, string>;
}

const asked = [
  "name",
  "driver_version",
  "memory.total",
  "clocks.sm",
  "clocks.mem",
  "clocks.max.sm",
  "clocks.max.mem",
  "power.limit",
  "temperature.gpu",
];

function driver(): Record<string, string> {
  const found = spawnSync("nvidia-smi", [`--query-gpu=${asked.join(",")}`, "--format=csv,noheader", "-i", "0"], {
    encoding: "utf8",
  });
  if (found.status !== 0) return {};
  const values = found.stdout.trim().split("\n")[0]?.split(", ") ?? [];
  return Object.fromEntries(asked.map((name, i) => [name, values[i] ?? ""]));
}

export function newReport(device: string, shape: ShapeName): GpuReport {
  const card = device === "cuda" ? cuda.device() : null;
  const facts = { card, driver: card === null ? {} : driver(), machine: machine() };
  return { date: new Date().toISOString(), commit: commitName(), device, shape, ...facts, measured: [], failed: {} };
}

/** Goals are those of a card and of the models' own shapes: of anything else nothing is said. */
export const isJudged = ({ card, shape }: GpuReport): boolean =>
  card !== null && card.architecture !== "host" && shape === "full";

export function goalText(goal: Goal, judged: boolean): string {
  if (!judged) return `${goal.text}: not judged here`;
  return `${goal.text}: ${printed(goal.value)}, ${isMet(goal) ? "met" : "**NOT met**"}`;
}

export const figuresText = ({ figures }: Result): string =>
  Object.entries(figures)
    .map(([name, { value, unit }]) => `${name} ${printed(value)}${unit && ` ${unit}`}`)
    .join(", ");

function markdown(report: GpuReport): string {
  const { card, device, machine: of } = report;
  const what = card === null ? `${of.cpu} (${device})` : `${card.name}, ${card.architecture}`;
  const cells = (m: Measured) => [
    m.row,
    m.what,
    figuresText(m),
    m.goals.map((g) => goalText(g, isJudged(report))).join("; "),
    `${m.seconds.toFixed(0)} s`,
  ];
  const lines = [
    `# ${report.date}, commit ${report.commit}`,
    "",
    `${what}; shapes: ${report.shape}. ${Object.entries(report.driver)
      .map(([k, v]) => `${k} ${v}`)
      .join(", ")}`.trim(),
    "",
    "| row | what | measured | goals | took |",
    "|---|---|---|---|---|",
    ...report.measured.map((m) => `| ${cells(m).join(" | ")} |`),
    ...Object.entries(report.failed).map(([row, why]) => `| ${row} | could not be measured: ${why} | – | – | – |`),
    "",
    ...[...new Set(report.measured.flatMap((m) => m.notes))].map((note) => `- ${note}`),
  ];
  return `${lines.join("\n").trimEnd()}\n`;
}

/** Writes both files into `folder`; their paths. */
export function writeReport(report: GpuReport, folder: string): string[] {
  mkdirSync(folder, { recursive: true });
  const named = (report.card?.name ?? report.device).toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");
  const base = join(
    folder,
    `${report.date.slice(0, 10)}-gpu-${named}${report.shape === "full" ? "" : `-${report.shape}`}`,
  );
  writeFileSync(`${base}.json`, `${JSON.stringify(report, null, 1)}\n`);
  writeFileSync(`${base}.md`, markdown(report));
  return [`${base}.json`, `${base}.md`];
}
