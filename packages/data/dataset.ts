// Rows of a data set, one at a time, with the place of each: files are read (sources/), their format told once from the
// first row (formats.ts), and every later row held to it. Columns that the format does not look at are remembered, not
// silently dropped: that is how a run learns something else than its owner thinks.
import { NibbleError } from "#packages/errors";
import { isFields, weightOf } from "./fields.ts";
import { detectFormat, type Format, formats, type Row, readAs, unusedColumns } from "./formats.ts";
import type { DataSource } from "./locate.ts";
import { paperSets } from "./paper-sets.ts";
import { fileError, op, type Place } from "./place.ts";
import { readRecords } from "./sources/files.ts";
import type { FileRecord } from "./sources/record.ts";

export interface PlacedRow extends Place {
  row: Row;
  /** How much the row's loss counts, beside rows of weight 1; 0: not at all. */
  weight: number;
}

/** What `dataset_format` may say: a format, or one of the paper's sets for its format. */
export const datasetFormats: readonly string[] = [
  "auto",
  ...new Set([...formats.map(({ name }) => name), ...Object.keys(paperSets)]),
];

const columnsMax = 32;

export class RowReader {
  readonly source: DataSource;
  /** Columns that were there and not looked at. */
  readonly unused = new Set<string>();
  private format: Format | null;
  private since: string;

  /** @param format one of datasetFormats. */
  constructor(source: DataSource, format = "auto") {
    this.source = source;
    const wanted = format === "auto" ? source.format : (paperSets[format]?.format ?? format);
    this.format = formats.find(({ name }) => name === wanted) ?? null;
    this.since = format === "auto" ? `as ${source.name} has` : "as dataset_format says";
    if (wanted === null || this.format) return;
    const message = `dataset_format: expected one of ${datasetFormats.join(", ")}, got ${format}`;
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op });
  }

  get formatName(): string {
    return this.format?.name ?? "auto";
  }

  /**
   * All rows, in order.
   * @param onBad what to do with a row that is wrong, and with what ends a file early; without it, the error is thrown
   *   and ends the reading.
   */
  async *rows(onBad?: (error: NibbleError) => void): AsyncGenerator<PlacedRow> {
    const tell = (thrown: unknown): void => {
      const error = NibbleError.from(thrown, op);
      if (!onBad || error.code !== "INVALID_ARGUMENT") throw error;
      onBad(error);
    };
    for (const file of this.source.files) {
      let records = 0;
      try {
        for await (const record of readRecords(file)) {
          records++;
          yield* this.rowsOf(record, tell);
        }
        if (records === 0) throw fileError(file, "expected at least one row, got none");
      } catch (thrown) {
        tell(thrown);
      }
    }
  }

  private rowsOf(record: FileRecord, tell: (thrown: unknown) => void): PlacedRow[] {
    try {
      return this.read(record);
    } catch (thrown) {
      tell(thrown);
      return [];
    }
  }

  private read({ file, line, value, error }: FileRecord): PlacedRow[] {
    if (error) throw error;
    const place = { file, line };
    if (!this.format) {
      this.format = detectFormat(value, place);
      this.since = `as ${file}:${line} has`;
    }
    const rows = readAs(this.format, value, place, this.since);
    const fields = isFields(value) ? value : {};
    if (this.unused.size < columnsMax) for (const key of unusedColumns(this.format, fields)) this.unused.add(key);
    const weight = weightOf(fields, place);
    return rows.map((row) => ({ ...place, row, weight }));
  }
}

/** All rows of one file at once. */
export async function readDataset(file: string, format = "auto"): Promise<PlacedRow[]> {
  const rows: PlacedRow[] = [];
  const reader = new RowReader({ name: file, files: [file], format: null }, format);
  for await (const row of reader.rows()) rows.push(row);
  return rows;
}
