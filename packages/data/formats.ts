// What a row of a data set means: the formats that people's files have, told apart by their columns, and how each
// becomes a row to train on. Mappings of the QLoRA paper's sets are those of its code (arXiv:2305.14314, qlora.py).
import { type Conversation, readMessages, readShareGpt } from "./conversations.ts";
import { type Fields, integersOf, isFields, listOf, optionalString, stringOf } from "./fields.ts";
import { type Place, rowError, short } from "./place.ts";
import { alpacaPrompt } from "./prompts.ts";

export type Row =
  | ({ kind: "messages" } & Conversation)
  | { kind: "completion"; prompt: string; completion: string }
  | { kind: "text"; text: string }
  /** labels are not shifted; -100 is "not trained". */
  | { kind: "ids"; inputIds: number[]; labels: number[] };

export interface Format {
  name: string;
  /** Columns that a row must have, and those that it may have. `weight` may always be there. */
  keys: readonly string[];
  optional: readonly string[];
  /** Only by name: its columns are those of another format. */
  isNamedOnly?: true;
  /** Mostly one row; a record with instances has several. */
  read(fields: Fields, place: Place): Row[];
}

const completion = (prompt: string, answer: string): Row[] => [{ kind: "completion", prompt, completion: answer }];

/** Columns of a prompt and of what follows it. */
function pair(name: string, prompt: string, answer: string): Format {
  const read = (f: Fields, p: Place) => completion(stringOf(f, prompt, p), stringOf(f, answer, p));
  return { name, keys: [prompt, answer], optional: [], read };
}

function readAlpaca(f: Fields, p: Place): Row[] {
  const prompt = alpacaPrompt(stringOf(f, "instruction", p), optionalString(f, "input", p));
  return completion(prompt, stringOf(f, "output", p));
}

/** Self-Instruct's seed tasks, and Unnatural Instructions, whose instances bring the prompt as it was put. */
function readInstances(f: Fields, p: Place): Row[] {
  return listOf(f, "instances", p).flatMap((instance, i) => {
    if (!isFields(instance)) throw rowError(p, `instances[${i}]: expected an object, got ${short(instance)}`);
    const output = stringOf(instance, "output", p);
    if (instance["instruction_with_input"] !== undefined) {
      return completion(stringOf(instance, "instruction_with_input", p), output);
    }
    return completion(alpacaPrompt(stringOf(f, "instruction", p), optionalString(instance, "input", p)), output);
  });
}

/** LAION's Chip2: one text with both; later turns are lost, as in the paper's code. */
function readChip2(f: Fields, p: Place): Row[] {
  const [human, bot] = stringOf(f, "text", p).split("\n<bot>: ");
  if (human !== undefined && bot !== undefined) return completion(human.replaceAll("<human>: ", ""), bot);
  throw rowError(p, `text: expected "<human>: …" and "<bot>: …" on lines of their own, got ${short(f["text"])}`);
}

const textIn =
  (key: string) =>
  (f: Fields, p: Place): Row[] => [{ kind: "text", text: stringOf(f, key, p) }];

const conversation =
  (read: (f: Fields, p: Place) => Conversation) =>
  (f: Fields, p: Place): Row[] => [{ kind: "messages", ...read(f, p) }];

const labelled = { least: -100, what: "token ids or -100" };
const ids = { least: 0, what: "token ids" };

/** Where there are no labels, all of what the attention mask shows is trained. */
function readIds(f: Fields, p: Place): Row[] {
  const inputIds = integersOf(f, "input_ids", p, ids);
  const sameLength = (key: string, list: number[]) => {
    if (list.length === inputIds.length) return list;
    throw rowError(p, `${key}: expected as many as input_ids (${inputIds.length}), got ${list.length}`);
  };
  const isGiven = (key: string) => f[key] !== undefined && f[key] !== null;
  const labels = isGiven("labels") ? sameLength("labels", integersOf(f, "labels", p, labelled)) : inputIds;
  if (!isGiven("attention_mask")) return [{ kind: "ids", inputIds, labels }];
  const mask = sameLength("attention_mask", integersOf(f, "attention_mask", p, { least: 0, what: "0 or 1" }));
  const seen = (_: number, i: number) => mask[i] !== 0;
  return [{ kind: "ids", inputIds: inputIds.filter(seen), labels: labels.filter(seen) }];
}

/** In the order in which columns are looked at: a row fits the first whose keys it has. */
export const formats: readonly Format[] = [
  { name: "messages", keys: ["messages"], optional: ["tools"], read: conversation(readMessages) },
  { name: "sharegpt", keys: ["conversations"], optional: ["system"], read: conversation(readShareGpt) },
  { name: "tokens", keys: ["input_ids"], optional: ["labels", "attention_mask"], read: readIds },
  pair("prompt-completion", "prompt", "completion"),
  { name: "instances", keys: ["instruction", "instances"], optional: [], read: readInstances },
  { name: "alpaca", keys: ["instruction", "output"], optional: ["input"], read: readAlpaca },
  pair("input-output", "input", "output"),
  pair("flan", "inputs", "targets"),
  { name: "preference", keys: ["chosen"], optional: ["rejected"], read: textIn("chosen") },
  { name: "text", keys: ["text"], optional: [], read: textIn("text") },
  { name: "chip2", keys: ["text"], optional: [], isNamedOnly: true, read: readChip2 },
];

const shapeOf = ({ name, keys, optional }: Format) =>
  `${name} {${[...keys, ...optional.map((key) => `${key}?`)].join(", ")}}`;

const detectable = formats.filter((format) => !format.isNamedOnly);

const has = (fields: Fields, format: Format) => format.keys.every((key) => Object.hasOwn(fields, key));

/** The format of a row by its columns. */
export function detectFormat(value: unknown, place: Place): Format {
  const shapes = () => `the columns of one of ${detectable.map(shapeOf).join(", ")}`;
  if (!isFields(value)) throw rowError(place, notAnObject(value, shapes()));
  const found = detectable.find((format) => has(value, format));
  if (found) return found;
  throw rowError(place, `expected ${shapes()}; got {${Object.keys(value).join(", ")}}`);
}

function notAnObject(value: unknown, expected: string): string {
  const hint = Array.isArray(value) ? "; a JSON array is not JSON lines: write one object a line" : "";
  return `expected an object with ${expected}, got ${short(value)}${hint}`;
}

/** @throws where the record lacks the format's columns; `since` says why they are expected. */
export function readAs(format: Format, value: unknown, place: Place, since: string): Row[] {
  if (!isFields(value)) throw rowError(place, notAnObject(value, `the columns of ${shapeOf(format)}`));
  if (has(value, format)) return format.read(value, place);
  throw rowError(place, `expected the columns of ${shapeOf(format)}, ${since}; got {${Object.keys(value).join(", ")}}`);
}

/** Columns of a record that its format does not look at. */
export function unusedColumns(format: Format, value: Fields): string[] {
  return Object.keys(value).filter(
    (key) => key !== "weight" && !format.keys.includes(key) && !format.optional.includes(key),
  );
}
