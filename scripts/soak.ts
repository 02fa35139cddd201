// `npm run test:soak [-- --minutes 10]`: a stack under everything at once (answers, callers who leave, connections that are
// dropped, adapters that come and go, fine-tuning jobs, nonsense) for some minutes. It fails if a piece of work went wrong, or
// if a process takes more memory at the end than when it was warm.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { connect, downloadAdapter } from "#packages/client";
import type { ServiceName } from "../packages/cli/stack/config.ts";
import { Stack } from "../packages/cli/stack/stack.ts";
import { adapters, type Target, uploadRows, works } from "./soak/work.ts";

const { values } = parseArgs({ options: { minutes: { type: "string", default: "10" } } });
const seconds = Number(values.minutes) * 60;
if (!(seconds > 0)) throw new RangeError(`[soak] minutes: expected a number > 0, got ${values.minutes}`);

/**
 * Parts of the time. In the first, code is compiled and caches fill; the second and the last are compared: the least that a
 * process took in each.
 */
const parts = 4;
const growthMax = 0.05;
const sampleMs = 1000;

/** Each thread of a service collects its garbage often, and the service says what it keeps: soak/kept.mjs. */
const nodeOptions = `--expose-gc --max-semi-space-size=1 --import ${new URL("soak/kept.mjs", import.meta.url)}`;

const model = fileURLToPath(new URL("../models/quickstart", import.meta.url));
const home = mkdtempSync(join(tmpdir(), "nibble-soak-"));
const pids = new Map<ServiceName, number>();
/** The first lines of logs that tell of errors. */
const errors: string[] = [];
const errorsMax = 5;
const onLog = (name: ServiceName, line: string): void => {
  const pid = /"pid":(\d+)/.exec(line)?.[1];
  if (pid !== undefined) pids.set(name, Number(pid));
  if (/"level":[56]0/.test(line) && errors.length < errorsMax) errors.push(`${name}: ${line}`);
};

const rssOf = (pid: number): number =>
  1024 * Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);

const keptDir = join(home, "kept");
/** What a process kept when it looked last; NaN before it did. */
function keptOf(pid: number): number {
  const path = join(keptDir, String(pid));
  return existsSync(path) ? Number(readFileSync(path, "utf8")) : Number.NaN;
}
const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

/** The rows of the base's own set, few enough that a job takes a second or two. */
function someRows(): Blob {
  const lines = readFileSync(join(model, "data/train.jsonl"), "utf8").split("\n").slice(0, 32);
  return new Blob([lines.join("\n")]);
}

/** An adapter that is there from the start, as version 1 of `soak` and of `churn`. */
async function prepare(url: string, target: Omit<Target, "adapterDir">): Promise<string> {
  const body = JSON.stringify({ model: "base", training_file: await uploadRows(url, target.rows), suffix: "soak" });
  await fetch(`${url}/v1/fine_tuning/jobs`, { method: "POST", body });
  const dir = join(home, "adapter");
  for (;;) {
    await delay(200);
    const version = await downloadAdapter(target.connection.registry, "adapters/soak/versions/1", dir).catch(
      () => null,
    );
    if (version) return dir;
  }
}

interface Count {
  done: number;
  failed: number;
  first: string;
}

async function repeat({ work, pauseMs }: (typeof works)[number], target: Target, count: Count, until: number) {
  for (let round = 0; performance.now() < until; round++) {
    try {
      await work(target, round);
      count.done++;
    } catch (thrown) {
      count.failed++;
      count.first ||= String(thrown);
    }
    await delay(pauseMs);
  }
}

interface Sample {
  /** Part of the time that has passed. */
  at: number;
  services: Map<ServiceName, { kept: number; rss: number }>;
}

async function sample(samples: Sample[], started: number, until: number): Promise<void> {
  while (performance.now() < until) {
    const services = new Map([...pids].map(([name, pid]) => [name, { kept: keptOf(pid), rss: rssOf(pid) }] as const));
    samples.push({ at: (performance.now() - started) / (until - started), services });
    await delay(sampleMs);
  }
}

function report(samples: readonly Sample[], counts: ReadonlyMap<string, Count>): boolean {
  const lines: string[] = [];
  let isOk = true;
  for (const [name, { done, failed, first }] of counts) {
    lines.push(`${name.padEnd(24)}${String(done).padStart(8)}${failed > 0 ? `  ${failed} FAILED: ${first}` : ""}`);
    isOk &&= failed === 0 && done > 0;
  }
  const row = (name: string, columns: readonly string[]) =>
    lines.push(name.padEnd(24) + columns.map((text) => text.padStart(12)).join(""));
  lines.push("");
  row("least memory kept", ["2nd quarter", "3rd", "last", "growth", "most RSS"]);
  for (const name of pids.keys()) {
    const all = samples.map(({ at, services }) => ({ part: Math.floor(at * parts), ...services.get(name) }));
    const [before, between, after] = [1, 2, 3].map((part) =>
      Math.min(...all.filter((one) => one.part === part).map(({ kept = Number.NaN }) => kept)),
    ) as [number, number, number];
    const growth = after / before - 1;
    const isFlat = growth <= growthMax;
    const most = Math.max(...all.map(({ rss = 0 }) => rss));
    const percent = `${(100 * growth).toFixed(1)} %`;
    row(name, [mb(before), mb(between), mb(after), percent, mb(most), isFlat ? "" : "GREW"]);
    isOk &&= isFlat;
  }
  process.stdout.write(`${[...lines, ...errors].join("\n")}\n`);
  return isOk;
}

mkdirSync(keptDir);
Object.assign(process.env, { NODE_OPTIONS: nodeOptions, NIBBLE_SOAK_KEPT: keptDir });
const stack = await Stack.start({ config: { host: "127.0.0.1", port: 0, home, model }, onLog });
const ended = stack.failure();
ended.catch(() => {});
try {
  using connection = connect({ endpoints: stack.addresses });
  const url = `http://${stack.addresses.gateway}`;
  const known = { url, connection, rows: someRows() };
  const target = { ...known, adapterDir: await prepare(url, known) };
  await adapters(target, 0); // churn:live is asked for from the start
  const started = performance.now();
  const until = started + 1000 * seconds;
  const counts = new Map(works.map(({ name }) => [name, { done: 0, failed: 0, first: "" }]));
  const samples: Sample[] = [];
  const all = works.map((work) => repeat(work, target, counts.get(work.name)!, until));
  await Promise.race([Promise.all([...all, sample(samples, started, until)]), ended]);
  process.exitCode = report(samples, counts) ? 0 : 1;
} finally {
  await stack.stop();
  rmSync(home, { recursive: true, force: true });
}
