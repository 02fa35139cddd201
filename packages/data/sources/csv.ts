// CSV and TSV files with a line of column names. The parsing (RFC 4180) is csv-parse's.
import { Readable } from "node:stream";
import { CsvError, parse } from "csv-parse";
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

/** Rows that are ragged are said one by one; what ends the parsing is thrown. */
export async function* readCsv(file: string, delimiter: "," | "\t"): AsyncGenerator<FileRecord> {
  const options = { delimiter, bom: true, info: true, skip_empty_lines: true, relax_column_count: true } as const;
  const parser = parse({ ...options, max_record_size: rowBytesMax });
  const source = Readable.from(textOf(file));
  source.on("error", (error) => parser.destroy(error));
  source.pipe(parser);
  let columns: string[] | null = null;
  try {
    for await (const { record, info } of parser as AsyncIterable<{ record: string[]; info: { lines: number } }>) {
      if (columns) yield rowOf(columns, record, { file, line: firstLine(record, info.lines) });
      columns ??= record;
    }
  } catch (thrown) {
    if (!(thrown instanceof CsvError)) throw thrown;
    const { lines = 1 } = thrown as { lines?: number };
    const long = thrown.code === "CSV_MAX_RECORD_SIZE";
    const message = long ? `expected a row of at most ${rowBytesMax} bytes` : `expected CSV: ${thrown.message}`;
    throw rowError({ file, line: lines }, message, { cause: thrown });
  } finally {
    source.destroy();
  }
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
