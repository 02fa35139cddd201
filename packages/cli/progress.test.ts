// What the progress of a run looks like on a terminal and in a log.
import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import type { TrainProgress } from "./backend.ts";
import type { Io } from "./io.ts";
import { bar, TrainReporter } from "./progress.ts";

function ioWith(stream: { isTTY?: boolean; columns?: number }, env: Record<string, string> = {}) {
  const stderr = Object.assign(new PassThrough(), stream);
  const io: Io = {
    stdin: new PassThrough(),
    stdout: new PassThrough(),
    stderr,
    env,
    signal: new AbortController().signal,
  };
  return { io, written: () => String(stderr.read() ?? "") };
}

const step = (n: number, steps = 100): TrainProgress => ({
  kind: "step",
  step: n,
  steps,
  loss: 1.23456,
  gradNorm: 1,
  lr: 1,
  tokensPerSecond: 12_345.6,
  seconds: 2,
  memoryBytes: 72_700_000,
});

test("a terminal has one line, rewritten, no wider than itself", () => {
  const { io, written } = ioWith({ isTTY: true, columns: 60 });
  const reporter = new TrainReporter(io);
  reporter.event(step(50));
  const shown = written();
  assert.ok(shown.startsWith("\r\x1b[Kstep  50/100 ████████░░░░░░░░  loss 1.2346"), shown);
  assert.equal(shown.length, "\r\x1b[K".length + 59);
  reporter.event({ kind: "log", severity: "warning", text: "rows were cut" });
  assert.equal(written(), "\r\x1b[Kwarning: rows were cut\n");
  reporter.event(step(51));
  written();
  reporter.end();
  assert.equal(written(), "\r\x1b[K");
});

test("a log has a plain line every few steps, the first and the last among them", () => {
  const { io, written } = ioWith({});
  const reporter = new TrainReporter(io);
  for (let n = 1; n <= 100; n++) reporter.event(step(n));
  reporter.end();
  const lines = written().trimEnd().split("\n");
  assert.equal(lines.length, 21);
  assert.equal(lines[0], "step   1/100  loss 1.2346  12,346 tokens/s  72.7 MB  3 min 18 s left");
  assert.equal(lines.at(-1), "step 100/100  loss 1.2346  12,346 tokens/s  72.7 MB  done");
  const dumb = ioWith({ isTTY: true }, { TERM: "dumb" });
  new TrainReporter(dumb.io).event(step(1));
  assert.ok(!dumb.written().includes("\r"));
});

test("held-out losses say when they were measured", () => {
  const { io, written } = ioWith({});
  const reporter = new TrainReporter(io);
  reporter.event({ kind: "eval", step: 0, loss: 2, tokens: 1500, seconds: 0.25 });
  reporter.event({ kind: "eval", step: 7, loss: 1, tokens: 1500, seconds: 75 });
  assert.deepEqual(written().trimEnd().split("\n"), [
    "held-out loss before training: 2.0000 (1,500 tokens, 0.3 s)",
    "held-out loss after step 7: 1.0000 (1,500 tokens, 1 min 15 s)",
  ]);
});

test("a bar is as full as its part", () => {
  assert.deepEqual([bar(0, 4), bar(0.5, 4), bar(2, 4)], ["░░░░", "██░░", "████"]);
});
