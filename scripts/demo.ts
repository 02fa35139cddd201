// `npm run demo`: the main job end to end, through the services over gRPC on loopback, with storage in a
// temporary folder. `--short` makes a few steps and asks a few questions, to show that it works.
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { connect } from "#packages/client";
import { NibbleError } from "#packages/errors";
import { failureOf, usageError } from "../packages/cli/errors.ts";
import { bytes, count, duration, percent } from "../packages/cli/format.ts";
import { interruptOf } from "../packages/cli/interrupt.ts";
import type { Io } from "../packages/cli/io.ts";
import { StatusLine } from "../packages/cli/progress.ts";
import { Stack } from "../packages/cli/stack/stack.ts";
import { heldOutFile, loadAdapter, modelDir, quantize, train } from "./demo/job.ts";
import { ask, type Exam, examine, type Question, readQuestions } from "./demo/questions.ts";
import { reportOf } from "./demo/report.ts";

const shownQuestions = 4;
const sizes = { full: { steps: null, questions: 240 }, short: { steps: 6, questions: 16 } } as const;

const say = (text = "") => void process.stdout.write(`${text}\n`);
const title = (text: string) => say(`\n== ${text}`);

function sizeOf(args: string[]): (typeof sizes)["full" | "short"] {
  try {
    return parseArgs({ args, options: { short: { type: "boolean" } } }).values.short ? sizes.short : sizes.full;
  } catch (thrown) {
    throw usageError(thrown instanceof Error ? thrown.message : String(thrown));
  }
}

/** Each question once without and once with the adapter, as the tokens come. */
async function sideBySide(connection: ReturnType<typeof connect>, questions: Question[], adapter: string, io: Io) {
  let prompts = 0;
  let prefill = 0;
  let news = 0;
  let decode = 0;
  for (const { question, answer } of questions) {
    say(`\n  ${question.replaceAll("\n", "\n  ")}`);
    say(`  expected         ${answer}`);
    for (const [name, of] of [
      ["without adapter", ""],
      ["with adapter", adapter],
    ] as const) {
      process.stdout.write(`  ${name.padEnd(15)}  `);
      let isBegun = false;
      const onText = (text: string) => {
        const shown = (isBegun ? text : text.trimStart()).replaceAll("\n", "⏎");
        isBegun ||= shown !== "";
        process.stdout.write(shown);
      };
      const { usage } = await ask(connection, question, { adapter: of, signal: io.signal, onText });
      say();
      prompts += usage.promptTokens;
      prefill += usage.prefillSeconds;
      news += usage.completionTokens - 1;
      decode += usage.decodeSeconds;
    }
  }
  return { prefillTokensPerSecond: prompts / prefill, decodeTokensPerSecond: news / decode };
}

async function exam(connection: ReturnType<typeof connect>, questions: Question[], adapter: string, io: Io) {
  const status = new StatusLine(io);
  const onProgress = (done: number) => status.show(`${done}/${questions.length} questions`);
  const result: Exam = await examine(connection, questions, { adapter, signal: io.signal, onProgress }).finally(() =>
    status.clear(),
  );
  const { right, questions: asked, seconds } = result;
  say(`${right} of ${asked} answers right, word for word (${percent(right / asked)}), in ${duration(seconds)}`);
  return result;
}

async function mainJob(stack: Stack, folder: string, size: ReturnType<typeof sizeOf>, io: Io): Promise<void> {
  const started = performance.now();
  const { signal } = io;
  using connection = connect({ endpoints: stack.addresses });
  const questions = readQuestions(heldOutFile, size.questions);
  const baseDir = join(folder, "base-nf4");

  title("quantizer: the base model to NF4 with double quantization");
  const quantized = await quantize(connection, baseDir, io);
  say(
    `${count(Number(quantized.parametersQuantized))} parameters in ${quantized.bitsPerParameter.toFixed(3)} bits each`,
  );
  say(`${bytes(Number(quantized.bytesRead))} → ${bytes(Number(quantized.bytesWritten))}, ${quantized.digest}`);

  title("inference: the base alone on held-out questions");
  await connection.inference.loadModel({ modelDir: baseDir, expectedDigest: quantized.digest }, { signal });
  const before = await exam(connection, questions, "", io);

  title("trainer: LoRA on every linear layer over the 4-bit base");
  const options = { baseDir, outDir: join(folder, "adapter"), steps: size.steps, evalFile: heldOutFile };
  const training = await train(connection, options, io);
  const { finished } = training;
  say(`${finished.steps} steps, loss ${finished.firstLoss.toFixed(3)} → ${finished.lastLoss.toFixed(3)}`);

  title("inference: the adapter from the registry, answers without and with it");
  const adapter = await loadAdapter(connection, signal);
  const speed = await sideBySide(connection, questions.slice(0, shownQuestions), adapter, io);

  title("inference: held-out questions with the adapter");
  const after = await exam(connection, questions, adapter, io);
  const { model } = await connection.inference.getModel({}, { signal });

  title("measured");
  const seconds = (performance.now() - started) / 1000;
  const { lossBefore, lossAfter, tokensPerSecond, memory } = training;
  const { prefillTokensPerSecond, decodeTokensPerSecond } = speed;
  say(
    reportOf({
      quantized,
      trained: finished,
      trainTokensPerSecond: tokensPerSecond,
      lossBefore,
      lossAfter,
      before,
      after,
      prefillTokensPerSecond,
      decodeTokensPerSecond,
      trainingMemory: memory,
      servingMemory: model?.memory,
      seconds,
    }),
  );
}

async function demo(io: Io): Promise<void> {
  const size = sizeOf(process.argv.slice(2));
  if (!existsSync(join(modelDir, "model.safetensors"))) {
    throw new NibbleError(`${modelDir}: expected model.safetensors, got none`, { code: "NOT_FOUND", op: "demo" });
  }
  const folder = mkdtempSync(join(tmpdir(), "nibble-demo-"));
  const log: string[] = [];
  try {
    title("five services on loopback");
    const config = { host: "127.0.0.1", port: 0, home: folder };
    // The questions are asked twice; the speeds are those of prompts that are computed, not found.
    env["NIBBLE_INFERENCE_PREFIX_CACHE"] ??= "off";
    const stack = await Stack.start({ config, signal: io.signal, onLog: (_, text) => log.push(text) });
    try {
      for (const [name, address] of Object.entries(stack.addresses)) say(`${name.padEnd(10)} ${address}`);
      await Promise.race([mainJob(stack, folder, size, io), stack.failure()]);
    } finally {
      await stack.stop();
    }
  } catch (thrown) {
    // What the services said last tells more than the call that failed; nobody needs it after Ctrl-C.
    if (!io.signal.aborted) for (const text of log.slice(-5)) io.stderr.write(`${text}\n`);
    throw thrown;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const interrupt = interruptOf(process, "demo");
const { stdin, stdout, stderr, env } = process;
try {
  await demo({ stdin, stdout, stderr, env, signal: interrupt.signal });
} catch (thrown) {
  const cause = interrupt.signal.aborted ? interrupt.signal.reason : thrown;
  const { exitCode, text } = failureOf(cause, env["NIBBLE_DEBUG"] === "1");
  stderr.write(text);
  process.exitCode = interrupt.exitCode ?? exitCode;
}
