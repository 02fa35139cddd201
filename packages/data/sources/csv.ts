// CSV and TSV files with a line of column names. The parsing (RFC 4180) is csv-parse's.
import { Readable } from "node:stream";
import { CsvError, parse } from "csv-parse";
import type { NibbleError } from "#packages/errors";
import { type Place, rowError } from "../place.ts";
import { readBytes } from "./bytes.ts";
import { type FileRecord, rowBytesMax } from "./record.ts";

/** Text of the pieces; @throws with the line at which bytes are no UTF-8. */
async function* textOf(file: string): AsyncGenerator<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let line = 1;
  for await (const piece of readBytes(file)) {
    let text: string;
    try {
      text = decoder.decode(piece, { stream: true });
    } catch (cause) {
      throw rowError({ file, line: line + linesBefore(piece) }, "expected UTF-8 text", { cause });
    }
    for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) line++;
    yield text;
  }
}

/** Line breaks before the first byte that is no UTF-8, or before the end where a character is cut off. */
function linesBefore(piece: Buffer): number {
  const text = piece.toString("utf8");
  const good = text.indexOf("\uFFFD", 1);
  return text.slice(0, good < 0 ? text.length : good).split("\n").length - 1;
}

const options = { bom: true, info: true, skip_empty_lines: true, relax_column_count: true } as const;

/** Rows that are ragged or no CSV are said one by one; what ends the parsing is thrown. */
export async function* readCsv(file: string, delimiter: "," | "\t"): AsyncGenerator<FileRecord> {
  const parser = parse({ ...options, delimiter, max_record_size: rowBytesMax, skip_records_with_error: true });
  const source = Readable.from(textOf(file));
  source.on("error", (error) => parser.destroy(error));
  const skipped: FileRecord[] = [];
  parser.on("skip", (error: CsvError) => skipped.push(wrongRow(file, error)));
  source.pipe(parser);
  let columns: string[] | null = null;
  try {
    for await (const { record, info } of parser as AsyncIterable<{ record: string[]; info: { lines: number } }>) {
      yield* skipped.splice(0);
      if (columns) yield rowOf(columns, record, { file, line: firstLine(record, info.lines) });
      columns ??= record;
    }
    yield* skipped;
  } catch (thrown) {
    throw thrown instanceof CsvError ? errorOf(file, thrown) : thrown;
  } finally {
    source.destroy();
  }
}

function errorOf(file: string, error: CsvError): NibbleError {
  const { lines = 1 } = error as { lines?: number };
  const long = error.code === "CSV_MAX_RECORD_SIZE";
  const message = long ? `expected a row of at most ${rowBytesMax} bytes` : `expected CSV: ${error.message}`;
  return rowError({ file, line: lines }, message, { cause: error });
}

function wrongRow(file: string, thrown: CsvError): FileRecord {
  const error = errorOf(file, thrown);
  return { file, line: Number(error.details["line"]), value: undefined, error };
}

/** The line on which a row begins that ends on line `last`. */
function firstLine(record: readonly string[], last: number): number {
  return record.reduce((line, value) => line - (value.split("\n").length - 1), last);
}

function rowOf(columns: readonly string[], record: readonly string[], place: Place): FileRecord {
  const value = Object.fromEntries(columns.map((column, i) => [column, record[i]]));
  if (record.length === columns.length) return { ...place, value };
  const message = `expected ${columns.length} values as there are columns, got ${record.length}`;
  return { ...place, value, error: rowError(place, message) };
}
