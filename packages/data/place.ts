// Where a row came from, and errors that say so.
import { NibbleError } from "#packages/errors";

export interface Place {
  file: string;
  /** From 1; of a Parquet file the row, of a JSON array or CSV the line on which the row begins. */
  line: number;
}

export const op = "dataset";

export function rowError(place: Place, message: string, options: { cause?: unknown; column?: number } = {}) {
  const { cause, column } = options;
  const at = column === undefined ? `${place.line}` : `${place.line}:${column}`;
  return new NibbleError(`${place.file}:${at}: ${message}`, {
    code: "INVALID_ARGUMENT",
    op,
    details: {
      file: place.file,
      line: String(place.line),
      ...(column === undefined ? {} : { column: String(column) }),
    },
    cause,
  });
}

/** Something wrong with a file as a whole. */
export function fileError(file: string, message: string, cause?: unknown): NibbleError {
  return new NibbleError(`${file}: ${message}`, { code: "INVALID_ARGUMENT", op, details: { file }, cause });
}

/** A value as a message shows it. */
export function short(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}
