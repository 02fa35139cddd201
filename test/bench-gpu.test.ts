// The bench of a card without one: every row runs on small shapes, says what it measured, and judges nothing; a row that
// fails is named with its reason, and the others are still there.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { lastLine } from "../bench/gpu/last-line.ts";
import type { GpuReport } from "../bench/gpu/report.ts";
import { goalText, isJudged } from "../bench/gpu/report.ts";
import { rows } from "../bench/gpu/rows/index.ts";

const root = fileURLToPath(new URL("../", import.meta.url));
const out = mkdtempSync(join(tmpdir(), "nibble-bench-gpu-"));
after(() => rmSync(out, { recursive: true, force: true }));

function bench(...args: string[]): { status: number | null; text: string; report: GpuReport; table: string } {
  const common = ["--device", "cpu", "--shape", "tiny", "--out", out, "--peers-python", "/no/python"];
  const script = ["--disable-warning=ExperimentalWarning", "bench/gpu.ts", ...common, ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, script, { cwd: root, encoding: "utf8" });
  const [json = "", md = ""] = stdout.trimEnd().split("\n").slice(-2);
  assert.match(json, /\.json$/, `${stdout}${stderr}`);
  return { status, text: stdout, report: JSON.parse(readFileSync(json, "utf8")), table: readFileSync(md, "utf8") };
}

test("every row measures something and no goal is judged", () => {
  const { status, text, report, table } = bench();
  assert.deepEqual(report.failed, {});
  assert.equal(status, 0, text);
  assert.deepEqual(report.measured.map(({ row }) => row).sort(), Object.keys(rows).sort());
  for (const { row, figures, goals } of report.measured) {
    for (const [name, { value }] of Object.entries(figures))
      assert.ok(Number.isFinite(value), `${row}: ${name}: ${value}`);
    // Those of the one are beside peers, the other has none.
    assert.ok(goals.length > 0 || row === "packed-7b" || row === "products-7b", row);
  }
  assert.match(table, /not judged here/);
  assert.doesNotMatch(table, /met/);
  const paged = report.measured.find(({ row }) => row === "paged-7b");
  assert.equal(paged?.figures["most that a loss differs"]?.value, 0);
  assert.match(paged?.notes.join() ?? "", /unpaged run under the cap: RESOURCE_EXHAUSTED/);
  for (const name of ["step-65b", "context-8b"]) {
    const figures = report.measured.find(({ row }) => row === name)?.figures ?? {};
    const [measured, quoted] = ["tensors at their peak", "quoted before the run"].map((of) => figures[of]?.value ?? 0);
    assert.ok(Math.abs(1 - measured! / quoted!) < 0.05, `${name}: ${measured} GB measured, ${quoted} quoted`);
  }
});

test("a row whose time is over is named, and the run says that it failed", () => {
  const { status, report, table } = bench("--rows", "step-7b,quantize-7b", "--budget", "0.02");
  assert.equal(status, 1);
  assert.match(report.failed["step-7b"] ?? "", /took more than its/);
  assert.match(table, /step-7b \| could not be measured/);
});

describe("a process with a time", () => {
  const script = (name: string, text: string) => {
    const path = join(out, name);
    writeFileSync(path, text);
    return { file: process.execPath, args: [path] };
  };

  test("that hangs is ended, and what it started too", () => {
    const child = join(out, "child.pid");
    const text = `
      import { spawn } from "node:child_process";
      import { writeFileSync } from "node:fs";
      const sleeping = spawn("sleep", ["1000"], { stdio: "inherit" });
      writeFileSync(${JSON.stringify(child)}, String(sleeping.pid));
      setInterval(() => {}, 1000);`;
    assert.equal(lastLine(script("hangs.mjs", text), 2), "took more than its 2 s");
    // A process that was ended is there, as a zombie, until somebody takes note of it.
    const state = spawnSync("ps", ["-o", "stat=", "-p", readFileSync(child, "utf8")], { encoding: "utf8" }).stdout;
    assert.match(state.trim(), /^(Z.*)?$/);
  });

  test("that crashes, fails, runs out of memory or prints something else is named with the reason", () => {
    const reason = (name: string, text: string, seconds = 60) => lastLine(script(name, text), seconds);
    assert.equal(
      reason("crashes.mjs", `process.kill(process.pid, "SIGSEGV"); setInterval(() => {}, 10)`),
      "ended with SIGSEGV",
    );
    assert.equal(
      reason("killed.mjs", `process.kill(process.pid, "SIGKILL"); setInterval(() => {}, 10)`),
      "ended with SIGKILL",
    );
    assert.equal(reason("exits.mjs", "process.exit(7)"), "ended with 7");
    assert.match(
      String(reason("full.mjs", `throw new RangeError("[allocate] no room")`)),
      /^RangeError: \[allocate\] no room$/,
    );
    assert.equal(reason("prints.mjs", `console.log("no JSON")`), "printed no result: no JSON\n");
    assert.match(String(lastLine({ file: "/no/such/program", args: [] }, 1)), /ENOENT/);
    assert.deepEqual(reason("right.mjs", `console.log("first"); console.log('{"a": 1}')`), { a: 1 });
  });
});

test("goals are judged on a card at full size only", () => {
  const card = { name: "", architecture: "sm_90", totalBytes: 1, freeBytes: 1, bytesPerSecond: 1, processors: 1 };
  const report = { card, shape: "full" } as GpuReport;
  assert.ok(isJudged(report));
  assert.ok(!isJudged({ ...report, shape: "tiny" }));
  assert.ok(!isJudged({ ...report, card: { ...card, architecture: "host" } }));
  assert.ok(!isJudged({ ...report, card: null }));
  const goal = { text: "≤ 40 GB", value: 41, needed: 40, atMost: true };
  assert.match(goalText(goal, true), /41\.0, \*\*NOT met\*\*/);
  assert.match(goalText({ ...goal, value: 39 }, true), /39\.0, met/);
});
