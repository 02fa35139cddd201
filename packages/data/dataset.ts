// Reads training rows from JSON lines, one at a time, and says file and line of whatever is wrong. The
// kind of a row is told by its keys; a key that no kind has is an error and not ignored, since a column
// that is silently dropped is how a run learns something else than its owner thinks.
import { createReadStream } from "node:fs";
import { NibbleError } from "#packages/errors";
import type { ChatMessage } from "./chat-template.ts";

export type Row =
  | { kind: "messages"; messages: ChatMessage[] }
  /** Alpaca rows are turned into these; see alpacaPrompt. */
  | { kind: "completion"; prompt: string; completion: string }
  | { kind: "text"; text: string }
  /** labels are not shifted; -100 is "not trained". */
  | { kind: "ids"; inputIds: number[]; labels: number[] };

export interface Place {
  file: string;
  /** From 1. */
  line: number;
}

export interface PlacedRow extends Place {
  row: Row;
}

const op = "dataset";

/** A longer line is refused: it is some other format, and reading it whole could take all memory. */
export const lineBytesMax = 64 << 20;

export function rowError(place: Place, message: string, cause?: unknown): NibbleError {
  return new NibbleError(`${place.file}:${place.line}: ${message}`, {
    code: "INVALID_ARGUMENT",
    op,
    details: { file: place.file, line: String(place.line) },
    cause,
  });
}

/** Stanford Alpaca's prompts, word for word; the space after "Response:" belongs to them (qlora.py). */
export function alpacaPrompt(instruction: string, input: string): string {
  const opening = "Below is an instruction that describes a task";
  const request = "Write a response that appropriately completes the request.";
  return input === ""
    ? `${opening}. ${request}\n\n### Instruction:\n${instruction}\n\n### Response: `
    : `${opening}, paired with an input that provides further context. ${request}\n\n### Instruction:\n${instruction}\n\n### Input:\n${input}\n\n### Response: `;
}

type Fields = Record<string, unknown>;

interface Kind {
  keys: readonly string[];
  optional: readonly string[];
  read(fields: Fields, place: Place): Row;
}

const kinds: readonly Kind[] = [
  { keys: ["messages"], optional: [], read: readMessages },
  {
    keys: ["prompt", "completion"],
    optional: [],
    read: (f, p) => ({ kind: "completion", prompt: string(f, "prompt", p), completion: string(f, "completion", p) }),
  },
  {
    keys: ["instruction", "output"],
    optional: ["input"],
    read: (f, p) => {
      const input = f["input"] === undefined || f["input"] === null ? "" : string(f, "input", p);
      const prompt = alpacaPrompt(string(f, "instruction", p), input);
      return { kind: "completion", prompt, completion: string(f, "output", p) };
    },
  },
  { keys: ["text"], optional: [], read: (f, p) => ({ kind: "text", text: string(f, "text", p) }) },
  { keys: ["input_ids", "labels"], optional: [], read: readIds },
];

const forms = kinds
  .map(({ keys, optional }) => `{${[...keys, ...optional.map((k) => `${k}?`)].join(", ")}}`)
  .join(", ");

/** One row from one parsed line. */
export function parseRow(value: unknown, place: Place): Row {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    const hint = Array.isArray(value) ? "; a JSON array is not JSON lines: write one object a line" : "";
    throw rowError(place, `expected an object with the keys of one of ${forms}, got ${short(value)}${hint}`);
  }
  const fields = value as Fields;
  const present = Object.keys(fields);
  const kind = kinds.find(({ keys }) => keys.every((key) => present.includes(key)));
  if (!kind) throw rowError(place, `expected the keys of one of ${forms}, got {${present.join(", ")}}`);
  const unknown = present.find((key) => !kind.keys.includes(key) && !kind.optional.includes(key));
  if (unknown !== undefined) {
    const allowed = [...kind.keys, ...kind.optional].join(", ");
    throw rowError(place, `unknown key "${unknown}": expected only ${allowed}`);
  }
  return kind.read(fields, place);
}

