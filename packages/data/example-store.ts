// Tokenized rows on disk: data sets are larger than memory, and every epoch reads them in another order. In memory stay
// some bytes a row (its length, what of it is trained, where it lies); ids and labels go to a file that has no name any
// more, so that it is gone with the process. The last few megabytes are kept back: a small set never reaches the disk.
import { closeSync, mkdirSync, mkdtempSync, openSync, readSync, rmdirSync, unlinkSync, writeSync } from "node:fs";
import { join } from "node:path";
import { NibbleError } from "#packages/errors";
import type { Example } from "./examples.ts";

const op = "example_store";

/** Bytes kept in memory before they are written. */
export const storeBufferBytes = 16 << 20;

/** What the training step needs of an example. */
export type StoredExample = Pick<Example, "inputIds" | "labels" | "weight">;

/** In a file of a folder on a disk, which is made when it is needed; in memory; or no ids, only how many there are. */
export type Keep = { folder: string } | "memory" | "lengths";

/** A typed array that grows. */
class Column<A extends Float64Array | Float32Array | Int32Array> {
  values: A;
  private readonly make: new (
    length: number,
  ) => A;

  constructor(make: new (length: number) => A) {
    this.make = make;
    this.values = new make(1024);
  }

  set(i: number, value: number): void {
    if (i >= this.values.length) {
      const larger = new this.make(2 * this.values.length);
      larger.set(this.values);
      this.values = larger;
    }
    this.values[i] = value;
  }
}

export class ExampleStore {
  count = 0;
  /** Of all examples. */
  tokens = 0;
  trainedTokens = 0;
  /** Tokens of the longest example. */
  longest = 0;
  private readonly lengths = new Column(Int32Array);
  private readonly trained = new Column(Int32Array);
  private readonly weights = new Column(Float32Array);
  private readonly offsets = new Column(Float64Array);
  private readonly keep: Keep;
  private buffer: Buffer;
  private used = 0;
  /** Bytes that are in the file; the buffer holds those after them. */
  private written = 0;
  private fd: number | null = null;

  constructor(keep: Keep) {
    this.keep = keep;
    this.buffer = Buffer.alloc(keep === "lengths" ? 0 : 1 << 16);
  }

  /** Examples in memory, as they are. */
  static of(examples: Iterable<StoredExample>): ExampleStore {
    const store = new ExampleStore("memory");
    for (const example of examples) store.add(example);
    return store;
  }

  add({ inputIds, labels, weight }: StoredExample): void {
    const i = this.count++;
    const trained = labels.reduce((n, label, at) => n + Number(at > 0 && label >= 0), 0);
    this.lengths.set(i, inputIds.length);
    this.trained.set(i, trained);
    this.weights.set(i, weight);
    this.tokens += inputIds.length;
    this.trainedTokens += trained;
    this.longest = Math.max(this.longest, inputIds.length);
    if (this.keep === "lengths") return;
    this.offsets.set(i, this.written + this.used);
    this.append(inputIds);
    this.append(labels);
  }

  lengthOf(i: number): number {
    return this.lengths.values[i] ?? 0;
  }

  trainedOf(i: number): number {
    return this.trained.values[i] ?? 0;
  }

  /** Of a store that only counts: an example of the same shape, its trained tokens last. */
  get(i: number): StoredExample {
    const length = this.lengthOf(i);
    const weight = this.weights.values[i] ?? 1;
    const [inputIds, labels] = [new Int32Array(length), new Int32Array(length)];
    if (this.keep === "lengths") {
      labels.fill(-100, 0, length - this.trainedOf(i));
      return { inputIds, labels, weight };
    }
    const offset = this.offsets.values[i] ?? 0;
    this.read(inputIds, offset);
    this.read(labels, offset + 4 * length);
    return { inputIds, labels, weight };
  }

  private append(ids: Int32Array): void {
    const bytes = Buffer.from(ids.buffer, ids.byteOffset, ids.byteLength);
    if (this.used + bytes.length > storeBufferBytes && typeof this.keep === "object") this.flush(this.keep.folder);
    if (this.used + bytes.length > this.buffer.length) {
      const larger = Buffer.alloc(Math.max(2 * this.buffer.length, this.used + bytes.length));
      this.buffer.copy(larger, 0, 0, this.used);
      this.buffer = larger;
    }
    bytes.copy(this.buffer, this.used);
    this.used += bytes.length;
  }

  private flush(folder: string): void {
    try {
      this.fd ??= openNameless(folder);
      for (let done = 0; done < this.used; ) {
        done += writeSync(this.fd, this.buffer, done, this.used - done, this.written + done);
      }
    } catch (thrown) {
      throw NibbleError.from(thrown, op);
    }
    this.written += this.used;
    this.used = 0;
  }

  private read(into: Int32Array, offset: number): void {
    const bytes = Buffer.from(into.buffer, into.byteOffset, into.byteLength);
    if (offset >= this.written) {
      this.buffer.copy(bytes, 0, offset - this.written, offset - this.written + bytes.length);
      return;
    }
    // An array was written as a whole: it never lies half in the file and half in the buffer.
    const got = readSync(this.fd ?? -1, bytes, 0, bytes.length, offset);
    if (got === bytes.length) return;
    throw new NibbleError(`tokenized rows: expected ${bytes.length} bytes, got ${got}`, { code: "DATA_LOSS", op });
  }

  close(): void {
    if (this.fd !== null) closeSync(this.fd);
    this.fd = null;
    this.buffer = Buffer.alloc(0);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function openNameless(folder: string): number {
  mkdirSync(folder, { recursive: true });
  const own = mkdtempSync(join(folder, ".tokenized-"));
  const file = join(own, "rows");
  const fd = openSync(file, "wx+", 0o600);
  unlinkSync(file);
  rmdirSync(own);
  return fd;
}
