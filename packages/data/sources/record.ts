// What every reader of a file gives: one object a row, with the place it came from. What the object means is for
// formats.ts.
import type { NibbleError } from "#packages/errors";
import type { Place } from "../place.ts";

export interface FileRecord extends Place {
  value: unknown;
  /** What is wrong with this record where those after it can be read all the same. */
  error?: NibbleError;
}

/** A longer row is refused: it is some other format, and reading it whole could take all memory. */
export const rowBytesMax = 64 << 20;