function short(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

function string(fields: Fields, key: string, place: Place): string {
  const value = fields[key];
  if (typeof value === "string") return value;
  throw rowError(place, `${key}: expected a string, got ${short(value)}`);
}

function readMessages(fields: Fields, place: Place): Row {
  const list = fields["messages"];
  if (!Array.isArray(list) || list.length === 0) {
    throw rowError(place, `messages: expected a list with at least one message, got ${short(list)}`);
  }
  const messages = list.map((message: unknown, i) => {
    const { role, content, ...rest } = (message ?? {}) as Fields;
    if (typeof role !== "string" || typeof content !== "string") {
      throw rowError(place, `messages[${i}]: expected {role, content} as strings, got ${short(message)}`);
    }
    const unknown = Object.keys(rest)[0];
    if (unknown !== undefined) throw rowError(place, `messages[${i}]: unknown key "${unknown}"`);
    return { role, content };
  });
  return { kind: "messages", messages };
}

function readIds(fields: Fields, place: Place): Row {
  const inputIds = integers(fields, "input_ids", place, (n) => n >= 0, "token ids");
  const labels = integers(fields, "labels", place, (n) => n >= 0 || n === -100, "token ids or -100");
  if (labels.length === inputIds.length) return { kind: "ids", inputIds, labels };
  throw rowError(place, `labels: expected as many as input_ids (${inputIds.length}), got ${labels.length}`);
}

function integers(fields: Fields, key: string, place: Place, ok: (n: number) => boolean, what: string): number[] {
  const value = fields[key];
  if (!Array.isArray(value)) throw rowError(place, `${key}: expected a list of ${what}, got ${short(value)}`);
  const wrong = value.find((n) => !Number.isInteger(n) || n > 0x7fffffff || !ok(n));
  if (wrong !== undefined) throw rowError(place, `${key}: expected ${what}, got ${short(wrong)}`);
  return value as number[];
}

/** The rows of a file, in order. Blank lines are skipped; a file without a row is an error. */
export async function* readRows(file: string): AsyncGenerator<PlacedRow> {
  let rows = 0;
  for await (const { bytes, line } of readLines(file)) {
    const place = { file, line };
    const text = decode(bytes, place);
    if (text.trim() === "") continue;
    rows++;
    yield { ...place, row: parseRow(parseLine(text, place), place) };
  }
  if (rows > 0) return;
  throw new NibbleError(`${file}: expected at least one row, got none`, {
    code: "INVALID_ARGUMENT",
    op,
    details: { file },
  });
}

/** All rows at once. */
export async function readDataset(file: string): Promise<PlacedRow[]> {
  const rows: PlacedRow[] = [];
  for await (const row of readRows(file)) rows.push(row);
  return rows;
}

function decode(bytes: Uint8Array, place: Place): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (thrown) {
    throw rowError(place, "expected UTF-8 text", thrown);
  }
}

function parseLine(text: string, place: Place): unknown {
  try {
    return JSON.parse(text);
  } catch (thrown) {
    const reason = thrown instanceof Error ? thrown.message : String(thrown);
    throw rowError(place, `expected one JSON object a line: ${reason}`, thrown);
  }
}

async function* readLines(file: string): AsyncGenerator<{ bytes: Uint8Array; line: number }> {
  let line = 1;
  let pieces: Uint8Array[] = [];
  let pending = 0;
  const keep = (piece: Uint8Array) => {
    pieces.push(piece);
    pending += piece.length;
    if (pending > lineBytesMax) throw rowError({ file, line }, `expected a line of at most ${lineBytesMax} bytes`);
  };
  try {
    for await (const chunk of createReadStream(file) as AsyncIterable<Uint8Array>) {
      let start = 0;
      for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
        keep(chunk.subarray(start, end));
        yield { bytes: Buffer.concat(pieces), line };
        line++;
        pieces = [];
        pending = 0;
        start = end + 1;
      }
      keep(chunk.subarray(start));
    }
  } catch (thrown) {
    throw NibbleError.from(thrown, op);
  }
  if (pending > 0) yield { bytes: Buffer.concat(pieces), line };
}
