// JSON files: one object a line (JSON lines), or one array of objects, told apart by the first character. Both are read
// in pieces; a row is as large as memory gets.
import { NibbleError } from "#packages/errors";
import { type Place, rowError } from "../place.ts";
import { readBytes } from "./bytes.ts";
import { findJsonFault } from "./json-syntax.ts";
import { type FileRecord, rowBytesMax } from "./record.ts";

const [newline, quote, backslash, comma, openArray, closeArray, openObject, closeObject] = Buffer.from('\n"\\,[]{}');
const byteOrderMark = Buffer.from([0xef, 0xbb, 0xbf]);

function isSpace(byte: number): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
}

const strict = new TextDecoder("utf-8", { fatal: true });

function decodeText(bytes: Uint8Array, place: Place): string {
  try {
    return strict.decode(bytes);
  } catch (cause) {
    throw rowError(place, "expected UTF-8 text", { cause });
  }
}

/** `column` is where the text begins on its first line, from 1. */
function parse(text: string, place: Place, column = 1): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const fault = findJsonFault(text);
    if (!fault) throw rowError(place, `expected JSON: ${(cause as Error).message}`, { cause });
    const before = text.slice(0, fault.offset).split("\n");
    const last = before.at(-1) ?? "";
    const at = { ...place, line: place.line + before.length - 1 };
    const got =
      fault.offset >= text.trimEnd().length ? "the end" : JSON.stringify(text.slice(fault.offset).slice(0, 20));
    throw rowError(at, `expected JSON: expected ${fault.expected}, got ${got}`, {
      cause,
      column: last.length + (before.length === 1 ? column : 1),
    });
  }
}

/** The pieces without a byte order mark, the first of them not blank. */
async function* withoutMark(pieces: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let head: Buffer | null = Buffer.alloc(0);
  for await (const piece of pieces) {
    if (!head) yield piece;
    else {
      head = Buffer.concat([head, piece]);
      if (head.length < byteOrderMark.length) continue;
      yield head.subarray(0, 3).equals(byteOrderMark) ? head.subarray(3) : head;
      head = null;
    }
  }
  if (head) yield head;
}

export async function* readJson(file: string): AsyncGenerator<FileRecord> {
  const pieces = withoutMark(readBytes(file));
  const blank: Buffer[] = [];
  let blankBytes = 0;
  for await (const piece of pieces) {
    const first = piece.findIndex((byte) => !isSpace(byte));
    if (first < 0) {
      blankBytes += piece.length;
      if (blankBytes > rowBytesMax) throw tooLong({ file, line: 1 });
      blank.push(piece);
      continue;
    }
    const all = chain([...blank, piece], pieces);
    if (piece[first] === openArray) yield* readArray(file, all);
    else yield* readLines(file, all);
    return;
  }
}

async function* chain(first: readonly Buffer[], rest: AsyncGenerator<Buffer>): AsyncGenerator<Buffer> {
  yield* first;
  yield* rest;
}

function tooLong(place: Place): NibbleError {
  return rowError(place, `expected a row of at most ${rowBytesMax} bytes`);
}

/** Bytes of the row that is being read, in pieces. */
class Pending {
  private pieces: Buffer[] = [];
  private bytes = 0;
  private readonly file: string;
  line = 1;

  constructor(file: string) {
    this.file = file;
  }

  add(piece: Buffer): void {
    this.bytes += piece.length;
    if (this.bytes > rowBytesMax) throw tooLong({ file: this.file, line: this.line });
    if (piece.length > 0) this.pieces.push(piece);
  }

  take(): Buffer {
    const whole = this.pieces.length === 1 ? (this.pieces[0] ?? Buffer.alloc(0)) : Buffer.concat(this.pieces);
    this.pieces = [];
    this.bytes = 0;
    return whole;
  }
}

/** A row that is no JSON is said as such: those after it can be read all the same. */
function recordOf(bytes: Buffer, place: Place, column = 1): FileRecord {
  try {
    return { ...place, value: parse(decodeText(bytes, place), place, column) };
  } catch (thrown) {
    return { ...place, value: undefined, error: NibbleError.from(thrown) };
  }
}

