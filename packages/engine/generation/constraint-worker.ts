// A thread that makes masks: it compiles what answers must look like and says, after each token, which may come next. Its
// engine goes on meanwhile (constraint-hosts.ts).
import { parentPort, workerData } from "node:worker_threads";
import { tokenizerOver } from "#packages/data";
import { NibbleError } from "#packages/errors";
import type { WireError } from "../host/protocol.ts";
import { ConstraintCompiler, type ConstraintForm, type GrammarConstraint } from "./constraint.ts";

/** Of whose tokens masks are made. */
export interface Vocabulary {
  /** Tells it from others. */
  key: string;
  modelDir: string;
  /** Of an adapter that has a tokenizer of its own. */
  adapterDir: string | null;
  /** Of the model or adapter: ids beyond the tokenizer's are never drawn. */
  vocabSize: number;
  stopIds: readonly number[];
}

export type ToHost =
  | { kind: "compile"; id: number; form: ConstraintForm }
  | { kind: "accept"; id: number; token: number }
  | { kind: "free"; id: number };

/** The mask after the last token, or what went wrong. */
export type FromHost = { id: number; mask: Int32Array<ArrayBuffer> } | { id: number; error: WireError };

const { modelDir, adapterDir, vocabSize, stopIds } = workerData as Vocabulary;
const live = new Map<number, GrammarConstraint>();
/** Being compiled, and still wanted. */
const wanted = new Set<number>();
let compiler: ConstraintCompiler | null = null;

function open(): ConstraintCompiler {
  return new ConstraintCompiler(tokenizerOver(modelDir, adapterDir, { vocabSize }), vocabSize, stopIds);
}

async function found(message: Exclude<ToHost, { kind: "free" }>): Promise<GrammarConstraint> {
  if (message.kind === "compile") {
    wanted.add(message.id);
    compiler ??= open();
    const made = await compiler.compile(message.form);
    if (wanted.delete(message.id)) live.set(message.id, made);
    else made.free();
    return made;
  }
  const known = live.get(message.id);
  if (!known) throw new RangeError(`[constraint] ${message.id}: expected one that was compiled`);
  known.accept(message.token);
  await known.ready();
  return known;
}

async function answer(message: Exclude<ToHost, { kind: "free" }>): Promise<void> {
  const { id } = message;
  try {
    const mask = (await found(message)).mask.slice();
    const reply: FromHost = { id, mask };
    parentPort?.postMessage(reply, [mask.buffer]);
  } catch (thrown) {
    const { code, op, message: text, details } = NibbleError.from(thrown, "constraint");
    const reply: FromHost = { id, error: { code, op, message: text, details } };
    parentPort?.postMessage(reply);
  }
}

parentPort?.on("message", (message: ToHost) => {
  if (message.kind !== "free") return void answer(message);
  wanted.delete(message.id);
  live.get(message.id)?.free();
  live.delete(message.id);
});