const isBlank = (bytes: Buffer) => bytes.every(isSpace);

async function* readLines(file: string, pieces: AsyncIterable<Buffer>): AsyncGenerator<FileRecord> {
  const pending = new Pending(file);
  const record = (): FileRecord[] => {
    const bytes = pending.take();
    return isBlank(bytes) ? [] : [recordOf(bytes, { file, line: pending.line })];
  };
  for await (const piece of pieces) {
    let start = 0;
    for (let end = piece.indexOf(10); end >= 0; end = piece.indexOf(10, start)) {
      pending.add(piece.subarray(start, end));
      yield* record();
      pending.line++;
      start = end + 1;
    }
    pending.add(piece.subarray(start));
  }
  yield* record();
}

/** Finds the elements of an array by brackets and quotes alone; whether they are JSON is for JSON.parse. */
class ArraySplitter {
  line = 1;
  column = 0;
  /** Where the running element began. */
  start: { line: number; column: number } | null = null;
  state: "before" | "inside" | "after" = "before";
  private depth = 0;
  private inString = false;
  private escaped = false;

  /** What a byte is: of an element; between elements; the end of an element (and not part of it). */
  see(byte: number): "part" | "between" | "end" {
    if (byte === newline) [this.line, this.column] = [this.line + 1, 0];
    else this.column++;
    if (this.inString) return this.seeInString(byte);
    if (this.state !== "inside") {
      if (byte === openArray && this.state === "before") this.state = "inside";
      return "between";
    }
    const isEnd = this.depth === 0 && (byte === comma || byte === closeArray);
    if (isEnd) {
      if (byte === closeArray) this.state = "after";
      return "end";
    }
    if (this.start === null && isSpace(byte)) return "between";
    this.start ??= { line: this.line, column: this.column };
    if (byte === quote) this.inString = true;
    if (byte === openObject || byte === openArray) this.depth++;
    if (byte === closeObject || byte === closeArray) this.depth--;
    return "part";
  }

  private seeInString(byte: number): "part" {
    if (this.escaped) this.escaped = false;
    else if (byte === backslash) this.escaped = true;
    else if (byte === quote) this.inString = false;
    return "part";
  }
}

async function* readArray(file: string, pieces: AsyncIterable<Buffer>): AsyncGenerator<FileRecord> {
  const splitter = new ArraySplitter();
  const pending = new Pending(file);
  let rows = 0;
  const record = (): FileRecord[] => {
    const { line, column } = splitter.start ?? splitter;
    const bytes = pending.take();
    splitter.start = null;
    const isEmptyArray = bytes.length === 0 && rows === 0 && splitter.state === "after";
    return isEmptyArray ? [] : [recordOf(bytes, { file, line }, column)];
  };
  for await (const piece of pieces) {
    let start = -1;
    for (let i = 0; i < piece.length; i++) {
      const byte = piece[i] as number;
      const wasAfter = splitter.state === "after";
      const kind = splitter.see(byte);
      if (wasAfter && !isSpace(byte)) throw afterArray(file, splitter);
      if (kind === "part" && start < 0) {
        start = i;
        pending.line = splitter.start?.line ?? splitter.line;
      }
      if (kind !== "end") continue;
      if (start >= 0) pending.add(piece.subarray(start, i));
      start = -1;
      yield* record();
      rows++;
    }
    if (start >= 0) pending.add(piece.subarray(start));
  }
  if (splitter.state === "after") return;
  const { line, column } = splitter.start ?? splitter;
  const place = { file, line };
  parse(decodeText(pending.take(), place), place, column);
  throw rowError({ file, line: splitter.line }, 'expected "," or "]" of the array, got the end of the file', {
    column: splitter.column + 1,
  });
}

function afterArray(file: string, { line, column }: ArraySplitter): NibbleError {
  return rowError({ file, line }, "expected nothing more after the array", { column });
}
